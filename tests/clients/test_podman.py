from __future__ import annotations

import json
import re
from pathlib import Path

from tests import build
from tests.components import content
from tests.components.engines import Podman
from tests.components.registries import CREDENTIAL, WRONG, Proxied


def test_podman_pull_stores_the_pushed_content(proxied: Proxied, podman: Podman) -> None:
    artifact = content.container("pulled by podman")
    content.push(proxied.upstream.url, "podman/pull", "v1", artifact)
    name = f"{proxied.host}/podman/pull:v1"

    podman("pull", "--tls-verify=false", name)

    found = json.loads(podman("inspect", "--type=image", name).out)[0]
    assert found["Digest"] == str(artifact.digest)


def test_K1_podman_push_never_leaves_the_proxy_and_pulls_back(
    proxied: Proxied, podman: Podman, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(build.tar_archive({"pushed.txt": b"by podman"}))
    name = f"{proxied.host}/podman/push:v1"
    pushed = podman("import", str(archive), name).out.strip()

    podman("push", "--tls-verify=false", "--digestfile", str(tmp_path / "digest"), name)

    digest = (tmp_path / "digest").read_text()
    assert content.stored_digest(proxied.upstream.url, "podman/push", "v1") == digest
    written = proxied.written("podman/push")
    assert written["PATCH"] >= 1
    assert written["PUT"] >= 2
    podman("rmi", name)
    assert podman("pull", "--tls-verify=false", name).out.strip() == pushed.removeprefix("sha256:")


def test_podman_search_lists_tags(proxied: Proxied, podman: Podman) -> None:
    for tag in ("v1", "v2"):
        content.push(proxied.upstream.url, "podman/tags", tag, content.container(tag))

    found = podman("search", "--tls-verify=false", "--list-tags", f"{proxied.host}/podman/tags")

    assert [line.split()[-1] for line in found.out.splitlines()] == ["TAG", "v1", "v2"]


def test_podman_pull_of_a_model_names_its_type(proxied: Proxied, podman: Podman) -> None:
    content.push(proxied.upstream.url, "podman/model", "v1", content.model_pack("model"))

    refused = podman("pull", "--tls-verify=false", f"{proxied.host}/podman/model:v1", check=False)

    assert refused.code == 125
    assert "application/vnd.cncf.model.config.v1+json" in refused.err


def test_podman_login_with_the_right_password_pulls_and_pushes(
    guarded: Proxied, podman: Podman
) -> None:
    headers = content.login(guarded.upstream.url, "podman/guarded", CREDENTIAL)
    artifact = content.container("guarded")
    content.push(guarded.upstream.url, "podman/guarded", "v1", artifact, headers=headers)
    name = f"{guarded.host}/podman/guarded"

    podman(
        *("login", "--tls-verify=false", "-u", CREDENTIAL.username, "--password-stdin"),
        guarded.host,
        text=CREDENTIAL.password,
    )
    podman("pull", "--tls-verify=false", f"{name}:v1")
    podman("push", "--tls-verify=false", f"{name}:v1", f"{name}:v2")

    copied = content.stored_manifest(guarded.upstream.url, "podman/guarded", "v2", headers=headers)
    config = build.descriptor(content.CONTAINER_CONFIG, artifact.blobs[0])
    assert json.loads(copied.body)["config"]["digest"] == str(config.digest)


def test_podman_login_with_a_wrong_password_reads_as_without_the_proxy(
    guarded: Proxied, podman: Podman
) -> None:
    words = ("login", "--tls-verify=false", "-u", WRONG.username, "--password-stdin")

    direct = podman(*words, guarded.upstream.host, text=WRONG.password, check=False)
    through = podman(*words, guarded.host, text=WRONG.password, check=False)

    assert through.code == direct.code == 125
    assert re.sub(r"127\.0\.0\.1:\d+", "", through.err) == re.sub(
        r"127\.0\.0\.1:\d+", "", direct.err
    )
    assert "invalid username/password" in through.err


def test_podman_pull_without_login_is_refused(guarded: Proxied, podman: Podman) -> None:
    refused = podman(
        "pull", "--tls-verify=false", f"{guarded.host}/podman/anonymous:v1", check=False
    )

    assert refused.code == 125
    assert "authentication required" in refused.err or "unauthorized" in refused.err
