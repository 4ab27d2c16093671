"""Upstreams over TLS, with certificates of ``tests.certificates``; they may ask for a client's."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from tests.certificates import Issued

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def server_context(
    issued: Issued, *, clients: Path | None = None, required: bool = True
) -> ssl.SSLContext:
    """For a server; ``clients`` is the file of authorities whose client certificates it takes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.cert_file, issued.key_file)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


@asynccontextmanager
async def serving_https(handler: Handler, context: ssl.SSLContext) -> AsyncIterator[str]:
    """A server that does ``handler`` with every request, and its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def client_of(request: web.Request) -> str | None:
    """The common name in the client's certificate."""
    transport = request.transport
    assert transport is not None
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return None
    return str(dict(entry for (entry,) in certificate["subject"])["commonName"])
