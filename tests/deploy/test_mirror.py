"""containerd's mirror of several registries: ``deploy/mirror.yaml`` with both ``hosts`` files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.components import content
from tests.components.engines import Containerd
from tests.components.registries import CREDENTIAL, Server
from tests.components.tokens import TokenService
from tests.deploy import recipes
from tests.deploy.recipes import Tls

# Hosts that nobody resolves: a pull that went around the proxy would fail.
_HUB, _TEAM, _OLD, _UNKNOWN = "hub.invalid", "team.invalid", "old-team.invalid", "other.invalid"


@dataclass(frozen=True, slots=True)
class Mirror:
    """The proxy, and containerd's folders of ``hosts.toml``."""

    proxy: Server
    hub: Server
    team: Server
    by_namespace: str
    by_prefix: str


@pytest.fixture(scope="module")
def mirror(
    docker_registry: Server,
    token_registry: Server,
    tokens: TokenService,
    tls: Tls,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mirror]:
    """One upstream open to everybody, one with a login."""
    folder = tmp_path_factory.mktemp("mirror")
    port = recipes.free_port()
    url = f"https://127.0.0.1:{port}"
    changes = {
        "https://registry-1.docker.io": docker_registry.url,
        "[docker.io]": f"[{_HUB}]",
        "https://registry.example": token_registry.url,
        "[registry.example, old-registry.example]": f"[{_TEAM}, {_OLD}]",
        "https://proxy.example": url,
        "auth.example": tokens.origin,
        **tls.changes("/etc/cnai-proxy"),
    }
    node = {"https://proxy.example": url, "/etc/containerd/proxy-ca.crt": str(tls.ca_file)}
    by_namespace = _hosts(folder / "by-namespace", "_default", recipes.read("hosts.toml", node))
    by_prefix = _hosts(folder / "by-prefix", _TEAM, recipes.read("hosts-prefix.toml", node))
    with recipes.proxy(folder, "mirror.yaml", changes, port=port) as server:
        yield Mirror(server, docker_registry, token_registry, by_namespace, by_prefix)


def _hosts(folder: Path, host: str, text: str) -> str:
    (folder / host).mkdir(parents=True)
    (folder / host / "hosts.toml").write_text(text)
    return str(folder)


def _queries(mirror: Mirror, repository: str) -> set[object]:
    return {
        line.get("upstream")
        for line in recipes.access_lines(mirror.proxy)
        if line.get("repository") == repository
    }


def test_mirror_pull_by_namespace_comes_from_the_open_upstream(
    mirror: Mirror, containerd: Containerd
) -> None:
    artifact = content.container("from the hub")
    content.push(mirror.hub.url, "deploy/mirror/open", "v1", artifact)
    name = f"{_HUB}/deploy/mirror/open:v1"

    pull = ("images", "pull", "--hosts-dir", mirror.by_namespace, "--snapshotter=native")
    containerd("mirror-open", *pull, name)

    held = containerd("mirror-open", "images", "list", f"name=={name}").out
    assert str(artifact.digest) in held
    assert _queries(mirror, "deploy/mirror/open") == {"hub"}


@pytest.mark.parametrize("host", [_TEAM, _OLD])
def test_mirror_pull_by_namespace_comes_from_the_upstream_with_a_login(
    mirror: Mirror, containerd: Containerd, host: str
) -> None:
    repository = f"deploy/mirror/{host.partition('.')[0]}"
    headers = content.login(mirror.team.url, repository, CREDENTIAL)
    artifact = content.container(f"from {host}")
    content.push(mirror.team.url, repository, "v1", artifact, headers=headers)
    name = f"{host}/{repository}:v1"

    pull = ("images", "pull", "--hosts-dir", mirror.by_namespace, "--snapshotter=native")
    containerd(host, *pull, "--user", CREDENTIAL.pair, name)

    held = containerd(host, "images", "list", f"name=={name}").out
    assert str(artifact.digest) in held
    assert _queries(mirror, repository) == {"team"}


def test_mirror_same_name_in_two_namespaces_is_two_repositories(
    mirror: Mirror, containerd: Containerd
) -> None:
    headers = content.login(mirror.team.url, "deploy/mirror/both", CREDENTIAL)
    ours, theirs = content.container("both: team"), content.container("both: hub")
    content.push(mirror.team.url, "deploy/mirror/both", "v1", ours, headers=headers)
    content.push(mirror.hub.url, "deploy/mirror/both", "v1", theirs)

    for host, login in ((_HUB, ()), (_TEAM, ("--user", CREDENTIAL.pair))):
        pull = ("images", "pull", "--hosts-dir", mirror.by_namespace, "--snapshotter=native")
        containerd("mirror-both", *pull, *login, f"{host}/deploy/mirror/both:v1")

    lines = containerd("mirror-both", "images", "list").out.splitlines()
    digests = {line.split()[0].partition("/")[0]: line.split()[2] for line in lines[1:]}
    assert digests == {_HUB: str(theirs.digest), _TEAM: str(ours.digest)}


def test_mirror_pull_of_an_unknown_namespace_is_404(mirror: Mirror, tls: Tls) -> None:
    url = f"{mirror.proxy.url}/v2/deploy/mirror/open/manifests/v1?ns={_UNKNOWN}"

    refused = recipes.ask("GET", url, tls=tls)

    assert refused.status == 404
    assert b"NAME_UNKNOWN" in refused.body


def test_mirror_pull_by_prefix_with_override_path(mirror: Mirror, containerd: Containerd) -> None:
    repository = "deploy/mirror/prefixed"
    headers = content.login(mirror.team.url, repository, CREDENTIAL)
    artifact = content.container("by override_path")
    content.push(mirror.team.url, repository, "v1", artifact, headers=headers)
    name = f"{_TEAM}/{repository}:v1"

    pull = ("images", "pull", "--hosts-dir", mirror.by_prefix, "--snapshotter=native")
    containerd("mirror-prefix", *pull, "--user", CREDENTIAL.pair, name)

    held = containerd("mirror-prefix", "images", "list", f"name=={name}").out
    assert str(artifact.digest) in held
    assert _queries(mirror, f"team/{repository}") == {"team"}


def test_mirror_pull_without_login_is_refused_and_goes_nowhere_else(
    mirror: Mirror, containerd: Containerd
) -> None:
    name = f"{_TEAM}/deploy/mirror/refused:v1"

    pull = ("images", "pull", "--hosts-dir", mirror.by_prefix, "--snapshotter=native")
    refused = containerd("mirror-refused", *pull, name, check=False)

    assert refused.code == 1
    assert "401 Unauthorized" in refused.err or "authorization failed" in refused.err
    assert "no such host" not in refused.err


def test_mirror_takes_no_writes(mirror: Mirror, tls: Tls) -> None:
    refused = recipes.ask("POST", f"{mirror.proxy.url}/v2/hub/a/blobs/uploads/", tls=tls)

    assert refused.status == 405
    assert b"UNSUPPORTED" in refused.body
