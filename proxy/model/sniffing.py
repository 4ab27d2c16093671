"""What a layer's first bytes tell of its packing, against what its media type says.

Media types lie: oras calls a single raw file a tar, aikit calls a compressed tar a plain one. A
type that names raw content of its own family is believed; every other one is checked against the
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.errors import ProxyError
from proxy.formats.compression import open_decoder
from proxy.formats.progress import START
from proxy.formats.sniff import sniff
from proxy.formats.tar import BLOCK_BYTES
from proxy.model.artifact import RAW, TAR, ModelLayer, Packing

# Enough for a gzip header with a name in it and the first block of what is inside.
HEAD_BYTES = 4 * 1024

# Names of files that are compressed themselves: an untyped blob of that name is the file.
_COMPRESSED_NAMES = (".gz", ".tgz", ".zst", ".zstd")


@dataclass(frozen=True, slots=True)
class Settled:
    """A layer's packing as its bytes show it, and a warning where its type says another."""

    packing: Packing
    warning: str | None = None


def settle_empty(layer: ModelLayer) -> Packing:
    """The packing of a layer without a byte: oras calls an empty file a tar, too."""
    return layer.packing if layer.trusted else RAW


def needs_sniffing(layer: ModelLayer) -> bool:
    """Whether the packing is certain only once the first bytes of the blob were seen."""
    return layer.descriptor.size > 0 and (not layer.trusted or layer.packing != RAW)


def settle(layer: ModelLayer, head: bytes) -> Settled:
    """The packing of a layer whose blob begins with ``head``, at most the first 4 KiB of it."""
    declared = layer.packing
    found = sniff(head[:BLOCK_BYTES])
    inner: Literal["tar", "raw"] | None
    if found == "gzip" or found == "zstd":
        inner = _inner(head, found)
        if inner is None:
            inner = declared.container
        packing = Packing(inner, found)
        if inner == "raw" and not layer.trusted and _is_compressed_file(layer):
            packing = RAW
    elif found == "tar" or (declared.container == "tar" and not any(head)):
        packing = TAR
    else:
        packing = RAW
    if packing == declared or not layer.trusted:
        return Settled(packing)
    return Settled(packing, f"the layer's type says {declared}, its content is {packing}")


def _inner(head: bytes, compression: Literal["gzip", "zstd"]) -> Literal["tar", "raw"] | None:
    """What is inside a compressed blob; None where its first bytes cannot be decoded."""
    plain = b""
    try:
        decoder = open_decoder(compression, start=START)
        decoder.feed(head)
        while len(plain) < BLOCK_BYTES and (piece := decoder.take(BLOCK_BYTES - len(plain))):
            plain += piece
    except ProxyError:
        return None
    if not plain:
        return None
    return "tar" if sniff(plain) == "tar" else "raw"


def _is_compressed_file(layer: ModelLayer) -> bool:
    return layer.packing.compression is None and (layer.path or "").endswith(_COMPRESSED_NAMES)
