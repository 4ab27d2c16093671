from __future__ import annotations

import gzip
import io
import json
import tarfile  # noqa: TID251 - the reference reader for what we write
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from gguf import GGUFReader
from safetensors import safe_open

from proxy.embedded.layout import Layout
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor, Manifest, decode
from proxy.oci.reference import Reference, RepositoryName
from proxy.samples import Sample, write_samples

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Written:
    layout: Layout
    samples: dict[str, Sample]

    async def manifest(self, name: str) -> tuple[RepositoryName, Manifest, dict[str, object]]:
        reference = Reference.parse(self.samples[name].reference)
        stored = self.layout.find(reference.repository, reference.target)
        manifest = decode(await self.layout.read_manifest(stored))
        assert isinstance(manifest, Manifest)
        assert manifest.config is not None
        config = json.loads(await self.blob(reference.repository, manifest.config))
        return reference.repository, manifest, config

    async def blob(self, repository: RepositoryName, descriptor: Descriptor) -> bytes:
        reader = self.layout.open_blob(repository, descriptor.digest)
        try:
            content = await reader.read(0, reader.size)
        finally:
            reader.close()
        assert len(content) == descriptor.size
        assert Digest.of(content) == descriptor.digest
        return content

    async def files(self, name: str) -> dict[str, bytes]:
        repository, manifest, _ = await self.manifest(name)
        found = {}
        for layer in manifest.layers:
            blob = await self.blob(repository, layer)
            path = next(v for k, v in layer.annotations.items() if k.endswith(".filepath"))
            if layer.media_type.endswith("+gzip"):
                blob = gzip.decompress(blob)
            if ".tar" in layer.media_type:
                with tarfile.open(fileobj=io.BytesIO(blob), mode="r:") as archive:
                    (member,) = archive.getmembers()
                    assert member.name == path
                    content = archive.extractfile(member)
                    assert content is not None
                    found[path] = content.read()
            else:
                found[path] = blob
        return found


@pytest.fixture
async def written(tmp_path: Path) -> AsyncIterator[Written]:
    layout = await Layout.open(tmp_path / "layout")
    samples = await write_samples(layout)
    yield Written(layout, {sample.reference: sample for sample in samples})
    await layout.aclose()


LLAMA, BERT, GGUF = "demo/tiny-llama:v1", "demo/tiny-bert:v1", "demo/tiny-gguf:v1"


async def test_write_samples_names_three_models_and_their_families(written: Written) -> None:
    assert {name: sample.family for name, sample in written.samples.items()} == {
        LLAMA: "modelpack",
        BERT: "modelpack",
        GGUF: "cnai",
    }
    assert written.layout.repositories() == ["demo/tiny-bert", "demo/tiny-gguf", "demo/tiny-llama"]


async def test_write_samples_twice_writes_the_same_bytes(written: Written, tmp_path: Path) -> None:
    before = (tmp_path / "layout" / "index.json").read_bytes()
    await write_samples(written.layout)
    assert (tmp_path / "layout" / "index.json").read_bytes() == before
    other = await Layout.open(tmp_path / "other")
    await write_samples(other)
    await other.aclose()
    assert (tmp_path / "other" / "index.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "packings", "namespace"),
    [
        (LLAMA, ["raw", "raw", "raw", "raw", "raw"], "cncf"),
        (BERT, ["tar", "tar", "tar+gzip", "tar", "tar"], "cncf"),
        (GGUF, ["raw", "raw", "raw", "raw", "raw"], "cnai"),
    ],
)
async def test_sample_manifest_is_as_the_family_writes_it(
    written: Written, name: str, packings: list[str], namespace: str
) -> None:
    repository, manifest, config = await written.manifest(name)
    prefix = f"application/vnd.{namespace}.model"
    assert manifest.artifact_type == f"{prefix}.manifest.v1+json"
    assert manifest.config is not None
    assert manifest.config.media_type == f"{prefix}.config.v1+json"
    roles = ["weight.config", "weight.config", "weight", "doc", "doc"]
    assert [layer.media_type for layer in manifest.layers] == [
        f"{prefix}.{role}.v1.{packing}" for role, packing in zip(roles, packings, strict=True)
    ]
    files = await written.files(name)
    plain = []
    for layer in manifest.layers:
        assert layer.annotations.keys() == {
            f"org.{namespace}.model.filepath",
            f"org.{namespace}.model.file.metadata+json",
        }
        path = layer.annotations[f"org.{namespace}.model.filepath"]
        metadata = json.loads(layer.annotations[f"org.{namespace}.model.file.metadata+json"])
        assert list(metadata) == ["name", "mode", "uid", "gid", "size", "mtime", "typeflag"]
        assert (metadata["name"], metadata["size"]) == (path, len(files[path]))
        assert (metadata["mode"], metadata["typeflag"]) == (420, 0)
        blob = await written.blob(repository, layer)
        plain.append(gzip.decompress(blob) if layer.media_type.endswith("+gzip") else blob)
    assert config["modelfs"] == {
        "type": "layers",
        "diffIds": [str(Digest.of(content)) for content in plain],
    }
    assert config.keys() == {"descriptor", "modelfs", "config"}


async def test_tar_layers_end_as_go_ends_them(written: Written) -> None:
    repository, manifest, _ = await written.manifest(BERT)
    files = await written.files(BERT)
    for layer in manifest.layers:
        if layer.media_type.endswith(".tar"):
            blob = await written.blob(repository, layer)
            size = len(files[layer.annotations["org.cncf.model.filepath"]])
            assert len(blob) == 512 + -(-size // 512) * 512 + 1024
            assert blob[257:265] == b"ustar\x0000"


@pytest.mark.parametrize(("name", "dtype"), [(LLAMA, "BF16"), (BERT, "F16")])
async def test_safetensors_of_the_samples_open_with_the_library(
    written: Written, tmp_path: Path, name: str, dtype: str
) -> None:
    files = await written.files(name)
    path = tmp_path / "model.safetensors"
    path.write_bytes(files["model.safetensors"])
    assert 100_000 < path.stat().st_size < 300_000
    config = json.loads(files["config.json"])
    with safe_open(str(path), framework="np") as opened:
        shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118 - not a dict
        assert {opened.get_slice(key).get_dtype() for key in shapes} == {dtype}
        assert [config["vocab_size"], config["hidden_size"]] in shapes.values()
        if dtype == "F16":  # numpy has no bfloat16
            words = opened.get_tensor("embeddings.word_embeddings.weight")
            assert 0.02 < abs(words).mean() < 0.03


async def test_gguf_of_the_samples_opens_with_the_library(written: Written, tmp_path: Path) -> None:
    files = await written.files(GGUF)
    path = tmp_path / "model.gguf"
    path.write_bytes(files["tiny-gguf.Q8_0.gguf"])
    assert 100_000 < path.stat().st_size < 300_000
    reader = GGUFReader(path)

    def value(key: str) -> object:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    assert value("general.architecture") == "llama"
    assert value("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    tokens = value("tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert (len(tokens), tokens[0]) == (512, "<s>")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors["token_embd.weight"].shape) == [64, 512]
    assert tensors["token_embd.weight"].tensor_type.name == "Q8_0"
    assert tensors["output_norm.weight"].data.tolist() == [1.0] * 64
    last = reader.tensors[-1]
    assert last.data_offset + last.n_bytes <= path.stat().st_size


@pytest.mark.parametrize("name", [LLAMA, BERT, GGUF])
async def test_texts_and_tokenizer_of_the_samples_hold_together(
    written: Written, name: str
) -> None:
    files = await written.files(name)
    readme = files["README.md"].decode()
    assert readme.startswith("---\nlicense: apache-2.0\n")
    assert "random" in readme
    assert f"/cnai/{name}" in readme
    assert files["LICENSE"].startswith(b"SPDX-License-Identifier: Apache-2.0\n")
    model = json.loads(files["tokenizer.json"])["model"]
    vocabulary = model["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= json.loads(files["config.json"])["vocab_size"]
    for merge in model.get("merges", []):
        left, right = merge.split(" ")
        assert {left, right, left + right} <= vocabulary.keys()
