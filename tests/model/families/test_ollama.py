from __future__ import annotations

import dataclasses

import pytest

from proxy.model.families import recognise
from tests.model.families.golden import Row, golden, rows


@pytest.mark.parametrize(
    ("name", "family", "expected", "warnings"),
    [
        (
            "ollama",
            "ollama",
            [
                ("weight", "raw", True, None, "model.gguf"),
                ("config", "raw", True, None, "template"),
                ("doc", "raw", True, None, "LICENSE"),
                ("doc", "raw", True, None, "LICENSE-2"),
                ("config", "raw", True, None, "params.json"),
                ("weight", "raw", True, "a/b;c", None),
                ("config", "raw", True, "conf/config.json", None),
                ("other", "raw", True, None, None),
            ],
            ["layers[7]: unknown layer type 'application/vnd.ollama.image.other', read as raw"],
        )
    ],
)
def test_golden_ollama_is_read(
    name: str, family: str, expected: list[Row], warnings: list[str]
) -> None:
    artifact = golden(name)
    assert artifact.family == family
    assert rows(artifact) == expected
    assert list(artifact.warnings) == warnings


def test_config_type_alone_is_no_model() -> None:
    assert recognise(dataclasses.replace(golden("ollama").manifest, layers=())) is None
