"""An upstream without sockets: its answers are a list, what it is asked is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from multidict import CIMultiDict

from proxy.errors import ProxyError
from proxy.upstream.bodies import RequestBody, UpstreamResponse
from proxy.upstream.client import Upstream

BASE_URL = "https://registry.example"
REALM = f"{BASE_URL}/token"
CHALLENGE = f'Bearer realm="{REALM}",service="registry.example",scope="repository:*:*"'


@dataclass
class Scripted:
    """One answer; ``gate`` holds it back until it is set."""

    status: int = 200
    body: bytes = b""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    gate: asyncio.Event | None = None

    async def read(self, limit: int) -> bytes | None:
        """As ``UpstreamResponse.read``."""
        return self.body if len(self.body) <= limit else None


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None

    @property
    def authorization(self) -> str | None:
        """The credential that came with it."""
        return self.headers.get("Authorization")


class ScriptedUpstream:
    """Answers in turn, and for ever with the last; an exception is raised instead."""

    base_url = BASE_URL

    def __init__(self, *answers: Scripted | ProxyError) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []

    def as_upstream(self) -> Upstream:
        """Itself, under the type that it stands in for."""
        return cast("Upstream", self)

    @asynccontextmanager
    async def open(
        self, method: str, target: str, *, headers: Mapping[str, str], follow: bool
    ) -> AsyncIterator[UpstreamResponse]:
        """As ``Upstream.open``."""
        del follow
        async with self.request(method, f"{BASE_URL}{target}", headers, trusted=True) as answer:
            yield answer

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None = None,
        *,
        trusted: bool = False,
    ) -> AsyncIterator[UpstreamResponse]:
        """As ``Upstream.request``."""
        assert trusted
        sent = None if body is None else b"".join([chunk async for chunk in body])
        self.asked.append(Asked(method, url, dict(headers), sent))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ProxyError):
            raise answer
        if answer.gate is not None:
            await answer.gate.wait()
        yield cast("UpstreamResponse", answer)


def refusal(challenge: str = CHALLENGE) -> Scripted:
    """401 with a challenge."""
    return Scripted(401, headers=CIMultiDict({"WWW-Authenticate": challenge}))


async def turns(count: int = 10) -> None:
    """Let every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)
