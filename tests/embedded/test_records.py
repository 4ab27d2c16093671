from __future__ import annotations

import json

import pytest

from proxy.embedded.records import ManifestRecord, foreign_layers
from proxy.errors import ManifestInvalid
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.embedded.layouts import index_bytes, manifest_bytes

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
CONFIG: dict[str, object] = {"mediaType": "application/x.config", "digest": str(TWO), "size": 3}


def test_read_manifest_names_each_blob_once_and_takes_the_type_of_its_config() -> None:
    body = manifest_bytes(ONE, ONE, config=CONFIG)
    record = ManifestRecord.read(body, announced=None, algorithm="sha512")
    assert record.digest == Digest.of(body, "sha512")
    assert (record.media_type, record.size) == (OCI_MANIFEST, len(body))
    assert record.artifact_type == "application/x.config"
    assert (record.blobs, record.children) == ((TWO, ONE), ())
    assert (record.subject, record.annotations) == (None, {})


def test_read_manifest_with_a_subject_keeps_its_annotations() -> None:
    body = manifest_bytes(subject=CONFIG, artifactType="application/y", note="kept")
    record = ManifestRecord.read(body, announced=OCI_MANIFEST, algorithm="sha256")
    assert (record.subject, record.annotations) == (TWO, {"note": "kept"})
    assert record.artifact_type == "application/y"


def test_read_index_has_children_and_no_blobs() -> None:
    record = ManifestRecord.read(index_bytes(ONE, TWO), announced=None, algorithm="sha256")
    assert (record.media_type, record.blobs, record.children) == (OCI_INDEX, (), (ONE, TWO))


def test_read_without_a_type_of_its_own_takes_the_announced_one() -> None:
    body = json.dumps({"schemaVersion": 2, "layers": []}).encode()
    record = ManifestRecord.read(body, announced=None, algorithm="sha256")
    assert record.media_type == OCI_MANIFEST
    record = ManifestRecord.read(body, announced="application/z", algorithm="sha256")
    assert record.media_type == "application/z"


@pytest.mark.parametrize(
    ("body", "announced"),
    [(b"{", None), (manifest_bytes(), OCI_INDEX), (manifest_bytes(), "no type")],
)
def test_read_of_what_is_no_such_manifest_is_refused(body: bytes, announced: str | None) -> None:
    with pytest.raises(ManifestInvalid):
        ManifestRecord.read(body, announced=announced, algorithm="sha256")


@pytest.mark.parametrize(
    ("more", "elsewhere"),
    [
        ({}, False),
        ({"urls": []}, False),
        ({"urls": ["https://example.com/layer"]}, True),
        ({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar"}, True),
        ({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, True),
    ],
)
def test_foreign_layers_are_those_with_urls_or_a_foreign_type(
    more: dict[str, object], *, elsewhere: bool
) -> None:
    body = manifest_bytes(layers=[{**CONFIG, "digest": str(ONE), **more}])
    assert foreign_layers(body) == ({ONE} if elsewhere else set())
    assert foreign_layers(index_bytes(ONE)) == set()
