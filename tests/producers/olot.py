"""olot: a modelcar, that is a container with the model below ``/models``, and its ModelPack twin.

Both name the same blobs; an index holds the two.
Source: olot 1.2.1 with ``--add-modelpack``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from proxy.oci.digest import Digest
from tests.producers import files
from tests.producers.archives import gnu_tar, go_tar, gzipped
from tests.producers.artifact import Artifact, Maker, Part, compact, index_of

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_TITLE = "org.opencontainers.image.title"
_AUTHOR = {"io.opendatahub.author": "olot"}
_FILES = {"model.safetensors": files.weights(60), "config.json": files.CONFIG}
_BASE = gzipped(go_tar({"etc/os-release": b'NAME="Tiny"\n'}, directories=["etc"]))


def _archives() -> list[tuple[str, bytes, bytes, bytes]]:
    """Name, content, archive and blob of each layer; the README is compressed."""
    found = []
    for name, content in _FILES.items():
        archive = gnu_tar({f"models/{name}": content})
        found.append((name, content, archive, archive))
    archive = gnu_tar({"models/README.md": files.README})
    found.append(("README.md", files.README, archive, gzipped(archive)))
    return found


def modelcar() -> Artifact:
    """The container: only layers with olot's annotations are the model's."""
    layers = [Part(f"{_LAYER}+gzip", _BASE)]
    for name, content, archive, blob in _archives():
        mark = {"io.opendatahub.modelcar.layer.type": "modelcard"} if blob != archive else {}
        layers.append(
            Part(
                _LAYER if blob == archive else f"{_LAYER}+gzip",
                blob,
                {
                    _TITLE: name,
                    **mark,
                    "olot.layer.content.digest": str(Digest.of(content)),
                    "olot.layer.content.type": "file",
                    "olot.layer.content.inlayerpath": f"/models/{name}",
                    "olot.layer.content.name": name,
                },
            )
        )
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [str(Digest.of(archive)) for _, _, archive, _ in _archives()],
        },
        "history": [{"created_by": "olot oci_layers_on_top README.md (modelcard)"}],
    }
    card = str(Digest.of(layers[-1].blob))
    maker = Maker(
        "olot, modelcar",
        "modelcar",
        annotations={**_AUTHOR, "io.opendatahub.layers.modelcard": card},
    )
    expected = {f"models/{name}": content for name, content, _, _ in _archives()}
    return maker.artifact(
        "olot-modelcar",
        "tar",
        layers,
        config=Part("application/vnd.oci.image.config.v1+json", compact(document)),
        files=expected,
    )


def modelpack() -> Artifact:
    """The twin: no path but a title, diff IDs without an algorithm."""
    vendor = "application/vnd.cncf.model"
    layers = [
        Part(
            f"{vendor}.weight.v1.tar" if blob == archive else f"{vendor}.doc.v1.tar+gzip",
            blob,
            {_TITLE: PurePosixPath(name).name},
        )
        for name, _, archive, blob in _archives()
    ]
    document = {
        "descriptor": {},
        "modelfs": {
            "type": "layers",
            "diffIds": [Digest.of(archive).hex for _, _, archive, _ in _archives()],
        },
        "config": {},
    }
    maker = Maker("olot, ModelPack", "modelpack", artifact_type=f"{vendor}.manifest.v1+json")
    return maker.artifact(
        "olot-modelpack",
        "tar",
        layers,
        config=Part(f"{vendor}.config.v1+json", compact(document)),
        files={name: content for name, content, _, _ in _archives()},
    )


def both() -> Artifact:
    """The index, of which the ModelPack is shown."""
    twin = modelpack()
    children = [
        (modelcar(), {"platform": {"architecture": "amd64", "os": "linux"}}),
        (
            twin,
            {
                "annotations": {
                    **_AUTHOR,
                    "io.opendatahub.modelcar.manifest.type": "modelpack",
                },
                "platform": {"architecture": "unknown", "os": "unknown"},
            },
        ),
    ]
    return index_of("olot-index", children, files=twin.files)


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    yield modelcar()
    yield modelpack()
    yield both()
