"""What is known of layers: kept in memory under a bound of bytes.

The key is (upstream, repository, digest): bytes that were read in part are as good as whoever gave
them, so they count for that repository only. An index of a blob that was read whole and is the
content of its digest is shared by all repositories of its upstream, which is asked first whether
the blob is in this one too. Upstreams share nothing: one could claim to have any blob.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cachetools import LRUCache

from proxy.content.scans import HeaderScan, StreamScan
from proxy.model.sniffing import Settled
from proxy.oci.digest import Digest

# An entry's own cost, beside what its scans say.
_ENTRY_COST_BYTES = 1024
# One wrong answer of an upstream must not make a layer broken for as long as the process runs.
DOUBTFUL_SECONDS = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerKey:
    """A blob in a repository of an upstream, both in the upstream's own words."""

    upstream: str
    repository: str
    digest: Digest


@dataclass(slots=True)
class LayerIndex:
    """What is known of one layer.

    ``settled`` is what ``head`` is to a layer declared as ``settled_for``: manifests may declare
    one blob differently.
    ``listing`` learns the members fast, ``seeking`` also where decoding can begin; of a zstd layer
    both are one.
    """

    head: bytes = b""
    settled: Settled | None = None
    settled_for: object = None
    doubtful_since: float | None = None
    headers: HeaderScan | None = None
    listing: StreamScan | None = None
    seeking: StreamScan | None = None

    @property
    def streams(self) -> tuple[StreamScan, ...]:
        """The scans of a compressed layer, each once, the one that knows more places first."""
        found = [scan for scan in (self.seeking, self.listing) if scan is not None]
        return tuple(dict.fromkeys(found))

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        headers = 0 if self.headers is None else self.headers.cost
        streams = sum(scan.cost for scan in self.streams)
        return _ENTRY_COST_BYTES + len(self.head) + headers + streams

    @property
    def verified(self) -> bool:
        """Whether the whole blob was read and is the content of its digest."""
        return any(scan.verified for scan in self.streams)

    @property
    def is_doubtful(self) -> bool:
        """Whether it tells a fault that may have been the upstream's of that moment."""
        if self.verified:
            return False
        is_other = self.settled is not None and self.settled.warning is not None
        is_broken = self.headers is not None and self.headers.failure is not None
        return (
            is_other
            or is_broken
            or any(
                scan.failure is not None or scan.tar_failure is not None for scan in self.streams
            )
        )

    def verified_part(self) -> LayerIndex:
        """What is as good in any repository: no more, and nothing of it is ever written to."""
        listing, seeking = (
            scan if scan is not None and scan.verified else None
            for scan in (self.listing, self.seeking)
        )
        return LayerIndex(listing=listing, seeking=seeking)


class Indexes:
    """The indexes kept, least recently used out first; ``limit_bytes`` bounds them together."""

    def __init__(self, *, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: LRUCache[LayerKey, LayerIndex] = LRUCache(limit_bytes, getsizeof=_cost)
        self._shared: LRUCache[tuple[str, Digest], LayerIndex] = LRUCache(
            limit_bytes, getsizeof=_cost
        )

    def of(self, key: LayerKey) -> LayerIndex:
        """What is known in this repository; all who ask at once get the same index."""
        index = self._kept.get(key)
        since = None if index is None else index.doubtful_since
        if index is None or (since is not None and self._clock() - since > DOUBTFUL_SECONDS):
            index = LayerIndex()
            _put(self._kept, key, index)
        return index

    def shared(self, key: LayerKey) -> LayerIndex | None:
        """What is known of the blob from another repository: to be used once it is in this one."""
        return self._shared.get((key.upstream, key.digest))

    def keep(self, key: LayerKey, index: LayerIndex) -> None:
        """Keep what is known by now; one that alone is over the bound is forgotten."""
        if not index.is_doubtful:
            index.doubtful_since = None
        elif index.doubtful_since is None:
            index.doubtful_since = self._clock()
        _put(self._kept, key, index)
        if index.verified:
            _put(self._shared, (key.upstream, key.digest), index.verified_part())


def _cost(index: LayerIndex) -> float:
    return index.cost


def _put(cache: LRUCache[T, LayerIndex], key: T, index: LayerIndex) -> None:
    cache.pop(key, None)
    if index.cost <= cache.maxsize:
        cache[key] = index
