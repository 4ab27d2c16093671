"""One upstream registry over HTTP: requests out, answers in, bodies streaming both ways.

Redirects are followed by hand, so that credentials stay at the upstream's origin; what is repeated,
and when the upstream is rather not asked, is decided here. ``sessions`` has the connections.
Source: distribution-spec v1.1; RFC 9110 §9.2.2 (retries), §15.4 (redirects).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext

import aiohttp

from proxy.errors import BadUpstream, BlobUnknown, ProxyError, UpstreamTimeout, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.oci.endpoint import READS
from proxy.tasks import spawn
from proxy.upstream import failures
from proxy.upstream.bodies import RequestBody, Timeouts, UpstreamResponse
from proxy.upstream.circuit import Circuit
from proxy.upstream.egress import Egress
from proxy.upstream.headers import OWN_REQUEST
from proxy.upstream.pauses import Pauses
from proxy.upstream.redirects import HOPS_LIMIT, RedirectGuard
from proxy.upstream.sessions import Reach, Route, Sessions, TlsPolicy, open_sessions
from proxy.upstream.timing import add_time

logger = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# What may follow a redirect to another origin: no credential, nothing that names the caller.
_CROSS_ORIGIN = ("Range", "If-Range", "Accept-Encoding", "User-Agent")
# Within how many seconds, at random, a read whose connection failed is tried again, and once more.
_RETRY_WITHIN_SECONDS = (0.2, 0.8)


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
        sessions: Sessions,
        circuit: Circuit,
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
        self._sessions = sessions
        self._own_prefix = f"{self.base_url}/"
        self._own_route: Route | None = None
        self._probing: asyncio.Task[None] | None = None
        self._circuit = circuit
        self._pauses = Pauses()
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
            TooManyRequests: the upstream limits this very request, and said so a moment ago.
            UpstreamUnreachable: no connection, or the upstream does not want this request now.
            UpstreamTimeout: no answer in time.
            BadUpstream: no HTTP, failed TLS, a redirect that is not allowed.
            RequestTimeout: the client stopped sending ``body``.
        """
        url = f"{self.base_url}{target}"
        is_read = method in READS
        if is_read:
            self._refuse_if_paused(method, target, headers)
        async with self.request(method, url, headers, body, trusted=True) as first:
            if is_read:
                self._pauses.note(
                    method,
                    target,
                    headers,
                    status=first.status,
                    retry_after=first.headers.get("Retry-After"),
                )
            if not (follow and is_read and first.status in _REDIRECTS):
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
        is_own = True
        for _ in range(HOPS_LIMIT):
            url = self._guard.resolve(location, current_url=url)
            if is_own and not self._guard.is_own_origin(url):
                # From here on the narrowed set is used and no client certificate is shown, also
                # when a later hop leads back: the way there is another origin's choice.
                is_own = False
                headers = {name: headers[name] for name in _CROSS_ORIGIN if name in headers}
            async with AsyncExitStack() as hop:
                request = self.request(method, url, headers, trusted=is_own)
                answer = await hop.enter_async_context(request)
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
        """One request to ``url``, redirects not followed; raises as ``open`` does, without pauses.

        ``trusted`` is for the upstream itself and its token service: they see the client
        certificate. Any other host must have a public address, or be named in ``redirect_hosts``.
        """
        is_own = url.startswith(self._own_prefix) or self._guard.is_own_origin(url)
        route = self._route(url, is_own=is_own, trusted=trusted)
        if is_own:
            self._refuse_if_open()
        # A token service elsewhere takes none of the registry's connections: Tokens counts its own.
        async with nullcontext() if trusted and not is_own else self._slot():
            started = time.monotonic()
            try:
                response = await self._send(route, method, url, headers, body, counts=is_own)
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

    def _route(self, url: str, *, is_own: bool, trusted: bool) -> Route:
        if is_own and trusted:
            # Nearly every request: the way to the registry itself is always the same.
            if self._own_route is None:
                self._own_route = self._sessions.route(url, reach=Reach.OWN, peer="the upstream")
            return self._own_route
        if trusted:
            reach, peer = Reach.OWN, "the upstream's token service"
        else:
            reach = Reach.NAMED if self._guard.trusts(url) else Reach.PUBLIC
            peer = "the upstream" if is_own else "the upstream's redirect target"
        return self._sessions.route(url, reach=reach, peer=peer)

    def _refuse_if_paused(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        try:
            self._pauses.check(method, target, headers)
        except ProxyError:
            self._metrics.upstream_spared(self.name)
            raise

    def _refuse_if_open(self) -> None:
        try:
            self._circuit.check()
        except ProxyError as error:
            self._metrics.upstream_failed(self.name, error.status)
            raise

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
        route: Route,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
        *,
        counts: bool,
    ) -> aiohttp.ClientResponse:
        """Send it, reads again where that is harmless; ``counts``: the circuit is to know."""
        is_read = method in READS and body is None
        may_resend = is_read
        waits = list(_RETRY_WITHIN_SECONDS) if is_read else []
        while True:
            try:
                if counts:
                    return await self._attempt(route, method, url, headers, body)
                return await self._once(route, method, url, headers, body)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                if body is not None and body.failure is not None:
                    raise body.failure from error
                if may_resend and failures.is_lost_connection(error):
                    # A kept connection may have been closed meanwhile; reading again is harmless.
                    may_resend = False
                    continue
                if waits and failures.may_pass(error) and not (counts and self._circuit.is_open):
                    await asyncio.sleep(random.uniform(0, waits.pop(0)))  # noqa: S311  # jitter
                    continue
                raise failures.translate(error, route.peer) from error

    async def _attempt(
        self,
        route: Route,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
    ) -> aiohttp.ClientResponse:
        """``_once``, and the circuit learns whether there was a connection."""
        self._circuit.begin()
        try:
            response = await self._once(route, method, url, headers, body)
        except asyncio.CancelledError:
            if self._circuit.is_open:
                # The client left with its turn to try; somebody has to, or nobody ever gets in.
                self._probing = self._probing or spawn(self._probe(route), name="upstream probe")
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if failures.is_no_connection(error):
                self._count_failure(failures.translate(error, route.peer).message)
            elif failures.is_lost_connection(error):
                self._circuit.connected()
            raise
        if self._circuit.connected():
            logger.warning("upstream reached again upstream=%s", self.name)
        return response

    async def _probe(self, route: Route) -> None:
        """Ask for nobody whether there is a connection."""
        try:
            answer = await self._once(route, "GET", f"{self.base_url}/v2/", OWN_REQUEST, None)
            answer.close()
            self._circuit.connected()
        except (aiohttp.ClientError, TimeoutError, OSError, ProxyError) as error:
            if failures.is_no_connection(error):
                self._count_failure(failures.translate(error, route.peer).message)
        finally:
            self._probing = None

    def close(self) -> None:
        """Stop what still runs for nobody."""
        if self._probing is not None:
            self._probing.cancel()

    def _count_failure(self, reason: str) -> None:
        if self._circuit.failed(reason):
            logger.warning(
                "upstream left alone for a while upstream=%s reason=%r", self.name, reason
            )

    async def _once(
        self,
        route: Route,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
    ) -> aiohttp.ClientResponse:
        is_read = method in READS
        times = self._timeouts
        seconds = times.response_seconds if is_read else times.upload_response_seconds
        async with asyncio.timeout(seconds) as deadline:
            if body is not None:
                body.watch(deadline, times)
            response = await route.send(
                method,
                url,
                headers,
                body,
                limits=self._reading if is_read else self._writing,
            )
            if body is not None:
                body.release()
            return response


def _check_final(status: int) -> None:
    if status < 200:
        raise BadUpstream("the upstream switched protocols unasked")


def _check_stored(status: int) -> None:
    """A blob store's refusal is no registry's: 403 there is a bad signature, not a bad login."""
    if status == 404:
        raise BlobUnknown("the upstream redirects to content that its blob store does not have")
    if status >= 400 and status != 416:
        raise BadUpstream(f"the blob store the upstream redirects to answered {status}")


@asynccontextmanager
async def open_upstream(
    *,
    name: str,
    base_url: str,
    follow_redirects: bool,
    redirect_hosts: tuple[str, ...],
    timeouts: Timeouts,
    tls: TlsPolicy,
    egress: Egress,
    connections: int,
    metrics: Metrics,
) -> AsyncIterator[Upstream]:
    """An upstream with its sessions, closed on exit; ``connections`` bounds requests under way."""
    circuit = Circuit()
    async with open_sessions(tls=tls, egress=egress) as sessions:
        upstream = Upstream(
            name=name,
            base_url=base_url,
            follow_redirects=follow_redirects,
            timeouts=timeouts,
            guard=RedirectGuard(base_url, allowed_hosts=redirect_hosts),
            connections=connections,
            sessions=sessions,
            circuit=circuit,
            metrics=metrics,
        )
        with metrics.watching_circuit(name, lambda: circuit.is_open):
            try:
                yield upstream
            finally:
                upstream.close()


def _client_timeout(timeouts: Timeouts, read_seconds: float) -> aiohttp.ClientTimeout:
    # ``connect`` bounds the look-up, TLS and an HTTP proxy's work as well, ``sock_connect`` would
    # only TCP and TLS.
    return aiohttp.ClientTimeout(
        total=None, connect=timeouts.connect_seconds, sock_read=read_seconds
    )
