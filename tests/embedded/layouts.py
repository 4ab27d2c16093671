"""Manifests, and layout folders as another tool writes them."""

from __future__ import annotations

import json
from pathlib import Path

from proxy.embedded.index import REF_NAME
from proxy.embedded.layout import Layout
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from proxy.oci.reference import RepositoryName, Tag

TEAM = RepositoryName("team/model")
OTHER = RepositoryName("other")
V1 = Tag("v1")


def manifest_bytes(*layers: Digest, note: str = "", **more: object) -> bytes:
    def descriptor(digest: Digest) -> dict[str, object]:
        return {"mediaType": "application/x", "digest": str(digest), "size": 1}

    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": [descriptor(digest) for digest in layers],
        "annotations": {"note": note},
        **more,
    }
    return json.dumps(document).encode()


def index_bytes(*children: Digest) -> bytes:
    entries = [{"mediaType": OCI_MANIFEST, "digest": str(d), "size": 1} for d in children]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def read_index(folder: Path) -> list[dict[str, object]]:
    document = json.loads((folder / "index.json").read_bytes())
    entries = document["manifests"]
    assert isinstance(entries, list)
    return entries


def write_layout(folder: Path, entries: list[object], *contents: bytes, **more: object) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": entries, **more})
    )
    for content in contents:
        (folder / "blobs" / "sha256" / Digest.of(content).hex).write_bytes(content)


def entry(content: bytes, media_type: str = OCI_MANIFEST, **annotations: str) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": media_type,
        "digest": str(Digest.of(content)),
        "size": len(content),
    }
    if annotations:
        found["annotations"] = {
            REF_NAME if key == "ref" else key: value for key, value in annotations.items()
        }
    return found


async def blob_bytes(layout: Layout, repository: RepositoryName, digest: Digest) -> bytes:
    reader = layout.open_blob(repository, digest)
    try:
        return await reader.read(0, reader.size)
    finally:
        reader.close()
