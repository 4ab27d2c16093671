"""How a body gets to the client: in one piece, spliced, or chunk by chunk; memory stays flat."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from multidict import CIMultiDict

from proxy.facade.client import client_takes, close_if_said
from proxy.facade.splice import can_be_spliced, send_spliced
from proxy.facade.trace import trace_of
from proxy.upstream.bodies import UpstreamResponse

# A body of this size is sent with its headers in one piece, and an upstream that breaks within it
# is still a 502 of ours. Manifests, lists and errors are below it.
SMALL_BYTES = 64 * 1024

_BODYLESS = frozenset({204, 304})


async def send_answer(
    request: web.Request,
    answer: UpstreamResponse,
    *,
    status: int,
    headers: CIMultiDict[str],
    write_seconds: float,
) -> web.StreamResponse:
    """Send the body of an upstream's answer by the cheapest way that fits it.

    ``write_seconds`` bounds how long the client may take no byte.

    Raises:
        ProxyError: the upstream failed within the body, or was silent for its idle time.
        ClientStalled: the client took nothing in time.
    """
    length = answer.content_length
    if request.method != "HEAD" and status not in _BODYLESS and length is not None:
        if length <= SMALL_BYTES:
            body = await answer.read(SMALL_BYTES)
            response = web.Response(status=status, headers=headers, body=body)
            close_if_said(response)
            return response
        if can_be_spliced(request, answer, status, headers):
            return await send_spliced(
                request, answer, status=status, headers=headers, write_seconds=write_seconds
            )
    return await send_chunks(
        request,
        answer.chunks(),
        status=status,
        headers=headers,
        write_seconds=write_seconds,
    )


async def send_chunks(
    request: web.Request,
    chunks: AsyncIterator[bytes],
    *,
    status: int,
    headers: CIMultiDict[str],
    write_seconds: float,
) -> web.StreamResponse:
    """Send ``chunks`` as they come; without a Content-Length in ``headers`` they go chunked.

    A failure after the headers is the caller's to turn into an aborted connection: nothing here
    ends a body early. Raises as ``send_answer`` does.
    """
    trace = trace_of(request)
    response = web.StreamResponse(status=status, headers=headers)
    close_if_said(response)
    trace.started_answer = True
    await response.prepare(request)
    if request.method == "HEAD" or status in _BODYLESS:
        return response
    client = request.transport
    if client is None:
        raise ConnectionResetError("the client left")
    async for chunk in chunks:
        async with client_takes(client, write_seconds):
            await response.write(chunk)
        trace.sent_bytes += len(chunk)
    await response.write_eof()
    return response
