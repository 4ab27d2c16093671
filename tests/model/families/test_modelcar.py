from __future__ import annotations

import dataclasses

import pytest

from proxy.model.families import recognise
from tests.model.families.golden import Row, golden, rows


@pytest.mark.parametrize(
    ("name", "family", "expected", "warnings"),
    [
        (
            "olot-modelcar",
            "modelcar",
            [("weight", "tar", False, "models/m.gguf", None)],
            [],
        )
    ],
)
def test_golden_modelcar_is_read(
    name: str, family: str, expected: list[Row], warnings: list[str]
) -> None:
    artifact = golden(name)
    assert artifact.family == family
    assert rows(artifact) == expected
    assert list(artifact.warnings) == warnings


def test_unmarked_images_are_no_models() -> None:
    manifest = golden("olot-modelcar").manifest
    plain = dataclasses.replace(manifest, layers=manifest.layers[:1], annotations={})
    assert recognise(plain) is None
