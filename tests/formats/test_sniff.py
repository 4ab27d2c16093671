from __future__ import annotations

import gzip
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.formats.sniff import sniff
from tests.build import tar_archive, tar_header

OLD = tar_header(b"README.md", magic=bytes(8))
HIGH = "größe".encode()


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        (gzip.compress(b"x"), "gzip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x1f\x8b\x07", "raw"),
        (zstandard.ZstdCompressor().compress(b"x"), "zstd"),
        (struct.pack("<II", 0x184D2A50, 0), "zstd"),
        (struct.pack("<II", 0x184D2A5F, 0), "zstd"),
        (struct.pack("<II", 0x184D2A60, 0), "raw"),
        (tar_archive({"README.md": b"# model"}), "tar"),
        (tar_archive({"README.md": b"# model"})[:300], "tar"),
        (OLD, "tar"),
        (OLD + b"behind", "tar"),
        (OLD[:511], "raw"),
        (tar_header(HIGH, magic=bytes(8)), "tar"),
        (tar_header(HIGH, magic=bytes(8), signed_sum=True), "tar"),
        (b"r" + OLD[1:], "raw"),
        (OLD[:148] + b"0o1234\0 " + OLD[156:], "raw"),
        (bytes(512), "raw"),
        (b"", "raw"),
        (b"GGUF\x03\x00\x00\x00", "raw"),
    ],
)
def test_sniff_names_what_begins_so(prefix: bytes, found: str) -> None:
    assert sniff(prefix) == found


@given(st.binary(max_size=600))
def test_sniff_any_bytes_are_something(prefix: bytes) -> None:
    assert sniff(prefix) in ("gzip", "zstd", "tar", "raw")
