from __future__ import annotations

import pytest

from tests.model.families.golden import Row, golden, rows


@pytest.mark.parametrize(
    ("name", "family", "expected", "warnings"),
    [
        (
            "docker-v0.1",
            "docker",
            [
                ("weight", "raw", True, None, "model-00001-of-00002.gguf"),
                ("weight", "raw", True, None, "model-00002-of-00002.gguf"),
                ("doc", "raw", True, None, "LICENSE"),
                ("doc", "raw", True, None, "LICENSE-2"),
                ("weight", "raw", True, None, "model.mmproj"),
                ("config", "raw", True, None, "template.jinja"),
                ("config", "tar", True, None, None),
                ("other", "raw", True, None, None),
            ],
            ["layers[7]: unknown layer type 'application/vnd.docker.ai.new.thing', read as raw"],
        ),
        (
            "docker-v0.2",
            "docker",
            [
                ("weight", "raw", True, "sub/model.safetensors", None),
                ("config", "raw", True, "config.json", None),
                ("other", "tar", True, None, None),
            ],
            [],
        ),
    ],
)
def test_golden_docker_model_is_read(
    name: str, family: str, expected: list[Row], warnings: list[str]
) -> None:
    artifact = golden(name)
    assert artifact.family == family
    assert rows(artifact) == expected
    assert list(artifact.warnings) == warnings
