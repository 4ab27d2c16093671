from __future__ import annotations

import gzip
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Sequence

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import MalformedArtifact, SizeInvalid
from proxy.formats.compression import Compression, Decoder, open_decoder
from proxy.formats.progress import START, DecoderLimits, Point

DENSE = DecoderLimits(spacing_bytes=1000)
# What a decoder is opened with: gzip is decoded by two libraries.
WAYS: tuple[tuple[Compression, bool], ...] = (("gzip", False), ("gzip", True), ("zstd", False))


def pieces(blob: bytes, size: int) -> Iterator[bytes]:
    """The blob in pieces of ``size`` bytes."""
    return (blob[at : at + size] for at in range(0, len(blob), size))


def unpacked(decoder: Decoder, chunks: Iterable[bytes], *, limit: int = 1 << 20) -> bytes:
    """All that comes out, after ``end``."""
    found = bytearray()
    for _ in unpacking(decoder, chunks, into=found, limit=limit):
        pass
    return bytes(found)


def unpacking(
    decoder: Decoder, chunks: Iterable[bytes], *, into: bytearray, limit: int = 1 << 20
) -> Iterator[bytes]:
    """Each take, also put ``into`` what has come out before a fault."""
    position, plain_position = decoder.position, decoder.plain_position
    for chunk in chunks:
        assert decoder.position == position
        decoder.feed(chunk)
        position += len(chunk)
        while plain := decoder.take(limit):
            assert len(plain) <= limit
            into += plain
            plain_position += len(plain)
            assert decoder.plain_position == plain_position
            yield plain
    decoder.end()


def part_from_points(
    compression: Compression, blob: bytes, points: Sequence[Point], *, begin: int, end: int
) -> bytes:
    """``plain[begin:end]`` decoded from the last point that is not behind ``begin``."""
    start = max((point for point in points if point.plain_position <= begin), key=_plain_position)
    decoder = open_decoder(compression, start=start)
    found = bytearray()
    for _ in unpacking(decoder, pieces(blob[start.position :], 700), into=found, limit=900):
        if start.plain_position + len(found) >= end:
            break
    return bytes(found[begin - start.plain_position : end - start.plain_position])


def _plain_position(point: Point) -> int:
    return point.plain_position


def plain_bytes(seed: int, size: int) -> bytes:
    """Half words, half noise, in stretches, always the same for one seed."""
    source = random.Random(seed)
    found = bytearray()
    while len(found) < size:
        if source.random() < 0.5:
            found += source.randbytes(source.randint(1, 1500))
        else:
            words = source.choices((b"layer ", b"weight\n", b"\0" * 40, b"{}"), k=5)
            found += b"".join(source.choices(words, k=source.randint(1, 300)))
    return bytes(found[:size])


def packed(compression: Compression, plains: Iterable[bytes]) -> bytes:
    """A member or frame of each."""
    if compression == "gzip":
        return b"".join(gzip.compress(plain, 6, mtime=0) for plain in plains)
    frames = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(frames.compress(plain) for plain in plains)


plains = st.builds(
    plain_bytes,
    st.integers(0, 1 << 16),
    st.sampled_from((0, 1, 999, 5000, 33_000, 70_000, 150_000)),
)


@pytest.mark.parametrize(("compression", "collect"), WAYS)
@given(parts=st.lists(plains, min_size=1, max_size=4), seed=st.integers(0, 1 << 16))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_decoder_any_split_and_limit_gives_the_same(
    compression: Compression, collect: bool, parts: list[bytes], seed: int
) -> None:
    blob = packed(compression, parts)
    source = random.Random(seed)
    cuts = sorted(source.choices(range(len(blob) + 1), k=source.randint(0, 30)))
    chunks = [blob[a:b] for a, b in zip([0, *cuts], [*cuts, len(blob)], strict=True)]
    decoder = open_decoder(compression, collect=collect, limits=DENSE)
    limit = source.choice((37, 1000, 4096, 70_000))
    assert unpacked(decoder, chunks, limit=limit) == b"".join(parts)
    assert decoder.position == len(blob)


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_decoder_byte_by_byte_gives_the_same(compression: Compression, collect: bool) -> None:
    parts = [plain_bytes(1, 3000), b"", b"x", plain_bytes(2, 2000)]
    blob = packed(compression, parts)
    decoder = open_decoder(compression, collect=collect, limits=DENSE)
    assert unpacked(decoder, pieces(blob, 1), limit=1) == b"".join(parts)
    whole = open_decoder(compression, collect=collect, limits=DENSE)
    unpacked(whole, [blob])
    assert whole.points == decoder.points != []


@pytest.mark.parametrize(("compression", "collect"), WAYS)
@given(
    parts=st.lists(plains, min_size=1, max_size=4),
    ranges=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_points_any_range_reads_as_from_the_start(
    compression: Compression, collect: bool, parts: list[bytes], ranges: list[tuple[float, float]]
) -> None:
    blob, plain = packed(compression, parts), b"".join(parts)
    decoder = open_decoder(compression, collect=collect, limits=DENSE)
    unpacked(decoder, pieces(blob, 5000), limit=3000)
    points = [START, *decoder.points]
    for before, after in zip(points, decoder.points, strict=False):
        assert after.plain_position - before.plain_position >= DENSE.spacing_bytes
    for point in points:
        begin = point.plain_position
        part = part_from_points(compression, blob, [point], begin=begin, end=begin + 300)
        assert part == plain[begin : begin + 300]
    for pair in ranges:
        begin, end = sorted(int(share * len(plain)) for share in pair)
        part = part_from_points(compression, blob, points, begin=begin, end=end)
        assert part == plain[begin:end]


def test_points_over_their_bound_are_thinned_evenly() -> None:
    parts = [plain_bytes(seed, 1000) for seed in range(50)]
    blob = packed("gzip", parts)
    decoder = open_decoder("gzip", limits=DecoderLimits(spacing_bytes=1000, points=6))
    unpacked(decoder, [blob])
    assert [point.plain_position for point in decoder.points] == [*range(8000, 48_001, 8000)]
    for point in decoder.points:
        found = part_from_points("gzip", blob, [point], begin=point.plain_position, end=50_000)
        assert found == b"".join(parts)[point.plain_position :]


def test_points_where_none_are_kept_are_none() -> None:
    decoder = open_decoder("gzip", limits=DecoderLimits(spacing_bytes=1, points=0))
    unpacked(decoder, [packed("gzip", [b"a" * 100] * 9)])
    assert decoder.points == []


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_decoder_truncated_anywhere_says_so_at_the_end(
    compression: Compression, collect: bool
) -> None:
    parts = [plain_bytes(3, 300), b"", b"last" * 20]
    blob = packed(compression, parts)
    ends = {len(packed(compression, parts[:count])) for count in (1, 2)}
    for size in range(len(blob)):
        decoder = open_decoder(compression, collect=collect)
        found = bytearray()
        if size in ends:
            unpacked(decoder, [blob[:size]])
            continue
        with pytest.raises(MalformedArtifact, match=f"at byte {size} of the blob, found its end"):
            list(unpacking(decoder, pieces(blob[:size], 50), into=found))
        assert b"".join(parts).startswith(found)


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_decoder_empty_blob_lacks_a_beginning(compression: Compression, collect: bool) -> None:
    with pytest.raises(MalformedArtifact, match=f"expected a {compression} .* at byte 0"):
        unpacked(open_decoder(compression, collect=collect), [])


@pytest.mark.parametrize(("compression", "collect"), WAYS)
@given(plain=plains, seed=st.integers(0, 1 << 16))
@settings(derandomize=True, max_examples=150, deadline=None)
def test_decoder_mutated_blob_fails_by_name_or_not_at_all(
    compression: Compression, collect: bool, plain: bytes, seed: int
) -> None:
    source = random.Random(seed)
    blob = bytearray(packed(compression, [plain[:3000], plain[3000:8000]]))
    for _ in range(source.randint(1, 4)):
        at = source.choice((source.randrange(len(blob)), source.randrange(min(len(blob), 40))))
        match source.randrange(3):
            case 0:
                blob[at] = source.randrange(256)
            case 1:
                del blob[at : at + source.randint(1, 9)]
            case _:
                blob[at:at] = source.randbytes(source.randint(1, 9))
    limits = DecoderLimits(window_bytes=1 << 20, spacing_bytes=1000)
    decoder = open_decoder(compression, collect=collect, limits=limits)
    found = bytearray()
    try:
        list(unpacking(decoder, pieces(bytes(blob), source.randint(1, 3000)), into=found))
    except (MalformedArtifact, SizeInvalid):
        pass
    else:  # it verifies checksums, so this is what a mutation outside of content leaves
        assert plain[:8000].endswith(found)


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_decoder_corrupt_blob_gives_what_came_before_and_then_fails_for_ever(
    compression: Compression, collect: bool
) -> None:
    plain = plain_bytes(4, 100_000)
    blob = packed(compression, [plain, plain]) + b"garbage"
    decoder = open_decoder(compression, collect=collect)
    decoder.feed(blob)
    assert decoder.take(150_000) + decoder.take(150_000) == plain + plain
    with pytest.raises(MalformedArtifact, match=f"at byte {len(blob) - 7} of the blob") as caught:
        decoder.take(1)
    assert caught.value.detail == {"offset": len(blob) - 7}
    for again in (lambda: decoder.take(1), lambda: decoder.feed(b"more"), decoder.end):
        with pytest.raises(MalformedArtifact, match=f"at byte {len(blob) - 7} of the blob"):
            again()
    assert decoder.plain_position == len(plain) * 2
    assert decoder.position == len(blob)


@pytest.mark.parametrize("collect", [False, True])
def test_decoder_fed_before_it_asked_refuses(collect: bool) -> None:
    blob = packed("gzip", [b"x" * 1000])
    decoder = open_decoder("gzip", collect=collect)
    decoder.feed(blob)
    assert decoder.take(1000) == b"x" * 1000
    with pytest.raises(ValueError, match="expected that take"):
        decoder.feed(b"")
    with pytest.raises(ValueError, match="expected that take"):
        decoder.end()
    assert decoder.take(1) == b""
    decoder.end()


def test_decoder_limit_of_none_refuses() -> None:
    with pytest.raises(ValueError, match="expected a limit of 1 or more, found 0"):
        open_decoder("gzip").take(0)


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_F1_ratio_beyond_the_free_bytes_refuses_with_limit_and_found(
    compression: Compression, collect: bool
) -> None:
    blob = packed(compression, [bytes(300_000)])
    limits = DecoderLimits(free_bytes=50_000, ratio=20)
    decoder = open_decoder(compression, collect=collect, limits=limits)
    found = bytearray()
    with pytest.raises(SizeInvalid, match=r"at most 20 plain bytes .* first 50000; found \d+"):
        list(unpacking(decoder, [blob], into=found, limit=10_000))
    assert len(found) <= 50_000
    assert decoder.plain_position == len(found)
    assert unpacked(open_decoder(compression, collect=collect), [blob]) == bytes(300_000)


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_F1_ratio_counts_from_where_it_began(compression: Compression, collect: bool) -> None:
    noise = random.Random(1).randbytes(50_000)
    blob = packed(compression, [noise, bytes(300_000)])
    limits = DecoderLimits(free_bytes=10_000, ratio=7, spacing_bytes=50_000)
    whole = open_decoder(compression, collect=collect, limits=limits)
    assert unpacked(whole, [blob]) == noise + bytes(300_000)
    start = whole.points[0]
    later = open_decoder(compression, start=start, collect=collect, limits=limits)
    with pytest.raises(SizeInvalid):
        unpacked(later, [blob[start.position :]])


# A program of its own, since only the peak of a whole process shows what C libraries take.
_BOMB = """
import struct, sys, zlib
from proxy.errors import SizeInvalid
from proxy.formats.compression import open_decoder

def gzip_bomb():
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + again * 63 + packer.flush()

def zstd_bomb():
    block = (1 | 1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + bytes(1)
    more = bytes((block[0] & ~1,)) + block[1:]
    window_of_8_mib = 13 << 3
    return struct.pack("<IBB", 0xFD2FB528, 0, window_of_8_mib) + more * 8191 + block

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10

compression, collect = sys.argv[1], sys.argv[2] == "True"
blob = gzip_bomb() if compression == "gzip" else zstd_bomb()
decoder = open_decoder(compression, collect=collect)
decoder.feed(b"")
decoder.take(1)
before = peak()
count = 0
try:
    for at in range(0, len(blob), 1 << 18):
        decoder.feed(blob[at : at + (1 << 18)])
        while plain := decoder.take(1 << 20):
            assert len(plain) <= 1 << 20
            count += len(plain)
except SizeInvalid as error:
    print(len(blob), count, peak() - before)
"""


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_F1_bomb_of_a_gibibyte_ends_in_a_named_limit(
    compression: Compression, collect: bool
) -> None:
    command = [sys.executable, "-c", _BOMB, compression, str(collect)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    size, count, growth = map(int, run.stdout.split())
    assert size < (1_100_000 if compression == "gzip" else 33_000)
    assert 254 << 20 <= count <= 256 << 20
    assert growth < 64 << 20


@pytest.mark.parametrize(("compression", "collect"), WAYS)
def test_F1_decoder_holds_no_more_than_it_says(compression: Compression, collect: bool) -> None:
    blob = packed(compression, [bytes(20_000_000)])
    decoder = open_decoder(compression, collect=collect)
    decoder.feed(blob)
    tracemalloc.start()
    try:
        assert sum(len(decoder.take(1000)) for _ in range(2000)) == 2_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20  # 1 MiB by zstd at once, which its library joins from parts


def test_open_decoder_point_of_the_other_compression_refuses() -> None:
    within = Point(10, 100, window=zlib.compress(b"before"))
    with pytest.raises(ValueError, match="expected the start of a frame"):
        open_decoder("zstd", start=within)
    with pytest.raises(ValueError, match="expected the start of a frame"):
        open_decoder("zstd", start=Point(10, 100, bits=1))
    for bits in (-1, 1, 8):
        with pytest.raises(ValueError, match="expected 0 to 7 bits"):
            open_decoder("gzip", start=Point(10, 100, bits=bits))
