"""What one request leaves behind for its access line and its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web


@dataclass(slots=True)
class Scope:
    """Filled in by whoever knows it while the request is answered; read once at its end."""

    request_id: str
    started: float
    route: str = "other"
    """Route template: the only part of the address that becomes a metric label."""
    origin: str = "proxy"
    """Where the bytes came from: ``upstream``, or ``proxy`` for its own words."""
    repository: str | None = None
    reference: str | None = None
    started_answer: bool = False
    """The status line is out or on its way: it is too late for an error body."""
    sent_bytes: int = 0
    received_bytes: int = 0
    upstream_seconds: float | None = None
    failure: str | None = field(default=None, repr=False)
    """Why it went wrong, in words for the operator."""


_KEY: web.RequestKey[Scope] = web.RequestKey("scope", Scope)


def open_scope(request: web.Request, scope: Scope) -> None:
    """Attach ``scope`` to its request."""
    request[_KEY] = scope


def scope_of(request: web.Request) -> Scope:
    """The scope of a request that came through ``middleware.RequestScope``."""
    return request[_KEY]
