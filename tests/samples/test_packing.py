from __future__ import annotations

import gzip
import json

import pytest

from proxy.oci.digest import Digest
from tests.samples.written import BERT, GGUF, LLAMA, Written


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
    classes = ["weight.config", "weight.config", "weight", "doc", "doc"]
    assert [layer.media_type for layer in manifest.layers] == [
        f"{prefix}.{layer_class}.v1.{packing}"
        for layer_class, packing in zip(classes, packings, strict=True)
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
        plain.append(gzip.decompress(blob) if layer.media_type.endswith("+gzip") else blob)  # noqa: TID251 - the test made it
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
