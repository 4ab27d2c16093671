"""Every artifact of every producer, through a real registry: all its files open, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.components import content
from tests.components.registries import Server, docker_registry, embedded_registry
from tests.flows.conftest import StartProxy
from tests.flows.http import Client
from tests.flows.pushing import files_target
from tests.producers.artifact import Artifact
from tests.producers.catalogue import EVERY

# What docker-registry 2.8 does not store; the embedded registry does.
_NOT_STORED = {
    "cnai-draft-january": "a manifest of another media type",
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with embedded_registry(tmp_path_factory.mktemp("embedded")) as server:
        yield server


@pytest.mark.parametrize("label", sorted(EVERY))
async def test_artifact_opens(
    label: str, start_proxy: StartProxy, request: pytest.FixtureRequest
) -> None:
    artifact = EVERY[label]
    server = request.getfixturevalue("embedded" if label in _NOT_STORED else "registry")
    repository = f"families/{label.replace('+', '-')}"
    await asyncio.to_thread(content.push, server.url, repository, "v1", artifact.stored())
    proxy = await start_proxy(server.url)
    reference = f"/cnai/{repository}:v1"
    if "" in artifact.refused:
        await _assert_refused(proxy, f"{reference}/files?flat=1", artifact.refused[""])
        if artifact.refused[""] == "variant":
            for child in artifact.children:
                await _assert_opens(proxy, reference, child, query=f"variant={child.digest}")
    else:
        await _assert_opens(proxy, reference, artifact)


@pytest.mark.parametrize("label", sorted(_NOT_STORED))
async def test_exception_is_still_one(label: str, registry: Server) -> None:
    pushed = asyncio.to_thread(
        content.push, registry.url, "families/exception", "v1", EVERY[label].stored()
    )
    with pytest.raises(AssertionError, match="status=4"):
        await pushed


async def _assert_opens(
    proxy: Client, reference: str, artifact: Artifact, *, query: str = ""
) -> None:
    """Everything opens before anything was listed, is listed, and opens again."""
    suffix = f"?{query}" if query else ""
    for path, expected in artifact.files.items():
        target = files_target(path, reference=reference) + suffix
        if expected:
            answer = await proxy.get(target, Range="bytes=-7")
            assert (answer.status, answer.body) == (206, expected[-7:]), target
        answer = await proxy.get(target)
        assert (answer.status, answer.body) == (200, expected), target
    record = await proxy.get(reference + suffix)
    assert (record.status, record.json["family"]) == (200, artifact.family)
    answer = await proxy.get(f"{reference}/files?flat=1&{query}")
    assert answer.status == 200, answer.body
    listed = {entry["path"]: entry for entry in answer.json}
    assert len(listed) == len(answer.json)
    assert set(listed) == set(artifact.files) | set(artifact.refused)
    for path, expected in artifact.files.items():
        if listed[path]["exact"]:
            assert listed[path]["size"] == len(expected)
        await _assert_file(proxy, files_target(path, reference=reference) + suffix, expected)
    for path, reason in artifact.refused.items():
        await _assert_refused(proxy, files_target(path, reference=reference) + suffix, reason)


async def _assert_file(proxy: Client, target: str, expected: bytes) -> None:
    answer = await proxy.get(target)
    assert (answer.status, answer.body) == (200, expected), target
    head = await proxy.head(target)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["ETag"] == answer.headers["ETag"]
    assert head.headers.get("Content-Length", str(len(expected))) == str(len(expected))
    middle = len(expected) // 2
    if expected:
        for wanted, part in (
            ("bytes=0-6", expected[:7]),
            (f"bytes={middle}-{middle + 6}", expected[middle : middle + 7]),
            ("bytes=-7", expected[-7:]),
        ):
            answer = await proxy.get(target, Range=wanted)
            assert (answer.status, answer.body) == (206, part), (target, wanted)


async def _assert_refused(proxy: Client, target: str, reason: str) -> None:
    # The last byte: what is packed is refused where unpacking fails, not on its way there.
    answer = await proxy.get(target, Range="bytes=-1")
    assert 400 <= answer.status < 500, (target, answer.status)
    assert reason in answer.message
