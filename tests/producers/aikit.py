"""aikit's two packagers: ModelPacks whose classes are bundles, and artifacts of files.

Source: aikit's packager documentation and what it pushes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from tests.producers import files
from tests.producers.archives import compressed, gnu_tar
from tests.producers.artifact import Artifact, Maker, Part, compact

_TITLE = "org.opencontainers.image.title"
_FILES = {**files.CONFIGS, **files.WEIGHTS, **files.CODES, **files.DOCS}
# Token of the layer type, its files, the word that stands for the path of a bundle.
_BUNDLES = (
    ("weight.config", files.CONFIGS, "config"),
    ("doc", files.DOCS, "docs"),
    ("code", files.CODES, "code"),
    ("dataset", {"data/train.csv": files.DATASET}, "dataset"),
)


def _metadata(name: str, size: int, **more: object) -> str:
    document = {
        "name": name,
        "mode": 420,
        "uid": 0,
        "gid": 0,
        "size": size,
        "mtime": "2026-01-01T00:00:00Z",
        "typeflag": 0,
        **more,
    }
    return compact(document).decode()


def _annotations(path: str, metadata: str) -> dict[str, str]:
    return {
        "org.cncf.model.filepath": path,
        _TITLE: path,
        "org.cncf.model.file.metadata+json": metadata,
        "org.cncf.model.file.mediatype.untested": "true",
    }


def modelpack(packing: str) -> Artifact:
    """Weights a tar each, whose member has no directory; every other class is one tar."""
    layers: list[Part] = []
    expected = {**files.WEIGHTS}
    for path, content in files.WEIGHTS.items():
        plain = gnu_tar({PurePosixPath(path).name: content}) if packing != "raw" else content
        layers.append(
            Part(
                f"application/vnd.cncf.model.weight.v1.{packing}",
                compressed(plain, packing),
                _annotations(path, _metadata(path, len(content))),
            )
        )
    for token, group, word in _BUNDLES:
        expected |= group
        media_type = f"application/vnd.cncf.model.{token}.v1.{packing}"
        layers += (
            [
                Part(media_type, content, _annotations(path, _metadata(path, len(content))))
                for path, content in group.items()
            ]
            if packing == "raw"
            else [_bundle(media_type, group, word, packing)]
        )
    maker = Maker(
        "aikit, modelpack", "modelpack", artifact_type="application/vnd.cncf.model.manifest.v1+json"
    )
    config = Part("application/vnd.cncf.model.config.v1+json", b"{}")
    return maker.artifact(
        f"aikit-modelpack-{packing}", packing, layers, config=config, files=expected
    )


def _bundle(media_type: str, group: Mapping[str, bytes], word: str, packing: str) -> Part:
    total = sum(map(len, group.values()))
    metadata = _metadata(word, total, files=len(group))
    return Part(media_type, compressed(gnu_tar(group), packing), _annotations(word, metadata))


def generic(packing: str) -> Artifact:
    """Files by their titles alone, or all in one archive that is always called a plain tar."""
    maker = Maker("aikit, generic", "generic", artifact_type="application/vnd.unknown.artifact.v1")
    config = Part("application/vnd.oci.empty.v1+json", b"{}")
    label = f"aikit-generic-{packing}"
    if packing == "raw":
        layers = [
            Part("application/octet-stream", content, {_TITLE: path})
            for path, content in _FILES.items()
        ]
        return maker.artifact(label, packing, layers, config=config, files=_FILES)
    ending = {"tar": "", "tar+gzip": ".gz", "tar+zstd": ".zst"}[packing]
    layers = [
        Part(
            "application/vnd.oci.image.layer.v1.tar",
            compressed(gnu_tar(_FILES), packing),
            {_TITLE: f"allfiles.tar{ending}"},
        )
    ]
    # Nothing in the manifest says that this archive holds a model.
    refused = {"": "no model"}
    return maker.artifact(label, packing, layers, config=config, files={}, refused=refused)


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    for packing in ("raw", "tar", "tar+gzip", "tar+zstd"):
        yield modelpack(packing)
        yield generic(packing)
