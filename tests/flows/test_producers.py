"""Real weights packed by real producers, through a real registry: every way to open them.

What the producers are imitated by is held in ``tests/producers``; here they are themselves.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import sys
import tarfile  # noqa: TID251 - writes what a base image has, reads what the proxy wrote
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from proxy.oci.digest import Digest
from tests.build import layer_type, tar_archive
from tests.components import weights
from tests.components.programs import require, run
from tests.components.registries import Server, docker_registry
from tests.flows.conftest import StartProxy
from tests.flows.http import Client
from tests.flows.pushing import files_target

SAFETENSORS = "model.safetensors"
ONNX = "onnx/model.onnx"
README = b"# Silero VAD\n\nSays where somebody speaks.\n"

_OLOT = [sys.executable, "-c", "from olot.cli import cli; cli()"]
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_IMAGE_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with docker_registry(folder) as server:
        yield server


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A model's files by path; its folder is the working directory, as producers name files."""
    packed = weights.files_of(weights.SILERO, below="silero_vad/data")
    files = {
        SAFETENSORS: packed["silero_vad_16k.safetensors"],
        ONNX: packed["silero_vad.onnx"],
        "README.md": README,
        "LICENSE": b"MIT License\n",
        "config.json": b'{"model_type": "vad"}',
        "sub/words.txt": "größer\n".encode(),
    }
    folder = tmp_path / "model"
    for path, body in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    monkeypatch.chdir(folder)
    return files


async def test_olot_modelcar_opens(
    registry: Server, model: dict[str, bytes], tmp_path: Path, start_proxy: StartProxy
) -> None:
    await asyncio.to_thread(_olot, tmp_path / "car", model, platforms=["amd64"])
    name = f"{registry.host}/olot/car:v1"
    await asyncio.to_thread(_copy, tmp_path / "car", name)
    proxy = await start_proxy(registry.url)
    # The base image's own file is not there.
    expected = {f"models/{path}": body for path, body in model.items()}
    await _assert_opens(proxy, "/cnai/olot/car:v1", expected, family="modelcar")


async def test_olot_index_leads_to_modelpack_and_by_platform_to_modelcars(
    registry: Server, model: dict[str, bytes], tmp_path: Path, start_proxy: StartProxy
) -> None:
    layout = tmp_path / "both"
    flat = {path: body for path, body in model.items() if "/" not in path}
    platforms = ["amd64", "arm64"]
    await asyncio.to_thread(_olot, layout, flat, "--add-modelpack", platforms=platforms)
    await asyncio.to_thread(_copy, layout, f"{registry.host}/olot/both:v1", "--all")
    proxy = await start_proxy(registry.url)
    reference = "/cnai/olot/both:v1"
    await _assert_opens(proxy, reference, flat, family="modelpack")
    expected = {f"models/{path}": body for path, body in flat.items()}
    for platform in platforms:
        query = f"platform=linux/{platform}"
        await _assert_opens(proxy, reference, expected, family="modelcar", query=query)


async def test_oras_files_open(
    registry: Server, model: dict[str, bytes], start_proxy: StartProxy
) -> None:
    target = f"{registry.host}/oras/files:v1"
    command = [require("oras"), "push", "--plain-http", target, *model]
    await asyncio.to_thread(run, command)
    proxy = await start_proxy(registry.url)
    await _assert_opens(proxy, "/cnai/oras/files:v1", model, family="generic")


async def test_oras_folders_open(
    registry: Server, model: dict[str, bytes], start_proxy: StartProxy
) -> None:
    names = [SAFETENSORS, "README.md", "LICENSE", "config.json", "onnx", "sub/"]
    target = f"{registry.host}/oras/folders:v1"
    command = [require("oras"), "push", "--plain-http", target, *names]
    await asyncio.to_thread(run, command)
    proxy = await start_proxy(registry.url)
    await _assert_opens(proxy, "/cnai/oras/folders:v1", model, family="generic")


async def test_oras_with_the_types_of_modelpack_opens(
    registry: Server, model: dict[str, bytes], start_proxy: StartProxy
) -> None:
    kinds = {SAFETENSORS: "weight", ONNX: "weight", "config.json": "weight.config"}
    files = [f"{path}:{layer_type(kinds.get(path, 'doc'))}" for path in model]
    kind = "application/vnd.cncf.model.manifest.v1+json"
    target = f"{registry.host}/oras/typed:v1"
    push = [require("oras"), "push", "--plain-http", "--artifact-type", kind]
    await asyncio.to_thread(run, [*push, target, *files])
    proxy = await start_proxy(registry.url)
    await _assert_opens(proxy, "/cnai/oras/typed:v1", model, family="modelpack")


async def test_oras_py_files_and_folders_open(
    registry: Server, model: dict[str, bytes], start_proxy: StartProxy
) -> None:
    client = pytest.importorskip("oras.client", reason="pip install oras")
    oras = client.OrasClient(insecure=True, tls_verify=False)
    # Of a file in a folder it keeps the name alone, so folders go as such.
    names = [SAFETENSORS, "README.md", "LICENSE", "config.json", "onnx", "sub"]
    await asyncio.to_thread(oras.push, files=names, target=f"{registry.host}/oras/python:v1")
    proxy = await start_proxy(registry.url)
    await _assert_opens(proxy, "/cnai/oras/python:v1", model, family="generic")


@pytest.mark.parametrize("packing", ["tar", "tar+gzip", "tar+zstd"])
async def test_modelpack_client_files_and_folders_open(
    packing: str, registry: Server, model: dict[str, bytes], start_proxy: StartProxy
) -> None:
    producer = pytest.importorskip("modelpack_client", reason="pip install modelpack-client")
    kinds = {
        SAFETENSORS: layer_type("weight"),
        "config.json": layer_type("weight.config"),
        "README.md": layer_type("doc"),
        "LICENSE": layer_type("doc"),
        "onnx": layer_type("weight", packing),
        "sub": layer_type("dataset", packing),
    }
    config = producer.ModelPackConfig(
        descriptor=producer.ModelDescriptor(name="silero-vad", licenses=["MIT"]),
        config=producer.ModelTechnicalConfig(format="safetensors"),
    )
    await asyncio.to_thread(
        producer.ModelPackClient(insecure=True).push,
        f"{registry.host}/modelpack/client:v1",
        layers=[producer.ModelLayer(path, media_type=kind) for path, kind in kinds.items()],
        config=config,
    )
    proxy = await start_proxy(registry.url)
    reference = "/cnai/modelpack/client:v1"
    record = await _assert_opens(proxy, reference, model, family="modelpack")
    found = record["name"], record["format"], record["licenses"]
    assert found == ("silero-vad", "safetensors", ["MIT"])


def _olot(
    layout: Path, model: Mapping[str, bytes], *flags: str, platforms: list[str] | None = None
) -> None:
    """Put the model on top of a base image, one for each platform."""
    pytest.importorskip("olot", reason="pip install olot")
    _write_base(layout, platforms or ["amd64"])
    files = [path for path in model if path != "README.md"]
    run([*_OLOT, layout, *flags, "--root-dir", ".", "-m", "README.md", *files])


def _write_base(layout: Path, platforms: list[str]) -> None:
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def store(media_type: str, body: bytes) -> dict[str, object]:
        digest = Digest.of(body)
        (blobs / digest.hex).write_bytes(body)
        return {"mediaType": media_type, "digest": str(digest), "size": len(body)}

    archive = tar_archive({"etc/os-release": b"NAME=base\n"})
    layer = store(_IMAGE_LAYER, gzip.compress(archive, mtime=0))
    entries = []
    for architecture in platforms:
        platform = {"architecture": architecture, "os": "linux"}
        config = {
            **platform,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(archive))]},
            "history": [{"created_by": "base"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": store(_IMAGE_CONFIG, json.dumps(config).encode()),
            "layers": [layer],
        }
        entries.append({**store(_MANIFEST, json.dumps(manifest).encode()), "platform": platform})
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}
    root = entries[0] if len(entries) == 1 else store(_INDEX, json.dumps(index).encode())
    root["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [root]}))


def _copy(layout: Path, target: str, *flags: str) -> None:
    # Else skopeo packs plain layers anew and drops the annotations that olot gave them.
    fixed = ["--preserve-digests", "--dest-tls-verify=false"]
    skopeo = require("skopeo")
    run([skopeo, "copy", "-q", *fixed, *flags, f"oci:{layout}:v1", f"docker://{target}"])


async def _assert_opens(
    proxy: Client,
    reference: str,
    model: Mapping[str, bytes],
    *,
    family: str,
    query: str = "",
) -> dict[str, object]:
    """The record; all of ``model`` is there with its bytes, by file, Range, text and archive."""
    suffix, more = (f"?{query}", f"&{query}") if query else ("", "")
    record: dict[str, object] = (await proxy.get(f"{reference}{suffix}")).json
    assert (record["family"], record["warnings"]) == (family, [])
    listed = (await proxy.get(f"{reference}/files?flat=1{more}")).json
    sizes = {path: len(body) for path, body in model.items()}
    assert {entry["path"]: entry["size"] for entry in listed} == sizes
    assert all(entry["exact"] and not entry.get("warnings") for entry in listed)
    told = {entry["path"]: entry["sha256"] for entry in listed if entry["sha256"]}
    assert told == {path: hashlib.sha256(model[path]).hexdigest() for path in told}
    assert _paths((await proxy.get(f"{reference}/files{suffix}")).json) == set(model)
    for path, body in model.items():
        target = files_target(path, reference=reference) + suffix
        whole = await proxy.get(target)
        assert (whole.status, whole.body == body) == (200, True), path
        middle = len(body) // 2
        for asked, part in (("-4", body[-4:]), (f"{middle}-{middle + 3}", body[middle:][:4])):
            answer = await proxy.get(target, Range=f"bytes={asked}")
            assert (answer.status, answer.body) == (206, part), path
        unchanged = await proxy.get(target, **{"If-None-Match": whole.headers["ETag"]})
        assert unchanged.status == 304
    for view, name in (("readme", "README.md"), ("license", "LICENSE")):
        (text,) = (body for path, body in model.items() if path.rpartition("/")[2] == name)
        assert (await proxy.get(f"{reference}/{view}{suffix}")).body == text
    archive = await proxy.get(f"{reference}/archive.tar{suffix}")
    assert archive.headers["Content-Length"] == str(len(archive.body))
    with tarfile.open(fileobj=io.BytesIO(archive.body)) as tar:
        assert {one.name: _read(tar, one) for one in tar if one.isfile()} == model
    archive = await proxy.get(f"{reference}/archive.zip{suffix}")
    with zipfile.ZipFile(io.BytesIO(archive.body)) as packed:
        names = [name for name in packed.namelist() if not name.endswith("/")]
        assert {name: packed.read(name) for name in names} == model
    some = (await proxy.get(f"{reference}/files?flat=1&include=*.onnx&include=*.md{more}")).json
    assert {one["path"] for one in some} == {p for p in model if p.endswith((".onnx", ".md"))}
    return record


def _paths(nodes: list[dict[str, object]]) -> set[str]:
    """The files of a nested listing."""
    found: set[str] = set()
    for node in nodes:
        if node["type"] == "file":
            found.add(str(node["path"]))
        children = node.get("children")
        if isinstance(children, list):
            found |= _paths(children)
    return found


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    reader = archive.extractfile(member)
    assert reader is not None
    return reader.read()


async def test_oras_empty_file_opens(
    registry: Server, model: dict[str, bytes], start_proxy: StartProxy
) -> None:
    model = {**model, "sub/__init__.py": b""}
    Path("sub/__init__.py").touch()
    target = f"{registry.host}/oras/empty:v1"
    await asyncio.to_thread(run, [require("oras"), "push", "--plain-http", target, *model])
    proxy = await start_proxy(registry.url)
    answer = await proxy.get(files_target("sub/__init__.py", reference="/cnai/oras/empty:v1"))
    assert (answer.status, answer.body) == (200, b"")


async def test_olot_modelcar_that_lost_its_marks_opens_with_a_warning(
    registry: Server, model: dict[str, bytes], tmp_path: Path, start_proxy: StartProxy
) -> None:
    layout = tmp_path / "car"
    await asyncio.to_thread(_olot, layout, model, platforms=["amd64"])
    target = f"docker://{registry.host}/olot/lost:v1"
    copy = [require("skopeo"), "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v1", target]
    await asyncio.to_thread(run, copy)
    proxy = await start_proxy(registry.url)
    listed = (await proxy.get("/cnai/olot/lost:v1/files?flat=1")).json
    record = (await proxy.get("/cnai/olot/lost:v1")).json
    assert {one["path"] for one in listed} == {f"models/{path}" for path in model}
    assert "lost their annotations" in record["warnings"][0]
