from __future__ import annotations

import dataclasses
import json

import pytest

from proxy.model.artifact import LayerClass, ModelLayer
from proxy.model.families import FAMILIES, recognise
from proxy.oci.manifest import Manifest
from tests.build import Generation, descriptor, file_annotations, layer_type, model_manifest
from tests.model.families.golden import Row, golden, rows


def _layers(manifest: Manifest) -> tuple[ModelLayer, ...]:
    artifact = recognise(manifest)
    assert artifact is not None
    return artifact.layers


@pytest.mark.parametrize(("generation", "family"), [("cncf", "modelpack"), ("cnai", "cnai")])
def test_recognise_each_mark_of_a_generation_is_enough(generation: Generation, family: str) -> None:
    layer = descriptor(layer_type("weight", generation=generation), b"w")
    whole = model_manifest([layer], generation=generation)
    foreign = descriptor("application/vnd.oci.empty.v1+json", b"{}")
    marks = (
        whole,
        dataclasses.replace(whole, config=None, layers=()),
        dataclasses.replace(whole, artifact_type=f"{whole.artifact_type};v=1".upper()),
        dataclasses.replace(
            whole, artifact_type=None, media_type=whole.artifact_type, config=None, layers=()
        ),
        dataclasses.replace(whole, artifact_type=None, layers=()),
        dataclasses.replace(whole, artifact_type=None, config=foreign),
        dataclasses.replace(whole, artifact_type=None, config=None),
    )
    for manifest in marks:
        artifact = recognise(manifest)
        assert artifact is not None
        assert artifact.family == family
        assert artifact.manifest is manifest


def test_recognise_artifact_type_comes_before_config_and_layers() -> None:
    manifest = model_manifest(
        [descriptor(layer_type("weight"), b"w")],
        generation="cnai",
        config=descriptor("application/vnd.cncf.model.config.v1+json", b"{}"),
    )
    artifact = recognise(manifest)
    assert artifact is not None
    assert artifact.family == "cnai"
    by_config = recognise(dataclasses.replace(manifest, artifact_type=None))
    assert by_config is not None
    assert by_config.family == "modelpack"


def test_recognise_other_artifacts_are_no_models() -> None:
    layer = descriptor("application/vnd.oci.image.layer.v1.tar", b"w")
    manifest = dataclasses.replace(model_manifest([layer]), artifact_type="application/x")
    config = descriptor("application/vnd.oci.image.config.v1+json", b"{}")
    assert recognise(dataclasses.replace(manifest, config=config)) is None
    assert recognise(manifest, ()) is None


@pytest.mark.parametrize(("generation", "family"), [("cncf", "modelpack"), ("cnai", "cnai")])
def test_recognise_path_annotation_alone_is_a_mark(generation: Generation, family: str) -> None:
    layer = descriptor(
        "application/octet-stream", b"w", annotations=file_annotations("a", generation=generation)
    )
    manifest = dataclasses.replace(model_manifest([layer]), artifact_type=None, config=None)
    artifact = recognise(manifest)
    assert artifact is not None
    assert artifact.family == family


@pytest.mark.parametrize("generation", ["cncf", "cnai"])
@pytest.mark.parametrize(
    ("token", "layer_class"),
    [
        ("weight", LayerClass.WEIGHT),
        ("weight.config", LayerClass.CONFIG),
        ("doc", LayerClass.DOC),
        ("code", LayerClass.CODE),
        ("dataset", LayerClass.DATASET),
    ],
)
@pytest.mark.parametrize("packing", ["raw", "tar", "tar+gzip", "tar+zstd", "raw+gzip"])
def test_layer_types_of_both_generations_are_read(
    generation: Generation, token: str, layer_class: LayerClass, packing: str
) -> None:
    layer = descriptor(layer_type(token, packing, generation=generation), b"x")
    artifact = recognise(model_manifest([layer], generation=generation))
    assert artifact is not None
    assert artifact.warnings == ()
    assert artifact.layers[0].layer_class is layer_class
    assert str(artifact.layers[0].packing) == packing
    assert artifact.layers[0].path is None


def test_layer_of_a_concrete_format_is_raw() -> None:
    layers = _layers(model_manifest([descriptor(layer_type("weight", "gguf"), b"x")]))
    assert (str(layers[0].packing), layers[0].layer_class) == ("raw", LayerClass.WEIGHT)


def test_layer_of_the_first_drafts_is_read_by_its_artifact_type() -> None:
    layer = descriptor(
        "application/vnd.oci.image.layer.v1.tar",
        b"x",
        artifact_type="application/vnd.cnai.model.layer.v1.tar",
        annotations={"org.cnai.model.filepath": "README.md"},
    )
    config = descriptor("application/vnd.oci.image.config.v1+json", b"{}")
    artifact = recognise(model_manifest([layer], generation="cnai", config=config))
    assert artifact is not None
    assert artifact.warnings == ()
    assert str(artifact.layers[0].packing) == "tar"
    assert artifact.layers[0].layer_class is LayerClass.DOC


def test_layer_and_annotations_of_the_other_generation_are_read() -> None:
    mixed = descriptor(
        layer_type("doc", generation="cnai"),
        b"1234",
        annotations=file_annotations("notes", 4, generation="cnai"),
    )
    old_key = descriptor(
        layer_type("weight", "tar"),
        b"x",
        annotations={
            "org.cnai.model.filepath": "a.bin",
            "org.cnai.model.file.metadata": '{"size":7}',
        },
    )
    artifact = recognise(model_manifest([mixed, old_key], generation="cncf"))
    assert artifact is not None
    assert artifact.warnings == ()
    first, second = artifact.layers
    assert (first.path, first.declared_size, first.layer_class) == ("notes", 4, LayerClass.DOC)
    assert (second.path, second.declared_size) == ("a.bin", 7)


def test_path_annotations_own_key_then_other_then_title() -> None:
    keys = ("org.opencontainers.image.title", "org.cnai.model.filepath", "org.cncf.model.filepath")
    for count in (1, 2, 3):
        annotations = {key: key for key in keys[:count]}
        layer = descriptor(layer_type("doc"), b"x", annotations=annotations)
        assert _layers(model_manifest([layer]))[0].path == keys[count - 1]
    empty = descriptor(layer_type("doc"), b"x", annotations={keys[2]: "", keys[0]: "title"})
    assert _layers(model_manifest([empty]))[0].path == "title"


@pytest.mark.parametrize(
    ("media_type", "packing"),
    [
        ("application/vnd.cncf.model.somenewthing.v1.tar", "tar"),
        ("application/vnd.cncf.model.somenewthing.v1.raw+zstd", "raw+zstd"),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "tar+gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "tar+gzip"),
        ("application/octet-stream", "raw"),
        ("", "raw"),
    ],
)
def test_unknown_layer_type_is_a_warning(media_type: str, packing: str) -> None:
    layer = descriptor(media_type, b"x", annotations=file_annotations("a/model.gguf"))
    artifact = recognise(model_manifest([layer]))
    assert artifact is not None
    assert [str(layer.packing) for layer in artifact.layers] == [packing]
    assert artifact.layers[0].layer_class is LayerClass.WEIGHT
    assert artifact.warnings == (
        f"layers[0]: unknown layer type {media_type!r}, read as {packing}",
    )


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "{",
        "[]",
        "{}",
        "\ud800",
        '{"size":-1}',
        '{"size":true}',
        '{"size":1.5}',
        '{"size":"1"}',
        f'{{"size":{1 << 63}}}',
        '{"size":1,"size":2}',
        '{"size":NaN}',
        "[" * 100_000,
        f'{{"size":{"9" * 5000}}}',
    ],
)
def test_D10_file_metadata_that_lies_is_a_warning(metadata: str) -> None:
    annotations = {"org.cncf.model.file.metadata+json": metadata}
    layer = descriptor(layer_type("weight", "tar"), b"x", annotations=annotations)
    artifact = recognise(model_manifest([layer]))
    assert artifact is not None
    assert artifact.layers[0].declared_size is None
    assert len(artifact.warnings) == (1 if metadata else 0)


def test_raw_layer_with_another_declared_size_is_a_warning() -> None:
    annotations = {"org.cncf.model.file.metadata+json": json.dumps({"size": 5})}
    artifact = recognise(
        model_manifest([descriptor(layer_type("doc"), b"1234", annotations=annotations)])
    )
    assert artifact is not None
    assert artifact.warnings == (
        "layers[0]: the file metadata claims 5 bytes, the raw layer has 4",
    )


def test_E3_unsafe_path_is_kept_as_written_with_a_warning() -> None:
    layer = descriptor(layer_type("doc"), b"x", annotations=file_annotations("../../etc/README.md"))
    artifact = recognise(model_manifest([layer]))
    assert artifact is not None
    assert artifact.layers[0].path == "../../etc/README.md"
    assert artifact.layers[0].layer_class is LayerClass.DOC
    assert "unsafe, shown as 'etc/README.md'" in artifact.warnings[0]


def test_warnings_of_many_bad_layers_are_bounded() -> None:
    layers = [descriptor("application/x", annotations=file_annotations("../a"))] * 1000
    artifact = recognise(model_manifest(layers))
    assert artifact is not None
    assert len(artifact.layers) == 1000
    assert len(artifact.warnings) == 101


def test_families_have_distinct_names_and_types() -> None:
    names = ["modelpack", "cnai", "kitops", "docker", "ollama", "modelcar", "generic"]
    assert [family.name for family in FAMILIES] == names
    types = [text for family in FAMILIES for text in family.artifact_types | family.config_types]
    assert len(types) == len(set(types))


@pytest.mark.parametrize(
    ("name", "family", "expected", "warnings"),
    [
        (
            "aikit-tar",
            "modelpack",
            [
                ("weight", "tar+zstd", True, "a/x.gguf", None),
                ("config", "tar", True, "config", None),
            ],
            [],
        ),
        (
            "cnai-2024",
            "cnai",
            [("weight", "tar", True, "weights", None), ("doc", "tar", True, None, None)],
            [],
        ),
        ("cnai-2025-01", "cnai", [("weight", "tar+gzip", True, "a.gguf", None)], []),
        ("docker-cncf-gguf", "modelpack", [("weight", "raw", True, "m.gguf", None)], []),
        (
            "modctl-cnai",
            "cnai",
            [
                ("config", "raw", True, "config.json", None),
                ("weight", "raw", True, "model.safetensors", None),
                ("doc", "tar", True, "README.md", None),
            ],
            [],
        ),
        (
            "modctl-cncf",
            "modelpack",
            [
                ("config", "raw", True, "config.json", None),
                ("weight", "raw", True, "model.safetensors", None),
                ("doc", "tar", True, "README.md", None),
            ],
            [],
        ),
    ],
)
def test_golden_modelpack_is_read(
    name: str, family: str, expected: list[Row], warnings: list[str]
) -> None:
    artifact = golden(name)
    assert artifact.family == family
    assert rows(artifact) == expected
    assert list(artifact.warnings) == warnings
