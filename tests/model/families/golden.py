"""What producers write, as manifests by hand in ``tests/data/manifests``."""

from __future__ import annotations

from pathlib import Path

from proxy.model.artifact import ModelArtifact
from proxy.model.families import recognise
from proxy.oci.manifest import Manifest, decode

_FOLDER = Path(__file__).parents[2] / "data" / "manifests"
NAMES = sorted(file.stem for file in _FOLDER.glob("*.json"))

Row = tuple[str, str, bool, str | None, str | None]


def golden(name: str) -> ModelArtifact:
    """The model that a manifest of this name is."""
    manifest = decode((_FOLDER / f"{name}.json").read_bytes())
    assert isinstance(manifest, Manifest)
    artifact = recognise(manifest)
    assert artifact is not None
    return artifact


def rows(artifact: ModelArtifact) -> list[Row]:
    """Class, packing, whether that is trusted, path and name of each layer."""
    return [
        (str(layer.layer_class), str(layer.packing), layer.trusted, layer.path, layer.name)
        for layer in artifact.layers
    ]
