"""oras in Go and oras-py: artifacts, attachments, copies with their referrers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import oras.client
import pytest

from tests import build
from tests.components import content
from tests.components.programs import Ran, require, run
from tests.components.registries import CREDENTIAL, WRONG, Proxied, Server

CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
FILES = {
    "README.md": (b"# by oras\n", build.layer_type("doc")),
    "model.safetensors": (
        build.safetensors({"w": ("F32", (2, 2), bytes(16))}),
        build.layer_type("weight"),
    ),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with ``FILES`` and their config."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, (body, _) in FILES.items():
        (folder / name).write_bytes(body)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(params=["docker-registry", "embedded"])
def server(request: pytest.FixtureRequest) -> Server:
    """The proxy before a registry without the referrers API, and before one with it."""
    if request.param == "embedded":
        found = request.getfixturevalue("proxied_embedded")
    else:
        found = request.getfixturevalue("proxied").proxy
    assert isinstance(found, Server)
    return found


def oras_go(*words: str | Path, cwd: Path, check: bool = True) -> Ran:
    # A login file of its own, so that nobody's real one is read.
    return run([require("oras"), *words], env={"DOCKER_CONFIG": str(cwd)}, cwd=cwd, check=check)


def push_model(host: str, repository: str, model: Path, *, login: Sequence[str] = ()) -> str:
    """Push ``FILES`` as a ModelPack and return the manifest's digest."""
    found = oras_go(
        *("push", "--plain-http", "--format=json", *login),
        *("--config", f"config.json:{CONFIG_TYPE}"),
        *("--artifact-type", "application/vnd.cncf.model.manifest.v1+json"),
        f"{host}/{repository}:v1",
        *(f"{name}:{kind}" for name, (_, kind) in FILES.items()),
        cwd=model,
    )
    return str(json.loads(found.out)["digest"])


def holds_files(folder: Path) -> bool:
    return {f.name: f.read_bytes() for f in folder.iterdir()} == {
        name: body for name, (body, _) in FILES.items()
    }


def test_oras_push_and_pull_keep_digest_and_bytes(server: Server, model: Path) -> None:
    digest = push_model(server.host, "oras/model", model)

    assert content.stored_digest(server.url, "oras/model", "v1") == digest
    out = model / "out"
    oras_go("pull", "--plain-http", "-o", out, f"{server.host}/oras/model:v1", cwd=model)
    assert holds_files(out)


def test_K1_oras_push_never_leaves_the_proxy(proxied: Proxied, model: Path) -> None:
    push_model(proxied.host, "oras/through", model)

    written = proxied.written("oras/through")
    assert written["POST"] == 3
    assert written["PUT"] == 4


def test_oras_attach_is_discovered(server: Server, model: Path) -> None:
    push_model(server.host, "oras/attached", model)
    name = f"{server.host}/oras/attached:v1"
    (model / "signature").write_bytes(b"signed")
    kind = "application/vnd.example.signature"

    oras_go(
        *("attach", "--plain-http", "--artifact-type", kind, name, "signature:text/plain"),
        cwd=model,
    )

    found = oras_go("discover", "--plain-http", "--format=json", "--depth=1", name, cwd=model)
    (referrer,) = json.loads(found.out)["referrers"]
    assert referrer["artifactType"] == kind
    none = oras_go(
        *("discover", "--plain-http", "--format=json", "--artifact-type=other/type", name),
        cwd=model,
    )
    assert not json.loads(none.out)["referrers"]


def test_oras_copy_takes_the_referrers_along(server: Server, model: Path) -> None:
    digest = push_model(server.host, "oras/copied", model)
    source, target = f"{server.host}/oras/copied:v1", f"{server.host}/oras/copied-to:v1"
    (model / "sbom").write_bytes(b"{}")
    oras_go(
        *("attach", "--plain-http", "--artifact-type=example/sbom", source, "sbom:text/plain"),
        cwd=model,
    )

    oras_go("cp", "-r", "--from-plain-http", "--to-plain-http", source, target, cwd=model)

    assert content.stored_digest(server.url, "oras/copied-to", "v1") == digest
    found = oras_go("discover", "--plain-http", "--format=json", target, cwd=model)
    assert [each["artifactType"] for each in json.loads(found.out)["referrers"]] == ["example/sbom"]


def test_oras_login_with_the_right_password_pushes_and_pulls(guarded: Proxied, model: Path) -> None:
    login = ("-u", CREDENTIAL.username, "-p", CREDENTIAL.password)

    push_model(guarded.host, "oras/guarded", model, login=login)

    out = model / "out"
    oras_go("pull", "--plain-http", *login, "-o", out, f"{guarded.host}/oras/guarded:v1", cwd=model)
    assert holds_files(out)


def test_oras_login_with_a_wrong_password_is_refused(guarded: Proxied, model: Path) -> None:
    login = ("-u", WRONG.username, "-p", WRONG.password)

    refused = oras_go(
        "pull", "--plain-http", *login, f"{guarded.host}/oras/guarded:v1", cwd=model, check=False
    )

    assert refused.code != 0
    assert "401" in refused.err or "unauthorized" in refused.err.lower()


@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_K1_oras_py_push_and_pull_keep_the_bytes(
    proxied: Proxied, model: Path, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    repository = f"oras-py/{'chunked' if chunked else 'whole'}"
    client = oras.client.OrasClient(hostname=proxied.host, insecure=True)

    client.push(
        target=f"{proxied.host}/{repository}:v1",
        files=[f"{name}:{kind}" for name, (_, kind) in FILES.items()],
        manifest_config=f"config.json:{CONFIG_TYPE}",
        do_chunked=chunked,
    )

    out = model / "out"
    client.pull(target=f"{proxied.host}/{repository}:v1", outdir=str(out))
    assert holds_files(out)
    assert client.get_tags(f"{proxied.host}/{repository}") == ["v1"]
    assert (proxied.written(repository)["PATCH"] > 0) == chunked


def test_oras_py_login_with_the_right_password_pushes(
    proxied_htpasswd: Proxied, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    host = proxied_htpasswd.host
    client = oras.client.OrasClient(hostname=host, insecure=True, auth_backend="basic")
    client.auth.set_basic_auth(CREDENTIAL.username, CREDENTIAL.password)

    client.push(target=f"{host}/oras-py/guarded:v1", files=[f"README.md:{FILES['README.md'][1]}"])

    assert proxied_htpasswd.written("oras-py/guarded")["PUT"] >= 2
