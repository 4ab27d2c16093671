from __future__ import annotations

import pytest

from proxy.embedded.index import REF_NAME, REPOSITORY, LayoutIndex, Place
from proxy.embedded.records import ManifestRecord
from proxy.oci.digest import Digest
from proxy.oci.reference import RepositoryName, Tag
from tests.embedded.layouts import TEAM, V1, entry, manifest_bytes

BODY, NEXT = manifest_bytes(note="one"), manifest_bytes(note="two")
DIGEST = Digest.of(BODY)
EMPTY = LayoutIndex(head={"schemaVersion": 2}, foreign=("junk",), entries={})


def record(body: bytes) -> ManifestRecord:
    return ManifestRecord.read(body, announced=None, algorithm="sha256")


@pytest.mark.parametrize(
    ("annotations", "repository", "tag"),
    [
        ({REF_NAME: "team/model:v1"}, "team/model", "v1"),
        ({REF_NAME: "v1"}, "folder", "v1"),
        ({REF_NAME: "localhost:5000/x:y:z"}, "folder", None),
        ({REF_NAME: "Not A Name:v1"}, "folder", None),
        ({REPOSITORY: "team/model"}, "team/model", None),
        ({REPOSITORY: "team/model", REF_NAME: "other:v1"}, "other", "v1"),
        ({}, "folder", None),
    ],
)
def test_place_of_an_entry_is_told_by_its_annotations(
    annotations: dict[str, str], repository: str, tag: str | None
) -> None:
    fields = {**entry(BODY), "annotations": annotations}
    place = Place.of(fields, folder_name="folder")
    assert place is not None
    assert (place.repository.text, place.tag, place.digest) == (repository, tag, DIGEST)
    assert place.key == (repository, tag or str(DIGEST))


@pytest.mark.parametrize(
    "found",
    [
        None,
        "junk",
        {},
        {"digest": 1},
        {"digest": "md5:x"},
        {"digest": str(DIGEST), "mediaType": 1},
        {"digest": str(DIGEST), "annotations": {REPOSITORY: "Not A Name"}},
    ],
)
def test_place_of_what_is_no_descriptor_is_none(found: object) -> None:
    assert Place.of(found, folder_name="folder") is None


def test_with_manifest_moves_a_tag_and_keeps_what_it_pointed_at() -> None:
    tagged = EMPTY.with_manifest(TEAM, record(BODY), tags=[V1], pointers={})
    assert tagged.document() == {
        "schemaVersion": 2,
        "manifests": ["junk", entry(BODY, ref="team/model:v1")],
    }
    moved = tagged.with_manifest(TEAM, record(NEXT), tags=[V1], pointers={"v1": DIGEST})
    assert dict(moved.entries) == {
        ("team/model", "v1"): entry(NEXT, ref="team/model:v1"),
        ("team/model", str(DIGEST)): entry(BODY, **{REPOSITORY: "team/model"}),
    }
    assert EMPTY.entries == {}, "a change leaves the earlier index as it was"


def test_without_tag_and_without_manifest_forget_what_they_name() -> None:
    pointers = {"v1": DIGEST, "v2": DIGEST}
    both = EMPTY.with_manifest(TEAM, record(BODY), tags=[V1, Tag("v2")], pointers={})
    one = both.without_tag(TEAM, V1, pointers=pointers)
    assert one.entries.keys() == {("team/model", "v2")}
    none = one.without_tag(TEAM, Tag("v2"), pointers={"v2": DIGEST})
    assert none.entries.keys() == {("team/model", str(DIGEST))}
    other = RepositoryName("other")
    shared = both.with_manifest(other, record(BODY), tags=[], pointers={})
    left = shared.without_manifest(TEAM, DIGEST, pointers=pointers)
    assert left.entries.keys() == {("other", str(DIGEST))}


def test_keeps_is_about_foreign_entries_alone() -> None:
    index = LayoutIndex(head={}, foreign=["junk", entry(BODY)], entries={("a", "v1"): entry(NEXT)})
    assert index.keeps(DIGEST)
    assert not index.keeps(Digest.of(NEXT))
