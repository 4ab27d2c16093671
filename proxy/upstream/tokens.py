"""Tokens bought at the upstream's token service: challenge in, token out, held in memory only.

One exchange at a time per caller and scope; credentials go to a realm bound to the upstream only.
Source: distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from cachetools import TLRUCache

from proxy.errors import BadUpstream
from proxy.oci.challenge import TOKEN_ANSWER_LIMIT, Challenge, Token, parse_token, token_query
from proxy.tasks import spawn
from proxy.upstream.addresses import origin_of
from proxy.upstream.bodies import RequestBody, UpstreamResponse
from proxy.upstream.client import Upstream
from proxy.upstream.failures import header_text, refuse_busy
from proxy.upstream.headers import OWN_REQUEST
from proxy.upstream.identity import Caller
from proxy.upstream.realms import RealmGuard

# For one exchange, connection and answer together.
EXCHANGE_SECONDS = 10.0
TOKENS_LIMIT = 10_000
# Exchanges under way for one upstream, whatever its connections.
EXCHANGES_AT_ONCE = 16
# A token is used for this part of its life, so that it does not end inside a transfer's start.
_TOKEN_LIFE = 0.8


@dataclass(slots=True)
class _Exchange:
    """One exchange under way, and how many requests wait for it."""

    task: asyncio.Task[Token | None]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What a token service said: its status, its body of at most 64 KiB, when to come again."""

    status: int
    body: bytes
    media_type: str
    retry_after: str | None


class Tokens:
    """The tokens of one upstream; ``exchange_seconds`` bounds one exchange."""

    def __init__(
        self,
        upstream: Upstream,
        realms: RealmGuard,
        *,
        exchange_seconds: float = EXCHANGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._realms = realms
        self._exchange_seconds = exchange_seconds
        self._held: TLRUCache[tuple[bytes, str], Token] = TLRUCache(
            TOKENS_LIMIT,
            ttu=lambda _key, token, now: now + token.seconds * _TOKEN_LIFE,
            timer=clock,
        )
        self._exchanges: dict[tuple[bytes, str], _Exchange] = {}
        # Of their own: a token service that hangs must not use up the registry's connections.
        self._turns = asyncio.Semaphore(EXCHANGES_AT_ONCE)

    def held(self, caller: Caller, scope: str) -> Token | None:
        """A token bought before, where it is still good."""
        return self._held.get((caller.fingerprint, scope))

    async def obtain(
        self,
        caller: Caller,
        scope: str,
        challenges: Sequence[Challenge],
        *,
        refused: Token | None,
    ) -> Token | None:
        """A token for ``scope``, None where the caller's credential buys none.

        Who waits for an exchange under way, or comes with the ``refused`` token of before it,
        shares its outcome. The scope is ours, whatever the challenge names: no wider credential is
        ever asked for (row B9). An empty one only proves the login.

        Raises:
            BadUpstream: the realm is not bound to the upstream, or its answer is no token.
            ProxyError: what ``Upstream.request`` raises; a 429 or 503 of the service.
        """
        if caller.authorization is not None and not caller.holds_basic:
            return None  # a Bearer token of the client's own: nothing to exchange
        bearer = self.bearer(challenges)
        if bearer is None:
            return None
        key = (caller.fingerprint, scope)
        held = self._held.get(key)
        if held is not None and held is not refused:
            return held
        self._held.pop(key, None)
        exchange = self._exchanges.get(key)
        if exchange is None:
            task = spawn(self._exchange(caller, scope, bearer), name="token exchange")
            exchange = self._exchanges[key] = _Exchange(task)
            task.add_done_callback(lambda _: self._exchanges.pop(key, None))
        exchange.waiting += 1
        try:
            return await asyncio.shield(exchange.task)
        finally:
            exchange.waiting -= 1
            if not exchange.waiting:  # all of them left
                exchange.task.cancel()

    def close(self) -> None:
        """Stop what is under way."""
        for exchange in self._exchanges.values():
            exchange.task.cancel()

    def bearer(self, challenges: Sequence[Challenge]) -> Challenge | None:
        """The Bearer challenge whose realm may be asked, None where there is no Bearer at all.

        Raises:
            BadUpstream: there are some, and none is bound to the upstream.
        """
        bearers = [entry for entry in challenges if entry.scheme == "bearer"]
        if not bearers:
            return None
        for entry in bearers:
            if self._realms.allows(entry.parameters.get("realm", "")):
                return entry
        where = _origin_text(bearers[0].parameters.get("realm", ""))
        raise BadUpstream(
            f"realm not allowed: the upstream sends logins to {where}, which is neither its own "
            "host and port nor named in upstreams[].auth_hosts; add it there if it is yours"
        )

    async def ask(
        self,
        challenge: Challenge,
        query: str,
        caller: Caller,
        *,
        form: bytes | None = None,
    ) -> TokenAnswer:
        """Ask the realm of an allowed ``challenge``; with ``form`` by POST, as OAuth 2 does.

        Raises:
            BadUpstream: no answer in time, or one that is too long.
        """
        realm = challenge.parameters["realm"]
        url = f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm
        headers = {"Accept": "application/json", **OWN_REQUEST}
        if caller.authorization is not None:
            headers["Authorization"] = caller.authorization
        body = None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            headers["Content-Length"] = str(len(form))
            body = RequestBody(_once(form))
        method = "GET" if form is None else "POST"
        try:
            async with (
                asyncio.timeout(self._exchange_seconds),
                self._turns,
                self._upstream.request(method, url, headers, body, trusted=True) as answer,
            ):
                return await _read(answer)
        except TimeoutError as error:
            raise BadUpstream("the token service did not answer in time") from error

    async def _exchange(self, caller: Caller, scope: str, challenge: Challenge) -> Token | None:
        """One exchange; a token it buys is held before anybody sees the exchange end."""
        query = token_query(service=challenge.parameters.get("service"), scope=scope)
        answer = await self.ask(challenge, query, caller)
        if answer.status in (400, 401, 403):
            return None
        refuse_busy(answer.status, answer.retry_after, who="the token service")
        if answer.status != 200:
            raise BadUpstream(f"expected 200 from the token service, found {answer.status}")
        token = parse_token(answer.body)
        self._held[caller.fingerprint, scope] = token
        return token


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _read(answer: UpstreamResponse) -> TokenAnswer:
    body = await answer.read(TOKEN_ANSWER_LIMIT)
    if body is None:
        raise BadUpstream(
            f"expected at most {TOKEN_ANSWER_LIMIT} bytes from the token service, found more"
        )
    return TokenAnswer(
        status=answer.status,
        body=body,
        media_type=header_text(answer.headers.get("Content-Type")) or "application/json",
        retry_after=header_text(answer.headers.get("Retry-After")),
    )


def _origin_text(realm: str) -> str:
    """The origin of a realm, in words that hold nothing else of it."""
    try:
        scheme, host, port = origin_of(realm)
    except ValueError:
        return "no http address"
    if not re.fullmatch(r"[a-z0-9._:-]+", host):
        return "another host"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
