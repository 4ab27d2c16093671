from __future__ import annotations

import io
import json
import tarfile  # noqa: TID251 - the archive is written by the test
from pathlib import Path

import pytest

from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX
from tests import build
from tests.components import content
from tests.components.content import Artifact
from tests.components.engines import Containerd
from tests.components.registries import CREDENTIAL, WRONG, Proxied

_MIRROR = """\
server = "http://127.0.0.1:1"
[host."{url}"]
  capabilities = ["pull", "resolve"]
"""


def test_containerd_pull_stores_the_pushed_content(
    proxied: Proxied, containerd: Containerd
) -> None:
    artifact = content.container("pulled by containerd")
    content.push(proxied.upstream.url, "containerd/pull", "v1", artifact)
    name = f"{proxied.host}/containerd/pull:v1"

    containerd("pull", "images", "pull", "--plain-http", "--snapshotter=native", name)

    assert str(artifact.digest) in containerd("pull", "images", "list", f"name=={name}").out


def test_containerd_fetches_every_blob_of_a_model(proxied: Proxied, containerd: Containerd) -> None:
    artifact = content.model_pack("fetched")
    content.push(proxied.upstream.url, "containerd/model", "v1", artifact)

    containerd(
        *("fetch", "content", "fetch", "--plain-http", f"{proxied.host}/containerd/model:v1")
    )

    held = containerd("fetch", "content", "list", "--quiet").out.split()
    assert sorted(held) == sorted(
        str(Digest.of(each)) for each in (artifact.manifest, *artifact.blobs)
    )
    found = containerd("fetch", "content", "get", str(artifact.digest)).out
    assert found.encode() == artifact.manifest


def test_containerd_pull_through_a_mirror_sends_ns(
    proxied: Proxied, containerd: Containerd, tmp_path: Path
) -> None:
    artifact = content.container("mirrored")
    content.push(proxied.upstream.url, "library/mirrored", "v1", artifact)
    hosts = tmp_path / "docker.io" / "hosts.toml"
    hosts.parent.mkdir()
    hosts.write_text(_MIRROR.format(url=proxied.proxy.url))
    name = "docker.io/library/mirrored:v1"

    containerd(
        *("mirror", "images", "pull", "--hosts-dir", str(tmp_path), "--snapshotter=native"), name
    )

    assert str(artifact.digest) in containerd("mirror", "images", "list", f"name=={name}").out
    assert not proxied.written("library/mirrored")


def test_K1_containerd_push_keeps_the_digest_and_never_leaves_the_proxy(
    proxied: Proxied, containerd: Containerd, tmp_path: Path
) -> None:
    artifact = content.model_pack("pushed")
    name = f"{proxied.host}/containerd/push:v1"
    archive = _layout_archive(tmp_path / "layout.tar", artifact, name)
    containerd("push", "images", "import", "--no-unpack", "--all-platforms", str(archive))

    containerd("push", "images", "push", "--plain-http", name)

    stored = content.stored_digest(proxied.upstream.url, "containerd/push", "v1")
    assert stored == str(artifact.digest)
    written = proxied.written("containerd/push")
    assert written["POST"] == len(artifact.blobs)
    assert written["PUT"] == len(artifact.blobs) + 1


def test_containerd_push_of_fetched_content_mounts_its_blobs(
    proxied: Proxied, containerd: Containerd
) -> None:
    artifact = content.model_pack("mounted")
    content.push(proxied.upstream.url, "containerd/mount-from", "v1", artifact)
    source = f"{proxied.host}/containerd/mount-from:v1"
    containerd("mount", "content", "fetch", "--plain-http", source)

    containerd(
        *("mount", "images", "push", "--plain-http"),
        *(f"{proxied.host}/containerd/mounted:v1", source),
    )

    stored = content.stored_digest(proxied.upstream.url, "containerd/mounted", "v1")
    assert stored == str(artifact.digest)
    assert proxied.written("containerd/mounted") == {"POST": len(artifact.blobs), "PUT": 1}


def test_containerd_login_with_the_right_password_fetches_and_pushes(
    guarded: Proxied, containerd: Containerd
) -> None:
    headers = content.login(guarded.upstream.url, "containerd/guarded", CREDENTIAL)
    artifact = content.model_pack("guarded")
    content.push(guarded.upstream.url, "containerd/guarded", "v1", artifact, headers=headers)
    name = f"{guarded.host}/containerd/guarded"
    namespace = f"login-{guarded.host.rpartition(':')[2]}"
    login = ("--plain-http", "--user", CREDENTIAL.pair)

    containerd(namespace, "content", "fetch", *login, f"{name}:v1")
    containerd(namespace, "images", "push", *login, f"{name}:v2", f"{name}:v1")

    stored = content.stored_digest(
        guarded.upstream.url, "containerd/guarded", "v2", headers=headers
    )
    assert stored == str(artifact.digest)


@pytest.mark.parametrize("login", [WRONG.pair, None], ids=["wrong password", "no login"])
def test_containerd_refused_login_names_the_status(
    guarded: Proxied, containerd: Containerd, login: str | None
) -> None:
    words = ["--plain-http", *(["--user", login] if login else [])]

    refused = containerd(
        "refused", "content", "fetch", *words, f"{guarded.host}/containerd/refused:v1", check=False
    )

    assert refused.code == 1
    assert "401 Unauthorized" in refused.err or "authorization failed" in refused.err


def _layout_archive(file: Path, artifact: Artifact, name: str) -> Path:
    """An OCI layout as one archive, its only manifest called ``name``."""
    entry = {
        **build.descriptor_json(artifact.descriptor()),
        "annotations": {"io.containerd.image.name": name},
    }
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{
            f"blobs/sha256/{Digest.of(each).hex}": each
            for each in (artifact.manifest, *artifact.blobs)
        },
    }
    with tarfile.TarFile(file, mode="w") as archive:
        for path, each in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(each)
            archive.addfile(member, io.BytesIO(each))
    return file
