"""Which manifest of an index is meant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadRequest, ManifestUnknown, ProxyError, SizeInvalid
from proxy.model.variants import CHILDREN_LIMIT, Choice, choose, variants
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST, Descriptor, Index, Platform

MODEL = "application/vnd.cncf.model.manifest.v1+json"
KIT_SET = "application/vnd.kitops.modelkit.index.v1+json"
LINUX = Platform("linux", "amd64")
ARM = Platform("linux", "arm64", "v8")
UNKNOWN = Platform("unknown", "unknown")


def child(
    name: str,
    *,
    platform: Platform | None = None,
    artifact_type: str | None = None,
    metadata: object = None,
    **annotations: str,
) -> Descriptor:
    keys = {key.replace("__", ".").replace("_", "-"): text for key, text in annotations.items()}
    return Descriptor(
        OCI_MANIFEST,
        Digest.of(name.encode()),
        7,
        {"org.opencontainers.image.title": name, **keys},
        artifact_type=artifact_type,
        platform=platform,
        extensions={} if metadata is None else {"modelMetadata": metadata},
    )


ATTESTATION = child("att", platform=UNKNOWN, vnd__docker__reference__type="attestation-manifest")
SIGNATURE = child("sig", artifact_type="application/vnd.dev.cosign.artifact.sig.v1+json")
TWIN = {"io__opendatahub__modelcar__manifest__type": "modelpack"}


def index(*children: Descriptor, artifact_type: str | None = None) -> Index:
    return Index(None, artifact_type, children, {}, None)


def chosen(found: Index, **wish: str) -> str | None:
    variant = choose(found, Choice(**wish), is_model_type=lambda text: text == MODEL)
    return variant.name if variant is not None else None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (index(child("only")), "only"),
        (index(child("only", platform=ARM)), "only"),
        (index(child("car", platform=LINUX), child("pack", platform=UNKNOWN, **TWIN)), "pack"),
        (index(child("image"), child("model", artifact_type=MODEL)), "model"),
        (index(child("model", artifact_type=MODEL.upper()), child("image")), "model"),
        (index(child("q4", artifact_type=MODEL), child("q8", artifact_type=MODEL)), None),
        (index(child("model", artifact_type=MODEL), ATTESTATION, SIGNATURE), "model"),
        (index(child("arm", platform=ARM), child("amd", platform=LINUX)), "amd"),
        (index(child("arm", platform=ARM), child("x", platform=Platform("linux", "s390x"))), None),
        (index(child("a"), child("b")), None),
        (index(child("q4"), child("q8"), artifact_type=KIT_SET), None),
        (index(child("q4"), artifact_type=KIT_SET), "q4"),
        (
            index(
                child("a", platform=LINUX, artifact_type=MODEL),
                child("b", platform=ARM, artifact_type=MODEL),
                child("image", platform=LINUX),
            ),
            "a",
        ),
    ],
)
def test_choose_without_a_wish(found: Index, expected: str | None) -> None:
    assert chosen(found) == expected


SET = index(
    child("q4", platform=LINUX),
    child("q8", platform=ARM),
    child("another", org__opencontainers__image__title="q8"),
    artifact_type=KIT_SET,
)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("linux/amd64", "q4"),
        ("Linux/x86_64", "q4"),
        ("linux/arm64", "q8"),
        ("linux/aarch64/v8", "q8"),
    ],
)
def test_choose_by_platform(wish: str, expected: str) -> None:
    assert chosen(SET, platform=wish) == expected


@pytest.mark.parametrize("wish", ["linux/s390x", "linux/amd64/v3", "windows/amd64"])
def test_choose_platform_that_is_not_there_lists_what_is(wish: str) -> None:
    with pytest.raises(ManifestUnknown) as raised:
        chosen(SET, platform=wish)
    assert isinstance(raised.value.detail, dict)
    assert len(raised.value.detail["variants"]) == 3


@pytest.mark.parametrize("wish", ["", "linux", "a/b/c/d", "linux/ä", "linux//amd64"])
def test_choose_platform_of_no_form_is_refused(wish: str) -> None:
    with pytest.raises(BadRequest, match="os"):
        chosen(SET, platform=wish)


def test_choose_by_variant() -> None:
    assert chosen(SET, variant=str(Digest.of(b"q4"))) == "q4"
    assert chosen(SET, variant="q4") == "q4"
    assert chosen(SET, variant="q4", platform="linux/arm64") == "q4"


@pytest.mark.parametrize(
    ("wish", "message"), [("nothing", "no variant"), ("q8", "2 variants"), ("", "no variant")]
)
def test_choose_variant_that_is_not_one_lists_what_is(wish: str, message: str) -> None:
    with pytest.raises(ManifestUnknown, match=message):
        chosen(SET, variant=wish)


def test_choose_from_nothing_is_unknown() -> None:
    for empty in (index(), index(ATTESTATION)):
        with pytest.raises(ManifestUnknown):
            chosen(empty)


def test_F10_index_of_too_many_children_is_refused() -> None:
    many = [child("same")] * CHILDREN_LIMIT
    assert len(variants(index(*many))) == CHILDREN_LIMIT
    with pytest.raises(SizeInvalid, match="1001"):
        variants(index(*many, child("same")))


def test_choose_takes_a_manifest_that_is_listed_twice_for_one() -> None:
    twice = index(child("a", platform=LINUX), child("a", platform=ARM))
    assert chosen(twice) == "a"
    assert chosen(twice, variant=str(Digest.of(b"a"))) == "a"
    assert chosen(twice, variant="a") == "a"


def test_choose_by_digest_goes_before_a_name_like_it() -> None:
    posing = child("b", org__opencontainers__image__title=str(Digest.of(b"a")))
    assert chosen(index(posing, child("a")), variant=str(Digest.of(b"a"))) == "a"


def test_choose_among_several_of_one_platform_chooses_none() -> None:
    pair = (child("q4", platform=LINUX), child("q8", platform=LINUX))
    typed = [child(name, platform=LINUX, artifact_type=MODEL) for name in ("q4", "q8")]
    for found in (index(*pair), index(*pair, artifact_type=KIT_SET), index(*typed)):
        assert chosen(found) is None
        assert chosen(found, platform="linux/amd64") is None
    model = child("model", platform=LINUX, artifact_type=MODEL)
    assert chosen(index(*pair, model), platform="linux/amd64") == "model"


@pytest.mark.parametrize(
    ("wish", "platforms", "expected"),
    [
        ("linux/amd64", ["linux/amd64/v3", "linux/amd64/v1"], 1),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v3"], 1),
        ("linux/amd64/v1", ["linux/amd64/v3", "linux/amd64"], 1),
        ("linux/arm64/v8", ["linux/arm64/v9", "linux/arm64/8"], 1),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], 0),
        ("linux/arm64/v8", ["linux/arm64/v9"], None),
        ("unknown/unknown", ["Unknown/Unknown"], None),
    ],
)
def test_choose_by_variant_of_a_platform(
    wish: str, platforms: list[str], expected: int | None
) -> None:
    found = index(
        *(child(str(n), platform=Platform(*text.split("/"))) for n, text in enumerate(platforms))
    )
    if expected is not None:
        assert chosen(found, platform=wish) == str(expected)
        return
    with pytest.raises(ManifestUnknown):
        chosen(found, platform=wish)


def test_choose_usual_platform_where_its_variant_is_written() -> None:
    plain = child("amd", platform=Platform("linux", "amd64", "v1"))
    assert chosen(index(child("arm", platform=ARM), plain)) == "amd"


def test_variants_leave_out_what_is_attached_by_its_media_type() -> None:
    attached = replace(child("att"), media_type="application/vnd.in-toto+json")
    folded = child("sig", artifact_type="application/cosign\n")
    assert [one.name for one in variants(index(attached, child("m"), folded))] == ["m"]


def test_D8_metadata_is_cleaned_and_no_part_of_an_error() -> None:
    hostile = {"\ud800": ["\udfff", 1e999, -1e999, {"bits": 4}]}
    (found,) = variants(index(child("q4", metadata=hostile)))
    assert found.to_json()["metadata"] == {"?": ["?", None, None, {"bits": 4}]}
    with pytest.raises(ManifestUnknown) as raised:
        chosen(index(child("q4", metadata={"x": "y" * 1_000_000})), variant="q8")
    assert len(raised.value.to_oci_json()) < 1_000


def test_variant_as_json() -> None:
    (found,) = variants(index(child("q4", platform=ARM, metadata={"bits": 4})))
    assert found.to_json() == {
        "digest": str(Digest.of(b"q4")),
        "size": 7,
        "mediaType": OCI_MANIFEST,
        "artifactType": None,
        "platform": "linux/arm64",
        "name": "q4",
        "metadata": {"bits": 4},
    }
    (odd,) = variants(index(child("x", platform=Platform("linux", ""), metadata=[1])))
    assert (odd.platform, odd.metadata) == (None, {})


_TEXTS = st.sampled_from(["", "linux", "amd64", "arm64", "v8", "unknown", "LINUX", "\ud800"])
_CHILDREN = st.builds(
    child,
    st.sampled_from(["a", "b", "c"]),
    platform=st.none() | st.builds(Platform, _TEXTS, _TEXTS, _TEXTS),
    artifact_type=st.sampled_from([None, MODEL, "application/x", "in-toto"]),
    metadata=st.sampled_from([None, {}, [], "x"]),
)


@settings(derandomize=True)
@given(
    st.lists(_CHILDREN, max_size=4),
    st.sampled_from([None, KIT_SET, MODEL]),
    st.none() | st.sampled_from(["linux/amd64", "x", "linux/arm64/v8"]),
    st.none() | st.sampled_from(["a", "b", "zz"]),
)
def test_choose_gives_one_of_the_variants_or_an_error_of_ours(
    children: list[Descriptor], kind: str | None, platform: str | None, variant: str | None
) -> None:
    found = index(*children, artifact_type=kind)
    try:
        one = choose(found, Choice(platform, variant), is_model_type=lambda text: text == MODEL)
    except ProxyError:
        return
    assert one is None or one in variants(found)
