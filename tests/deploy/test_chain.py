"""A proxy behind a proxy: ``deploy/chain-outer.yaml`` before ``deploy/chain-inner.yaml``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.components import content
from tests.components.engines import Docker
from tests.components.programs import require, run
from tests.components.registries import CREDENTIAL, WRONG, Proxied, Server
from tests.components.tokens import TokenService
from tests.deploy import recipes
from tests.deploy.recipes import Tls


@dataclass(frozen=True, slots=True)
class Chain:
    """Both proxies and the registry with tokens behind them."""

    outer: Server
    inner: Server
    registry: Server

    def hold(self, repository: str, name: str) -> content.Artifact:
        """Place a model directly in the registry, past both proxies."""
        headers = content.login(self.registry.url, repository, CREDENTIAL)
        model = content.model_pack(name)
        content.push(self.registry.url, repository, "v1", model, headers=headers)
        return model


@pytest.fixture(scope="module")
def chain(
    token_registry: Server,
    tokens: TokenService,
    tls: Tls,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    """The recipe: a prefix outside, plain names inside."""
    inner_changes = {"http://127.0.0.1:5000": token_registry.url, "auth.example": tokens.origin}
    inner_folder = tmp_path_factory.mktemp("chain-inner")
    with recipes.proxy(inner_folder, "chain-inner.yaml", inner_changes) as inner:
        port = recipes.free_port()
        outer_changes = {
            "https://outer.example": f"https://127.0.0.1:{port}",
            "http://inner.example:8080": inner.url,
            "auth.example": tokens.origin,
            **tls.changes("/etc/cnai-proxy"),
        }
        outer_folder = tmp_path_factory.mktemp("chain-outer")
        with recipes.proxy(outer_folder, "chain-outer.yaml", outer_changes, port=port) as outer:
            yield Chain(outer, inner, token_registry)


def test_chain_pulls_a_model_by_its_outer_name(chain: Chain, tls: Tls, tmp_path: Path) -> None:
    model = chain.hold("deploy/chain/pull", "pulled through two")

    _copy(tls, f"{chain.outer.host}/site/deploy/chain/pull", f"{tmp_path}/pulled")

    assert (tmp_path / "pulled" / "manifest.json").read_bytes() == model.manifest


def test_K1_chain_push_goes_through_both(chain: Chain, tls: Tls) -> None:
    model = chain.hold("deploy/chain/source", "pushed through two")

    run(
        [
            *(require("skopeo"), "copy", "--preserve-digests"),
            *("--src-creds", CREDENTIAL.pair, "--src-tls-verify=false"),
            *("--dest-creds", CREDENTIAL.pair, "--dest-cert-dir", tls.cert_dir),
            f"docker://{chain.registry.host}/deploy/chain/source:v1",
            f"docker://{chain.outer.host}/site/deploy/chain/push:v1",
        ]
    )

    headers = content.login(chain.registry.url, "deploy/chain/push", CREDENTIAL)
    stored = content.stored_digest(chain.registry.url, "deploy/chain/push", "v1", headers=headers)
    assert stored == str(model.digest)
    inside = Proxied(chain.inner, chain.registry).written("deploy/chain/push")
    outside = Proxied(chain.outer, chain.registry).written("deploy/chain/push", prefix="site")
    assert inside == outside
    assert inside["PUT"] >= 1


def test_chain_docker_logs_in_pulls_and_pushes(chain: Chain, docker: Docker) -> None:
    artifact = content.container("through two proxies")
    headers = content.login(chain.registry.url, "deploy/chain/docker", CREDENTIAL)
    content.push(chain.registry.url, "deploy/chain/docker", "v1", artifact, headers=headers)
    name = f"{chain.outer.host}/site/deploy/chain/docker"

    login = ("login", "-u", CREDENTIAL.username, "--password-stdin", chain.outer.host)
    docker(*login, text=CREDENTIAL.password)
    try:
        docker("pull", f"{name}:v1")
        docker("tag", f"{name}:v1", f"{name}:v2")
        docker("push", f"{name}:v2")
    finally:
        docker("logout", chain.outer.host)

    content.stored_manifest(chain.registry.url, "deploy/chain/docker", "v2", headers=headers)


def test_chain_docker_with_a_wrong_password_is_refused(chain: Chain, docker: Docker) -> None:
    login = ("login", "-u", WRONG.username, "--password-stdin", chain.outer.host)

    refused = docker(*login, text=WRONG.password, check=False)

    assert refused.code == 1
    assert "unauthorized" in refused.err.lower()


def test_chain_of_two_prefixes_translates_names_and_scopes_twice(
    token_registry: Server, tokens: TokenService, tls: Tls, tmp_path: Path
) -> None:
    headers = content.login(token_registry.url, "deploy/chain/twice", CREDENTIAL)
    model = content.model_pack("twice")
    content.push(token_registry.url, "deploy/chain/twice", "v1", model, headers=headers)
    port = recipes.free_port()
    folders = tmp_path / "inner", tmp_path / "outer"
    for folder in folders:
        folder.mkdir()
    inner_changes = {
        "  - name: registry\n": "  - name: registry\n    prefix: team\n",
        "http://127.0.0.1:5000": token_registry.url,
        "auth.example": tokens.origin,
    }
    with recipes.proxy(folders[0], "chain-inner.yaml", inner_changes) as inner:
        # The inner proxy is the outer one's token service now, on the upstream's own address.
        outer_changes = {
            "https://outer.example": f"https://127.0.0.1:{port}",
            "http://inner.example:8080": inner.url,
            **tls.changes("/etc/cnai-proxy"),
        }
        with recipes.proxy(folders[1], "chain-outer.yaml", outer_changes, port=port) as outer:
            _copy(tls, f"{outer.host}/site/team/deploy/chain/twice", f"{tmp_path}/pulled")
            readme = recipes.ask(
                *("GET", f"{outer.url}/cnai/site/team/deploy/chain/twice:v1/readme"),
                tls=tls,
                headers={"Authorization": CREDENTIAL.basic},
            )

    assert (tmp_path / "pulled" / "manifest.json").read_bytes() == model.manifest
    assert readme.body == b"# twice\n"


def _copy(tls: Tls, source: str, folder: str) -> None:
    run(
        [
            *(require("skopeo"), "copy", "--src-creds", CREDENTIAL.pair),
            *("--src-cert-dir", tls.cert_dir, f"docker://{source}:v1", f"dir:{folder}"),
        ]
    )


def test_chain_with_a_wrong_password_is_refused(chain: Chain, tls: Tls) -> None:
    chain.hold("deploy/chain/refused", "refused")
    name = f"docker://{chain.outer.host}/site/deploy/chain/refused:v1"
    words = ("inspect", "--raw", "--cert-dir", tls.cert_dir, "--creds", WRONG.pair, name)

    refused = run([require("skopeo"), *words], check=False)

    assert refused.code == 1
    assert "unauthorized" in refused.err or "invalid username/password" in refused.err


def test_chain_opens_a_model_by_its_outer_name(chain: Chain, tls: Tls) -> None:
    chain.hold("deploy/chain/opened", "opened")
    url = f"{chain.outer.url}/cnai/site/deploy/chain/opened:v1"
    headers = {"Authorization": CREDENTIAL.basic}

    record = recipes.ask("GET", url, tls=tls, headers=headers)
    readme = recipes.ask("GET", f"{url}/readme", tls=tls, headers=headers)
    refused = recipes.ask("GET", f"{url}/readme", tls=tls)

    assert record.status == 200
    assert b'"site/deploy/chain/opened"' in record.body
    assert readme.body == b"# opened\n"
    assert refused.status == 401


def test_chain_a_name_without_the_prefix_is_404(chain: Chain, tls: Tls) -> None:
    url = f"{chain.outer.url}/v2/deploy/chain/opened/manifests/v1"

    refused = recipes.ask("GET", url, tls=tls)

    assert refused.status == 404
    assert b"NAME_UNKNOWN" in refused.body


def test_chain_a_ring_of_two_is_508(tmp_path: Path) -> None:
    ports = recipes.free_port(), recipes.free_port()
    folders = tmp_path / "one", tmp_path / "two"
    with ExitStack() as stack:
        for folder, port, other in zip(folders, ports, reversed(ports), strict=True):
            folder.mkdir()
            changes = {"http://127.0.0.1:5000": f"http://127.0.0.1:{other}"}
            stack.enter_context(recipes.proxy(folder, "chain-inner.yaml", changes, port=port))

        for path in ("/v2/", "/v2/a/b/manifests/v1", "/cnai/a/b:v1"):
            answer = recipes.ask("GET", f"http://127.0.0.1:{ports[0]}{path}")
            assert (path, answer.status) == (path, 508)
