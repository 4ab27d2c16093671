from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import MalformedArtifact
from proxy.model.artifact import LayerClass
from proxy.model.families import is_model_type, recognise, with_declared
from proxy.model.families.family import Family, LayerRule, layer_rule, type_pattern
from proxy.oci.manifest import Manifest, decode
from tests.build import descriptor, manifest_bytes


def test_family_declared_as_data_is_recognised() -> None:
    pattern = re.compile(
        r"application/vnd\.acme\.(?P<token>[a-z]+)\.(?P<container>tar|raw)"
        r"(?:\+(?P<compression>gzip|zstd))?"
    )
    acme = Family(
        name="acme",
        artifact_types=frozenset(("application/vnd.acme.model",)),
        config_types=frozenset(),
        layer_rules=(LayerRule(pattern, {"net": LayerClass.WEIGHT}),),
        path_annotations=("acme.path",),
        metadata_annotations=(),
    )
    layer = descriptor("application/vnd.acme.net.tar+zstd", b"x", annotations={"acme.path": "net"})
    manifest = decode(manifest_bytes([layer], artifact_type="application/vnd.acme.model"))
    assert isinstance(manifest, Manifest)
    artifact = recognise(manifest, (acme,))
    assert artifact is not None
    assert artifact.family == "acme"
    assert artifact.layers[0].layer_class is LayerClass.WEIGHT
    assert str(artifact.layers[0].packing) == "tar+zstd"
    assert artifact.layers[0].path == "net"


@pytest.mark.parametrize(
    ("glob", "text", "is_match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/bc", False),
        ("a/*", "a/", True),
        ("A/*.tar", "a/x.tar.tar", True),
        ("a/*x*y*", "a/xy", True),
        ("a/*x*y", "a/yx", False),
        ("a/*" + "a*" * 100 + "b", "a/" + "a" * 4096, False),
    ],
)
def test_type_pattern_star_is_any_text_in_linear_time(glob: str, text: str, is_match: bool) -> None:
    assert (type_pattern(glob).fullmatch(text) is not None) is is_match


def test_declared_family_stands_before_generic_and_its_layer_types_are_no_mark() -> None:
    acme = Family(
        name="acme",
        artifact_types=frozenset(("application/vnd.acme.*",)),
        config_types=frozenset(),
        layer_rules=(layer_rule("application/octet-stream", LayerClass.WEIGHT, name="net.bin"),),
        own_layer_types=False,
    )
    families = with_declared([acme])
    assert [one.name for one in families][-2:] == ["acme", "generic"]
    assert is_model_type("application/vnd.ACME.model; v=1", families)
    assert not is_model_type("application/x" * 100, families)
    layers = [descriptor("application/octet-stream"), descriptor("application/" + "x" * 300)]
    manifest = decode(manifest_bytes(layers, artifact_type="application/vnd.acme.model"))
    assert isinstance(manifest, Manifest)
    assert (
        recognise(dataclasses.replace(manifest, artifact_type=None, config=None), families) is None
    )
    manifest = dataclasses.replace(manifest, config=None)
    artifact = recognise(manifest, families)
    assert artifact is not None
    assert [(layer.name, layer.trusted) for layer in artifact.layers] == [
        ("net.bin", False),
        (None, False),
    ]


_TYPES = st.sampled_from(
    (
        "application/vnd.cncf.model.manifest.v1+json",
        "application/vnd.ollama.image.tensor; name=x",
        "application/vnd.docker.ai.gguf.v3",
        "application/vnd.kitops.modelkit.config.v1+json",
        "application/vnd.oci.empty.v1+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    )
)
_TEXT = _TYPES | st.text(max_size=20)
_DESCRIPTORS = st.fixed_dictionaries(
    {"mediaType": _TEXT, "digest": st.just("sha256:" + "0" * 64), "size": st.integers(0, 1 << 40)},
    optional={
        "annotations": st.dictionaries(
            st.sampled_from(("org.opencontainers.image.title", "olot.layer.content.x")), _TEXT
        ),
        "artifactType": _TEXT,
        "name": st.none() | st.integers() | _TEXT,
    },
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    document=st.fixed_dictionaries(
        {"layers": st.lists(_DESCRIPTORS, max_size=4)},
        optional={"artifactType": _TEXT, "mediaType": _TEXT, "config": _DESCRIPTORS},
    )
)
def test_recognise_never_fails_on_a_decoded_manifest(document: dict[str, object]) -> None:
    body = json.dumps(document).encode()
    try:
        manifest = decode(body)
    except MalformedArtifact:
        return
    assert isinstance(manifest, Manifest)
    artifact = recognise(manifest)
    assert artifact is None or len(artifact.layers) <= len(manifest.layers)
    turned = recognise(dataclasses.replace(manifest, layers=manifest.layers[::-1]))
    assert (turned and turned.family) == (artifact and artifact.family)
    for other in ("manifests", "Layers"):
        with pytest.raises(MalformedArtifact):
            decode(json.dumps({**document, other: []}).encode())
