"""Which headers cross the proxy. Pure functions.

Allow-lists in both directions: what is not named here does not pass. That alone drops cookies,
``Alt-Svc``, HSTS, CORS headers, ``Forwarded`` and every hop-by-hop header.
Source: RFC 9110 §7.6.1 (Connection), distribution-spec v1.1 (``Docker-*``, ``OCI-*``, ``Link``,
``Location``, ``Range``, ``Warning``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from multidict import CIMultiDict

from proxy import __version__
from proxy.errors import BadRequest, BadUpstream
from proxy.upstream.translation import Translation

_UP = frozenset(
    {
        "accept",
        "authorization",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "range",
        "user-agent",
    }
)
# A second line of these would let two readers see two requests.
_UP_ONCE = frozenset({"authorization", "content-length", "content-range", "range"})

_DOWN = frozenset(
    {
        "accept-ranges",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "link",
        "location",
        "range",
        "retry-after",
        "warning",
        "www-authenticate",
    }
)
_DOWN_PREFIXES = ("docker-", "oci-", "ratelimit-", "x-ratelimit-")
# Source: distribution-spec v1.1, "Warnings": at most 4096 bytes in all.
_WARNING_BYTES_LIMIT = 4096

# Any control character but tab, and what could not be decoded as UTF-8 (surrogate escapes).
_UNSENDABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

# One name a process: two proxies in a row are fine, one behind itself is a loop.
VIA_NAME = f"cnai-proxy-{secrets.token_hex(4)}"
VIA = f"1.1 {VIA_NAME}"
# What our own requests carry; without a User-Agent some registries answer 403.
OWN_REQUEST: Mapping[str, str] = {
    "Accept-Encoding": "identity",
    "User-Agent": f"cnai-proxy/{__version__}",
    "Via": VIA,
}
# Said by whoever notices: the proxy that gets its own request, or the one told so in a 508.
LOOP = "the upstream leads back to this proxy; correct upstreams[].url"
_OWN_VIA = re.compile(r"1\.1 cnai-proxy-[0-9a-f]{8}\b")


def for_upstream(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The request headers that go upstream, every line of a repeated one kept in order.

    Raises:
        BadRequest: ``Connection`` names a header that must pass, a header that may stand once
            stands twice, or a value no header may hold.
    """
    passed: CIMultiDict[str] = CIMultiDict()
    dropped = _connection_tokens(headers)
    if forbidden := sorted(dropped & _UP):
        raise BadRequest(f"expected hop-by-hop names in Connection, found {forbidden[0]!r}")
    for name, value in headers.items():
        key = name.lower()
        if key not in _UP:
            continue
        if _UNSENDABLE.search(value):
            raise BadRequest(f"expected printable characters in the header {key!r}, found others")
        if key in _UP_ONCE and key in passed:
            raise BadRequest(f"expected the header {key!r} once, found it twice")
        passed.add(name, value)
    # Blobs are stored as they are; an encoded answer would change length and digest.
    passed["Accept-Encoding"] = "identity"
    # Other proxies of this kind stay named, so that a loop through several shows as well.
    passed["Via"] = ", ".join([*_OWN_VIA.findall(", ".join(_values(headers, "via"))), VIA])
    return passed


def for_client(headers: Mapping[str, str], translation: Translation) -> CIMultiDict[str]:
    """The upstream's response headers that reach the client, addresses and names in its own form.

    Raises:
        BadUpstream: a value no header may hold.
    """
    passed: CIMultiDict[str] = CIMultiDict()
    warnings = 0
    dropped = _connection_tokens(headers)
    for name, value in headers.items():
        key = name.lower()
        if key in dropped or not (key in _DOWN or key.startswith(_DOWN_PREFIXES)):
            continue
        if _UNSENDABLE.search(value):
            raise BadUpstream(f"expected printable characters in the upstream's header {key!r}")
        if key == "location":
            value = translation.location(value)
        elif key == "link":
            link = translation.link(value)
            if link is None:
                continue
            value = link
        elif key == "www-authenticate":
            value = translation.challenge(value)
        elif key == "warning":
            warnings += len(value.encode("utf-8"))
            if warnings > _WARNING_BYTES_LIMIT:
                continue
        passed.add(name, value)
    return passed


def _connection_tokens(headers: Mapping[str, str]) -> frozenset[str]:
    values = _values(headers, "connection")
    return frozenset(token.strip().lower() for value in values for token in value.split(","))


def _values(headers: Mapping[str, str], wanted: str) -> list[str]:
    """All values of one header, in order; ``headers`` may hold it several times."""
    return [value for name, value in headers.items() if name.lower() == wanted]
