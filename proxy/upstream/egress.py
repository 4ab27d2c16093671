"""Which HTTP proxy a request leaves through, as every Go client decides it.

``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` of the environment count, in either
case, unless the settings name a proxy or none. aiohttp's own reading of the environment stays off:
it takes credentials out of ``~/.netrc`` as well.

With a proxy in between, host names are resolved there: that a redirect's host has a public address
cannot be checked here then. What ``RedirectGuard`` says of schemes, ports and address literals
holds all the same.
Source: Go's golang.org/x/net/http/httpproxy for ``NO_PROXY`` and loopback; Python's urllib.request
for the case of the names (lower case wins, an empty value switches off); RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from proxy.errors import BadUpstream
from proxy.upstream.addresses import origin_of

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PROXY_URL = re.compile(
    r"(?:http://)?(?:(?P<userinfo>[^/?#]*)@)?"
    r"(?P<authority>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?)/?",
    re.IGNORECASE,
)
_WITH_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """A proxy: its address, and what ``Proxy-Authorization`` it is sent."""

    url: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Exempt:
    """One entry of ``NO_PROXY``; ``suffix`` begins with a dot, ``port`` None is any."""

    network: _Network | None = None
    name: str | None = None
    suffix: str | None = None
    port: int | None = None

    def covers(self, host: str, address: _Address | None, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return host == self.name or (self.suffix is not None and host.endswith(self.suffix))


class Egress:
    """The way out for one upstream.

    ``setting`` is ``none`` (never a proxy), a proxy's address (always that one), or None: what
    ``environment`` says, where loopback never goes through a proxy.
    """

    def __init__(self, setting: str | None, environment: Mapping[str, str]) -> None:
        self._setting = setting
        self._by_scheme = {
            scheme: _variable(environment, f"{scheme}_proxy") or _variable(environment, "all_proxy")
            for scheme in ("http", "https")
        }
        exempt = _variable(environment, "no_proxy") or ""
        self._exempts_all = "*" in (entry.strip() for entry in exempt.split(","))
        self._exempt = tuple(_exemptions(exempt))

    def proxy_for(self, url: str) -> HttpProxy | None:
        """The proxy for an absolute http or https URL, None to connect directly.

        Raises:
            BadUpstream: the proxy's address cannot be used.
        """
        if self._setting is not None:
            return None if self._setting == "none" else _parse(self._setting)
        scheme, host, port = origin_of(url)
        text = self._by_scheme[scheme]
        if text is None or self._is_exempt(host.rstrip("."), port):
            return None
        return _parse(text)

    def _is_exempt(self, host: str, port: int) -> bool:
        address = _address(host)
        if self._exempts_all or host == "localhost" or host.endswith(".localhost"):
            return True
        if address is not None and address.is_loopback:
            return True
        return any(entry.covers(host, address, port) for entry in self._exempt)


def _variable(environment: Mapping[str, str], name: str) -> str | None:
    value = environment.get(name)
    return (environment.get(name.upper()) if value is None else value) or None


def _parse(text: str) -> HttpProxy:
    match = _PROXY_URL.fullmatch(text.strip())
    if match is None:
        # The text may hold a password.
        raise BadUpstream(
            "the HTTP proxy's address cannot be used: expected http://HOST:PORT in "
            "upstreams[].proxy or in the environment's HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
        )
    url = f"http://{match['authority']}"
    if not match["userinfo"]:
        return HttpProxy(url)
    name, _, password = match["userinfo"].partition(":")
    pair = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
    return HttpProxy(url, f"Basic {base64.b64encode(pair).decode('ascii')}")


def _exemptions(text: str) -> Iterator[_Exempt]:
    for written in text.lower().split(","):
        entry, port = written.strip(), None
        if (network := _network(entry)) is None:
            if (match := _WITH_PORT.fullmatch(entry)) is not None:
                entry, port = match["host"], int(match["port"])
            entry = entry.removeprefix("[").removesuffix("]")
            network = _network(entry)
        if network is not None:
            yield _Exempt(network=network, port=port)
        elif entry.startswith((".", "*.")):
            yield _Exempt(suffix=entry.removeprefix("*"), port=port)
        elif entry:
            yield _Exempt(name=entry, suffix=f".{entry}", port=port)


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
