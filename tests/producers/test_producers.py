"""The builders themselves: digests hold, and readers that are not ours read what was built."""

from __future__ import annotations

import gzip
import io
import json
import tarfile  # noqa: TID251 - it reads only what the builders made
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain

import pytest
import zstandard

from proxy.oci.digest import Digest
from proxy.oci.manifest import Index, Manifest, decode
from tests.producers import olot
from tests.producers.archives import MODIFIED_SECONDS, go_tar
from tests.producers.artifact import PACKINGS, Artifact
from tests.producers.catalogue import EVERY, HONEST, PRODUCERS

# Bombs cannot be smaller; see there.
_BYTES_LIMIT = 200 * 1024
_LARGER = frozenset(("hostile-bombs",))

_every = pytest.mark.parametrize("label", sorted(EVERY))
_honest = pytest.mark.parametrize("label", sorted(HONEST))


def _with_children(artifact: Artifact) -> Iterator[Artifact]:
    yield artifact
    for child in artifact.children:
        yield from _with_children(child)


@_every
def test_manifest_names_exactly_the_blobs_that_are_there(label: str) -> None:
    for artifact in _with_children(EVERY[label]):
        manifest = decode(artifact.manifest)
        if isinstance(manifest, Index):
            expected = [(child.digest, len(child.manifest)) for child in artifact.children]
            assert [(one.digest, one.size) for one in manifest.manifests] == expected
            continue
        assert isinstance(manifest, Manifest)
        assert manifest.config is not None
        named = {str(one.digest): one.size for one in (manifest.config, *manifest.layers)}
        assert named == {digest: len(blob) for digest, blob in artifact.blobs.items()}
        for digest, blob in artifact.blobs.items():
            assert str(Digest.of(blob)) == digest


@_every
def test_artifact_is_small_and_its_promises_are_consistent(label: str) -> None:
    artifact = EVERY[label]
    assert artifact.size < _BYTES_LIMIT or label in _LARGER
    assert artifact.packing in (*PACKINGS, "index")
    assert not artifact.files.keys() & artifact.refused.keys()
    assert not (artifact.files and "" in artifact.refused)


@_honest
def test_other_readers_find_the_files_in_the_blobs(label: str) -> None:
    artifact = HONEST[label]
    blobs = chain.from_iterable(one.blobs.values() for one in _with_children(artifact))
    contents = set(chain.from_iterable(map(_contents, blobs)))
    for one in _with_children(artifact):
        assert contents.issuperset(one.files.values())


def test_catalogue_is_the_same_in_every_run() -> None:
    for module in PRODUCERS:
        for artifact in module.artifacts():
            assert artifact == EVERY[artifact.label]


def test_no_artifact_is_listed_twice() -> None:
    assert len({str(artifact.digest) for artifact in EVERY.values()}) == len(EVERY)


def test_go_tar_is_what_go_writes() -> None:
    """Lengths and fields as archive/tar has them; a lone file is 512 (1 + blocks) + 1,024."""
    archive = go_tar({"model.bin": b"x" * 513})
    assert len(archive) == 512 * 3 + 1024
    assert archive[257:265] == b"ustar\x0000"
    assert archive[329:345] == b"0000000\x00" * 2
    assert archive[136:148] == b"%011o\0" % MODIFIED_SECONDS
    archive = go_tar({"größe.bin": b"x"})
    assert archive[:27] == b"PaxHeaders.0/gre.bin".ljust(27, b"\0")
    assert archive[156:157] == b"x"
    assert archive[512 : 512 + 20] == b"20 path=gr\xc3\xb6\xc3\x9fe.bin\n"


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
            real = _members((blobs / layer["digest"].split(":")[1]).read_bytes())
            assert real == _members(made.blobs[imitated["digest"]])


def _shape(descriptor: Mapping[str, object]) -> dict[str, object]:
    """A descriptor without what depends on times."""
    return {key: value for key, value in descriptor.items() if key not in ("digest", "size")}


def _outline(document: Mapping[str, object]) -> object:
    layers = document["layers"]
    assert isinstance(layers, list)
    marks = document.get("annotations") or {}
    assert isinstance(marks, dict)
    return document.get("artifactType"), sorted(marks), [_shape(layer) for layer in layers]


def _members(blob: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(_plain(blob))) as archive:
        files = ((one.name, archive.extractfile(one)) for one in archive if one.isfile())
        return {name: reader.read() for name, reader in files if reader is not None}


def _contents(blob: bytes) -> Iterator[bytes]:
    """The blob itself, what is inside its compression, and the members of a tar."""
    yield blob
    plain = _plain(blob)
    yield plain
    if plain[257:262] == b"ustar":
        yield from _members(blob).values()


def _plain(blob: bytes) -> bytes:
    if blob[:3] == b"\x1f\x8b\x08":
        return gzip.decompress(blob)
    if blob[:4] == bytes.fromhex("28b52ffd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    return blob


def test_truncated_layers_are_broken_for_other_readers_too() -> None:
    for label in ("hostile-truncated-tar+gzip", "hostile-truncated-tar"):
        artifact = EVERY[label]
        (blob,) = (found for found in artifact.blobs.values() if len(found) > 2)
        with pytest.raises((EOFError, tarfile.ReadError, zlib.error)):
            _members(blob)
