"""The credential of a request, read once and the same way everywhere."""

from __future__ import annotations

from aiohttp import hdrs, web

from proxy.errors import BadRequest
from proxy.upstream.identity import Caller


def authorization_of(request: web.Request) -> str | None:
    """The request's ``Authorization`` as it came.

    Raises:
        BadRequest: it stands twice, or holds what no header may.
    """
    values = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(values) > 1:
        raise BadRequest("expected the header 'authorization' once, found it twice")
    if values and not (values[0].isascii() and values[0].isprintable()):
        raise BadRequest("expected printable characters in the header 'authorization'")
    return values[0] if values else None


def caller_of(request: web.Request) -> Caller:
    """Who asks; raises as ``authorization_of`` does."""
    return Caller.of(authorization_of(request))
