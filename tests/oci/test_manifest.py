from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import MalformedArtifact
from proxy.oci.digest import Digest
from proxy.oci.manifest import (
    ANNOTATIONS_LIMIT,
    DESCRIPTORS_LIMIT,
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    decode,
    load_json,
    normalise_media_type,
)

DIGEST = "sha256:" + "0" * 64
DESCRIPTOR: dict[str, object] = {"mediaType": "a/b", "digest": DIGEST, "size": 3}


def _decode(document: object) -> Manifest | Index:
    return decode(json.dumps(document).encode())


def test_decode_manifest_gives_every_field() -> None:
    found = _decode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.x",
            "config": {**DESCRIPTOR, "mediaType": "Application/Vnd.X+JSON; v=1"},
            "layers": [{**DESCRIPTOR, "annotations": {"a": "b", "c": 1}}, DESCRIPTOR],
            "annotations": {"k": "v"},
            "subject": {**DESCRIPTOR, "artifactType": "application/vnd.y"},
        }
    )
    digest = Digest.parse(DIGEST)
    assert found == Manifest(
        media_type=OCI_MANIFEST,
        artifact_type="application/vnd.x",
        config=Descriptor("application/vnd.x+json", digest, 3, {}, type_parameters="v=1"),
        layers=(Descriptor("a/b", digest, 3, {"a": "b"}), Descriptor("a/b", digest, 3, {})),
        annotations={"k": "v"},
        subject=Descriptor("a/b", digest, 3, {}, "application/vnd.y"),
    )


def test_decode_index_gives_its_children() -> None:
    found = _decode({"mediaType": OCI_INDEX, "manifests": [DESCRIPTOR], "subject": DESCRIPTOR})
    child = Descriptor("a/b", Digest.parse(DIGEST), 3, {})
    assert found == Index(OCI_INDEX, None, (child,), {}, child)


def _child(**members: object) -> Descriptor:
    found = _decode({"manifests": [{**DESCRIPTOR, **members}]})
    assert isinstance(found, Index)
    return found.manifests[0]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, "linux/arm64/v8"),
        ({"os": "linux", "architecture": "amd64", "os.version": "1"}, "linux/amd64"),
        ({"os": 1, "architecture": ["amd64"]}, ""),
        ("linux/amd64", "None"),
        (None, "None"),
    ],
)
def test_decode_platform_of_a_child(platform: object, expected: str) -> None:
    assert str(_child(platform=platform).platform) == expected


def test_decode_members_of_no_specification_are_kept_as_they_are() -> None:
    assert _child(name="a/b", modelMetadata={"q": [4]}, urls=[]).extensions == {
        "name": "a/b",
        "modelMetadata": {"q": [4]},
    }


@pytest.mark.parametrize(
    "data",
    [
        base64.b64encode(b"other").decode(),
        base64.b64encode(b"{}{}").decode(),
        "e30",
        "e30=\n",
        "\u00e9\u00e9\u00e9\u00e9",
        7,
        None,
    ],
)
def test_D11_decode_inline_content_that_is_not_the_blob_is_none(data: object) -> None:
    digest = str(Digest.of(b"{}"))
    assert _child(data=data, digest=digest, size=2).content is None


def test_D11_decode_inline_content_that_is_the_blob_is_kept() -> None:
    digest = str(Digest.of(b"{}"))
    assert _child(data="e30=", digest=digest, size=2).content == b"{}"
    assert _child(data="e30=", digest=digest, size=3).content is None


@pytest.mark.parametrize("empty", ["null", "[]"])
def test_decode_list_that_go_writes_as_null_is_empty(empty: str) -> None:
    assert decode(b'{"manifests": %s}' % empty.encode()) == Index(None, None, (), {}, None)
    found = decode(b'{"layers": %s, "config": null, "mediaType": ""}' % empty.encode())
    assert found == Manifest(None, None, None, (), {}, None)


def test_decode_artifact_manifest_has_blobs_for_layers() -> None:
    found = _decode({"blobs": [DESCRIPTOR]})
    assert isinstance(found, Manifest)
    assert len(found.layers) == 1


def test_decode_descriptor_without_media_type_has_an_empty_one() -> None:
    found = _decode({"layers": [{"digest": DIGEST, "size": 0}]})
    assert isinstance(found, Manifest)
    assert found.layers[0].media_type == ""


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, None])
@pytest.mark.parametrize(
    "parts",
    [("manifests", "layers"), ("manifests", "config"), ("manifests", "blobs")],
)
def test_D8_decode_index_and_manifest_at_once_is_ambiguous(
    parts: tuple[str, str], media_type: str | None
) -> None:
    document: dict[str, object] = {name: [] for name in parts}
    document["mediaType"] = media_type
    with pytest.raises(MalformedArtifact, match="ambiguous"):
        _decode(document)


@pytest.mark.parametrize(
    ("part", "media_type"),
    [
        ("manifests", OCI_MANIFEST),
        ("manifests", DOCKER_MANIFEST),
        ("manifests", OCI_MANIFEST.upper() + "; charset=utf-8"),
        ("layers", OCI_INDEX),
        ("layers", DOCKER_INDEX),
        ("blobs", OCI_INDEX),
    ],
)
def test_D8_decode_media_type_of_the_other_kind_is_ambiguous(part: str, media_type: str) -> None:
    with pytest.raises(MalformedArtifact, match=r"ambiguous: \$\.mediaType"):
        _decode({part: [], "mediaType": media_type})


@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST, "application/vnd.other"])
def test_D8_decode_manifest_of_its_own_or_a_foreign_type_is_taken(media_type: str) -> None:
    assert _decode({"layers": [], "mediaType": media_type}).media_type == media_type


@pytest.mark.parametrize(
    "body",
    [
        b'{"layers": [], "layers": []}',
        b'{"layers": [], "l\\u0061yers": []}',
        b'{"layers": [], "annotations": {"a": "1", "a": "2"}}',
        b'{"layers": [{"digest": "x", "digest": "y", "size": 1}]}',
        b'{"layers": [], "other": {"a": {"b": 1, "b": 1}}}',
    ],
)
def test_D9_decode_duplicate_key_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedArtifact, match="stands twice"):
        decode(body)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"layers": [], "Layers": [DESCRIPTOR]}, r"'layers' at \$,"),
        ({"layers": [], "MANIFESTS": []}, r"'manifests' at \$,"),
        ({"layers": [], "layer\u017f": []}, r"'layers' at \$,"),
        ({"layers": [], "Subject": DESCRIPTOR}, r"'subject' at \$,"),
        ({"layers": [{**DESCRIPTOR, "Digest": DIGEST}]}, r"'digest' at \$\.layers\[0\],"),
        ({"layers": [], "config": {**DESCRIPTOR, "SIZE": 1}}, r"'size' at \$\.config,"),
    ],
)
def test_D9_decode_key_that_go_takes_for_another_is_refused(
    document: dict[str, object], place: str
) -> None:
    with pytest.raises(MalformedArtifact, match="ambiguous: expected the key " + place):
        _decode(document)


@pytest.mark.parametrize("size", [0, 1, 2**63 - 1])
def test_D10_decode_size_in_bounds_is_kept(size: int) -> None:
    found = _decode({"layers": [{**DESCRIPTOR, "size": size}]})
    assert isinstance(found, Manifest)
    assert found.layers[0].size == size


@pytest.mark.parametrize("size", [-1, 2**63, 2**70, True, False, 1.0, "1", None, [], {}])
def test_D10_decode_size_that_lies_is_refused(size: object) -> None:
    with pytest.raises(MalformedArtifact, match=r"count of bytes at \$\.layers\[0\]\.size"):
        _decode({"layers": [{**DESCRIPTOR, "size": size}]})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected the manifest to be a JSON object"),
        (None, "expected the manifest to be a JSON object"),
        ({}, "found neither"),
        ({"config": DESCRIPTOR}, "found neither"),
        ({"layers": {}}, r"expected a list at \$\.layers"),
        ({"manifests": 1}, r"expected a list at \$\.manifests"),
        ({"blobs": "x"}, r"expected a list at \$\.blobs"),
        ({"layers": [1]}, r"expected an object at \$\.layers\[0\]"),
        ({"layers": [DESCRIPTOR, {"size": 1}]}, r"expected a digest at \$\.layers\[1\]\.digest"),
        ({"layers": [{"digest": 1, "size": 1}]}, r"expected a digest at"),
        ({"layers": [{"digest": "sha256:x", "size": 1}]}, r"found 'sha256:x' at \$\.layers\[0\]"),
        ({"layers": [{"digest": "md5:ab", "size": 1}]}, "expected sha256"),
        ({"layers": [], "config": 1}, r"expected an object at \$\.config"),
        ({"layers": [], "subject": []}, r"expected an object at \$\.subject"),
        ({"layers": [], "subject": {}}, r"expected a digest at \$\.subject\.digest"),
        ({"layers": [], "mediaType": 1}, r"expected text at \$\.mediaType"),
        ({"layers": [], "artifactType": []}, r"expected text at \$\.artifactType"),
        ({"layers": [{**DESCRIPTOR, "mediaType": 1}]}, r"text at \$\.layers\[0\]\.mediaType"),
        ({"layers": [], "annotations": []}, r"at \$\.annotations"),
        ({"layers": [{**DESCRIPTOR, "annotations": 1}]}, r"at \$\.layers\[0\]\.annotations"),
    ],
)
def test_decode_wrong_field_is_named_with_its_place(document: object, message: str) -> None:
    with pytest.raises(MalformedArtifact, match=message):
        _decode(document)


def test_decode_descriptors_limit_holds_at_its_edge() -> None:
    found = _decode({"layers": [DESCRIPTOR] * DESCRIPTORS_LIMIT})
    assert isinstance(found, Manifest)
    assert len(found.layers) == DESCRIPTORS_LIMIT
    with pytest.raises(
        MalformedArtifact, match=r"at most 20000 entries at \$\.layers, found 20001"
    ):
        _decode({"layers": [DESCRIPTOR] * (DESCRIPTORS_LIMIT + 1)})


def test_decode_annotations_limit_holds_at_its_edge() -> None:
    annotations = {str(number): "" for number in range(ANNOTATIONS_LIMIT)}
    assert len(_decode({"layers": [], "annotations": annotations}).annotations) == ANNOTATIONS_LIMIT
    with pytest.raises(MalformedArtifact, match="at most 20000 entries"):
        _decode({"layers": [], "annotations": {**annotations, "one more": ""}})


@pytest.mark.parametrize("pair", [b"[]", b"{}"])
def test_F7_load_json_depth_limit_holds_at_its_edge(pair: bytes) -> None:
    opening, closing = (b"[", b"]") if pair == b"[]" else (b'{"a":', b"}")
    inner = b'"[[\\"[{"'  # brackets in a string do not count
    load_json(opening * 64 + inner + closing * 64, what="the config")
    with pytest.raises(MalformedArtifact, match="expected the config nested at most 64 deep"):
        load_json(opening * 65 + inner + closing * 65, what="the config")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"[1]]",
        b"[" * 100_000,
        b"[}" * 1000,
        b'{"a":' * 100_000,
        b'"unclosed',
        b'"\\',
        b"1" * 5000,
        b"\xff",
        b'"\xed\xa0\x80"',
        b'\xef\xbb\xbf{"layers":[]}',
        '{"layers":[]}'.encode("utf-16"),
        '{"layers":[]}'.encode("utf-16-le"),
        '{"layers":[]}'.encode("utf-32"),
        b'{"a": "line\nbreak"}',
    ],
)
def test_F7_load_json_other_than_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedArtifact, match="expected the config to be plain JSON"):
        load_json(body, what="the config")


@pytest.mark.parametrize("unit", [b'"\\', b'"",', b"[", b"[]", b"{[", b'\\"', b'"\\\n"', b'["'])
def test_F7_load_json_long_hostile_text_ends_at_once(unit: bytes) -> None:
    # The test's own time limit is the assertion: a quadratic scan takes minutes here.
    with pytest.raises(MalformedArtifact):
        load_json(unit * (1024 * 1024 // len(unit)) + b"!", what="the config")


def test_F7_load_json_lone_surrogate_is_text() -> None:
    assert load_json(b'"\\ud800"', what="x") == "\ud800"


def test_F7_load_json_many_shallow_brackets_are_no_depth() -> None:
    assert load_json(b"[" + b"[],{}," * 1000 + b"1]", what="x") == [*([[], {}] * 1000), 1]


@pytest.mark.parametrize(
    ("text", "expected"), [("a/b", "a/b"), (" A/B ; c=d", "a/b"), ("", ""), (";", "")]
)
def test_normalise_media_type_table(text: str, expected: str) -> None:
    assert normalise_media_type(text) == expected


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([DIGEST, "sha256:x", OCI_MANIFEST, OCI_INDEX]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    *("mediaType", "artifactType", "config", "layers", "manifests", "blobs"),
                    *("subject", "annotations", "digest", "size", "Layers", "x"),
                ]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(JSON)
def test_decode_arbitrary_json_raises_malformed_artifact_only(document: object) -> None:
    try:
        found = _decode(document)
    except MalformedArtifact:
        return
    assert isinstance(document, dict)
    assert isinstance(found, Index) is ("manifests" in document)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.binary(max_size=60) | st.text(alphabet='{}[]":,\\layers ntru0', max_size=60).map(str.encode)
)
def test_decode_arbitrary_bytes_raise_malformed_artifact_only(body: bytes) -> None:
    with suppress(MalformedArtifact):
        decode(body)
