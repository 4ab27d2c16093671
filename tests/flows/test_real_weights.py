"""Models as people use them, in each packing, through a real registry: files, ranges, archives."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile  # noqa: TID251 - reads what the proxy wrote
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from safetensors.numpy import load

from tests.components import content, weights
from tests.components.registries import Server, docker_registry
from tests.flows.conftest import StartProxy
from tests.flows.http import Client
from tests.flows.pushing import files_target
from tests.producers import modctl
from tests.producers.artifact import PACKINGS

REFERENCE = "/cnai/real/model:v1"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Server]:
    with docker_registry(tmp_path) as server:
        yield server


@pytest.mark.parametrize("packing", ["raw", "tar+gzip"])
async def test_silero_opens(packing: str, registry: Server, start_proxy: StartProxy) -> None:
    model = weights.files_of(weights.SILERO, below="silero_vad/data")
    proxy = await _pushed(model, packing, registry, start_proxy)
    await _assert_opens(proxy, model, tensors_in="silero_vad_16k.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("packing", PACKINGS)
async def test_minilm_opens(packing: str, registry: Server, start_proxy: StartProxy) -> None:
    model = weights.files_of(weights.MINILM, below="model")
    proxy = await _pushed(model, packing, registry, start_proxy)
    await _assert_opens(proxy, model, tensors_in="model.safetensors")
    assert (await proxy.get(f"{REFERENCE}/readme")).body == model["README.md"]


async def _pushed(
    model: Mapping[str, bytes], packing: str, registry: Server, start_proxy: StartProxy
) -> Client:
    layers = modctl.layered("cncf", packing, groups={"weight": model})
    configuration = modctl.config("cncf", [layer.blob for layer in layers])
    maker = modctl.maker("cncf", "modctl")
    artifact = maker.artifact("real", packing, layers, config=configuration, files=model)
    await asyncio.to_thread(content.push, registry.url, "real/model", "v1", artifact.stored())
    return await start_proxy(registry.url)


async def _assert_opens(proxy: Client, model: Mapping[str, bytes], *, tensors_in: str) -> None:
    for path, expected in model.items():
        answer = await proxy.get(files_target(path, reference=REFERENCE))
        assert (answer.status, answer.body == expected) == (200, True), path
    shown = files_target(tensors_in, reference=REFERENCE)
    head = (await proxy.get(shown, Range="bytes=0-7")).body
    header = await proxy.get(shown, Range=f"bytes=8-{7 + int.from_bytes(head, 'little')}")
    assert set(json.loads(header.body)) - {"__metadata__"} == set(load(model[tensors_in]))
    listed = (await proxy.get(f"{REFERENCE}/files?flat=1")).json
    assert {entry["path"]: entry["size"] for entry in listed} == {
        path: len(expected) for path, expected in model.items()
    }
    archive = await proxy.get(f"{REFERENCE}/archive.tar?exclude=*.safetensors")
    with tarfile.open(fileobj=io.BytesIO(archive.body)) as tar:
        names = set(tar.getnames())
    assert names == {path for path in model if not path.endswith(".safetensors")}
