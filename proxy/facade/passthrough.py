"""A registry call streamed both ways: what the upstream says is what the client gets.

No body over 64 KiB is held, none is sent twice.
Source: distribution-spec v1.1, "Pulling blobs" and "Pushing blobs".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from multidict import CIMultiDict

from proxy.errors import RequestTimeout
from proxy.facade.sending import send_answer
from proxy.facade.trace import Trace, trace_of
from proxy.oci import endpoint
from proxy.upstream.bodies import RequestBody, UpstreamResponse
from proxy.upstream.client import Upstream
from proxy.upstream.headers import for_client, for_upstream

_BODYLESS = frozenset({"GET", "HEAD"})


class Passthrough:
    """Forwards requests to one upstream with the caller's own credential.

    ``body_seconds`` and ``write_seconds`` bound how long a client may neither send nor take a byte.
    """

    def __init__(self, upstream: Upstream, *, body_seconds: float, write_seconds: float) -> None:
        self._upstream = upstream
        self._body_seconds = body_seconds
        self._write_seconds = write_seconds

    async def forward(
        self, request: web.Request, target: str, call: endpoint.Endpoint
    ) -> web.StreamResponse:
        """Send ``request`` to the upstream's ``target`` and stream the answer back."""
        trace = trace_of(request)
        body = None
        if request.method not in _BODYLESS and request.body_exists:
            body = RequestBody(self._received(request, trace))
        follow = self._upstream.follow_redirects and isinstance(
            call, endpoint.Blob | endpoint.Manifest
        )
        sent = for_upstream(request.headers)
        if body is None:
            # A length without the bytes would make the upstream take the next request for them.
            sent.popall("Content-Length", None)
        async with self._upstream.open(
            request.method, target, headers=sent, body=body, follow=follow
        ) as answer:
            trace.origin = "upstream"
            headers = for_client(answer.headers, base_url=self._upstream.base_url)
            if isinstance(call, endpoint.Blob) and answer.status in (200, 206):
                # A blob store behind a redirect does not know this header; the URL does.
                headers.setdefault("Docker-Content-Digest", str(call.digest))
            if not request.content.is_eof():
                # Answered before the upload ended (row H5): the rest is not wanted.
                headers["Connection"] = "close"
            if answer.status == 416 and isinstance(call, endpoint.Blob):
                return self._unsatisfiable(answer, headers)
            return await send_answer(
                request,
                answer,
                status=answer.status,
                headers=headers,
                write_seconds=self._write_seconds,
            )

    @staticmethod
    def _unsatisfiable(answer: UpstreamResponse, headers: CIMultiDict[str]) -> web.Response:
        """Our own 416: docker-registry 2.8 declares the blob's length and sends another (H7)."""
        answer.discard()
        kept = ("Content-Range", "Accept-Ranges", "Docker-Content-Digest", "ETag")
        return web.Response(
            status=416, headers={name: headers[name] for name in kept if name in headers}
        )

    async def _received(self, request: web.Request, trace: Trace) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._body_seconds):
                    chunk = await request.content.readany()
            except TimeoutError as error:
                raise RequestTimeout(
                    f"expected a byte of the body within {self._body_seconds:g} s, found none"
                ) from error
            if not chunk:
                return
            trace.received_bytes += len(chunk)
            yield chunk
