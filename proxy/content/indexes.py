"""What is known of layers: kept in memory under a bound of bytes.

The key is (upstream, repository, digest): bytes that were read in part are as good as whoever gave
them, so they count for that repository only. An index of a blob that was read whole and is the
content of its digest is shared by digest; the repository's own registry is asked first whether the
blob is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from cachetools import LRUCache

from proxy.content.scans import HeaderScan, StreamScan
from proxy.model.sniffing import Settled
from proxy.oci.digest import Digest

# An entry's own cost, beside what its scans say.
_ENTRY_COST_BYTES = 1024

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

    ``listing`` learns the members fast, ``seeking`` also where decoding can begin; of a zstd layer
    both are one.
    """

    head: bytes = b""
    settled: Settled | None = None
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


class Indexes:
    """The indexes kept, least recently used out first; ``limit_bytes`` bounds them together."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._kept: LRUCache[LayerKey, LayerIndex] = LRUCache(limit_bytes, getsizeof=_cost)
        self._shared: LRUCache[Digest, LayerIndex] = LRUCache(limit_bytes, getsizeof=_cost)

    def of(self, key: LayerKey) -> LayerIndex:
        """What is known in this repository; all who ask at once get the same index."""
        index = self._kept.get(key)
        if index is None:
            index = LayerIndex()
            _put(self._kept, key, index)
        return index

    def shared(self, digest: Digest) -> LayerIndex | None:
        """What is known of the blob from another repository: to be used once it is in this one."""
        return self._shared.get(digest)

    def keep(self, key: LayerKey, index: LayerIndex) -> None:
        """Keep what is known by now; one that alone is over the bound is forgotten."""
        _put(self._kept, key, index)
        if index.verified:
            _put(self._shared, key.digest, index)


def _cost(index: LayerIndex) -> float:
    return index.cost


def _put(cache: LRUCache[T, LayerIndex], key: T, index: LayerIndex) -> None:
    cache.pop(key, None)
    if index.cost <= cache.maxsize:
        cache[key] = index
