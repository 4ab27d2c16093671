from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.components import content
from tests.components.programs import Ran, require, run
from tests.components.registries import CREDENTIAL, WRONG, Proxied


def skopeo(*words: str | Path, check: bool = True) -> Ran:
    return run([require("skopeo"), *words], check=check)


def test_skopeo_inspect_names_the_stored_digest(proxied: Proxied) -> None:
    artifact = content.container("inspected")
    content.push(proxied.upstream.url, "skopeo/inspect", "v1", artifact)

    found = skopeo("inspect", "--tls-verify=false", f"docker://{proxied.host}/skopeo/inspect:v1")

    assert json.loads(found.out)["Digest"] == str(artifact.digest)


def test_skopeo_copy_out_writes_the_stored_bytes(proxied: Proxied, tmp_path: Path) -> None:
    artifact = content.model_pack("copied-out")
    content.push(proxied.upstream.url, "skopeo/out", "v1", artifact)

    skopeo(
        *("copy", "--src-tls-verify=false", f"docker://{proxied.host}/skopeo/out:v1"),
        f"dir:{tmp_path}/out",
    )

    assert (tmp_path / "out" / "manifest.json").read_bytes() == artifact.manifest
    blobs = {
        f.read_bytes() for f in (tmp_path / "out").iterdir() if re.match(r"[0-9a-f]{64}", f.name)
    }
    assert blobs == set(artifact.blobs)


def test_K1_skopeo_copy_in_keeps_the_digest_and_never_leaves_the_proxy(
    proxied: Proxied, tmp_path: Path
) -> None:
    artifact = content.model_pack("copied-in")
    content.push(proxied.upstream.url, "skopeo/source", "v1", artifact)
    skopeo(
        *("copy", "--src-tls-verify=false", f"docker://{proxied.host}/skopeo/source:v1"),
        f"dir:{tmp_path}/model",
    )

    skopeo(
        *("copy", "--dest-tls-verify=false", f"dir:{tmp_path}/model"),
        f"docker://{proxied.host}/skopeo/in:v1",
    )

    assert content.stored_digest(proxied.upstream.url, "skopeo/in", "v1") == str(artifact.digest)
    written = proxied.written("skopeo/in")
    assert written["PUT"] >= 1


def test_skopeo_copy_all_moves_an_index_through_two_accept_lines(proxied: Proxied) -> None:
    index = content.container_index("everywhere")
    content.push(proxied.upstream.url, "skopeo/index", "v1", index)

    skopeo(
        *("copy", "--all", "--preserve-digests"),
        *("--src-tls-verify=false", f"docker://{proxied.host}/skopeo/index:v1"),
        *("--dest-tls-verify=false", f"docker://{proxied.host}/skopeo/index-copy:v1"),
    )

    upstream = proxied.upstream.url
    assert content.stored_digest(upstream, "skopeo/index-copy", "v1") == str(index.digest)
    for child in index.children:
        digest = str(child.digest)
        assert content.stored_digest(upstream, "skopeo/index-copy", digest) == digest
    assert proxied.written("skopeo/index-copy")["PUT"] >= 3


def test_skopeo_list_tags_names_all(proxied: Proxied) -> None:
    for tag in ("v1", "v2", "latest"):
        content.push(proxied.upstream.url, "skopeo/tags", tag, content.container(tag))

    found = skopeo("list-tags", "--tls-verify=false", f"docker://{proxied.host}/skopeo/tags")

    assert sorted(json.loads(found.out)["Tags"]) == ["latest", "v1", "v2"]


def test_skopeo_delete_is_seen_at_once(proxied: Proxied) -> None:
    content.push(proxied.upstream.url, "skopeo/deleted", "v1", content.container("deleted"))
    name = f"docker://{proxied.host}/skopeo/deleted:v1"
    skopeo("inspect", "--tls-verify=false", name)

    skopeo("delete", "--tls-verify=false", name)

    gone = skopeo("inspect", "--tls-verify=false", name, check=False)
    assert gone.code != 0
    assert "manifest unknown" in gone.err
    assert proxied.written("skopeo/deleted")["DELETE"] == 1


def test_skopeo_login_with_the_right_password_reads_and_writes(guarded: Proxied) -> None:
    headers = content.login(guarded.upstream.url, "skopeo/guarded", CREDENTIAL)
    artifact = content.container("guarded")
    content.push(guarded.upstream.url, "skopeo/guarded", "v1", artifact, headers=headers)

    skopeo(
        *("copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *("--src-creds", CREDENTIAL.pair, "--dest-creds", CREDENTIAL.pair),
        f"docker://{guarded.host}/skopeo/guarded:v1",
        f"docker://{guarded.host}/skopeo/guarded:v2",
    )

    stored = content.stored_digest(guarded.upstream.url, "skopeo/guarded", "v2", headers=headers)
    assert stored == str(artifact.digest)


@pytest.mark.parametrize("login", [WRONG.pair, None], ids=["wrong password", "no login"])
def test_skopeo_refused_login_reads_as_without_the_proxy(
    guarded: Proxied, login: str | None
) -> None:
    words = ["inspect", "--tls-verify=false", *(["--creds", login] if login else [])]

    direct = skopeo(*words, f"docker://{guarded.upstream.host}/skopeo/refused:v1", check=False)
    through = skopeo(*words, f"docker://{guarded.host}/skopeo/refused:v1", check=False)

    assert through.code == direct.code != 0
    assert _neutral(through.err) == _neutral(direct.err)
    assert "unauthorized" in through.err or "authentication required" in through.err


def _neutral(text: str) -> str:
    return re.sub(r'time="[^"]*"|127\.0\.0\.1:\d+', "", text)
