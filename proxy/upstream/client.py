"""One upstream registry over HTTP: requests out, answers in, bodies streaming both ways.

Everything aiohttp does by default that a registry proxy must not is turned off here: decoding of
bodies, cookies, re-quoting, total timeouts, following redirects, silent retries of writes.
Redirects are followed by hand, so that credentials stay at the upstream's origin.
Source: distribution-spec v1.1; RFC 9110 §9.2.2 (retries), §15.4 (redirects).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import BadUpstream, BlobUnknown, ProxyError, UpstreamTimeout, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.upstream.bodies import RequestBody, Timeouts, UpstreamResponse
from proxy.upstream.failures import translate
from proxy.upstream.redirects import HOPS_LIMIT, PublicResolver, RedirectGuard
from proxy.upstream.timing import add_time

# What a client may send and a registry may answer in one header: GAR and ECR use tens of KiB.
HEADER_BYTES_LIMIT = 64 * 1024
# Bytes aiohttp holds of a body before it stops reading the socket.
READ_BUFFER_BYTES = 128 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REPEATABLE = frozenset({"GET", "HEAD"})
# What may follow a redirect to another origin: no credential, nothing that names the caller.
_CROSS_ORIGIN = ("Range", "If-Range", "Accept-Encoding", "User-Agent")
# aiohttp adds these by itself unless told not to.
_SKIP_AUTO = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Upstream:
    """One configured registry. Safe for concurrent use; closed by whoever opened it."""

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        follow_redirects: bool,
        timeouts: Timeouts,
        guard: RedirectGuard,
        connections: int,
        session: aiohttp.ClientSession,
        public_session: aiohttp.ClientSession,
        metrics: Metrics,
    ) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        self.follow_redirects = follow_redirects
        self._timeouts = timeouts
        self._guard = guard
        # Counted here and not in aiohttp's pool, where a wait would pass for a silent upstream.
        self._connections = connections
        self._slots = asyncio.Semaphore(connections)
        self._session = session
        self._public_session = public_session
        self._metrics = metrics
        # A registry hashes and moves a finished upload before it answers, and that takes long.
        self._reading = _client_timeout(timeouts, timeouts.idle_seconds)
        self._writing = _client_timeout(timeouts, timeouts.upload_response_seconds)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: RequestBody | None = None,
        follow: bool,
    ) -> AsyncIterator[UpstreamResponse]:
        """Send a request and hand over its answer; leaving the context frees the connection.

        ``target`` is the raw path and query below the base URL, sent as it is. With ``follow``
        redirects of GET and HEAD are followed without credentials beyond the upstream's origin.

        Raises:
            UpstreamUnreachable: no connection.
            UpstreamTimeout: no answer in time.
            BadUpstream: no HTTP, failed TLS, a redirect that is not allowed.
            RequestTimeout: the client stopped sending ``body``.
        """
        url = f"{self.base_url}{target}"
        async with self.request(method, url, headers, body, trusted=True) as first:
            if not (follow and method in _REPEATABLE and first.status in _REDIRECTS):
                yield first
                return
            location = first.headers.get("Location")
        async with AsyncExitStack() as stack:
            yield await self._follow(stack, method, url, location, headers)

    async def _follow(
        self,
        stack: AsyncExitStack,
        method: str,
        url: str,
        location: str | None,
        headers: Mapping[str, str],
    ) -> UpstreamResponse:
        for _ in range(HOPS_LIMIT):
            url = self._guard.resolve(location, current_url=url)
            if not self._guard.is_own_origin(url):
                # From here on the narrowed set is used, also when a later hop leads back.
                headers = {name: headers[name] for name in _CROSS_ORIGIN if name in headers}
            async with AsyncExitStack() as hop:
                answer = await hop.enter_async_context(self.request(method, url, headers))
                if answer.status not in _REDIRECTS:
                    if not self._guard.is_own_origin(url):
                        _check_stored(answer.status)
                    stack.push_async_callback(hop.pop_all().aclose)
                    return answer
                location = answer.headers.get("Location")
        raise BadUpstream(f"expected at most {HOPS_LIMIT} redirects from the upstream, found more")

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
        """One request to ``url``, redirects not followed; raises as ``open`` does.

        A host that is neither the upstream nor named in ``redirect_hosts`` must have a public
        address, unless the caller has its own reason to call it ``trusted``.
        """
        session = self._session if trusted or self._guard.trusts(url) else self._public_session
        async with self._slot():
            started = time.monotonic()
            try:
                response = await self._send(session, method, url, headers, body)
            except ProxyError as error:
                self._metrics.upstream_failed(self.name, error.status)
                raise
            finally:
                seconds = time.monotonic() - started
                add_time(seconds)
            self._metrics.upstream_answered(self.name, response.status, seconds)
            try:
                _check_final(response.status)
                yield UpstreamResponse(response, idle_seconds=self._timeouts.idle_seconds)
            except (BadUpstream, UpstreamTimeout) as error:
                # Within the body, when its headers were good.
                self._metrics.upstream_failed(self.name, error.status)
                raise
            finally:
                # A body read to its end has given its connection back already; others are cut.
                response.close()

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the connections; whoever must wait for it too long learns why."""
        if self._slots.locked():
            try:
                async with asyncio.timeout(self._timeouts.connect_seconds):
                    await self._slots.acquire()
            except TimeoutError as error:
                raise UpstreamUnreachable(
                    f"all {self._connections} connections to the upstream are in use; "
                    "upstreams[].connections sets how many there are",
                    headers=(("Retry-After", "1"),),
                ) from error
        else:
            await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def _send(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
    ) -> aiohttp.ClientResponse:
        attempts = 2 if method in _REPEATABLE and body is None else 1
        while True:
            attempts -= 1
            try:
                async with asyncio.timeout(self._answer_seconds(method)) as deadline:
                    if body is not None:
                        body.watch(deadline, self._timeouts)
                    response = await session.request(
                        method,
                        URL(url, encoded=True),
                        headers=CIMultiDict(headers),
                        data=body,
                        allow_redirects=False,
                        skip_auto_headers=_SKIP_AUTO,
                        timeout=self._reading if method in _REPEATABLE else self._writing,
                    )
                    if body is not None:
                        body.release()
                    return response
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if body is not None and body.failure is not None:
                    raise body.failure from error
                # A kept connection may have been closed meanwhile; reading again is harmless.
                if attempts and not isinstance(error, aiohttp.ClientConnectorError):
                    continue
                raise translate(error) from error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                if body is not None and body.failure is not None:
                    raise body.failure from error
                raise translate(error) from error

    def _answer_seconds(self, method: str) -> float:
        if method in _REPEATABLE:
            return self._timeouts.response_seconds
        return self._timeouts.upload_response_seconds


def _check_final(status: int) -> None:
    if status < 200:
        raise BadUpstream("the upstream switched protocols unasked")


def _check_stored(status: int) -> None:
    """A blob store's refusal is no registry's: 403 there is a bad signature, not a bad login."""
    if status == 404:
        raise BlobUnknown("the upstream redirects to content that its blob store does not have")
    if status >= 400 and status != 416:
        raise BadUpstream(f"the blob store the upstream redirects to answered {status}")


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """How the upstream's certificate is checked; ``insecure`` skips the check, loudly."""

    ca_file: str | None = None
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """A context for client connections.

        Raises:
            OSError: the CA file cannot be read or holds no certificate.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


@asynccontextmanager
async def open_upstream(
    *,
    name: str,
    base_url: str,
    follow_redirects: bool,
    redirect_hosts: tuple[str, ...],
    timeouts: Timeouts,
    tls: TlsPolicy,
    connections: int,
    metrics: Metrics,
) -> AsyncIterator[Upstream]:
    """An upstream with its sessions, closed on exit.

    ``connections`` bounds requests under way. Two sessions: the configured registry may be private,
    where it redirects to may not.
    """
    guard = RedirectGuard(base_url, allowed_hosts=redirect_hosts)
    context = tls.context()
    async with _session(None, context) as session, _session(PublicResolver(), context) as public:
        yield Upstream(
            name=name,
            base_url=base_url,
            follow_redirects=follow_redirects,
            timeouts=timeouts,
            guard=guard,
            connections=connections,
            session=session,
            public_session=public,
            metrics=metrics,
        )


def _session(resolver: PublicResolver | None, context: ssl.SSLContext) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            resolver=resolver,
            ssl=context,
            ttl_dns_cache=30,
        ),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        requote_redirect_url=False,
        max_line_size=HEADER_BYTES_LIMIT,
        max_field_size=HEADER_BYTES_LIMIT,
        read_bufsize=READ_BUFFER_BYTES,
    )
    # aiohttp repeats PUT and DELETE on a lost connection; a push must never arrive twice. GET and
    # HEAD are repeated in Upstream._send. tests/flows/test_push.py holds this (row K3).
    session._retry_connection = False
    return session


def _client_timeout(timeouts: Timeouts, read_seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, sock_connect=timeouts.connect_seconds, sock_read=read_seconds
    )
