"""Where a redirect of the upstream may lead: the guard between a registry's word and our network.

A redirect is an address an upstream chose, so the proxy could be made to read its own host's
services with it. A target is public, or the upstream itself, or named by the operator.
Source: distribution-spec v1.1, "Pulling blobs" (redirects); RFC 6890 (special addresses);
RFC 6052 (NAT64); CVE-2020-15157 for credentials that follow a redirect.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from proxy.errors import BadUpstream
from proxy.upstream.addresses import origin_of

HOPS_LIMIT = 5

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_WEB_PORTS = (80, 443)
# A host name or a bracketed address, an optional port: nothing a URL parser could read two ways.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_ABSOLUTE = re.compile(r"https?://(?P<authority>[^/?#\\]*)(?:[/?][^\\\s#]*)?", re.IGNORECASE)
# Hosts that inet_aton would read as IPv4: "0", "127.1", "2130706433", "0x7f000001".
_NUMERIC_HOST = re.compile(r"(?:0x[0-9a-f]+|\d+)(?:\.(?:0x[0-9a-f]+|\d+))*", re.IGNORECASE)


class AddressNotAllowed(OSError):
    """A name of a redirect target resolves to an address that is not public."""


class RedirectGuard:
    """Decides on redirect targets for one upstream.

    ``allowed_hosts`` are the operator's own: ``host`` or ``host:port``, ``[v6]``; such a target
    may be private and use any port (with a port written, only that one).
    """

    def __init__(self, base_url: str, *, allowed_hosts: Iterable[str]) -> None:
        self._origin = origin_of(base_url)
        self._allowed = frozenset(host.lower() for host in allowed_hosts)

    def resolve(self, location: str | None, *, current_url: str) -> str:
        """The absolute target of a ``Location`` seen at ``current_url``, checked but for DNS.

        Raises:
            BadUpstream: missing, ambiguous, downgraded to http, an odd port, or an address
                literal that is not public.
        """
        if location is None:
            raise BadUpstream("expected a Location in the upstream's redirect, found none")
        if location.startswith("/") and not location.startswith(("//", "/\\")):
            parts = urlsplit(current_url)
            location = f"{parts.scheme}://{parts.netloc}{location}"
        match = _ABSOLUTE.fullmatch(location)
        if match is None or not _AUTHORITY.fullmatch(match["authority"]):
            raise BadUpstream("redirect target not allowed: expected an absolute http or https URL")
        try:
            scheme, host, port = origin_of(location)
        except ValueError as error:
            raise BadUpstream("redirect target not allowed: bad port") from error
        if self.trusts(location):
            return location
        if self._origin[0] == "https" and scheme != "https":
            raise BadUpstream("redirect target not allowed: http after https")
        if port not in (*_WEB_PORTS, self._origin[2]):
            raise BadUpstream(
                f"redirect target not allowed: port {port}; name the host in redirect_hosts "
                f"to allow it"
            )
        if _is_refused_literal(host):
            raise BadUpstream(
                "redirect target not allowed: the address is not public; name it in "
                "redirect_hosts to allow it"
            )
        return location

    def trusts(self, url: str) -> bool:
        """Whether ``url`` is the upstream's own origin or one the operator named."""
        origin = origin_of(url)
        if origin == self._origin:
            return True
        _, host, port = origin
        written = f"[{host}]" if ":" in host else host
        return written in self._allowed or f"{written}:{port}" in self._allowed

    def is_own_origin(self, url: str) -> bool:
        """Whether ``url`` is the upstream itself: the only place its credentials may go."""
        return origin_of(url) == self._origin


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only; the connection uses exactly what was checked.

    Not with an HTTP proxy in between: names are resolved there, out of our sight (see ``egress``).
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._resolver = resolver or ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """The addresses of ``host``.

        Raises:
            AddressNotAllowed: one of them is not public.
        """
        found = await self._resolver.resolve(host, port, family)  # type: ignore[arg-type]  # int is what the connector passes
        for entry in found:
            if not is_public(entry["host"]):
                raise AddressNotAllowed("the redirect target resolves to a non-public address")
        return found

    async def close(self) -> None:
        """Close the resolver behind."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """Whether an address literal is globally reachable, seen through v4-in-v6 disguises."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:  # withdrawn by RFC 3879, still private where it is in use
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _is_refused_literal(host: str) -> bool:
    if ":" in host or re.fullmatch(r"\d+\.\d+\.\d+\.\d+", host):
        return not is_public(host)
    return bool(_NUMERIC_HOST.fullmatch(host.rstrip("."))) or host.rstrip(".") == "localhost"
