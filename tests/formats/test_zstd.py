from __future__ import annotations

import random
import shutil
import struct
import subprocess

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import MalformedArtifact, SizeInvalid
from proxy.formats.compression import open_decoder
from proxy.formats.progress import START, DecoderLimits, Progress
from proxy.formats.zstd import open_zstd
from tests.formats.test_compression import (
    DENSE,
    packed,
    part_from_points,
    pieces,
    plain_bytes,
    unpacked,
    unpacking,
)

_needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="apt-get install zstd")
_MAGIC = b"\x28\xb5\x2f\xfd"
_WINDOW_OF_1_KIB = b"\x00"


def frame(*blocks: bytes, descriptor: int = 0, fields: bytes = _WINDOW_OF_1_KIB) -> bytes:
    return _MAGIC + bytes((descriptor,)) + fields + b"".join(blocks)


def block(kind: int, size: int, content: bytes, *, last: bool = True) -> bytes:
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + content


def skippable(content: bytes, nibble: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + nibble, len(content)) + content


@given(
    seed=st.integers(0, 1 << 16),
    sizes=st.lists(st.sampled_from((0, 1, 255, 256, 3000, 200_000)), min_size=1, max_size=3),
    level=st.sampled_from((-5, 1, 3, 12)),
    checksum=st.booleans(),
    content_size=st.booleans(),
    window_log=st.integers(10, 20),
    flush_every=st.sampled_from((0, 0, 999, 50_000)),
)
@settings(derandomize=True, max_examples=50, deadline=None)
def test_zstd_any_writer_reads_as_its_library_does(
    seed: int,
    sizes: list[int],
    level: int,
    checksum: bool,
    content_size: bool,
    window_log: int,
    flush_every: int,
) -> None:
    parts = [plain_bytes(seed + number, size) for number, size in enumerate(sizes)]
    options = zstandard.ZstdCompressionParameters.from_level(
        level,
        window_log=window_log,
        write_checksum=checksum,
        write_content_size=content_size,
    )
    blob = b""
    for part in parts:
        size = len(part) if content_size else -1
        packer = zstandard.ZstdCompressor(compression_params=options).compressobj(size=size)
        for chunk in pieces(part, flush_every or len(part) or 1):
            blob += packer.compress(chunk)
            if flush_every:
                blob += packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        blob += packer.flush() + skippable(b"between")
    source = random.Random(seed)
    decoder = open_decoder("zstd", limits=DENSE)
    chunks = pieces(blob, source.choice((7, 1000, 300_000)))
    assert unpacked(decoder, chunks, limit=source.choice((9999, 1 << 20))) == b"".join(parts)


@_needs_zstd
@pytest.mark.parametrize("options", [("-1",), ("-19",), ("-3", "-T0", "--no-check"), ("--fast=9",)])
def test_zstd_of_the_command_reads(options: tuple[str, ...]) -> None:
    plain = plain_bytes(1, 3_000_000)
    command = ["zstd", "--stdout", *options]
    blob = subprocess.run(command, input=plain, check=True, capture_output=True).stdout
    assert unpacked(open_decoder("zstd"), pieces(blob, 70_000)) == plain


@pytest.mark.skipif(shutil.which("pzstd") is None, reason="apt-get install zstd")
def test_zstd_of_pzstd_reads_from_each_of_its_frames() -> None:
    plain = plain_bytes(2, 12_000_000)
    command = ["pzstd", "--stdout", "--processes", "2", "-1"]
    blob = subprocess.run(command, input=plain, check=True, capture_output=True).stdout
    decoder = open_decoder("zstd", limits=DENSE)
    assert unpacked(decoder, pieces(blob, 100_000)) == plain
    assert decoder.points
    for point in decoder.points:
        begin = point.plain_position
        part = part_from_points("zstd", blob, [point], begin=begin, end=begin + 2000)
        assert part == plain[begin : begin + 2000]


def test_zstd_skippable_frames_give_nothing() -> None:
    content = packed("zstd", [b"content"])
    blob = b"".join(
        (
            skippable(b"first", 15),
            content,
            skippable(b""),
            skippable(_MAGIC * 100, 7),
            content,
            skippable(b"last"),
        )
    )
    for size in (1, 5, 1000):
        assert unpacked(open_decoder("zstd"), pieces(blob, size)) == b"contentcontent"
    assert unpacked(open_decoder("zstd"), [skippable(b"alone")]) == b""


def test_zstd_skippable_frames_truncated_anywhere_say_so() -> None:
    blob = skippable(b"content") + skippable(b"more")
    for size in {*range(1, len(blob))} - {len(skippable(b"content"))}:
        with pytest.raises(MalformedArtifact, match=f"the rest of a zstd frame at byte {size} "):
            unpacked(open_decoder("zstd"), [blob[:size]])


def test_zstd_small_frames_make_no_point_each() -> None:
    blob = packed("zstd", [plain_bytes(seed, 4000) for seed in range(20)])
    decoder = open_decoder("zstd", limits=DecoderLimits(spacing_bytes=10_000))
    unpacked(decoder, [blob])
    assert [point.plain_position for point in decoder.points] == [*range(12_000, 80_000, 12_000)]


def test_zstd_blocks_of_all_kinds_read() -> None:
    blob = frame(
        block(0, 3, b"raw", last=False),
        block(1, 1000, b"r", last=False),
        block(0, 0, b"", last=False),
        block(0, 0, b""),
    )
    for size in (1, 2, 100):
        assert unpacked(open_decoder("zstd"), pieces(blob, size)) == b"raw" + b"r" * 1000


@pytest.mark.parametrize(
    ("blob", "text"),
    [
        (b"\x28\xb5\x2f\xfc", "expected a zstd frame at byte 0 of the blob, found the bytes 28 b5"),
        (frame(block(3, 1, b"x")), "expected a block of a known type at byte 6 of the blob, found"),
        (frame(block(0, 1025, b"x")), "expected a block of at most 1024 bytes at byte 6 of the"),
        (frame(block(1, 1025, b"x")), "expected a block of at most 1024 bytes at byte 6 of the"),
        (frame(block(2, 4, b"xxxx")), "expected a zstd frame at byte 6 of the blob, found"),
        (frame(block(0, 0, b""), descriptor=8), "expected a zstd frame at byte 0 of the blob"),
        (
            frame(block(0, 2, b"xx"), descriptor=0x20, fields=b"\x03"),
            "expected a zstd frame at byte 6 of the blob, found",
        ),
        (
            frame(block(0, 1, b"x"), descriptor=1, fields=_WINDOW_OF_1_KIB + b"\x07"),
            "expected no dictionary at byte 0 of the blob, found dictionary 7",
        ),
        (
            frame(block(0, 1, b"x"), descriptor=3, fields=_WINDOW_OF_1_KIB + b"\0\0\1\0"),
            "expected no dictionary at byte 0 of the blob, found dictionary 65536",
        ),
    ],
)
def test_zstd_what_is_no_frame_is_named(blob: bytes, text: str) -> None:
    decoder = open_decoder("zstd")
    with pytest.raises(MalformedArtifact) as caught:
        unpacked(decoder, [blob])
    assert text in caught.value.message


def test_zstd_dictionary_of_number_0_is_none() -> None:
    blob = frame(block(0, 1, b"x"), descriptor=2, fields=_WINDOW_OF_1_KIB + b"\0\0")
    assert unpacked(open_decoder("zstd"), [blob]) == b"x"


def test_zstd_wrong_checksum_is_refused() -> None:
    plain = plain_bytes(3, 300_000)
    blob = bytearray(packed("zstd", [plain]))
    blob[-1] ^= 1
    found = bytearray()
    with pytest.raises(MalformedArtifact, match="checksum"):
        list(unpacking(open_decoder("zstd"), pieces(bytes(blob), 1000), into=found))
    assert plain.startswith(found)


@pytest.mark.parametrize(
    ("descriptor", "fields", "found"),
    [
        (0, b"\x88", 1 << 27),  # what `zstd --long` asks for
        (0, b"\x79", (1 << 25) + (1 << 22)),
        (0, b"\xff", (1 << 41) + (1 << 41) // 8 * 7),
        (0xA0, struct.pack("<I", (1 << 25) + 1), (1 << 25) + 1),
        (0xE0, struct.pack("<Q", 1 << 62), 1 << 62),
    ],
)
def test_F1_window_over_the_limit_refuses_with_limit_and_found(
    descriptor: int, fields: bytes, found: int
) -> None:
    blob = packed("zstd", [b"before"]) + frame(descriptor=descriptor, fields=fields)
    offset = len(packed("zstd", [b"before"]))
    decoder = open_decoder("zstd")
    decoder.feed(blob)
    assert decoder.take(100) == b"before"
    text = f"at most 33554432 bytes, found {found} at byte {offset} of the blob"
    with pytest.raises(SizeInvalid, match=text):
        decoder.take(100)


@pytest.mark.parametrize(
    ("descriptor", "fields", "window"),
    [
        (0, b"\x78", 1 << 25),
        (0x20, b"\x10", 16),
        (0x60, struct.pack("<H", 1000 - 256), 1000),
        (0xA0, struct.pack("<I", 1 << 25), 1 << 25),
        (0x80, b"\x00" + struct.pack("<I", 16), 1024),
    ],
)
def test_F1_window_at_the_limit_is_let_in(descriptor: int, fields: bytes, window: int) -> None:
    limits = DecoderLimits(window_bytes=max(window, 1024))
    decoder = open_decoder("zstd", limits=limits)
    decoder.feed(frame(descriptor=descriptor, fields=fields))
    assert decoder.take(1) == b""
    assert decoder.position == 5 + len(fields)


@_needs_zstd
def test_F1_long_window_of_the_command_is_refused() -> None:
    command = ["zstd", "--stdout", "--long=27"]
    plain = random.Random(1).randbytes(1 << 20)
    blob = subprocess.run(command, input=plain, check=True, capture_output=True).stdout
    with pytest.raises(SizeInvalid, match=r"found 134217728 at byte 0"):
        unpacked(open_decoder("zstd"), [blob])


def test_F2_claimed_content_size_takes_no_memory() -> None:
    blob = frame(
        block(1, 1 << 17, b"x"), descriptor=0xC0, fields=b"\x38" + struct.pack("<Q", 1 << 40)
    )
    found = bytearray()
    with pytest.raises(MalformedArtifact, match="expected a zstd frame at byte 14"):
        list(unpacking(open_decoder("zstd"), [blob], into=found))
    assert len(found) <= 1 << 17


def test_F1_blocks_given_to_the_library_at_once_make_about_a_mebibyte() -> None:
    more = block(1, 1 << 17, b"x", last=False)
    blob = frame(*[more] * 100, block(0, 0, b""), fields=b"\x38")
    progress = Progress(START, DecoderLimits())
    progress.feed(blob)
    unpacker = open_zstd(START, window_bytes=1 << 25)
    sizes = []
    while plain := unpacker.step(progress, 1):
        sizes.append(len(plain))
    assert sum(sizes) == 100 << 17
    assert max(sizes) == 1 << 20
