from __future__ import annotations

from pathlib import Path

import pytest
from modelpack_client import (
    ModelDescriptor,
    ModelLayer,
    ModelPackClient,
    ModelPackConfig,
    ModelTechnicalConfig,
)

from tests import build
from tests.components import content
from tests.components.registries import CREDENTIAL, Proxied

README = b"# by modelpack-client\n"
WEIGHTS = build.safetensors({"w": ("F32", (4,), bytes(16))})


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder, as working directory: the client names files relative to it."""
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "README.md").write_bytes(README)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample.txt").write_bytes(b"a sample")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def push(client: ModelPackClient, name: str) -> None:
    client.push(
        name,
        layers=[
            ModelLayer("model.safetensors"),
            ModelLayer("README.md", media_type=build.layer_type("doc")),
            ModelLayer("data", media_type=build.layer_type("dataset", "tar+zstd")),
        ],
        config=ModelPackConfig(
            descriptor=ModelDescriptor(name="m"), config=ModelTechnicalConfig(format="safetensors")
        ),
    )


def test_K1_modelpack_client_push_and_pull_keep_the_bytes(proxied: Proxied, model: Path) -> None:
    client = ModelPackClient(insecure=True)
    name = f"{proxied.host}/modelpack/model:v1"

    push(client, name)

    client.pull(name, "out")
    assert (model / "out" / "model.safetensors").read_bytes() == WEIGHTS
    assert (model / "out" / "README.md").read_bytes() == README
    assert (model / "out" / "data" / "sample.txt").read_bytes() == b"a sample"
    assert proxied.written("modelpack/model")["PUT"] == 5


def test_modelpack_client_pull_takes_what_another_client_stored(
    proxied: Proxied, model: Path
) -> None:
    artifact = content.model_pack("stored")
    content.push(proxied.upstream.url, "modelpack/stored", "v1", artifact)

    ModelPackClient(insecure=True).pull(f"{proxied.host}/modelpack/stored:v1", "out")

    assert (model / "out" / "model.safetensors").read_bytes() == artifact.blobs[1]
    assert (model / "out" / "README.md").read_bytes() == artifact.blobs[2]


def test_modelpack_client_login_with_the_right_password_pushes_and_pulls(
    proxied_htpasswd: Proxied, model: Path
) -> None:
    client = ModelPackClient(insecure=True, auth_backend="basic")
    client.login(
        proxied_htpasswd.host,
        username=CREDENTIAL.username,
        password=CREDENTIAL.password,
        config_path=str(model / "login.json"),
    )
    name = f"{proxied_htpasswd.host}/modelpack/guarded:v1"

    push(client, name)

    client.pull(name, "out")
    assert (model / "out" / "model.safetensors").read_bytes() == WEIGHTS
