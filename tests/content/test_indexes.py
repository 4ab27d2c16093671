"""What is kept of layers: by repository, shared by digest only once verified, under a bound."""

from __future__ import annotations

import gzip

from proxy.content.indexes import Indexes, LayerIndex, LayerKey
from proxy.content.scans import HeaderScan, StreamScan
from proxy.oci.digest import Digest
from tests.build import tar_archive
from tests.content.test_scans import Memory, never

DIGEST = Digest.of(b"blob")
KEY = LayerKey("main", "team/model", DIGEST)


async def _scanned(content: bytes) -> LayerIndex:
    scan = StreamScan("gzip", is_tar=True, collects=True)
    await scan.until(never, source=Memory(content))
    return LayerIndex(seeking=scan)


async def test_of_gives_all_who_ask_the_same_index() -> None:
    indexes = Indexes(limit_bytes=1 << 20)
    assert indexes.of(KEY) is indexes.of(KEY)
    assert indexes.of(KEY) is not indexes.of(LayerKey("main", "team/other", DIGEST))
    assert indexes.of(KEY) is not indexes.of(LayerKey("other", "team/model", DIGEST))


async def test_only_a_verified_index_is_shared_by_digest() -> None:
    indexes = Indexes(limit_bytes=1 << 20)
    content = gzip.compress(tar_archive({"a": b"1"}))
    unread = LayerIndex(seeking=StreamScan("gzip", is_tar=True, collects=False))
    headers = LayerIndex(headers=HeaderScan(size=0))
    for unverified in (unread, headers, LayerIndex()):
        indexes.keep(KEY, unverified)
        assert indexes.shared(KEY) is None
    verified = await _scanned(content)
    indexes.keep(KEY, verified)
    shared = indexes.shared(KEY)
    assert shared is not None
    assert shared.seeking is verified.seeking
    # Whoever reads it elsewhere may add what is not verified: to an index of their own.
    assert shared is not verified


async def test_fault_is_believed_for_a_minute_only() -> None:
    now = 0.0
    indexes = Indexes(limit_bytes=1 << 20, clock=lambda: now)
    broken = LayerIndex(headers=HeaderScan(size=512))
    assert broken.headers is not None
    broken.headers.take_head(b"x" * 512)
    indexes.keep(KEY, broken)
    now = 60.0
    assert indexes.of(KEY) is broken
    indexes.keep(KEY, broken)
    now = 61.0
    assert indexes.of(KEY) is not broken


async def test_bound_forgets_the_least_recently_used() -> None:
    indexes = Indexes(limit_bytes=5_000)
    keys = [LayerKey("main", f"r{number}", DIGEST) for number in range(5)]
    kept = [indexes.of(key) for key in keys]  # 1 KiB each
    assert indexes.of(keys[4]) is kept[4]
    assert indexes.of(keys[0]) is not kept[0]


async def test_index_that_outgrows_the_bound_is_forgotten() -> None:
    indexes = Indexes(limit_bytes=50_000)
    index = indexes.of(KEY)
    content = tar_archive({f"{number:04}": b"" for number in range(300)})
    index.headers = HeaderScan(size=len(content))
    await index.headers.until(never, source=Memory(content))
    assert index.cost > 50_000
    indexes.keep(KEY, index)
    assert indexes.of(KEY) is not index


async def test_cost_counts_a_scan_that_is_both_once() -> None:
    scan = StreamScan("zstd", is_tar=True, collects=True)
    both = LayerIndex(listing=scan, seeking=scan)
    assert both.streams == (scan,)
    assert both.cost == LayerIndex(seeking=scan).cost
