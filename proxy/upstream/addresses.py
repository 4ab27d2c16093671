"""Origins, and which addresses lead into an upstream. Pure functions."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

# How a path must not begin: browsers and HTTP clients read a host there.
_OTHER_HOST = ("//", "/\\")

_DEFAULT_PORTS = {"http": 80, "https": 443}


def local_address(location: str, *, base_url: str) -> str | None:
    """``location`` without the upstream's origin and base path; path and query byte for byte.

    None for a location elsewhere (direct-to-storage upload, another registry), for one relative to
    the request's own path, and for what would become ``//host``: to a client that is another
    origin.
    """
    base = urlsplit(base_url)
    if location.startswith("/"):
        rest = location
    else:
        origin = re.match(r"(https?)://([^/?#]*)", location, re.IGNORECASE)
        if origin is None or not _same_host(origin[1], origin[2], base.scheme, base.netloc):
            return None
        rest = location[origin.end() :]
    local = _without_base(rest if rest.startswith("/") else f"/{rest}", base.path)
    return None if local.startswith(_OTHER_HOST) else local


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an absolute http or https URL, for comparing origins.

    Raises:
        ValueError: not http or https, no host, or no valid port.
    """
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"expected an http or https URL, found the scheme {scheme!r}")
    port = parts.port if parts.port is not None else _DEFAULT_PORTS[scheme]
    if port == 0:
        raise ValueError("expected a port from 1 to 65535, found 0")
    return scheme, parts.hostname.lower(), port


def _same_host(scheme: str, authority: str, base_scheme: str, base_authority: str) -> bool:
    # A registry behind a TLS front often writes http:// for itself (distribution#970): the scheme
    # may differ when both write the same host and port, or the same host and none.
    if authority.lower() == base_authority.lower():
        return True
    try:
        found = origin_of(f"{scheme}://{authority}")
        base = origin_of(f"{base_scheme}://{base_authority}")
    except ValueError:
        return False
    return found == base


def _without_base(path: str, base_path: str) -> str:
    base_path = base_path.rstrip("/")
    if base_path and path.startswith(f"{base_path}/"):
        return path[len(base_path) :]
    return path
