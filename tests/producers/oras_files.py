"""Files pushed as they are: oras in Go and in Python, podman, and oras told a model's types.

Source: oras, "Artifact concepts" and "pushing"; oras-py 0.2.43; podman-artifact(1).
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping

from proxy.oci.digest import Digest
from tests.producers import files
from tests.producers.archives import go_tar, gzipped, parents, python_tar
from tests.producers.artifact import Artifact, Maker, Part

_TITLE = "org.opencontainers.image.title"
_EMPTY = "application/vnd.oci.empty.v1+json"
_UNKNOWN = "application/vnd.unknown.artifact.v1"
_TAR = "application/vnd.oci.image.layer.v1.tar"
_FOLDER = {"assets/vocab.txt": b"a\nb\n", "assets/deep/notes.md": b"# Notes\n"}
_FILES = {
    "model.safetensors": files.weights(50),
    "config.json": files.CONFIG,
    "README.md": files.README,
}


def _empty(*, inline: bool = True) -> Part:
    members = {"data": base64.b64encode(b"{}").decode()} if inline else {}
    return Part(_EMPTY, b"{}", members=members)


def _maker(artifact_type: str, producer: str = "oras", family: str = "generic") -> Maker:
    created = {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"}
    return Maker(producer, family, artifact_type=artifact_type, annotations=created)


def go_files() -> Artifact:
    """``oras push REF file…``: each layer is one bare file, and is called a tar."""
    layers = [Part(_TAR, content, {_TITLE: path}) for path, content in _FILES.items()]
    maker = _maker(_UNKNOWN)
    return maker.artifact("oras-go-files", "raw", layers, config=_empty(), files=_FILES)


def go_folder() -> Artifact:
    """``oras push REF model.safetensors assets/``: a directory is a tar+gzip to be unpacked."""
    inner = go_tar(_FOLDER, directories=parents(_FOLDER), slash=False)
    layers = [
        Part(_TAR, _FILES["model.safetensors"], {_TITLE: "model.safetensors"}),
        Part(
            f"{_TAR}+gzip",
            gzipped(inner),
            {
                _TITLE: "assets",
                "io.deis.oras.content.digest": str(Digest.of(inner)),
                "io.deis.oras.content.unpack": "true",
            },
        ),
    ]
    maker = _maker(_UNKNOWN)
    expected = {"model.safetensors": _FILES["model.safetensors"], **_FOLDER}
    return maker.artifact("oras-go-folder", "tar+gzip", layers, config=_empty(), files=expected)


def go_absolute() -> Artifact:
    """With path checks off, the title is the absolute path that was given."""
    content = files.ggufs("absolute")
    layers = [Part("application/octet-stream", content, {_TITLE: "/srv/models/tiny.gguf"})]
    maker = _maker("application/vnd.acme.thing")
    expected = {"srv/models/tiny.gguf": content}
    return maker.artifact("oras-go-absolute", "raw", layers, config=_empty(), files=expected)


def python_folder() -> Artifact:
    """oras-py: no artifact type, and nothing on a directory but its title."""
    layers = [
        Part(_TAR, _FILES["model.safetensors"], {_TITLE: "model.safetensors"}),
        Part(
            f"{_TAR}+gzip",
            gzip.compress(python_tar(_FOLDER, directories=parents(_FOLDER)), 9, mtime=0),
            {_TITLE: "assets"},
        ),
    ]
    config = Part("application/vnd.unknown.config.v1+json", b"{}")
    expected = {"model.safetensors": _FILES["model.safetensors"], **_FOLDER}
    maker = Maker("oras-py", "generic")
    return maker.artifact("oras-py-folder", "tar+gzip", layers, config=config, files=expected)


def podman() -> Artifact:
    """``podman artifact add``: an empty config and titles, here without an artifact type."""
    types = {"model.safetensors": "application/octet-stream", "config.json": "text/plain"}
    layers = [
        Part(types.get(path, "text/plain; charset=utf-8"), content, {_TITLE: path})
        for path, content in _FILES.items()
    ]
    maker = Maker("podman artifact", "generic")
    return maker.artifact("podman-files", "raw", layers, config=_empty(inline=False), files=_FILES)


def typed() -> Artifact:
    """``oras push --artifact-type …cncf.model… file:type``: a ModelPack named by titles."""
    tokens: Mapping[str, str] = {"model.safetensors": "weight", "config.json": "weight.config"}
    layers = [
        Part(
            f"application/vnd.cncf.model.{tokens.get(path, 'doc')}.v1.raw",
            content,
            {_TITLE: path},
        )
        for path, content in _FILES.items()
    ]
    maker = _maker(
        "application/vnd.cncf.model.manifest.v1+json",
        "oras, `--artifact-type` of ModelPack",
        "modelpack",
    )
    return maker.artifact("oras-typed", "raw", layers, config=_empty(), files=_FILES)


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    yield go_files()
    yield go_folder()
    yield go_absolute()
    yield python_folder()
    yield podman()
    yield typed()
