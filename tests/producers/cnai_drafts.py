"""What was pushed while the CNAI specification was a draft.

Source: model-spec's history, 21 November 2024 to 12 February 2025.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.producers import files
from tests.producers.archives import go_tar
from tests.producers.artifact import Artifact, Maker, Part, compact

_MANIFEST = "application/vnd.cnai.model.manifest.v1+json"
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_ABOUT = {
    "org.cnai.model.created": "2024-12-01T00:00:00Z",
    "org.cnai.model.name": "tiny",
    "org.cnai.model.architecture": "transformer",
    "org.cnai.model.param.size": "1000",
}
_FILES = {
    "README.md": files.README,
    "LICENSE": files.LICENSE,
    "config.json": files.CONFIG,
    "model.safetensors": files.weights(10),
}
_MARKS = {"README.md": "readme", "LICENSE": "license", "config.json": "config"}


def first() -> Artifact:
    """Layers of container types, told apart by annotations and their own artifact type."""
    layers = [
        Part(
            "application/vnd.oci.image.layer.v1.tar",
            go_tar({path: content}),
            {
                "org.cnai.model.filepath": path,
                **{
                    f"org.cnai.model.{mark}": "true" if mark == _mark(path) else "false"
                    for mark in ("readme", "license", "config", "model")
                },
            },
            {"artifactType": "application/vnd.cnai.model.layer.v1.tar"},
        )
        for path, content in _FILES.items()
    ]
    config = Part(_IMAGE_CONFIG, compact({"Created": "2024-12-01T00:00:00Z"}))
    maker = Maker("CNAI draft of 2024", "cnai", artifact_type=_MANIFEST, annotations=_ABOUT)
    return maker.artifact("cnai-draft-2024", "tar", layers, config=config, files=_FILES)


def january() -> Artifact:
    """For a month the manifest's own media type said that it is a model."""
    tokens = {"README.md": "doc", "LICENSE": "doc"}
    layers = [
        Part(
            f"application/vnd.cnai.model.{tokens.get(path, 'layer')}.v1.tar",
            go_tar({path: content}),
            {"org.cnai.model.filepath": path},
        )
        for path, content in _FILES.items()
    ]
    config = Part(_IMAGE_CONFIG, compact({"Created": "2025-01-15T00:00:00Z"}))
    maker = Maker("CNAI draft of January 2025", "cnai", media_type=_MANIFEST, annotations=_ABOUT)
    return maker.artifact("cnai-draft-january", "tar", layers, config=config, files=_FILES)


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    yield first()
    yield january()


def _mark(path: str) -> str:
    return _MARKS.get(path, "model")
