from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import build
from tests.components import content
from tests.components.engines import Docker
from tests.components.registries import CREDENTIAL, WRONG, Proxied


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_docker_pull_stores_the_pushed_content(proxied: Proxied, docker: Docker, by: str) -> None:
    artifact = content.container(f"pulled by docker by {by}")
    repository = f"docker/pull-by-{by}"
    content.push(proxied.upstream.url, repository, "v1", artifact)
    reference = ":v1" if by == "tag" else f"@{artifact.digest}"
    name = f"{proxied.host}/{repository}"

    docker("pull", f"{name}{reference}")

    found = json.loads(docker("image", "inspect", f"{name}{reference}").out)[0]
    assert found["RepoDigests"] == [f"{name}@{artifact.digest}"]


def test_docker_pull_of_an_index_takes_its_platform(proxied: Proxied, docker: Docker) -> None:
    index = content.container_index("pulled by docker")
    content.push(proxied.upstream.url, "docker/index", "v1", index)
    name = f"{proxied.host}/docker/index:v1"

    docker("pull", "--platform", "linux/arm64", name)

    found = json.loads(docker("image", "inspect", name).out)[0]
    assert found["Architecture"] == "arm64"
    assert found["RepoDigests"][0].endswith(str(index.digest))


def test_K1_docker_push_never_leaves_the_proxy_and_pulls_back(
    proxied: Proxied, docker: Docker, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(build.tar_archive({"pushed.txt": b"by docker"}))
    name = f"{proxied.host}/docker/push:v1"
    docker("import", str(archive), name)
    identity = docker("image", "inspect", "--format={{.Id}}", name).out

    docker("push", name)

    digest = content.stored_digest(proxied.upstream.url, "docker/push", "v1")
    written = proxied.written("docker/push")
    assert written["PATCH"] >= 2
    assert written["PUT"] >= 3
    docker("rmi", name)
    docker("pull", name)
    assert docker("image", "inspect", "--format={{.Id}}", name).out == identity
    assert digest in docker("image", "inspect", "--format={{.RepoDigests}}", name).out


def test_docker_pull_of_a_model_names_its_type(proxied: Proxied, docker: Docker) -> None:
    content.push(proxied.upstream.url, "docker/model", "v1", content.model_pack("model"))

    refused = docker("pull", f"{proxied.host}/docker/model:v1", check=False)

    assert refused.code == 1
    assert "application/vnd.cncf.model.config.v1+json" in refused.err


def test_docker_login_with_the_right_password_pulls_and_pushes(
    guarded: Proxied, docker: Docker
) -> None:
    headers = content.login(guarded.upstream.url, "docker/guarded", CREDENTIAL)
    artifact = content.container("guarded for docker")
    content.push(guarded.upstream.url, "docker/guarded", "v1", artifact, headers=headers)
    name = f"{guarded.host}/docker/guarded"

    docker(
        *("login", "-u", CREDENTIAL.username, "--password-stdin", guarded.host),
        text=CREDENTIAL.password,
    )
    try:
        docker("pull", f"{name}:v1")
        docker("tag", f"{name}:v1", f"{name}:v2")
        docker("push", f"{name}:v2")
    finally:
        docker("logout", guarded.host)

    copied = content.stored_manifest(guarded.upstream.url, "docker/guarded", "v2", headers=headers)
    config = build.descriptor(content.CONTAINER_CONFIG, artifact.blobs[0])
    assert json.loads(copied.body)["config"]["digest"] == str(config.digest)


def test_docker_login_with_a_wrong_password_reads_as_without_the_proxy(
    guarded: Proxied, docker: Docker
) -> None:
    words = ("login", "-u", WRONG.username, "--password-stdin")

    direct = docker(*words, guarded.upstream.host, text=WRONG.password, check=False)
    through = docker(*words, guarded.host, text=WRONG.password, check=False)

    assert through.code == direct.code == 1
    assert _neutral(through.err) == _neutral(direct.err)
    assert "unauthorized" in through.err.lower()


def test_docker_pull_without_login_is_refused_as_without_the_proxy(
    guarded: Proxied, docker: Docker
) -> None:
    direct = docker("pull", f"{guarded.upstream.host}/docker/anonymous:v1", check=False)
    through = docker("pull", f"{guarded.host}/docker/anonymous:v1", check=False)

    assert through.code == direct.code == 1
    assert _neutral(through.err) == _neutral(direct.err)


def _neutral(text: str) -> str:
    return re.sub(r"127\.0\.0\.1:\d+", "", text)
