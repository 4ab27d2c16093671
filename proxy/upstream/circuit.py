"""A circuit breaker for one upstream: after many failed connections it is left alone for a while.

Only connections count, never an answer: a registry that says 500 is there. While the circuit is
open nobody waits for a connect timeout, but for one request every five seconds that tries. Pure but
for its clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from proxy.errors import UpstreamUnreachable

# Connections in a row that fail before the upstream is left alone.
FAILURES_LIMIT = 10
# Seconds it is left alone, and between one try and the next.
OPEN_SECONDS = 5.0


class Circuit:
    """Closed at first; ``clock`` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._asked_again_at: float | None = None
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether the upstream was last seen unreachable: until a connection has come about."""
        return self._asked_again_at is not None

    def check(self) -> None:
        """Let pass whoever could make an attempt now.

        Raises:
            UpstreamUnreachable: with ``Retry-After``, and why the last connection failed.
        """
        if self._asked_again_at is None:
            return
        left = self._asked_again_at - self._clock()
        if left <= 0:
            return
        raise UpstreamUnreachable(
            f"the upstream is left alone for a moment: {FAILURES_LIMIT} and more connections in a "
            f"row failed, the last one: {self._reason}",
            headers=(("Retry-After", str(math.ceil(left))),),
        )

    def begin(self) -> None:
        """One attempt begins; ``connected`` or ``failed`` may tell what became of it.

        While the circuit is open the next one has to wait, whatever becomes of this one.

        Raises:
            UpstreamUnreachable: as ``check``.
        """
        self.check()
        if self._asked_again_at is not None:
            self._asked_again_at = self._clock() + OPEN_SECONDS

    def connected(self) -> bool:
        """A connection has come about; returns whether that closes the circuit."""
        closes = self.is_open
        self._failures = 0
        self._asked_again_at = None
        return closes

    def failed(self, reason: str) -> bool:
        """No connection; ``reason`` is told to clients. Returns whether that opens the circuit."""
        self._failures += 1
        self._reason = reason
        if self._failures < FAILURES_LIMIT:
            return False
        opens = not self.is_open
        self._asked_again_at = self._clock() + OPEN_SECONDS
        return opens
