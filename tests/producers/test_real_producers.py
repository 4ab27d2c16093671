"""What is imitated against what the real producers write, where they are installed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.oci.digest import Digest
from tests.components.content import ask, stored_manifest
from tests.components.programs import require, run
from tests.components.registries import docker_registry
from tests.producers import olot, oras_files
from tests.producers.archives import MODIFIED_SECONDS
from tests.producers.reading import members, plain


def test_real_olot_writes_what_is_imitated(tmp_path_factory: pytest.TempPathFactory) -> None:
    basics = pytest.importorskip("olot.basics", reason="pip install olot")
    folder = tmp_path_factory.mktemp("olot")
    base = olot.modelcar()
    blobs = folder / "layout" / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def store(content: bytes) -> dict[str, object]:
        digest = Digest.of(content)
        (blobs / digest.hex).write_bytes(content)
        return {"digest": str(digest), "size": len(content)}

    document = json.loads(base.manifest)
    empty_config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
        "history": [{"created_by": "base"}],
    }
    layer = {**document["layers"][0], **store(base.blobs[document["layers"][0]["digest"]])}
    config = {**document["config"], **store(json.dumps(empty_config).encode())}
    manifest = {
        "schemaVersion": 2,
        "mediaType": base.media_type,
        "config": config,
        "layers": [layer],
    }
    platform = {"architecture": "amd64", "os": "linux"}
    child = {"mediaType": base.media_type, **store(json.dumps(manifest).encode())}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**child, "platform": platform}],
    }
    entry = {"mediaType": index["mediaType"], **store(json.dumps(index).encode())}
    layout = folder / "layout"
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    names = ("model.safetensors", "config.json", "README.md")
    for name, content in zip(names, olot.modelpack().files.values(), strict=True):
        (folder / name).write_bytes(content)

    basics.oci_layers_on_top(
        layout,
        [folder / "model.safetensors", folder / "config.json"],
        folder / "README.md",
        add_modelpack=True,
    )

    root = json.loads((layout / "index.json").read_text())
    written = json.loads((blobs / root["manifests"][0]["digest"].split(":")[1]).read_text())
    for found, expected in zip(
        written["manifests"], json.loads(olot.both().manifest)["manifests"], strict=True
    ):
        assert _shape(found) == _shape(expected)
    for found, made in zip(written["manifests"], olot.both().children, strict=True):
        document = json.loads((blobs / found["digest"].split(":")[1]).read_text())
        assert _outline(document) == _outline(json.loads(made.manifest))
        for layer, imitated in zip(
            document["layers"], json.loads(made.manifest)["layers"], strict=True
        ):
            real = members((blobs / layer["digest"].split(":")[1]).read_bytes())
            assert real == members(made.blobs[imitated["digest"]])


def test_real_oras_writes_what_is_imitated(tmp_path: Path) -> None:
    oras = require("oras")
    tree = tmp_path / "tree"
    for path, content in {**oras_files.go_folder().files, **oras_files.go_files().files}.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for found in tree.rglob("*"):
        os.utime(found, (MODIFIED_SECONDS, MODIFIED_SECONDS))
        found.chmod(0o755 if found.is_dir() else 0o644)
    created = "org.opencontainers.image.created=2026-01-01T00:00:00Z"
    with docker_registry(tmp_path) as server:
        for made, arguments in (
            (oras_files.go_files(), [*oras_files.go_files().files]),
            (oras_files.go_folder(), ["model.safetensors", "assets/"]),
        ):
            target = f"{server.host}/real/oras:{made.label}"
            flags = ["--plain-http", "--annotation", created]
            run([oras, "push", *flags, target, *arguments], cwd=tree)
            stored = json.loads(stored_manifest(server.url, "real/oras", made.label).body)
            imitated = json.loads(made.manifest)
            layers = zip(stored.pop("layers"), imitated.pop("layers"), strict=True)
            assert stored == imitated
            for layer, expected in layers:
                assert _shape(layer) == _shape(expected)
                url = f"{server.url}/v2/real/oras/blobs/{layer['digest']}"
                # Go's deflate is not zlib's: only what is inside can be the same.
                assert plain(ask("GET", url).body) == plain(made.blobs[expected["digest"]])


def _shape(descriptor: Mapping[str, object]) -> dict[str, object]:
    """A descriptor without what depends on times."""
    return {key: value for key, value in descriptor.items() if key not in ("digest", "size")}


def _outline(document: Mapping[str, object]) -> object:
    layers = document["layers"]
    assert isinstance(layers, list)
    marks = document.get("annotations") or {}
    assert isinstance(marks, dict)
    return document.get("artifactType"), sorted(marks), [_shape(layer) for layer in layers]
