"""What caches may keep of an answer, by what was asked for (row A14). Pure.

Everything depends on the caller's permission, so nothing is for a shared cache. What a digest
names never changes, so the caller's own may keep it.
Source: RFC 9111 §5.2.2, RFC 8246 (``immutable``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from proxy.oci import endpoint
from proxy.oci.digest import Digest

_VARY = "Authorization, Accept, Range"
# Bytes that the address names by their digest.
IMMUTABLE: Mapping[str, str] = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Vary": _VARY,
}
# What may be another thing the next time: tags, listings.
REVALIDATED: Mapping[str, str] = {"Cache-Control": "private, no-cache", "Vary": _VARY}
# Errors, and redirects: their addresses are signed and end soon.
NOT_STORED: Mapping[str, str] = {"Cache-Control": "no-store"}

_CONTENT = frozenset({200, 206, 304})


def cache_headers(call: endpoint.Endpoint, method: str, status: int) -> Mapping[str, str]:
    """``Cache-Control`` and ``Vary`` of an answer below ``/v2/``; none for writes.

    A digest of an unregistered algorithm is no promise that this proxy could hold, so what it names
    is asked for again.
    """
    if method not in endpoint.READS:
        return {}
    if status >= 300 and status != 304:
        return NOT_STORED
    match call:
        case endpoint.Manifest(reference=Digest()) | endpoint.Blob(digest=Digest()):
            return IMMUTABLE if status in _CONTENT else NOT_STORED
        case endpoint.Upload():
            return NOT_STORED
        case (
            endpoint.Ping()
            | endpoint.Catalog()
            | endpoint.Manifest()
            | endpoint.Blob()
            | endpoint.Tags()
            | endpoint.Referrers()
            | endpoint.Other()
        ):
            return REVALIDATED
        case _:
            assert_never(call)


def file_cache_headers(*, by_digest: bool) -> Mapping[str, str]:
    """``Cache-Control`` and ``Vary`` of a model's file: for good where the address has the digest.

    The proxy's own words about a model (records, listings) change with the proxy: REVALIDATED.
    """
    return IMMUTABLE if by_digest else REVALIDATED
