from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.embedded import layout as layout_module
from proxy.embedded.index import REF_NAME, REPOSITORY
from proxy.embedded.layout import Layout
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
from proxy.oci.reference import Tag
from tests.embedded.layouts import (
    OTHER,
    TEAM,
    V1,
    blob_bytes,
    index_bytes,
    manifest_bytes,
    read_index,
    write_layout,
)


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
