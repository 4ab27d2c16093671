from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from proxy.model.families import with_config
from proxy.model.families.family import LayerName
from proxy.model.families.kitops import names_from_kitfile
from tests.model.families.golden import Row, golden, rows


@pytest.mark.parametrize(
    ("name", "family", "expected", "warnings"),
    [
        (
            "kitops-new",
            "kitops",
            [
                ("weight", "raw+zstd", True, "m.gguf", None),
                ("code", "tar", True, None, None),
                ("code", "raw", True, None, None),
            ],
            [],
        ),
        (
            "kitops-old",
            "kitops",
            [
                ("weight", "tar+gzip", True, None, None),
                ("code", "tar", True, None, None),
                ("doc", "tar", True, None, None),
            ],
            [],
        ),
    ],
)
def test_golden_kitops_is_read(
    name: str, family: str, expected: list[Row], warnings: list[str]
) -> None:
    artifact = golden(name)
    assert artifact.family == family
    assert rows(artifact) == expected
    assert list(artifact.warnings) == warnings


def test_kitfile_of_an_old_kit_names_layers_by_order() -> None:
    config: Mapping[str, object] = {
        "model": {"path": "./net/m.gguf", "description": "the model", "parts": 7},
        "code": [{"path": "../src/"}],
        "docs": ["wrong"],
    }
    artifact = with_config(golden("kitops-old"), config)
    found = [(one.path, one.member_prefix, one.description) for one in artifact.layers]
    assert found == [("./net/m.gguf", "net", "the model"), ("../src/", "..", None), (None,) * 3]
    assert len(artifact.warnings) == 1
    assert artifact.needs_config


def test_kitfile_digests_come_before_order_and_annotated_paths_stay() -> None:
    model = golden("kitops-new")
    digest = str(model.layers[0].descriptor.digest)
    config: Mapping[str, object] = {
        "model": {"path": "other", "digest": digest},
        "prompts": [{"path": "prompt.txt"}],
        "code": [{"path": "none"}],
        "datasets": [{"path": "far", "remotePath": "s3://far"}],
        "mcpServers": [{"path": "server.mcpb"}],
    }
    artifact = with_config(model, config)
    found = [(one.path, one.member_prefix) for one in artifact.layers]
    assert found == [("m.gguf", ""), ("prompt.txt", ""), ("server.mcpb", "")]


def test_kitfile_entries_of_one_content_take_a_layer_each() -> None:
    manifest = golden("kitops-old").manifest
    docs = manifest.layers[2]
    other = dataclasses.replace(docs, media_type="application/x")
    twice = dataclasses.replace(manifest, layers=(docs, docs, other))
    entries = [{"path": name, "digest": str(docs.digest)} for name in ("a", "b")]
    assert names_from_kitfile(twice, {"docs": entries}) == {
        0: LayerName("a", "", None),
        1: LayerName("b", "", None),
    }
    parts: Mapping[str, object] = {"model": {"path": "registry/kit:1", "parts": [{"path": "p"}]}}
    assert names_from_kitfile(twice, parts) == {}


def test_config_of_other_families_names_nothing() -> None:
    artifact = golden("ollama")
    assert with_config(artifact, {"docs": [{"path": "a"}]}) is artifact
