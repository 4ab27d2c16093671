"""Writes that a page of another site makes a browser send (row G6).

A browser adds the login it holds to any request for the proxy, whoever's page asked for it. It
also says whose page that was; registry clients say nothing.
Source: RFC 6454 §7 (Origin), W3C "Fetch Metadata Request Headers" (Sec-Fetch-Site).
"""

from __future__ import annotations

from aiohttp import hdrs, web

from proxy.errors import Denied
from proxy.facade.forwarding import Forwarding
from proxy.oci.endpoint import WRITES

# A neighbour below the same domain is somebody else, too.
_FOREIGN_SITES = frozenset({"cross-site", "same-site"})


def refuse_foreign_write(request: web.Request, forwarding: Forwarding) -> None:
    """Do nothing, unless ``request`` changes something and a page of another origin sent it.

    Raises:
        Denied: its Origin is not the proxy's own (``null`` is nobody's), or it comes from another
            site.
    """
    if request.method not in WRITES:
        return
    origins = request.headers.getall(hdrs.ORIGIN, ())
    sites = request.headers.getall("Sec-Fetch-Site", ())
    if any(not forwarding.is_own_origin(request, origin) for origin in origins) or any(
        site.strip().lower() in _FOREIGN_SITES for site in sites
    ):
        raise Denied("a page of another origin may not write through this proxy")
