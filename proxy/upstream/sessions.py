"""How requests leave: with which certificate, by which resolver, through which HTTP proxy.

Everything aiohttp does by default that a registry proxy must not is turned off here: decoding of
bodies, cookies, re-quoting, silent retries of writes, proxies and credentials from elsewhere.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import BadUpstream
from proxy.upstream.bodies import RequestBody
from proxy.upstream.egress import Egress, HttpProxy
from proxy.upstream.failures import PROXY_LOGIN, Peer
from proxy.upstream.redirects import PublicResolver

# What a client may send and a registry may answer in one header: GAR and ECR use tens of KiB.
HEADER_BYTES_LIMIT = 64 * 1024
# Bytes aiohttp holds of a body before it stops reading the socket.
READ_BUFFER_BYTES = 128 * 1024

# aiohttp adds these by itself unless told not to.
_SKIP_AUTO = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Reach(Enum):
    """Whom a request is for, and so what it may use."""

    # The upstream and its token service: they see the client certificate.
    OWN = "the upstream"
    # A redirect's target that the operator named, or the upstream again behind one.
    NAMED = "a redirect target that the settings name"
    # Any other redirect's target: only public addresses, but for what an HTTP proxy resolves.
    PUBLIC = "a redirect target"


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """How certificates are checked, and which one the upstream is shown.

    ``ca_file`` replaces the system's authorities for the upstream and its token service, and adds
    to them for redirect targets; ``insecure`` skips every check, loudly. TLS 1.2 is the least.
    """

    ca_file: str | None = None
    insecure: bool = False
    client_cert_file: str | None = None
    client_key_file: str | None = None

    def own_context(self) -> ssl.SSLContext:
        """For the upstream and its token service; the only one with the client certificate.

        Raises:
            OSError: a file cannot be read or holds something else.
        """
        context = self._checked(ssl.create_default_context(cafile=self.ca_file))
        if self.client_cert_file is not None:
            # With an empty password OpenSSL does not ask for one on the terminal.
            context.load_cert_chain(self.client_cert_file, self.client_key_file, password="")
        return context

    def foreign_context(self) -> ssl.SSLContext:
        """For redirect targets: stores of the upstream's own authority, or public ones.

        Raises:
            OSError: the CA file cannot be read or holds no certificate.
        """
        context = self._checked(ssl.create_default_context())
        if self.ca_file is not None:
            context.load_verify_locations(self.ca_file)
        return context

    def _checked(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class LazyContext:
    """A TLS context made for the first https request: reading the authorities takes 40 ms."""

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        self._make = make
        self._context: ssl.SSLContext | None = None
        self._making = asyncio.Lock()

    async def get(self) -> ssl.SSLContext:
        """The context.

        Raises:
            OSError: a file it needs cannot be used (any more).
        """
        async with self._making:
            if self._context is None:
                self._context = await asyncio.to_thread(self._make)
            return self._context


@dataclass(frozen=True, slots=True)
class Route:
    """How one request leaves."""

    session: aiohttp.ClientSession
    tls: LazyContext
    peer: Peer
    proxy: HttpProxy | None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
        *,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send it once and return the answer's head; redirects are answers.

        Raises:
            BadUpstream: the HTTP proxy wants a login.
            aiohttp.ClientError: and what else aiohttp raises.
        """
        sent = CIMultiDict(headers)
        tunnel: dict[str, str] = {}
        is_https = url.startswith("https:")
        if self.proxy is not None and self.proxy.authorization is not None:
            # To the proxy's own eyes only: in the request that it reads, or in its CONNECT.
            seen = tunnel if is_https else sent
            seen["Proxy-Authorization"] = self.proxy.authorization
        response = await self.session.request(
            method,
            URL(url, encoded=True),
            headers=sent,
            data=body,
            allow_redirects=False,
            skip_auto_headers=_SKIP_AUTO,
            proxy=self.proxy.url if self.proxy is not None else None,
            proxy_headers=tunnel or None,
            timeout=limits,
            ssl=await self.tls.get() if is_https else True,
        )
        if response.status == 407 and self.proxy is not None:
            response.close()
            raise BadUpstream(PROXY_LOGIN)
        return response


class Sessions:
    """The ways to connect; opened and closed by ``open_sessions``."""

    def __init__(
        self,
        *,
        anywhere: aiohttp.ClientSession,
        public: aiohttp.ClientSession,
        tls: TlsPolicy,
        egress: Egress,
    ) -> None:
        self._anywhere = anywhere
        self._public = public
        self._own_tls = LazyContext(tls.own_context)
        self._foreign_tls = LazyContext(tls.foreign_context)
        self._egress = egress

    def route(self, url: str, *, reach: Reach, peer: str) -> Route:
        """How a request to ``url`` leaves; ``peer`` is what messages call the other end.

        Raises:
            BadUpstream: the HTTP proxy's address cannot be used.
        """
        proxy = self._egress.proxy_for(url)
        # With a proxy in between only its own name is resolved here, and it may well be private.
        session = self._public if reach is Reach.PUBLIC and proxy is None else self._anywhere
        tls = self._own_tls if reach is Reach.OWN else self._foreign_tls
        return Route(session, tls, Peer(peer, is_proxied=proxy is not None), proxy)


@asynccontextmanager
async def open_sessions(*, tls: TlsPolicy, egress: Egress) -> AsyncIterator[Sessions]:
    """Sessions, closed on exit."""
    async with _session(None) as anywhere, _session(PublicResolver()) as public:
        yield Sessions(anywhere=anywhere, public=public, tls=tls, egress=egress)


def _session(resolver: PublicResolver | None) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            resolver=resolver,
            ttl_dns_cache=30,
        ),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        requote_redirect_url=False,
        max_line_size=HEADER_BYTES_LIMIT,
        max_field_size=HEADER_BYTES_LIMIT,
        read_bufsize=READ_BUFFER_BYTES,
        trust_env=False,  # it would read ~/.netrc; see egress.py
    )
    # aiohttp repeats PUT and DELETE on a lost connection; a push must never arrive twice. GET and
    # HEAD are repeated in client.py. tests/flows/test_push.py holds this (row K3).
    session._retry_connection = False
    return session
