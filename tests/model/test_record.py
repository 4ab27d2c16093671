from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model.families import recognise
from proxy.model.record import model_record, parse_parameters, read_config, set_record
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST, Index
from proxy.oci.reference import RepositoryName, Tag
from tests.build import descriptor, file_annotations, layer_type, model_manifest

_FULL: dict[str, object] = {
    "descriptor": {
        "name": "tiny",
        "title": "Tiny",
        "description": "A tiny model",
        "createdAt": "2025-03-01T10:20:30.123456789Z",
        "sourceURL": "https://example.test/tiny",
        "licenses": ["Apache-2.0"],
        "family": "llama",
    },
    "config": {
        "architecture": "transformer",
        "format": "safetensors",
        "paramSize": "1.5B",
        "precision": "bf16",
        "quantization": "q4",
        "capabilities": {"input_types": ["text"], "toolUsage": True},
    },
    "modelfs": {"type": "layers", "diffIds": []},
}


def _record(config: object, *, warning: str | None = None) -> dict[str, object]:
    readme = descriptor(layer_type("doc"), b"1234", annotations=file_annotations("../README.md"))
    weight = descriptor(layer_type("weight", "tar"), size=1000)
    artifact = recognise(model_manifest([readme, weight, weight]))
    assert artifact is not None
    parsed, found = read_config(json.dumps(config).encode())
    return model_record(
        artifact,
        repository=RepositoryName("team/tiny"),
        tag=Tag("v1"),
        digest=Digest.of(b"manifest"),
        media_type="application/vnd.oci.image.manifest.v1+json",
        config=parsed,
        config_warning=warning or found,
        additions=["readme"],
    )


def test_record_full_config_fills_every_field() -> None:
    record = _record(_FULL)
    assert ",".join(record) == (
        "schema,repository,tag,digest,index,mediaType,artifactType,family,name,title,description,"
        "architecture,format,parameters,precision,quantization,licenses,capabilities,size,"
        "created,source,layers,additions,provenance,warnings,config"
    )
    assert record["repository"] == "team/tiny"
    assert record["tag"] == "v1"
    assert record["digest"] == str(Digest.of(b"manifest"))
    assert record["family"] == "modelpack"
    assert record["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert record["parameters"] == 1_500_000_000
    assert record["licenses"] == ["Apache-2.0"]
    assert record["created"] == "2025-03-01T10:20:30.123456789Z"
    assert record["capabilities"] == {"inputTypes": ["text"], "toolUsage": True}
    assert record["size"] == 2 + 4 + 1000
    assert record["additions"] == ["readme"]
    assert record["config"] == _FULL
    provenance = record["provenance"]
    assert isinstance(provenance, dict)
    assert set(provenance.values()) == {"config"}
    assert len(provenance) == 12
    layers = record["layers"]
    assert isinstance(layers, list)
    assert layers[0] == {
        "digest": str(Digest.of(b"1234")),
        "mediaType": "application/vnd.cncf.model.doc.v1.raw",
        "size": 4,
        "class": "doc",
        "packing": "raw",
        "path": "README.md",
    }
    assert layers[1]["path"] is None


def test_record_without_config_is_null_and_empty() -> None:
    readme = descriptor(layer_type("doc"), b"1234")
    manifest = dataclasses.replace(model_manifest([readme]), config=None)
    artifact = recognise(manifest)
    assert artifact is not None
    record = model_record(
        artifact,
        repository=RepositoryName("tiny"),
        tag=None,
        digest=Digest.of(b"manifest"),
        media_type="x",
        config=None,
    )
    assert record["tag"] is None
    assert record["name"] is None
    assert record["licenses"] == []
    assert record["provenance"] == {}
    assert record["config"] is None
    assert record["size"] == 4
    assert record["warnings"] == []


def test_record_old_spellings_are_read() -> None:
    record = _record(
        {
            "descriptor": {"createTime": "2025-01-01T00:00:00+01:00", "licenses": "MIT"},
            "config": {
                "parameterSize": 8_000_000_000,
                "puantization": "q8",
                "capabilities": {"knowledge_cutoff": "2024-01-01T00:00:00Z"},
            },
        }
    )
    assert record["created"] == "2025-01-01T00:00:00+01:00"
    assert record["parameters"] == 8_000_000_000
    assert record["quantization"] == "q8"
    assert record["licenses"] == ["MIT"]
    assert record["capabilities"] == {"knowledgeCutoff": "2024-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ({"descriptor": []}, "config.descriptor is not an object"),
        ({"config": "x"}, "config.config is not an object"),
        ({"descriptor": {"name": 1}}, "config.descriptor.name is not text for name"),
        ({"descriptor": {"createdAt": "today"}}, "createdAt is not an RFC 3339 time"),
        ({"descriptor": {"createdAt": "2025-13-01T00:00:00Z"}}, "is not an RFC 3339 time"),
        ({"descriptor": {"createdAt": 5}}, "is not an RFC 3339 time"),
        ({"descriptor": {"licenses": {"a": 1}}}, "licenses is not a list"),
        ({"descriptor": {"licenses": ["MIT", 1]}}, "licenses is not a list of text"),
        ({"config": {"paramSize": "big"}}, "paramSize is not a count of parameters"),
        ({"config": {"capabilities": ["text"]}}, "capabilities is not an object"),
        ([], "the config is no JSON object"),
        (None, "the config is no JSON object"),
    ],
)
def test_record_field_of_a_wrong_type_is_a_warning(config: object, warning: str) -> None:
    record = _record(config)
    warnings = record["warnings"]
    assert isinstance(warnings, list)
    assert len(warnings) == 2  # the first is the layer's path
    assert warning in warnings[1]


def test_record_go_zero_values_are_absent() -> None:
    record = _record(
        {
            "descriptor": {"createdAt": "0001-01-01T00:00:00Z", "name": "", "licenses": None},
            "config": {"parameterSize": 0, "capabilities": {}},
        }
    )
    assert record["provenance"] == {}
    assert len(list(str(record["warnings"]).split("layers["))) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8b", 8_000_000_000),
        ("1.5B", 1_500_000_000),
        ("345M", 345_000_000),
        (" 0.6 b ", 600_000_000),
        ("22k", 22_000),
        ("1t", 10**12),
        ("1234", 1234),
        (1234, 1234),
        (True, None),
        (1.5, None),
        (0, None),
        (-1, None),
        (1 << 63, None),
        ("9" * 19 + "T", None),
        ("1.5", None),
        ("0B", None),
        ("8x7B", None),
        ("٨b", None),
        ("", None),
        (None, None),
    ],
)
def test_parse_parameters_table(value: object, expected: int | None) -> None:
    assert parse_parameters(value) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b"[" * 200_000,
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":%b}' % (b"9" * 5000),
    ],
)
def test_F7_read_config_hostile_json_is_a_reason(body: bytes) -> None:
    config, reason = read_config(body)
    assert config is None
    assert reason


def test_E8_read_config_values_that_json_cannot_carry_are_replaced() -> None:
    config, reason = read_config(b'{"\\udc00":["a\\ud800",1e999,1.5,{"b":null}]}')
    assert reason is None
    assert config == {"\ufffd": ["a\ufffd", None, 1.5, {"b": None}]}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_KEYS = [
    *("name", "licenses", "createdAt", "createTime", "sourceURL"),
    *("paramSize", "parameterSize", "capabilities", "puantization"),
]


@settings(max_examples=150, deadline=None)
@given(
    config=_JSON
    | st.dictionaries(
        st.sampled_from(["descriptor", "config"]),
        st.dictionaries(st.sampled_from(_KEYS), _JSON) | _JSON,
    )
)
def test_F7_record_of_any_config_is_plain_json(config: object) -> None:
    record = _record(config)
    json.dumps(record, ensure_ascii=False, allow_nan=False).encode()


def test_set_record_lists_what_there_is_to_choose() -> None:
    child = descriptor(OCI_MANIFEST, b"child", annotations={"org.opencontainers.image.title": "q4"})
    index = Index(OCI_INDEX, "application/vnd.kitops.modelkit.index.v1+json", (child,), {}, None)
    found = set_record(
        index,
        repository=RepositoryName.parse("team/model"),
        tag=None,
        digest=Digest.of(b"index"),
        media_type=OCI_INDEX,
    )
    assert found["family"] is None
    assert found["artifactType"] == index.artifact_type
    assert found["variants"] == [
        {
            "digest": str(child.digest),
            "size": 5,
            "mediaType": OCI_MANIFEST,
            "artifactType": None,
            "platform": None,
            "name": "q4",
            "metadata": {},
        }
    ]
