"""Who asks, for which host, and under which address the proxy is reached: what a header may say.

Only a proxy named in the settings is believed. Of anybody else nothing but Host is read, and Host
is written back only where it is an address or ``localhost`` (row C3): a name could be anyone's.
Source: RFC 9110 §7.2 (Host), RFC 6454 §7 (Origin); ``X-Forwarded-For`` and ``-Host`` have no
specification: proxies append what they saw, so the last value is the nearest one's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import hdrs, web

_HOST = re.compile(r"(?P<name>[a-z0-9._-]+|\[[0-9a-f.]*:[0-9a-f:.]*\])(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#@\\]+)")
_HOP = re.compile(r"\[(?P<v6>[^\]]+)\](?::[0-9]+)?|(?P<v4>[0-9.]+):[0-9]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# More proxies in a row than anybody has.
_HOPS_LIMIT = 32

# Clients write a handful; each request asks.
_HOSTS_REMEMBERED = 256

_Address = IPv4Address | IPv6Address


class Forwarding:
    """``trusted_proxies``: addresses and CIDR networks; ``public_url``: an origin, or None.

    With ``trusted_proxies`` there is always a ``public_url``: the settings insist.
    """

    def __init__(self, *, trusted_proxies: Iterable[str], public_url: str | None) -> None:
        self._trusted = tuple(ip_network(entry, strict=False) for entry in trusted_proxies)
        self._public_url = None if public_url is None else public_url.rstrip("/")

    def client(self, request: web.Request) -> str:
        """The client's address for people to read; empty where the connection has none.

        Behind trusted proxies: the nearest address that is not one of theirs.
        """
        peer = _address(request.remote or "")
        if peer is None:
            return request.remote or ""
        found = peer
        hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
        for hop in hops[: -_HOPS_LIMIT - 1 : -1]:
            # Whatever stands further left was written by, or told to, somebody not trusted.
            if not self._trusts(found):
                break
            behind = _address(hop.strip())
            if behind is None:
                break
            found = behind
        return str(found)

    def host(self, request: web.Request) -> str:
        """The host asked for, ``name`` or ``name:port`` in lower case; empty where there is none.

        For comparing with the settings; never for an address in an answer, see ``base``.
        """
        peer = _address(request.remote or "") if self._trusted else None
        if peer is not None and self._trusts(peer):
            values = ",".join(request.headers.getall("X-Forwarded-Host", ())).split(",")
            if (forwarded := _host(values[-1])) is not None:
                return forwarded[0]
        asked = _host(request.headers.get(hdrs.HOST, ""))
        return "" if asked is None else asked[0]

    def base(self, request: web.Request) -> str:
        """The origin that absolute addresses in answers begin with, without a slash at its end.

        ``public_url``; else the Host asked for where it is an address or ``localhost``; else the
        address the connection came in on.
        """
        if self._public_url is not None:
            return self._public_url
        asked = _host(request.headers.get(hdrs.HOST, ""))
        if asked is not None:
            host, name = asked
            if name == "localhost" or _address(name.strip("[]")) is not None:
                return f"{request.scheme}://{host}"
        return f"{request.scheme}://{_own_address(request)}"

    def is_own_origin(self, request: web.Request, origin: str) -> bool:
        """Whether the value of an Origin header is the proxy itself, as ``base`` knows it.

        A host name that is not ``public_url``'s is foreign even if Host says the same: a name may
        be made to lead here (DNS rebinding).
        """
        found = _origin(origin)
        return found is not None and found == _origin(self.base(request))

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> _Address | None:
    """``text`` as an address, with or without a port; IPv4 within IPv6 is IPv4."""
    if (match := _HOP.fullmatch(text)) is not None:
        text = match["v6"] or match["v4"]
    try:
        # A zone ("%eth0") is this machine's business and any text at all.
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


@lru_cache(_HOSTS_REMEMBERED)
def _host(text: str) -> tuple[str, str] | None:
    """The value of a Host header in lower case, and the name or address in it."""
    match = _HOST.fullmatch(text.strip().lower())
    if match is None or int(match["port"] or 0) > 65535:
        return None
    if match["name"].startswith("[") and _address(match["name"]) is None:
        return None
    return match[0], match["name"]


def _origin(text: str) -> tuple[str, str, str] | None:
    """Scheme, host and port of ``scheme://host[:port]``."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or (asked := _HOST.fullmatch(match["host"])) is None:
        return None
    scheme = match["scheme"]
    return scheme, asked["name"], asked["port"] or _DEFAULT_PORTS[scheme]


def _own_address(request: web.Request) -> str:
    """``address[:port]`` of the proxy's end of the connection."""
    name = request.get_extra_info("sockname")
    found = _address(str(name[0])) if isinstance(name, tuple) else None
    if found is None:
        return "localhost"
    host = f"[{found}]" if isinstance(found, IPv6Address) else str(found)
    port = str(name[1])
    return host if port == _DEFAULT_PORTS[request.scheme] else f"{host}:{port}"
