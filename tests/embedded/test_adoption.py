from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.embedded import adoption
from proxy.embedded.adoption import adopt
from proxy.embedded.disk import Folder
from proxy.embedded.index import REPOSITORY
from proxy.embedded.layout import Layout
from proxy.errors import ManifestUnknown
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from proxy.oci.reference import RepositoryName
from tests.embedded.layouts import (
    V1,
    blob_bytes,
    entry,
    index_bytes,
    manifest_bytes,
    read_index,
    write_layout,
)


async def test_adopted_layout_gives_bare_tags_to_the_folder_and_keeps_foreign_entries(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "My Models"
    layer = b"layer"
    child = manifest_bytes(Digest.of(layer), note="child")
    parent = index_bytes(Digest.of(child), Digest.of(b"never pushed"))
    named = manifest_bytes(note="named")
    odd = manifest_bytes(note="odd")
    xml: object = {"mediaType": "application/xml", "digest": str(Digest.of(b"<x/>")), "size": 4}
    tagged = entry(parent, OCI_INDEX, ref="v1", vendor="kept")
    write_layout(
        folder,
        [
            xml,
            "junk",
            tagged,
            entry(named, ref="registry.example/team/model:v2"),
            entry(odd, ref="localhost:5000/x:y:z"),
            entry(manifest_bytes(note="gone"), ref="gone"),
        ],
        layer,
        child,
        parent,
        named,
        odd,
        b"<x/>",
        annotations={"com.example": "r1"},
    )
    mine = RepositoryName("my-models")
    layout = await Layout.open(folder)
    assert layout.repositories() == ["my-models", "registry.example/team/model"]
    assert layout.tags(mine) == ["v1"]
    assert layout.find(mine, Digest.of(child)).media_type == OCI_MANIFEST
    assert layout.find(mine, Digest.of(odd)).size == len(odd)
    assert await blob_bytes(layout, mine, Digest.of(layer)) == layer

    await layout.put_manifest(mine, named, media_type=None, tags=[V1])
    found = read_index(folder)
    assert xml in found
    assert "junk" in map(str, found)
    assert entry(manifest_bytes(note="gone"), ref="gone") in found
    assert entry(named, ref="v1") in found, "a bare tag stays bare for the tool that wrote it"
    assert entry(parent, OCI_INDEX, vendor="kept", **{REPOSITORY: "my-models"}) in found
    assert json.loads((folder / "index.json").read_text())["annotations"] == {"com.example": "r1"}
    await layout.aclose()


async def test_adopted_manifest_with_other_bytes_than_its_digest_is_not_served(
    tmp_path: Path,
) -> None:
    good = manifest_bytes(note="good")
    write_layout(tmp_path, [entry(good, ref="a/b:v1")], good)
    (tmp_path / "blobs/sha256" / Digest.of(good).hex).write_bytes(manifest_bytes(note="evil"))
    layout = await Layout.open(tmp_path)
    assert layout.repositories() == []
    await layout.aclose()


async def test_F10_adopted_chain_of_indexes_is_followed_to_a_bound(tmp_path: Path) -> None:
    chain = [index_bytes()]
    for _ in range(20):
        chain.append(index_bytes(Digest.of(chain[-1])))
    write_layout(tmp_path, [entry(chain[-1], OCI_INDEX, ref="a:v1")], *chain)
    layout = await Layout.open(tmp_path)
    name = RepositoryName("a")
    deepest = chain[-1 - adoption.DEPTH_LIMIT]
    assert layout.find(name, Digest.of(deepest)).size == len(deepest)
    with pytest.raises(ManifestUnknown):
        layout.find(name, Digest.of(chain[-2 - adoption.DEPTH_LIMIT]))
    await layout.aclose()


@pytest.mark.parametrize(
    ("folder", "repository"),
    [("llama", "llama"), ("My Models!", "my-models"), ("__", "model"), ("a..b", "a-b")],
)
async def test_folder_name_becomes_a_legal_repository(
    tmp_path: Path, folder: str, repository: str
) -> None:
    content = manifest_bytes()
    write_layout(tmp_path / folder, [entry(content, ref="v1")], content)
    layout = await Layout.open(tmp_path / folder)
    assert layout.repositories() == [repository]
    await layout.aclose()


def test_adopt_two_entries_of_one_name_the_last_one_counts(tmp_path: Path) -> None:
    first, second = manifest_bytes(note="first"), manifest_bytes(note="second")
    entries = [entry(first, ref="a/b:v1"), entry(second, ref="a/b:v1")]
    write_layout(tmp_path, list(entries), first, second)
    index, repositories = adopt(Folder(tmp_path))
    assert repositories["a/b"].tags == {"v1": Digest.of(second)}
    assert dict(index.entries) == {("a/b", "v1"): entries[1]}
    assert list(index.foreign) == [entries[0]]
