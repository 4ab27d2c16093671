"""A registry call streamed both ways: what the upstream says is what the client gets.

No body over 64 KiB is held, none is sent twice.
Source: distribution-spec v1.1, "Pulling blobs" and "Pushing blobs".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from multidict import CIMultiDict

from proxy.content.reader import account_refused
from proxy.content.sites import Site
from proxy.errors import BadUpstream, RequestTimeout, Unauthorized
from proxy.facade.caching import cache_headers
from proxy.facade.client import close_if_said
from proxy.facade.sending import send_answer
from proxy.facade.trace import Trace, trace_of
from proxy.oci import endpoint
from proxy.oci.scope import pull_scope
from proxy.upstream.bodies import RequestBody, UpstreamResponse
from proxy.upstream.headers import for_client, for_upstream
from proxy.upstream.identity import Caller
from proxy.upstream.translation import Translation

# A list or an error that carries a name is read whole, to say the client's name instead.
_LIST_BYTES_LIMIT = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Relay:
    """Where a request goes: the site, who asks, what, the raw target there, names either way."""

    site: Site
    caller: Caller
    call: endpoint.Endpoint
    target: str
    translation: Translation


class Passthrough:
    """Forwards requests with the caller's own credential, or with that of the settings.

    ``body_seconds`` and ``write_seconds`` bound how long a client may neither send nor take a byte.
    """

    def __init__(self, *, body_seconds: float, write_seconds: float) -> None:
        self._body_seconds = body_seconds
        self._write_seconds = write_seconds

    async def forward(self, request: web.Request, relay: Relay) -> web.StreamResponse:
        """Send ``request`` where ``relay`` says and stream the answer back."""
        sent = for_upstream(request.headers)
        sent.popall("Authorization", None)
        body = None
        if request.method not in endpoint.READS and request.body_exists:
            body = RequestBody(self._received(request, trace_of(request)))
        else:
            # A length without the bytes would make the upstream take the next request for them.
            sent.popall("Content-Length", None)
        if relay.site.identity is None:
            async with _opened(request.method, relay, relay.caller, sent, body) as answer:
                return await self._send(request, relay, answer)
        try:
            async with _opened_as_identity(
                request.method, relay, relay.site.identity, sent, body
            ) as answer:
                if answer.status == 401:
                    raise account_refused()
                return await self._send(request, relay, answer)
        except Unauthorized as error:
            raise account_refused() from error

    async def _send(
        self, request: web.Request, relay: Relay, answer: UpstreamResponse
    ) -> web.StreamResponse:
        trace_of(request).origin = "upstream"
        call = relay.call
        headers = for_client(answer.headers, relay.translation)
        if relay.translation.namespace is not None:
            headers["OCI-Namespace"] = relay.translation.namespace
        if isinstance(call, endpoint.Blob) and answer.status in (200, 206):
            # A blob store behind a redirect does not know this header; the URL does.
            headers.setdefault("Docker-Content-Digest", str(call.digest))
        headers.update(cache_headers(call, request.method, answer.status))
        if not request.content.is_eof():
            # Answered before the upload ended (row H5): the rest is not wanted.
            headers["Connection"] = "close"
        if answer.status == 416 and isinstance(call, endpoint.Blob):
            return self._unsatisfiable(answer, headers)
        if (rename := _renaming(relay, answer)) is not None:
            return await _send_renamed(request, answer, headers, rename)
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
        dropped = ("Content-Length", "Content-Type", "Content-Encoding")
        kept = {name: value for name, value in headers.items() if name not in dropped}
        return web.Response(status=416, headers=kept)

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


def _opened(
    method: str,
    relay: Relay,
    caller: Caller,
    sent: CIMultiDict[str],
    body: RequestBody | None,
) -> AbstractAsyncContextManager[UpstreamResponse]:
    """The answer to a request with ``caller``'s credential as it is."""
    if caller.authorization is not None:
        sent["Authorization"] = caller.authorization
    upstream = relay.site.upstream
    return upstream.open(method, relay.target, headers=sent, body=body, follow=_follows(relay))


def _opened_as_identity(
    method: str,
    relay: Relay,
    identity: Caller,
    sent: CIMultiDict[str],
    body: RequestBody | None,
) -> AbstractAsyncContextManager[UpstreamResponse]:
    """The answer to a request as ``identity``; a body cannot be sent twice, so it gets no token."""
    if method not in endpoint.READS:
        return _opened(method, relay, identity, sent, body)
    return relay.site.client.open(
        method,
        relay.target,
        scope=_scope(relay.call, relay.translation.upstream),
        caller=identity,
        headers=sent,
        follow=_follows(relay),
    )


def _follows(relay: Relay) -> bool:
    """Whether redirects are followed here, which are for content alone."""
    is_content = isinstance(relay.call, endpoint.Blob | endpoint.Manifest)
    return is_content and relay.site.upstream.follow_redirects


def _scope(call: endpoint.Endpoint, repository: str) -> str:
    if isinstance(call, endpoint.Catalog):
        return "registry:catalog:*"
    return pull_scope(repository) if repository else ""


def _renaming(relay: Relay, answer: UpstreamResponse) -> Callable[[bytes], bytes] | None:
    """What to do to the answer's body so that it carries the client's names; None for nothing."""
    translation, rules = relay.translation, relay.site.rules
    if answer.status == 200:
        match relay.call:
            case endpoint.Tags() if translation.renames:
                return translation.tags
            case endpoint.Catalog() if translation.renames or not rules.are_open:
                return partial(translation.catalog, rules=rules)
        return None
    is_json = "json" in answer.headers.get("Content-Type", "")
    return translation.errors if answer.status >= 400 and translation.renames and is_json else None


async def _send_renamed(
    request: web.Request,
    answer: UpstreamResponse,
    headers: CIMultiDict[str],
    rename: Callable[[bytes], bytes],
) -> web.Response:
    headers.popall("Content-Length", None)
    if request.method == "HEAD":
        return web.Response(status=answer.status, headers=headers)
    body = await answer.read(_LIST_BYTES_LIMIT)
    if body is None:
        raise BadUpstream(
            f"expected at most {_LIST_BYTES_LIMIT} bytes from the upstream, found more"
        )
    response = web.Response(status=answer.status, headers=headers, body=rename(body))
    close_if_said(response)
    return response
