"""The builders themselves: digests hold, and readers that are not ours read what was built."""

from __future__ import annotations

import tarfile  # noqa: TID251 - it reads only what the builders made
import zlib
from collections.abc import Iterator
from itertools import chain

import pytest

from proxy.oci.digest import Digest
from proxy.oci.manifest import Index, Manifest, decode
from tests.producers.archives import MODIFIED_SECONDS, go_tar
from tests.producers.artifact import PACKINGS, Artifact
from tests.producers.catalogue import EVERY, HONEST, PRODUCERS
from tests.producers.reading import contents, members

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
    found = set(chain.from_iterable(map(contents, blobs)))
    for one in _with_children(artifact):
        assert found.issuperset(one.files.values())


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


def test_truncated_layers_are_broken_for_other_readers_too() -> None:
    for label in ("hostile-truncated-tar+gzip", "hostile-truncated-tar"):
        artifact = EVERY[label]
        (blob,) = (found for found in artifact.blobs.values() if len(found) > 2)
        with pytest.raises((EOFError, tarfile.ReadError, zlib.error)):
            members(blob)
