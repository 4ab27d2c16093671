"""The whole registry behind the proxy, with TLS: ``deploy/whole-registry.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.components import content
from tests.components.engines import Docker
from tests.components.programs import require, run
from tests.components.registries import CREDENTIAL, WRONG, Proxied, Server
from tests.components.tokens import TokenService
from tests.deploy import recipes
from tests.deploy.recipes import Tls


@pytest.fixture(scope="module")
def front(
    guarded_registry: Server,
    tokens: TokenService,
    tls: Tls,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxied]:
    """The recipe before a registry with a login."""
    port = recipes.free_port()
    changes = {
        "https://registry.example": f"https://127.0.0.1:{port}",
        "http://127.0.0.1:5000": guarded_registry.url,
        "auth.example": tokens.origin,
        **tls.changes("/etc/cnai-proxy"),
    }
    folder = tmp_path_factory.mktemp("whole-registry")
    with recipes.proxy(folder, "whole-registry.yaml", changes, port=port) as server:
        yield Proxied(server, guarded_registry)


def test_whole_registry_is_ready_on_https(front: Proxied, tls: Tls) -> None:
    assert front.proxy.url.startswith("https://127.0.0.1:")
    assert recipes.ask("GET", f"{front.proxy.url}/livez", tls=tls).status == 200


def test_whole_registry_skopeo_pushes_and_pulls(front: Proxied, tls: Tls) -> None:
    repository = "deploy/whole/skopeo"
    headers = content.login(front.upstream.url, repository, CREDENTIAL)
    model = content.model_pack("behind TLS")
    content.push(front.upstream.url, repository, "v1", model, headers=headers)

    run(
        [
            *(require("skopeo"), "copy", "--preserve-digests"),
            *("--src-creds", CREDENTIAL.pair, "--src-cert-dir", tls.cert_dir),
            *("--dest-creds", CREDENTIAL.pair, "--dest-cert-dir", tls.cert_dir),
            f"docker://{front.host}/{repository}:v1",
            f"docker://{front.host}/{repository}-copy:v1",
        ]
    )

    headers = content.login(front.upstream.url, f"{repository}-copy", CREDENTIAL)
    stored = content.stored_digest(front.upstream.url, f"{repository}-copy", "v1", headers=headers)
    assert stored == str(model.digest)
    assert front.written(f"{repository}-copy")["PUT"] >= 1


def test_whole_registry_skopeo_without_the_authority_refuses_the_certificate(
    front: Proxied,
) -> None:
    name = f"docker://{front.host}/deploy/whole/untrusted:v1"

    refused = run([require("skopeo"), "inspect", "--raw", name], check=False)

    assert refused.code == 1
    assert "certificate" in refused.err


def test_whole_registry_docker_logs_in_pulls_and_pushes(front: Proxied, docker: Docker) -> None:
    repository = "deploy/whole/docker"
    headers = content.login(front.upstream.url, repository, CREDENTIAL)
    artifact = content.container("behind TLS")
    content.push(front.upstream.url, repository, "v1", artifact, headers=headers)
    name = f"{front.host}/{repository}"

    login = ("login", "-u", CREDENTIAL.username, "--password-stdin", front.host)
    docker(*login, text=CREDENTIAL.password)
    try:
        docker("pull", f"{name}:v1")
        docker("tag", f"{name}:v1", f"{name}:v2")
        docker("push", f"{name}:v2")
    finally:
        docker("logout", front.host)

    stored = content.stored_manifest(front.upstream.url, repository, "v2", headers=headers)
    assert json.loads(stored.body)["layers"]
    assert front.written(repository)["PUT"] >= 1


def test_whole_registry_docker_with_a_wrong_password_is_refused(
    front: Proxied, docker: Docker
) -> None:
    login = ("login", "-u", WRONG.username, "--password-stdin", front.host)

    refused = docker(*login, text=WRONG.password, check=False)

    assert refused.code == 1
    assert re.search("unauthorized|401", refused.err, re.IGNORECASE)


def test_whole_registry_opens_a_model_for_the_same_login(front: Proxied, tls: Tls) -> None:
    repository = "deploy/whole/opened"
    headers = content.login(front.upstream.url, repository, CREDENTIAL)
    content.push(
        front.upstream.url, repository, "v1", content.model_pack("opened"), headers=headers
    )
    url = f"{front.proxy.url}/cnai/{repository}:v1/readme"

    opened = recipes.ask("GET", url, tls=tls, headers={"Authorization": CREDENTIAL.basic})
    refused = recipes.ask("GET", url, tls=tls)

    assert (opened.status, opened.body) == (200, b"# opened\n")
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Basic ")
