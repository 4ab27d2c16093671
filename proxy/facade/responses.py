"""Answers on the wire: streams with flat memory, errors in the one body shape, safe headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

from aiohttp import web
from multidict import CIMultiDict

from proxy.errors import ProxyError
from proxy.facade.scope import scope_of

# Artifact content never runs in the proxy's origin, whatever its bytes are (row G2).
CONTENT_SAFETY: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ClientStalled(ConnectionError):
    """The client took no byte for the write timeout; its connection is cut."""


def error_response(error: ProxyError) -> web.Response:
    """The one error body of every route: OCI JSON, never stored by a cache."""
    response = web.Response(
        status=error.status, body=error.to_oci_json(), content_type="application/json"
    )
    response.headers["Cache-Control"] = "no-store"
    for name, value in error.headers:
        response.headers.add(name, value)
    return response


def json_response(value: object) -> web.Response:
    """``value`` as JSON that only the caller's own cache may keep, and must revalidate."""
    return web.Response(
        body=json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        ),
        content_type="application/json",
        headers={"Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"},
    )


async def stream_response(
    request: web.Request,
    *,
    status: int,
    headers: CIMultiDict[str],
    chunks: AsyncIterator[bytes],
    write_seconds: float,
) -> web.StreamResponse:
    """Send ``chunks`` as they come; without a Content-Length in ``headers`` they go chunked.

    ``write_seconds`` bounds how long the client may take no byte. A failure after the headers is
    the caller's to turn into an aborted connection: nothing here ends a body early.

    Raises:
        ClientStalled: the client took nothing in time.
    """
    scope = scope_of(request)
    response = web.StreamResponse(status=status, headers=headers)
    scope.started_answer = True
    await response.prepare(request)
    if request.method == "HEAD" or status in (204, 304):
        return response
    async for chunk in chunks:
        try:
            async with asyncio.timeout(write_seconds):
                await response.write(chunk)
        except TimeoutError as error:
            raise ClientStalled("the client took no byte in time") from error
        scope.sent_bytes += len(chunk)
    await response.write_eof()
    return response
