"""Rate limits are kept: what the upstream does not want asked now is answered here (row R11).

The first 429, or 503 with ``Retry-After``, goes to its client as it came. Until its time has passed
the same request of the same caller gets the same status from us; then one request goes and asks,
and what it learns holds for the others. Pure but for its clocks.
Source: RFC 6585 §4 (429); RFC 9110 §10.2.3 (``Retry-After``), §15.6.4 (503).
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cachetools import TLRUCache

from proxy.errors import TooManyRequests, UpstreamUnreachable

PAUSES_LIMIT = 10_000
# Seconds: without a word on it, and the least between two requests for one object.
SHORTEST_SECONDS = 1.0
# However long the upstream wants to be left alone, it is asked again after this.
LONGEST_SECONDS = 60.0
# What is further away than this is told as this: the largest number of five digits.
_TOLD_SECONDS_LIMIT = 99_999.0

# By whom a request is limited: a login, or a client that the upstream does not like. With a login
# of the settings, or none, all callers have the first in common, but each brings the second.
_TELLING = ("Authorization", "User-Agent")
_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class _Pause:
    """``ends`` is when we ask again, ``told`` what the upstream said; times of the clock."""

    status: int
    ends: float
    told: float


class Pauses:
    """The pauses of one upstream.

    ``clock`` counts seconds and never goes back, ``wall_clock`` is Unix time: for dates in
    ``Retry-After``.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        # Kept for a while behind its end, so that then not all who wait go and ask at once.
        self._pauses: TLRUCache[bytes, _Pause] = TLRUCache(
            PAUSES_LIMIT, ttu=lambda _key, pause, _now: pause.ends + LONGEST_SECONDS, timer=clock
        )

    def check(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        """Let a request pass that may go to the upstream now.

        Raises:
            TooManyRequests: the upstream said 429 not long ago; with ``Retry-After``.
            UpstreamUnreachable: it said 503, the same.
        """
        if not self._pauses:
            return
        key = _key(method, target, headers)
        pause = self._pauses.get(key)
        if pause is None:
            return
        now = self._clock()
        if now >= pause.ends:
            ends = now + SHORTEST_SECONDS
            self._pauses[key] = replace(pause, ends=ends, told=ends)
            return
        seconds = max(1, math.ceil(pause.told - now))
        when = (("Retry-After", str(seconds)),)
        if pause.status == 429:
            text = f"the upstream limits requests; it wants to be asked again in {seconds} s"
            raise TooManyRequests(text, headers=when)
        text = f"the upstream is unavailable; it wants to be asked again in {seconds} s"
        raise UpstreamUnreachable(text, headers=when)

    def note(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        *,
        status: int,
        retry_after: str | None,
    ) -> None:
        """Learn from an answer of the upstream."""
        seconds = self._seconds(retry_after)
        if status == 429 or (status == 503 and seconds is not None):
            told = max(seconds or 0.0, SHORTEST_SECONDS)
            now = self._clock()
            self._pauses[_key(method, target, headers)] = _Pause(
                status, ends=now + min(told, LONGEST_SECONDS), told=now + told
            )
        elif self._pauses:
            self._pauses.pop(_key(method, target, headers), None)

    def _seconds(self, retry_after: str | None) -> float | None:
        """Seconds of a ``Retry-After``, None when there is none or it cannot be read."""
        if retry_after is None:
            return None
        if re.fullmatch(r"[0-9]+", retry_after):
            return _TOLD_SECONDS_LIMIT if len(retry_after) > 5 else float(retry_after)
        try:
            date = email.utils.parsedate_to_datetime(retry_after)
            seconds = date.timestamp() - self._wall_clock()
        except (ValueError, OverflowError):
            return None
        return min(max(seconds, 0.0), _TOLD_SECONDS_LIMIT)


def _key(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """What makes two requests the same: short, however long they are, and without a credential."""
    parts = (method, target, *(headers.get(name) or "" for name in _TELLING))
    text = "\n".join(parts).encode("utf-8", "surrogateescape")
    return hmac.digest(_SECRET, text, hashlib.sha256)
