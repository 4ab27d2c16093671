from __future__ import annotations

import pytest

from proxy.model.artifact import RAW, LayerClass, Packing, bounded, classify


def test_packing_text_is_container_and_compression() -> None:
    assert str(RAW) == "raw"
    assert str(Packing("tar", "gzip")) == "tar+gzip"


@pytest.mark.parametrize(
    ("path", "declared", "expected"),
    [
        ("model.safetensors", LayerClass.CONFIG, LayerClass.WEIGHT),
        ("MODEL.GGUF", LayerClass.DOC, LayerClass.WEIGHT),
        ("a/config.json", LayerClass.WEIGHT, LayerClass.CONFIG),
        ("model.safetensors.index.json", LayerClass.WEIGHT, LayerClass.CONFIG),
        ("vocab.txt", LayerClass.DOC, LayerClass.CONFIG),
        ("README.md", LayerClass.CODE, LayerClass.DOC),
        ("sub/LICENSE", LayerClass.WEIGHT, LayerClass.DOC),
        ("licence-2.txt", LayerClass.OTHER, LayerClass.DOC),
        ("license.py", LayerClass.DOC, LayerClass.CODE),
        ("train.parquet", LayerClass.DOC, LayerClass.DATASET),
        ("train.json", LayerClass.DATASET, LayerClass.DATASET),
        ("model.bin", LayerClass.CONFIG, LayerClass.CONFIG),
        ("model.bin", LayerClass.OTHER, LayerClass.WEIGHT),
        ("notes.txt", LayerClass.OTHER, LayerClass.DOC),
        ("docs", LayerClass.DOC, LayerClass.DOC),
        ("safetensors", LayerClass.OTHER, LayerClass.OTHER),
        ("", LayerClass.OTHER, LayerClass.OTHER),
    ],
)
def test_classify_name_comes_before_type(
    path: str, declared: LayerClass, expected: LayerClass
) -> None:
    assert classify(path, declared) is expected


def test_bounded_warnings_are_counted_beyond_the_limit() -> None:
    assert bounded(["a"] * 100) == ("a",) * 100
    assert bounded(["a"] * 103) == (*("a",) * 100, "and 3 more")
