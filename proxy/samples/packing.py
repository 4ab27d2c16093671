"""Files of a model as a registry stores them: layers, model config, manifest.

What a producer such as modctl would write is written: one file per layer, the path and the file's
metadata as annotations, a model config beside them.
Source: model-spec "config.md", "annotations.md"; POSIX ustar.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST

CREATED = "2026-01-01T00:00:00Z"
CREATED_SECONDS = 1_767_225_600


@dataclass(frozen=True, slots=True)
class File:
    """A file of a model: its class and packing as they stand in the layer's media type."""

    path: str
    layer_class: str
    packing: str
    content: bytes


@dataclass(frozen=True, slots=True)
class PackedModel:
    """``blobs`` in the order of the layers, the model config last; ``manifest`` refers to all."""

    blobs: tuple[bytes, ...]
    manifest: bytes


def pack(
    files: Sequence[File],
    *,
    namespace: str,
    descriptor: Mapping[str, object],
    config: Mapping[str, object],
) -> PackedModel:
    """One layer per file; ``descriptor`` and ``config`` are the model config's own parts.

    ``namespace``, "cncf" or "cnai", stands in the media types and in the annotation keys.
    """
    keys = f"org.{namespace}.model"
    types = f"application/vnd.{namespace}.model"
    layers: list[dict[str, object]] = []
    blobs: list[bytes] = []
    unpacked: list[str] = []
    for file in files:
        blob, plain = _packed(file)
        blobs.append(blob)
        unpacked.append(str(Digest.of(plain)))
        metadata = {
            "name": PurePosixPath(file.path).name,
            "mode": 0o644,
            "uid": 0,
            "gid": 0,
            "size": len(file.content),
            "mtime": CREATED,
            "typeflag": 0,
        }
        annotations = {
            f"{keys}.filepath": file.path,
            f"{keys}.file.metadata+json": _compact(metadata),
        }
        layers.append(
            {
                **_descriptor(blob, f"{types}.{file.layer_class}.v1.{file.packing}"),
                "annotations": annotations,
            }
        )
    model_config = _compact(
        {
            "descriptor": {"createdAt": CREATED, "authors": ["cnai-proxy"], **descriptor},
            "modelfs": {"type": "layers", "diffIds": unpacked},
            "config": config,
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": f"{types}.manifest.v1+json",
        "config": _descriptor(model_config, f"{types}.config.v1+json"),
        "layers": layers,
    }
    return PackedModel((*blobs, model_config), _compact(manifest).encode())


def _descriptor(blob: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(blob)), "size": len(blob)}


def _packed(file: File) -> tuple[bytes, bytes]:
    """The layer's blob, and the same before compression."""
    if file.packing == "raw":
        return file.content, file.content
    archive = _tar(file)
    if file.packing == "tar":
        return archive, archive
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip framing, no time in the header
    return compressor.compress(archive) + compressor.flush(), archive


def _tar(file: File) -> bytes:
    """One member as Go's archive/tar writes it: ustar, two zero blocks at the end, no more."""
    size = len(file.content)
    header = bytearray(512)
    header[0:100] = file.path.encode().ljust(100, b"\0")
    header[100:124] = b"0000644\0" + b"0000000\0" * 2  # mode, owner, group
    header[124:148] = f"{size:011o}\0{CREATED_SECONDS:011o}\0".encode()
    header[148:156] = b" " * 8  # the checksum counts itself as blanks
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[329:345] = b"0000000\0" * 2  # device numbers
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + file.content + bytes(-size % 512) + bytes(1024)


def _compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))
