"""What a layer's first bytes decide about its packing."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
import zstandard

from proxy.model.artifact import RAW, TAR, LayerClass, ModelLayer, Packing
from proxy.model.sniffing import HEAD_BYTES, Settled, needs_sniffing, settle, settle_empty
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor
from tests.build import tar_archive

ARCHIVE = tar_archive({"a": b"content"})
TAR_GZIP, TAR_ZSTD = Packing("tar", "gzip"), Packing("tar", "zstd")
RAW_GZIP = Packing("raw", "gzip")


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def layer(
    packing: Packing, *, trusted: bool = True, path: str | None = None, size: int = 9
) -> ModelLayer:
    descriptor = Descriptor("a/b", Digest.of(b""), size, {})
    return ModelLayer(descriptor, LayerClass.OTHER, packing, path, trusted=trusted)


@pytest.mark.parametrize(
    ("packing", "trusted", "size", "expected"),
    [
        (RAW, True, 9, False),
        (RAW, False, 9, True),
        (TAR, True, 9, True),
        (RAW_GZIP, True, 9, True),
        (TAR, True, 0, False),
        (RAW, False, 0, False),
    ],
)
def test_needs_sniffing_table(packing: Packing, trusted: bool, size: int, expected: bool) -> None:
    assert needs_sniffing(layer(packing, trusted=trusted, size=size)) is expected


@pytest.mark.parametrize(
    ("declared", "content", "expected"),
    [
        (TAR, ARCHIVE, TAR),
        (TAR_GZIP, gzip.compress(ARCHIVE), TAR_GZIP),
        (TAR_ZSTD, zstd(ARCHIVE), TAR_ZSTD),
        (RAW_GZIP, gzip.compress(b"text"), RAW_GZIP),
        (TAR, bytes(1024), TAR),
        (TAR_GZIP, gzip.compress(b""), TAR_GZIP),  # nothing inside to go by
        (TAR_GZIP, b"\x1f\x8b\x08\xff" + bytes(100), TAR_GZIP),  # a broken stream says nothing
    ],
)
def test_settle_type_that_is_true(declared: Packing, content: bytes, expected: Packing) -> None:
    assert settle(layer(declared), content[:HEAD_BYTES]) == Settled(expected)


@pytest.mark.parametrize(
    ("declared", "content", "expected"),
    [
        (TAR, gzip.compress(ARCHIVE), TAR_GZIP),
        (TAR, b"weights", RAW),
        (TAR_GZIP, zstd(ARCHIVE), TAR_ZSTD),
        (TAR_GZIP, ARCHIVE, TAR),
        (TAR_GZIP, bytes(1024), TAR),
        (TAR_ZSTD, gzip.compress(b"text"), RAW_GZIP),
        (RAW_GZIP, b"text", RAW),
    ],
)
def test_settle_type_that_lies_is_warned_of(
    declared: Packing, content: bytes, expected: Packing
) -> None:
    warning = f"the layer's type says {declared}, its content is {expected}"
    assert settle(layer(declared), content[:HEAD_BYTES]) == Settled(expected, warning)


@pytest.mark.parametrize("path", [None, "a.bin", "data.tar.gz"])
@pytest.mark.parametrize(
    ("pack", "expected"), [(gzip.compress, TAR_GZIP), (zstd, TAR_ZSTD), (bytes, TAR)]
)
def test_settle_untyped_archive_is_opened_without_a_warning(
    path: str | None, pack: Callable[[bytes], bytes], expected: Packing
) -> None:
    found = settle(layer(TAR, trusted=False, path=path), pack(ARCHIVE)[:HEAD_BYTES])
    assert found == Settled(expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("vocab.txt.gz", RAW), ("vocab.zst", RAW), ("vocab.txt", RAW_GZIP), (None, RAW_GZIP)],
)
def test_settle_untyped_file_that_is_compressed_itself_is_that_file(
    path: str | None, expected: Packing
) -> None:
    content = gzip.compress(b"words")
    assert settle(layer(RAW, trusted=False, path=path), content) == Settled(expected)


def test_settle_untyped_raw_file_is_raw() -> None:
    assert settle(layer(TAR, trusted=False, path="a.gguf"), b"GGUF") == Settled(RAW)
    assert settle(layer(TAR_GZIP, trusted=False), b"GGUF") == Settled(RAW)


def test_settle_empty_untyped_layer_is_an_empty_file() -> None:
    assert settle_empty(layer(TAR, trusted=False, size=0)) == RAW
    assert settle_empty(layer(TAR, size=0)) == TAR
