from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.embedded import layout as layout_module
from proxy.embedded.layout import REF_NAME, REPOSITORY, Layout
from proxy.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    MalformedArtifact,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NotFound,
    SizeInvalid,
)
from proxy.oci.digest import Digest
from proxy.oci.manifest import MANIFEST_BYTES_LIMIT, OCI_INDEX, OCI_MANIFEST
from proxy.oci.reference import RepositoryName, Tag

TEAM = RepositoryName("team/model")
OTHER = RepositoryName("other")
V1 = Tag("v1")


def manifest_bytes(*layers: Digest, note: str = "", **more: object) -> bytes:
    def descriptor(digest: Digest) -> dict[str, object]:
        return {"mediaType": "application/x", "digest": str(digest), "size": 1}

    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": [descriptor(digest) for digest in layers],
        "annotations": {"note": note},
        **more,
    }
    return json.dumps(document).encode()


def index_bytes(*children: Digest) -> bytes:
    entries = [{"mediaType": OCI_MANIFEST, "digest": str(d), "size": 1} for d in children]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def read_index(folder: Path) -> list[dict[str, object]]:
    document = json.loads((folder / "index.json").read_bytes())
    entries = document["manifests"]
    assert isinstance(entries, list)
    return entries


def write_layout(folder: Path, entries: list[object], *contents: bytes, **more: object) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": entries, **more})
    )
    for content in contents:
        (folder / "blobs" / "sha256" / Digest.of(content).hex).write_bytes(content)


def entry(content: bytes, media_type: str = OCI_MANIFEST, **annotations: str) -> dict[str, object]:
    found: dict[str, object] = {
        "mediaType": media_type,
        "digest": str(Digest.of(content)),
        "size": len(content),
    }
    if annotations:
        found["annotations"] = {
            REF_NAME if key == "ref" else key: value for key, value in annotations.items()
        }
    return found


async def blob_bytes(layout: Layout, repository: RepositoryName, digest: Digest) -> bytes:
    reader = layout.open_blob(repository, digest)
    try:
        return await reader.read(0, reader.size)
    finally:
        reader.close()


async def test_open_of_missing_folder_makes_an_empty_layout(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path / "a" / "b")
    assert layout.repositories() == []
    assert json.loads((tmp_path / "a/b/oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert read_index(tmp_path / "a/b") == []
    await layout.aclose()


async def test_open_of_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(MalformedArtifact, match="OCI image layout"):
        await Layout.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}'),
        ("oci-layout", "[]"),
        ("index.json", "{"),
        ("index.json", '{"manifests": {}}'),
    ],
)
async def test_open_of_a_broken_layout_names_the_file(
    tmp_path: Path, name: str, content: str
) -> None:
    write_layout(tmp_path, [])
    (tmp_path / name).write_text(content)
    with pytest.raises(MalformedArtifact, match=name):
        await Layout.open(tmp_path)
    (tmp_path / name).write_text('{"imageLayoutVersion": "1.0.0", "manifests": null}')
    await (await Layout.open(tmp_path)).aclose()  # the failed try holds no lock


async def test_open_twice_is_refused_until_closed(tmp_path: Path) -> None:
    first = await Layout.open(tmp_path)
    with pytest.raises(BlockingIOError):
        await Layout.open(tmp_path)
    await first.aclose()
    await (await Layout.open(tmp_path)).aclose()


async def test_open_sweeps_unfinished_uploads_and_nothing_else(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    upload = await layout.start_upload(TEAM)
    await upload.append(b"half")
    partial = tmp_path / "uploads" / upload.session
    assert partial.stat().st_mode & 0o777 == 0o600
    (tmp_path / "uploads" / "notes.txt").write_text("kept")
    await layout.aclose()
    layout = await Layout.open(tmp_path)
    assert not partial.exists()
    assert (tmp_path / "uploads" / "notes.txt").exists()
    with pytest.raises(BlobUploadUnknown):
        layout.upload(TEAM, upload.session)
    await layout.aclose()


async def test_restart_keeps_tags_untagged_manifests_and_membership(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    layer = await layout.add_blob(TEAM, b"weights")
    old = await layout.put_manifest(
        TEAM, manifest_bytes(layer, note="old"), media_type=OCI_MANIFEST, tags=[V1]
    )
    new = await layout.put_manifest(
        TEAM, manifest_bytes(layer, note="new"), media_type=OCI_MANIFEST, tags=[V1, Tag("latest")]
    )
    await layout.aclose()

    names = [e["annotations"] for e in read_index(tmp_path)]
    assert {REF_NAME: "team/model:v1"} in names
    assert {REF_NAME: "team/model:latest"} in names
    assert {REPOSITORY: "team/model"} in names

    layout = await Layout.open(tmp_path)
    assert layout.tags(TEAM) == ["latest", "v1"]
    assert layout.find(TEAM, V1).digest == new.digest
    assert layout.find(TEAM, old.digest) == old
    assert await blob_bytes(layout, TEAM, layer) == b"weights"
    with pytest.raises(BlobUnknown):
        layout.open_blob(OTHER, layer)
    with pytest.raises(ManifestUnknown):
        layout.find(OTHER, new.digest)
    await layout.aclose()


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
    deepest = chain[-1 - layout_module.ADOPT_DEPTH_LIMIT]
    assert layout.find(name, Digest.of(deepest)).size == len(deepest)
    with pytest.raises(ManifestUnknown):
        layout.find(name, Digest.of(chain[-2 - layout_module.ADOPT_DEPTH_LIMIT]))
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


async def test_put_manifest_refuses_what_a_registry_must_refuse(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    missing = Digest.of(b"missing")
    with pytest.raises(ManifestBlobUnknown) as caught:
        await layout.put_manifest(TEAM, manifest_bytes(missing), media_type=OCI_MANIFEST)
    assert caught.value.detail == [{"digest": str(missing)}]
    await layout.add_blob(OTHER, b"missing")
    with pytest.raises(ManifestBlobUnknown):  # another repository's blob is none of ours
        await layout.put_manifest(TEAM, manifest_bytes(missing), media_type=OCI_MANIFEST)
    for body in (b"", b"{}", b"[1]", b'{"layers":[],"manifests":[]}'):
        with pytest.raises(ManifestInvalid):
            await layout.put_manifest(TEAM, body, media_type=OCI_MANIFEST)
    for announced in (OCI_INDEX, "no type"):
        with pytest.raises(ManifestInvalid):
            await layout.put_manifest(TEAM, manifest_bytes(), media_type=announced)
    with pytest.raises(DigestInvalid):
        await layout.put_manifest(TEAM, manifest_bytes(), media_type=None, digest=missing)
    with pytest.raises(SizeInvalid):
        await layout.put_manifest(TEAM, b" " * (MANIFEST_BYTES_LIMIT + 1), media_type=None)
    assert layout.repositories() == []
    assert read_index(tmp_path) == []
    with pytest.raises(NotFound):
        layout.tags(TEAM)
    await layout.aclose()


async def test_put_manifest_lets_foreign_layers_children_and_subject_be_missing(
    tmp_path: Path,
) -> None:
    layout = await Layout.open(tmp_path)
    gone = {"mediaType": "application/x", "digest": str(Digest.of(b"gone")), "size": 4}
    foreign = manifest_bytes(
        layers=[{**gone, "urls": ["https://example.com/layer"]}], subject=gone, note="foreign"
    )
    stored = await layout.put_manifest(TEAM, foreign, media_type=OCI_MANIFEST)
    assert stored.subject == Digest.of(b"gone")
    await layout.put_manifest(TEAM, index_bytes(Digest.of(b"gone")), media_type=OCI_INDEX)
    with pytest.raises(BlobUnknown):
        layout.open_blob(TEAM, Digest.of(b"gone"))
    await layout.aclose()


async def test_delete_tag_keeps_the_manifest_and_delete_manifest_takes_all_tags(
    tmp_path: Path,
) -> None:
    layout = await Layout.open(tmp_path)
    stored = await layout.put_manifest(
        TEAM, manifest_bytes(), media_type=None, tags=[V1, Tag("v2"), Tag("v3")]
    )
    await layout.delete_tag(TEAM, V1)
    with pytest.raises(ManifestUnknown):
        await layout.delete_tag(TEAM, V1)
    await layout.delete_tag(TEAM, Tag("v2"))
    await layout.delete_tag(TEAM, Tag("v3"))
    assert layout.find(TEAM, stored.digest) == stored
    await layout.put_manifest(TEAM, manifest_bytes(), media_type=None, tags=[V1])
    assert len(read_index(tmp_path)) == 1, "a tagged manifest needs no entry without a tag"
    await layout.put_manifest(OTHER, manifest_bytes(), media_type=None)
    await layout.delete_manifest(TEAM, stored.digest)
    assert layout.repositories() == ["other"]
    assert await layout.read_manifest(stored) == manifest_bytes()
    await layout.delete_manifest(OTHER, stored.digest)
    assert read_index(tmp_path) == []
    with pytest.raises(ManifestUnknown):
        await layout.read_manifest(stored)
    await layout.aclose()


async def test_delete_blob_removes_the_file_when_nobody_else_holds_it(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    digest = await layout.add_blob(TEAM, b"shared")
    path = tmp_path / "blobs" / "sha256" / digest.hex
    assert layout.mount(OTHER, digest, source=TEAM)
    assert not layout.mount(OTHER, Digest.of(b"?"), source=TEAM)
    reader = layout.open_blob(TEAM, digest)
    await layout.delete_blob(TEAM, digest)
    with pytest.raises(BlobUnknown):
        layout.open_blob(TEAM, digest)
    assert path.exists()
    await layout.delete_blob(OTHER, digest)
    assert not path.exists()
    assert await reader.read(0, 10) == b"shared", "a reader survives the removal"
    reader.close()
    with pytest.raises(BlobUnknown):
        await layout.delete_blob(OTHER, digest)
    await layout.aclose()


@pytest.mark.parametrize("known_before", [True, False])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_upload_of_large_pieces_is_hashed_with_either_algorithm(
    tmp_path: Path, algorithm: str, *, known_before: bool
) -> None:
    layout = await Layout.open(tmp_path)
    content = bytes(range(256)) * 4096
    digest = Digest.of(content, algorithm)
    upload = await layout.start_upload(TEAM, algorithm=algorithm if known_before else "sha256")
    await upload.append(content[:700_000])
    await upload.append(content[700_000:])
    await layout.commit_upload(upload, digest)
    assert await blob_bytes(layout, TEAM, digest) == content
    with pytest.raises(BlobUploadUnknown):
        await layout.commit_upload(upload, digest)
    with pytest.raises(BlobUploadUnknown):
        await upload.append(b"late")
    assert list((tmp_path / "uploads").iterdir()) == []
    await layout.aclose()


async def test_K4_upload_with_other_bytes_than_its_digest_leaves_nothing(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    upload = await layout.start_upload(TEAM)
    await upload.append(b"other bytes")
    with pytest.raises(DigestInvalid):
        await layout.commit_upload(upload, Digest.of(b"these bytes"))
    assert list((tmp_path / "uploads").iterdir()) == []
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []
    await layout.aclose()


async def test_uploads_beyond_the_bound_give_up_the_one_idle_longest(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    first, second = await layout.start_upload(TEAM), await layout.start_upload(TEAM)
    for _ in range(layout_module.UPLOADS_LIMIT - 2):
        await layout.start_upload(TEAM)
    assert layout.upload(TEAM, first.session) is first
    await layout.start_upload(TEAM)
    with pytest.raises(BlobUploadUnknown):
        layout.upload(TEAM, second.session)
    assert layout.upload(TEAM, first.session) is first
    with pytest.raises(BlobUploadUnknown):
        layout.upload(OTHER, first.session)
    await layout.aclose()


async def test_put_manifest_cancelled_midway_still_ends_whole(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    body = manifest_bytes()

    async def push() -> None:
        await layout.put_manifest(TEAM, body, media_type=None, tags=[V1])

    async with asyncio.TaskGroup() as group:
        task = group.create_task(push())
        await asyncio.sleep(0)  # let it reach its first wait
        task.cancel()
    await layout.aclose()  # waits for the change under way
    layout = await Layout.open(tmp_path)
    assert layout.tags(TEAM) == ["v1"]
    await layout.aclose()


async def test_failed_index_write_changes_nothing(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    (tmp_path / "index.json").unlink()
    (tmp_path / "index.json").mkdir()  # a rename onto a folder fails, for root as well
    with pytest.raises(OSError, match="directory"):
        await layout.put_manifest(TEAM, manifest_bytes(), media_type=None, tags=[V1])
    assert layout.repositories() == []
    assert list((tmp_path / "uploads").iterdir()) == []
    await layout.aclose()
