"""How long a request of ours waited for the upstream, however many upstream requests it took."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class UpstreamTime:
    """Seconds spent waiting for the headers of upstream answers; None before the first."""

    seconds: float | None = None


_upstream_time: ContextVar[UpstreamTime | None] = ContextVar("upstream_time", default=None)


def measure_upstream() -> UpstreamTime:
    """A clock for all upstream requests made in this context from now on, its tasks included."""
    found = UpstreamTime()
    _upstream_time.set(found)
    return found


def add_time(seconds: float) -> None:
    """Count one wait on the clock of this context, if it has one."""
    if (found := _upstream_time.get()) is not None:
        found.seconds = (found.seconds or 0.0) + seconds
