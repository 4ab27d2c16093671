from __future__ import annotations

import contextlib
import gzip as python_gzip
import importlib.util
import random
import resource
import shutil
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import MalformedArtifact, PackingUnsupported
from proxy.formats import gzip
from proxy.formats.compression import Decoder, open_decoder
from proxy.formats.progress import START, DecoderLimits, Point, Progress
from tests.formats.test_compression import (
    DENSE,
    packed,
    part_from_points,
    pieces,
    plain_bytes,
    unpacked,
    unpacking,
)

_needs_gzip = pytest.mark.skipif(shutil.which("gzip") is None, reason="apt-get install gzip")


def member(
    plain: bytes,
    level: int = 6,
    *,
    memory: int = 8,
    strategy: int = zlib.Z_DEFAULT_STRATEGY,
    flush_every: int = 0,
) -> bytes:
    """One member; little ``memory`` makes short blocks, a flush ends one on a whole byte."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 31, memory, strategy)
    found = bytearray()
    for chunk in pieces(plain, flush_every or len(plain) or 1):
        found += packer.compress(chunk)
        if flush_every:
            found += packer.flush(zlib.Z_SYNC_FLUSH)
    return bytes(found + packer.flush())


def within(decoder: Decoder) -> list[Point]:
    """The points within a member."""
    return [point for point in decoder.points if point.window]


def collected(blob: bytes, *, spacing_bytes: int = 1000) -> Decoder:
    """A decoder that has read all of the blob."""
    limits = DecoderLimits(spacing_bytes=spacing_bytes)
    decoder = open_decoder("gzip", collect=True, limits=limits)
    unpacked(decoder, pieces(blob, 4000))
    return decoder


@pytest.mark.parametrize("collect", [False, True])
@given(
    seed=st.integers(0, 1 << 16),
    size=st.sampled_from((0, 1, 1000, 40_000, 200_000)),
    level=st.integers(0, 9),
    memory=st.integers(1, 9),
    strategy=st.sampled_from((zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY)),
    flush_every=st.sampled_from((0, 0, 777, 20_000)),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_gzip_any_writer_reads_as_python_does(
    collect: bool,
    seed: int,
    size: int,
    level: int,
    memory: int,
    strategy: int,
    flush_every: int,
) -> None:
    plain = plain_bytes(seed, size)
    blob = member(plain, level, memory=memory, strategy=strategy, flush_every=flush_every)
    assert python_gzip.decompress(blob) == plain  # noqa: TID251 - the test made it
    decoder = open_decoder("gzip", collect=collect, limits=DENSE)
    assert unpacked(decoder, pieces(blob, 3001), limit=2999) == plain
    for point in decoder.points:
        begin = point.plain_position
        part = part_from_points("gzip", blob, [point], begin=begin, end=begin + 500)
        assert part == plain[begin : begin + 500]


@_needs_gzip
@pytest.mark.parametrize("collect", [False, True])
@pytest.mark.parametrize("level", ["-1", "-6", "-9"])
def test_gzip_of_gnu_gzip_reads(collect: bool, level: str) -> None:
    plain = plain_bytes(5, 300_000)
    blob = subprocess.run(["gzip", level], input=plain, check=True, capture_output=True).stdout
    assert unpacked(open_decoder("gzip", collect=collect), [blob]) == plain


@pytest.mark.parametrize("collect", [False, True])
@pytest.mark.parametrize("flags", range(32))
def test_gzip_any_optional_fields_read_in_any_two_pieces(collect: bool, flags: int) -> None:
    head = b"\x1f\x8b\x08" + bytes((flags,)) + bytes(6)
    head += b"\x40\x00" + b"abcd" * 16 if flags & 4 else b""
    head += b"name\0" if flags & 8 else b""
    head += b"comment\0" if flags & 16 else b""
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") if flags & 2 else b""
    blob = head + member(b"plain")[10:]
    for cut in range(1, len(blob)):
        decoder = open_decoder("gzip", collect=collect)
        assert unpacked(decoder, [blob[:cut], blob[cut:]]) == b"plain"
    assert unpacked(open_decoder("gzip", collect=collect), pieces(blob * 2, 1)) == b"plainplain"


def test_gzip_points_start_at_any_bit_with_a_window_of_at_most_32_kib() -> None:
    plain = plain_bytes(6, 600_000)
    blob = member(plain, memory=2)
    decoder = collected(blob)
    assert {point.bits for point in decoder.points} == set(range(8))
    assert all(len(point.window) <= 33_000 for point in decoder.points)


def test_gzip_windows_of_noise_with_default_limits_take_little_of_the_blob() -> None:
    # Weights hardly deflate, so neither do their windows: 32 KiB of each 4 MiB.
    blob = member(random.Random(7).randbytes(20_000_000), 1)
    decoder = open_decoder("gzip", collect=True)
    unpacked(decoder, pieces(blob, 1 << 18))
    assert len(within(decoder)) == 4
    assert sum(len(point.window) for point in decoder.points) < 0.015 * len(blob)


def test_gzip_small_members_make_no_point_each() -> None:
    parts = [plain_bytes(seed, 4000) for seed in range(20)]
    decoder = open_decoder("gzip", limits=DecoderLimits(spacing_bytes=10_000))
    unpacked(decoder, [packed("gzip", parts)])
    assert [point.plain_position for point in decoder.points] == [
        *range(12_000, 80_000, 12_000),
    ]


@pytest.mark.parametrize("size", [3, 200_000])
def test_gzip_from_within_a_member_goes_on_through_the_next(size: int) -> None:
    parts = [plain_bytes(8, 20_000), b"", plain_bytes(9, 20_000)]
    blob = b"".join(member(part, memory=1) for part in parts) + bytes(100)
    plain = b"".join(parts)
    first = collected(blob)
    start = within(first)[1]
    behind = [point for point in first.points if point.position > start.position]
    for collect in (False, True):
        decoder = open_decoder("gzip", start=start, collect=collect, limits=DENSE)
        found = unpacked(decoder, pieces(blob[start.position :], size))
        assert found == plain[start.plain_position :]
        assert decoder.position == len(blob)
        if collect:
            assert decoder.points == behind
        else:
            assert [point.plain_position for point in decoder.points] == [20_000]


def test_gzip_points_of_a_pass_that_went_on_from_a_point_read() -> None:
    plain = plain_bytes(10, 200_000)
    blob = member(plain, memory=1)
    first = open_decoder("gzip", collect=True, limits=DENSE)
    for _ in unpacking(first, pieces(blob, 500), into=bytearray()):
        if len(first.points) >= 20:
            break
    second = open_decoder("gzip", start=first.points[-1], collect=True, limits=DENSE)
    unpacked(second, [blob[first.points[-1].position :]])
    assert len(second.points) > 40
    for point in second.points:
        begin = point.plain_position
        part = part_from_points("gzip", blob, [point], begin=begin, end=begin + 40_000)
        assert part == plain[begin : begin + 40_000]


def test_gzip_from_within_a_member_truncated_anywhere_says_so() -> None:
    blob = member(plain_bytes(11, 4000), memory=1)
    start = within(collected(blob))[-1]
    assert start.bits
    for size in range(start.position, len(blob)):
        decoder = open_decoder("gzip", start=start)
        with pytest.raises(MalformedArtifact, match=f"the rest of a gzip member at byte {size} "):
            unpacked(decoder, [blob[start.position : size]])


@given(seed=st.integers(0, 1 << 16))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_gzip_from_within_a_mutated_member_fails_by_name_or_not_at_all(seed: int) -> None:
    source = random.Random(seed)
    blob = member(plain_bytes(seed, 9000), memory=1, flush_every=1500)
    start = source.choice(within(collected(blob)))
    rest = bytearray(blob[start.position :])
    for _ in range(source.randint(1, 3)):
        rest[source.randrange(len(rest))] = source.randrange(256)
    decoder = open_decoder("gzip", start=start, collect=True, limits=DENSE)
    with contextlib.suppress(MalformedArtifact):
        unpacked(decoder, pieces(bytes(rest), source.randint(1, 900)))


@pytest.mark.parametrize("collect", [False, True])
def test_gzip_zeros_behind_the_last_member_are_padding(collect: bool) -> None:
    blob = member(b"one") + member(b"two") + bytes(1000)
    decoder = open_decoder("gzip", collect=collect)
    assert unpacked(decoder, pieces(blob, 7)) == b"onetwo"
    assert decoder.position == len(blob)


@pytest.mark.parametrize("collect", [False, True])
@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"\0" + member(b"x"), "expected a gzip member at byte 0 of the blob, found the byte 0x00"),
        (b"{}", "expected a gzip member at byte 0 of the blob, found the byte 0x7b"),
        (member(b"x") + b"A", "or zeros to the end, at byte 21 of the blob, found the byte 0x41"),
        (
            member(b"x") + b"\0\0" + member(b"y"),
            "expected zeros to the end at byte 23 of the blob, found the byte 0x1f",
        ),
    ],
)
def test_gzip_what_is_no_member_is_named(collect: bool, blob: bytes, text: str) -> None:
    for size in (1, 100):
        decoder = open_decoder("gzip", collect=collect)
        with pytest.raises(MalformedArtifact) as caught:
            unpacked(decoder, pieces(blob, size))
        assert text in caught.value.message


@pytest.mark.parametrize("collect", [False, True])
@pytest.mark.parametrize("behind_the_end", [1, 4, 5, 8])
def test_gzip_wrong_checksum_or_length_is_refused(collect: bool, behind_the_end: int) -> None:
    plain = plain_bytes(12, 5000)
    blob = bytearray(member(b"first") + member(plain) + member(b"last"))
    blob[-behind_the_end - len(member(b"last"))] ^= 1
    decoder = open_decoder("gzip", collect=collect)
    found = bytearray()
    with pytest.raises(MalformedArtifact, match=r"expected a gzip member at byte \d+ of the blob"):
        list(unpacking(decoder, pieces(bytes(blob), 10), into=found))
    assert (b"first" + plain).startswith(found)
    assert len(found) >= len(plain) - 100


def test_gzip_corrupt_while_collecting_names_the_byte_and_the_reason() -> None:
    blob = b"\x1f\x8b\x08" + bytes(7) + b"\x00\x05\x00\xfa\xffplain" + b"\x07"
    decoder = open_decoder("gzip", collect=True)
    decoder.feed(blob)
    assert decoder.take(100) == b"plain"
    with pytest.raises(MalformedArtifact, match="byte 21 of the blob, found 'invalid block type'"):
        decoder.take(100)


def test_gzip_millions_of_empty_blocks_are_not_counted_one_by_one() -> None:
    # Each is ten bits, and zlib would stop behind each. Only where a point is wanted may it.
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    blob = packer.compress(b"a" * 2000) + packer.flush(zlib.Z_FULL_FLUSH)
    empty_stored = b"\x00\x00\x00\xff\xff"
    calls = 0
    library = gzip.system_zlib()
    assert library is not None

    class Counting:
        """The library, and how often it inflates."""

        def __getattr__(self, name: str) -> object:
            nonlocal calls
            calls += name == "inflate"
            return getattr(library, name)

    unpacker = gzip.open_gzip(START, collect=True, load=lambda: Counting())  # type: ignore[arg-type,return-value]
    progress = Progress(START, DENSE)
    progress.feed(blob + empty_stored * 50_000 + packer.flush())
    while unpacker.step(progress, 1 << 20):
        pass
    assert progress.plain_position == 2000
    assert calls < 20


@pytest.mark.parametrize("size", [1, 40_000])
def test_gzip_without_the_systems_zlib_finds_members_alone(size: int) -> None:
    parts = [plain_bytes(13, 9000), plain_bytes(14, 9000)]
    blob = packed("gzip", parts)
    unpacker = gzip.open_gzip(START, collect=True, load=lambda: None)
    progress = Progress(START, DENSE)
    found = bytearray()
    for chunk in pieces(blob, size):
        progress.feed(chunk)
        while plain := unpacker.step(progress, 100):
            found += plain
    assert found == b"".join(parts)
    assert [point.plain_position for point in progress.points] == [9000]
    start = Point(100, 2000, window=zlib.compress(b"before"))
    with pytest.raises(PackingUnsupported, match="begin at byte 100 of the blob"):
        gzip.open_gzip(start, collect=False, load=lambda: None)


def test_gzip_without_isal_reads_by_pythons_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    spec = importlib.util.spec_from_file_location("gzip_without_isal", gzip.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = plain_bytes(15, 100_000)
    blob = member(plain)
    progress = Progress(START, DENSE)
    progress.feed(blob[:-1])
    unpacker = module.open_gzip(START, collect=False)
    found = bytearray()
    while part := unpacker.step(progress, 70_000):
        found += part
    assert found == plain
    progress.feed(b"\xff")
    with pytest.raises(MalformedArtifact, match="incorrect length check"):
        unpacker.step(progress, 1)


def test_load_zlib_takes_the_first_that_can_do_all() -> None:
    assert gzip.load_zlib(["libthere-is-none.so.7"]) is None
    assert gzip.load_zlib(["libc.so.6"]) is None  # there, but no zlib
    assert gzip.load_zlib(["libthere-is-none.so.7", "libz.so.1"]) is not None


def test_zlib_names_the_usual_one_comes_first() -> None:
    assert list(gzip.zlib_names(lambda name: f"lib{name}.dylib")) == ["libz.so.1", "libz.dylib"]
    assert list(gzip.zlib_names(lambda _: None)) == ["libz.so.1"]


def test_expect_ok_other_codes_of_zlib_are_refused() -> None:
    for code in (0, 1, -5):
        gzip.expect_ok(code)
    for code in (-2, -4, -6):
        with pytest.raises(RuntimeError, match=f"found return code {code}"):
            gzip.expect_ok(code)


@pytest.mark.parametrize(
    "window", [b"no window", zlib.compress(b"cut")[:-1], zlib.compress(bytes(32_769))]
)
def test_open_gzip_point_with_a_damaged_window_is_refused(window: bytes) -> None:
    with pytest.raises(ValueError, match="window"):
        gzip.open_gzip(Point(10, 100, window=window), collect=False)


def test_gzip_state_of_zlib_is_freed_with_its_decoder() -> None:
    blob = member(plain_bytes(16, 50_000))

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    before = 0
    for turn in range(600):
        decoder = open_decoder("gzip", collect=True)
        decoder.feed(blob)
        decoder.take(40_000)
        if turn == 100:
            before = resident()
    assert resident() - before < 8 << 20  # each takes 40 KiB and more
