"""Pure builders of what tests feed in: layers, archives, manifests, safetensors bytes."""

from __future__ import annotations

import io
import json
import struct
import tarfile  # noqa: TID251 - the archives read here are made by the test
from collections.abc import Mapping, Sequence
from typing import Literal

from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST, Descriptor, Manifest, decode, normalise_media_type

Generation = Literal["cnai", "cncf"]
TarFormat = Literal["ustar", "gnu", "pax"]

_TAR_FORMATS: Mapping[TarFormat, int] = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


def tar_header(
    name: bytes,
    *,
    size: int | bytes = 0,
    flag: bytes = b"0",
    target: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    tail: bytes = b"",
    signed_sum: bool = False,
) -> bytes:
    """One 512-byte header; ``tail`` overwrites from byte 345 on, ``size`` may be raw bytes."""
    size_field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = size_field.ljust(12, b"\0")
    block[136:148] = b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = flag
    block[157 : 157 + len(target)] = target
    block[257 : 257 + len(magic)] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[345 : 345 + len(tail)] = tail
    total = sum(block)
    if signed_sum:
        total -= 256 * sum(byte >= 0x80 for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def padded(content: bytes) -> bytes:
    """``content`` filled with zeros up to whole blocks of 512 bytes."""
    return content + bytes(-len(content) % 512)


def pax_record(key: str, value: bytes | str) -> bytes:
    """One record of a PAX block, its length counting itself."""
    text = value.encode() if isinstance(value, str) else value
    body = b" " + key.encode() + b"=" + text + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def tar_extension(flag: bytes, content: bytes) -> bytes:
    """A metadata entry: PAX block (x, g) or GNU long name (L, K)."""
    return tar_header(b"extension", size=len(content), flag=flag) + padded(content)


def tar_entry(name: bytes, content: bytes = b"", *, flag: bytes = b"0") -> bytes:
    """A ustar header and its content."""
    return tar_header(name, size=len(content), flag=flag) + padded(content)


def tar_of(*parts: bytes) -> bytes:
    """The parts and the two zero blocks that end an archive, as Go's writer does."""
    return b"".join(parts) + bytes(1024)


def tar_archive(
    files: Mapping[str, bytes],
    *,
    layout: TarFormat = "ustar",
    directories: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> bytes:
    """An archive by the standard library's writer: directories, then files, then symlinks."""
    target = io.BytesIO()
    with tarfile.TarFile(fileobj=target, mode="w", format=_TAR_FORMATS[layout]) as archive:
        for name in directories:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, link in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.SYMTYPE
            entry.linkname = link
            archive.addfile(entry)
    return target.getvalue()


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> bytes:
    """A safetensors file of ``name: (dtype, shape, bytes)``."""
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, shape, content) in tensors.items():
        end = position + len(content)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(part for _, _, part in tensors.values())


def layer_type(token: str, packing: str = "raw", *, generation: Generation = "cncf") -> str:
    """A media type such as ``application/vnd.cncf.model.weight.v1.raw``."""
    return f"application/vnd.{generation}.model.{token}.v1.{packing}"


def file_annotations(
    path: str | None, size: int | None = None, *, generation: Generation = "cncf"
) -> dict[str, str]:
    """What modctl writes on a layer: its path and the metadata of the file."""
    found: dict[str, str] = {}
    if path is not None:
        found[f"org.{generation}.model.filepath"] = path
    if size is not None:
        metadata = {"name": (path or "").rpartition("/")[2], "mode": 420, "size": size}
        found[f"org.{generation}.model.file.metadata+json"] = json.dumps(metadata)
    return found


def descriptor(
    media_type: str,
    content: bytes = b"",
    *,
    size: int | None = None,
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
) -> Descriptor:
    """A descriptor of ``content``, or of a blob of ``size`` bytes with a digest of its own."""
    return Descriptor(
        media_type=normalise_media_type(media_type),
        digest=Digest.of(content if size is None else b"%d %b" % (size, content)),
        size=len(content) if size is None else size,
        annotations=dict(annotations or {}),
        artifact_type=artifact_type,
    )


def descriptor_json(of: Descriptor) -> dict[str, object]:
    """A descriptor as a manifest writes it."""
    document: dict[str, object] = {
        "mediaType": of.media_type,
        "digest": str(of.digest),
        "size": of.size,
    }
    if of.annotations:
        document["annotations"] = dict(of.annotations)
    if of.artifact_type:
        document["artifactType"] = of.artifact_type
    return document


def manifest_bytes(
    layers: Sequence[Descriptor],
    *,
    config: Descriptor | None = None,
    artifact_type: str | None = None,
    media_type: str = OCI_MANIFEST,
) -> bytes:
    """A manifest as stored; the config defaults to ``{}`` of the CNCF type."""
    chosen = config or descriptor("application/vnd.cncf.model.config.v1+json", b"{}")
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor_json(chosen),
        "layers": [descriptor_json(layer) for layer in layers],
    }
    if artifact_type:
        document["artifactType"] = artifact_type
    return json.dumps(document).encode()


def model_manifest(
    layers: Sequence[Descriptor],
    *,
    generation: Generation = "cncf",
    config: Descriptor | None = None,
) -> Manifest:
    """A decoded model manifest of one generation."""
    chosen = config or descriptor(f"application/vnd.{generation}.model.config.v1+json", b"{}")
    body = manifest_bytes(
        layers,
        config=chosen,
        artifact_type=f"application/vnd.{generation}.model.manifest.v1+json",
    )
    decoded = decode(body)
    assert isinstance(decoded, Manifest)
    return decoded
