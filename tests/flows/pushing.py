"""Models pushed to a scripted upstream, and what is asked of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from proxy.oci.manifest import OCI_MANIFEST, Descriptor
from tests.build import (
    Generation,
    descriptor,
    file_annotations,
    layer_type,
    manifest_bytes,
    tar_archive,
)
from tests.faulty_upstream import FaultyUpstream
from tests.flows.http import Answer, Client

README = b"# Tiny\n\nA model of *nothing*.\n"
LICENSE = b"Apache License\nVersion 2.0\n"
CONFIG = b'{"tokenizer":"none"}'
WEIGHTS = bytes(range(256)) * 64  # 16 KiB
LARGE = WEIGHTS * 8  # more than is sent in one piece
RECORD = {
    "descriptor": {"name": "tiny", "licenses": ["Apache-2.0"], "createdAt": "2025-01-02T03:04:05Z"},
    "config": {"architecture": "transformer", "format": "safetensors", "paramSize": "8b"},
}
GENERATIONS: tuple[Generation, ...] = ("cnai", "cncf")
REF = "/cnai/team/model:v1"


@dataclass(frozen=True)
class Layer:
    """A descriptor and what the upstream holds under its digest; None: nothing."""

    descriptor: Descriptor
    content: bytes | None


def layer(
    path: str | None,
    content: bytes,
    *,
    token: str = "weight",
    packing: str = "raw",
    generation: Generation = "cncf",
    annotated: Generation | None = None,
    extra: dict[str, str] | None = None,
    size: int | None = None,
) -> Layer:
    """A layer that the upstream holds; ``size`` makes the descriptor lie."""
    annotations = file_annotations(path, generation=annotated or generation)
    made = descriptor(
        layer_type(token, packing, generation=generation),
        content,
        annotations={**annotations, **(extra or {})},
    )
    if size is not None:
        made = Descriptor(made.media_type, made.digest, size, made.annotations)
    return Layer(made, content)


def missing(path: str | None, size: int, *, token: str = "weight", packing: str = "raw") -> Layer:
    """A layer of ``size`` bytes that the upstream does not hold."""
    annotations = file_annotations(path)
    return Layer(
        descriptor(layer_type(token, packing), size=size, annotations=annotations), content=None
    )


def tar_layer(
    path: str | None,
    files: dict[str, bytes],
    *,
    token: str = "doc",
    generation: Generation = "cncf",
) -> Layer:
    """A tar of ``files`` as the standard library writes it."""
    return layer(path, tar_archive(files), token=token, packing="tar", generation=generation)


def push(
    upstream: FaultyUpstream,
    *layers: Layer,
    repository: str = "team/model",
    tag: str = "v1",
    generation: Generation = "cncf",
    config: bytes | None = None,
) -> str:
    """Give the upstream a model; returns the manifest's digest."""
    text = json.dumps(RECORD).encode() if config is None else config
    upstream.blob(text)
    for each in layers:
        if each.content is not None:
            upstream.blobs[str(each.descriptor.digest)] = each.content
    vendor = f"application/vnd.{generation}.model"
    body = manifest_bytes(
        [each.descriptor for each in layers],
        config=descriptor(f"{vendor}.config.v1+json", text),
        artifact_type=f"{vendor}.manifest.v1+json",
    )
    return upstream.manifest(repository, tag, body, OCI_MANIFEST)


def usual(generation: Generation = "cncf") -> list[Layer]:
    """Weights and a config as raw layers, documents in a tar."""
    return [
        layer("model.safetensors", WEIGHTS, generation=generation),
        layer("config.json", CONFIG, token="weight.config", generation=generation),
        tar_layer("README.md", {"README.md": README}, generation=generation),
        tar_layer(
            "papers", {"LICENSE": LICENSE, "guide/use.md": b"use\n", "guide/empty": b""},
            generation=generation,
        ),
    ]  # fmt: skip


def files_target(path: str, *, reference: str = REF) -> str:
    """The address of a file, every byte of its path that could be special encoded."""
    return f"{reference}/files/{quote(path.encode('utf-8', 'surrogateescape'), safe='/')}"


async def flat(proxy: Client, reference: str = REF) -> dict[str, dict[str, Any]]:
    """The flat listing by path."""
    answer = await proxy.get(f"{reference}/files?flat=1")
    assert answer.status == 200, answer.body
    listed = answer.json
    assert len({entry["path"] for entry in listed}) == len(listed)
    return {entry["path"]: entry for entry in listed}


def assert_error(answer: Answer, status: int, code: str) -> None:
    """An answer in the one body shape of errors."""
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.message
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
