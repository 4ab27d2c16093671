"""A proxy in this process before a scripted upstream, and clients that hide nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import aiohttp
import pytest

from proxy.running import serving
from proxy.settings import load
from tests import faulty_upstream
from tests.faulty_upstream import FaultyUpstream
from tests.flows.http import Client

StartProxy = Callable[..., Awaitable[Client]]


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    """An upstream that does what a test tells it."""
    async with faulty_upstream.running() as found:
        yield found


@pytest.fixture
async def other() -> AsyncIterator[FaultyUpstream]:
    """A second one, for what must be told apart."""
    async with faulty_upstream.running() as found:
        yield found


@pytest.fixture
async def start_proxy(
    upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StartProxy]:
    """Starts proxies before ``upstream``; keyword ``a__b=1`` is the setting ``a.b``.

    Settings of the upstream begin with ``upstream__``, of further ones with ``upstreams__1__``.
    """
    # Reading the system's authorities takes longer than most tests, and none meets one of them.
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    async with AsyncExitStack() as stack:

        async def start(
            url: str | None = None,
            *,
            environment: Mapping[str, str] | None = None,
            **overrides: object,
        ) -> Client:
            flags: dict[str, object] = {"listen.port": 0, "upstreams.0.url": url or upstream.url}
            for key, value in overrides.items():
                flags[key.replace("upstream__", "upstreams.0.").replace("__", ".")] = value
            settings = load(file=None, environment=environment or {}, flags=flags)
            listener = await stack.enter_async_context(serving(settings))
            session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    auto_decompress=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    connector=aiohttp.TCPConnector(limit=0),
                    max_field_size=128 * 1024,
                )
            )
            return Client(session, listener.host, listener.port)

        yield start


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> Client:
    """A proxy with the default settings."""
    return await start_proxy()
