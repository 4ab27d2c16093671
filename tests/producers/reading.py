"""Blobs read by readers that are not ours."""

from __future__ import annotations

import gzip
import io
import tarfile  # noqa: TID251 - it reads only what the builders or real producers made
from collections.abc import Iterator

import zstandard


def members(blob: bytes) -> dict[str, bytes]:
    """The regular files of a tar, compressed or not, by their names."""
    with tarfile.open(fileobj=io.BytesIO(plain(blob))) as archive:
        files = ((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        return {name: reader.read() for name, reader in files if reader is not None}


def contents(blob: bytes) -> Iterator[bytes]:
    """The blob itself, what is inside its compression, and the members of a tar."""
    yield blob
    inside = plain(blob)
    yield inside
    if inside[257:262] == b"ustar":
        yield from members(blob).values()


def plain(blob: bytes) -> bytes:
    """The blob without its compression."""
    if blob[:3] == b"\x1f\x8b\x08":
        return gzip.decompress(blob)  # noqa: TID251 - the test made it
    if blob[:4] == bytes.fromhex("28b52ffd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    return blob
