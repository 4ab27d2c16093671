"""A registry call streamed both ways: what the upstream says is what the client gets.

No body over 64 KiB is held, none is sent twice.
Source: distribution-spec v1.1, "Pulling blobs" and "Pushing blobs".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from multidict import CIMultiDict

from proxy.content.reader import account_refused
from proxy.content.sites import Site
from proxy.errors import BadUpstream, RequestTimeout, Unauthorized
from proxy.facade.caching import cache_headers
from proxy.facade.client import close_if_said
from proxy.facade.sending import SMALL_BYTES, send_answer
from proxy.facade.trace import Trace, trace_of
from proxy.oci import endpoint
from proxy.oci.scope import pull_scope
from proxy.upstream.bodies import RequestBody, UpstreamResponse
from proxy.upstream.headers import for_client, for_upstream
from proxy.upstream.identity import Caller
from proxy.upstream.translation import Translation

# A list that carries names is read whole, to say the client's instead: a page of 30,000 tags. An
# error of more than a small body's size passes as it is.
_LIST_BYTES_LIMIT = 4 * 1024 * 1024
# Lists of more than a small body's size that are held at the same time, by all clients together.
_LISTS_AT_ONCE = 4


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
        self._lists = asyncio.Semaphore(_LISTS_AT_ONCE)

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
        _make_plain(request.method, relay, sent)
        if relay.site.identity is None:
            async with _opened(request.method, relay, relay.caller, sent, body) as answer:
                return await self._send(request, relay, answer)
        try:
            async with _opened_as_identity(
                request.method, relay, relay.site.identity, sent, body
            ) as answer:
                if answer.status == 401:
                    raise account_refused(relay.site.identity)
                return await self._send(request, relay, answer)
        except Unauthorized as error:
            raise account_refused(relay.site.identity) from error

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
            return await self._send_renamed(request, answer, headers, rename)
        return await send_answer(
            request,
            answer,
            status=answer.status,
            headers=headers,
            write_seconds=self._write_seconds,
        )

    async def _send_renamed(
        self,
        request: web.Request,
        answer: UpstreamResponse,
        headers: CIMultiDict[str],
        rename: Callable[[bytes], bytes],
    ) -> web.Response:
        headers.popall("Content-Length", None)
        if request.method == "HEAD":
            return web.Response(status=answer.status, headers=headers)
        is_small = answer.content_length is not None and answer.content_length <= SMALL_BYTES
        async with nullcontext() if is_small else self._lists:
            body = await answer.read(_LIST_BYTES_LIMIT)
            if body is None:
                raise BadUpstream(
                    f"expected at most {_LIST_BYTES_LIMIT} bytes from the upstream, found more"
                )
            body = rename(body)
        response = web.Response(status=answer.status, headers=headers, body=body)
        close_if_said(response)
        return response

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


def _make_plain(method: str, relay: Relay, sent: CIMultiDict[str]) -> None:
    """Take from a request's headers what would let it ask for more than was looked at."""
    match relay.call:
        case endpoint.Upload() if method == "POST" and "Content-Type" in sent:
            # distribution reads mount and from out of a form, too; only the query was checked.
            sent["Content-Type"] = "application/octet-stream"
        case endpoint.Tags() | endpoint.Catalog() if method in endpoint.READS:
            # A part of a list is none, and would be told with the upstream's names.
            sent.popall("Range", None)
            sent.popall("If-Range", None)


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
    if answer.status < 300:
        match relay.call:
            case endpoint.Tags() if translation.renames:
                return translation.tags
            case endpoint.Catalog() if translation.renames or not rules.are_open:
                return partial(translation.catalog, rules=rules)
        return None
    length = answer.content_length
    is_error = answer.status >= 400 and "json" in answer.headers.get("Content-Type", "")
    is_small = length is not None and length <= SMALL_BYTES
    return translation.errors if is_error and is_small and translation.renames else None
