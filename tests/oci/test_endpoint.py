from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadRequest, DigestInvalid, NameInvalid
from proxy.oci.digest import Digest
from proxy.oci.endpoint import (
    Blob,
    Catalog,
    Endpoint,
    Manifest,
    Other,
    Ping,
    Referrers,
    Tags,
    Upload,
    parse,
    split_target,
)
from proxy.oci.reference import RepositoryName, Tag

HEX = "0123456789abcdef" * 4
SHA256 = f"sha256:{HEX}"
SHA512 = f"sha512:{HEX}{HEX}"
A = RepositoryName("a")
AB = RepositoryName("a/b")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2", Ping()),
        ("/v2/", Ping()),
        ("/v2/_catalog", Catalog()),
        ("/v2/a/manifests/v1", Manifest(A, Tag("v1"))),
        (f"/v2/a/b/manifests/{SHA256}", Manifest(AB, Digest.parse(SHA256))),
        (f"/v2/a/b/manifests/{SHA512}", Manifest(AB, Digest.parse(SHA512))),
        ("/v2/a/manifests/sha384:ab", Manifest(A, "sha384:ab")),
        (f"/v2/a/b/blobs/{SHA256}", Blob(AB, Digest.parse(SHA256))),
        ("/v2/a/blobs/md5:ab", Blob(A, "md5:ab")),
        ("/v2/a/blobs/uploads/", Upload(A, "")),
        ("/v2/a/b/blobs/uploads/6b3c-4d.x~y", Upload(AB, "6b3c-4d.x~y")),
        ("/v2/a/tags/list", Tags(A)),
        (f"/v2/a/referrers/{SHA256}", Referrers(A, Digest.parse(SHA256))),
        ("/v2/a/referrers/sha384:ab", Referrers(A, "sha384:ab")),
    ],
)
def test_parse_address_of_the_specification_is_typed(path: str, expected: Endpoint) -> None:
    assert parse(path) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/v2/a",
        "/v2/a/",
        "/v2/tags/list",
        "/v2/a/tags",
        "/v2/a/tags/list/",
        "/v2/a/tags/other",
        "/v2/_catalog/",
        "/v2/A/manifests/v1",
        "/v2/a/manifests/",
        "/v2/a/manifests/-v1",
        "/v2/a/manifests/v1/",
        "/v2/a/blobs/uploads",
        "/v2/a/blobs/nodigest",
        "/v2/a/referrers/nodigest",
        f"/v2/a/manifests/{'t' * 129}",
        "/v2/_oci/ext/discover",
        "/v2/a/_trust/tuf/root.json",
    ],
)
def test_parse_safe_path_the_specification_does_not_name_is_other(path: str) -> None:
    assert parse(path) == Other()


# 40 spellings that could mean another path to whoever reads them next.
SPELLINGS = [
    "/v2/a/..%2f..%2fb/manifests/v1",
    "/v2/a/%2e%2e/b/manifests/v1",
    "/v2/a/%2E%2E/b/manifests/v1",
    "/v2/a%2Fb/manifests/v1",
    "/v2/a%2fb/manifests/v1",
    "/v2/%61/manifests/v1",
    "/v2/a/manifests/v%31",
    "/v2/a%00/manifests/v1",
    "/v2/a/manifests/v1%00",
    "/v2/a%0d%0a/manifests/v1",
    "/v2/a%252fb/manifests/v1",
    "/v2/a/%c0%ae%c0%ae/manifests/v1",
    "/v2/a/%/manifests/v1",
    f"/v2/a/blobs/sha256%3A{HEX}",
    "/v2/../v2/a/manifests/v1",
    "/v2/a/../b/manifests/v1",
    "/v2/a/./manifests/v1",
    "/v2/./a/manifests/v1",
    "/v2/a/manifests/..",
    "/v2/a/manifests/.",
    "/v2/a/manifests/v1/..",
    "/v2/..",
    "/v2/.",
    "/v2//a/manifests/v1",
    "//v2/a/manifests/v1",
    "/v2/a//manifests/v1",
    "/v2/a/manifests//v1",
    "/v2/a/manifests/v1//",
    "/v2//",
    "/v2/a\\..\\b/manifests/v1",
    "/v2\\a/manifests/v1",
    "/v2/a/manifests/v1#x",
    "/v2/a/manifests/v1?x",
    "/v2/a/manifests/v1\n",
    "/v2/a\r\n/manifests/v1",
    "/v2/a\t/manifests/v1",
    "/v2/a /manifests/v1",
    "/v2/a\x00/manifests/v1",
    "/v2/ä/manifests/v1",
    "/v2/a\udcff/manifests/v1",
    "/v2/a\uff0fb/manifests/v1",
    "/v2/a/\u2024\u2024/b/manifests/v1",
    "/v3/a/manifests/v1",
    "/v2x/a",
    "v2/a/manifests/v1",
    "",
    "/",
    "*",
    "http://registry.example/v2/a/manifests/v1",
    '/v2/a"<script>/manifests/v1',
]


@pytest.mark.parametrize("path", SPELLINGS)
def test_E1_parse_spelling_outside_the_grammar_is_refused(path: str) -> None:
    with pytest.raises(NameInvalid, match="expected a path of plain characters"):
        parse(path)


def test_E1_parse_semicolon_is_nobodys_parameter() -> None:
    assert parse("/v2/a;x=1/manifests/v1") == Other()


@pytest.mark.parametrize("length", [255, 256])
def test_E1_parse_name_limit_holds_at_its_edge(length: int) -> None:
    path = f"/v2/{'a' * length}/tags/list"
    if length == 255:
        assert parse(path) == Tags(RepositoryName("a" * 255))
    else:
        with pytest.raises(NameInvalid, match="at most 255 characters, found 256"):
            parse(path)


@pytest.mark.parametrize("tail", ["a/" * 8000, "a-" * 8000, "a__" * 5000, "a/manifests/" * 1300])
def test_E1_parse_long_hostile_path_ends_at_once(tail: str) -> None:
    # The test's own time limit is the assertion: the grammar takes linear time.
    with suppress(NameInvalid):
        parse(f"/v2/{tail}!")


@pytest.mark.parametrize(
    "digest",
    [
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha512:{HEX}",
        f"SHA256:{HEX}",
        "sha256:",
        ":",
        "sha256:a:b",
        "sha256:..",
        "sha384:a=b@c",
    ],
)
@pytest.mark.parametrize("verb", ["manifests", "blobs", "referrers"])
def test_E2_parse_malformed_digest_is_refused(verb: str, digest: str) -> None:
    with pytest.raises(DigestInvalid):
        parse(f"/v2/a/{verb}/{digest}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/cnai/x/manifests/v1", Manifest(RepositoryName("cnai/x"), Tag("v1"))),
        ("/v2/x/manifests/manifests/v1", Manifest(RepositoryName("x/manifests"), Tag("v1"))),
        ("/v2/a/manifests/b/manifests/c", Manifest(RepositoryName("a/manifests/b"), Tag("c"))),
        (f"/v2/x/blobs/y/blobs/{SHA256}", Blob(RepositoryName("x/blobs/y"), Digest.parse(SHA256))),
        (
            "/v2/v2/blobs/uploads/manifests/v1",
            Manifest(RepositoryName("v2/blobs/uploads"), Tag("v1")),
        ),
        ("/v2/x/blobs/uploads/blobs/uploads/", Upload(RepositoryName("x/blobs/uploads"), "")),
        ("/v2/x/manifests/blobs/uploads/", Upload(RepositoryName("x/manifests"), "")),
        ("/v2/tags/list/tags/list", Tags(RepositoryName("tags/list"))),
        ("/v2/a/manifests/tags/list", Tags(RepositoryName("a/manifests"))),
        ("/v2/a/manifests/list", Manifest(A, Tag("list"))),
        ("/v2/a/manifests/blobs", Manifest(A, Tag("blobs"))),
        ("/v2/v2/_catalog/tags/list", Other()),
        (
            f"/v2/x/referrers/y/referrers/{SHA256}",
            Referrers(RepositoryName("x/referrers/y"), Digest.parse(SHA256)),
        ),
    ],
)
def test_E9_parse_repository_named_like_a_route_is_split_at_the_last_verb(
    path: str, expected: Endpoint
) -> None:
    assert parse(path) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/v2/", ("/v2/", "")),
        ("/v2/?", ("/v2/", "")),
        ("/v2/a/tags/list?n=1&last=x", ("/v2/a/tags/list", "n=1&last=x")),
        ("/v2/a?_state=ab%3D%3D&b=?/:@", ("/v2/a", "_state=ab%3D%3D&b=?/:@")),
    ],
)
def test_split_target_keeps_both_parts_byte_for_byte(
    target: str, expected: tuple[str, str]
) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize("target", ["", "*", "http://evil.example/v2/", "v2/", "?x", "evil:443"])
def test_E1_split_target_not_in_origin_form_is_refused(target: str) -> None:
    with pytest.raises(BadRequest, match="starts with '/'"):
        split_target(target)


@pytest.mark.parametrize(
    "query", ["a b", "a\r\nb", "a#b", "ä", "a\x00", 'a"b', "a<b", "a\\b", "a\n"]
)
def test_E1_split_target_query_of_other_characters_is_refused(query: str) -> None:
    with pytest.raises(BadRequest, match="query"):
        split_target(f"/v2/?{query}")


SEGMENTS = st.sampled_from(
    [
        *("a", "b.c", "_catalog", "manifests", "blobs", "uploads", "tags", "list", "referrers"),
        *("v1", SHA256, "sha256:ab", "sha384:ab", "..", ".", "", "%2e", "\\", "ä", "A", "a" * 256),
    ]
)
PATHS = st.one_of(
    st.lists(SEGMENTS, max_size=7).map(lambda parts: "/v2/" + "/".join(parts)),
    st.text(alphabet="a-z0A.%/\\:_\x00\nä", max_size=40).map(lambda text: f"/v2/{text}"),
    st.text(max_size=40),
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(PATHS)
def test_E1_parse_anything_is_refused_by_name_or_kept_unchanged(path: str) -> None:
    try:
        endpoint = parse(path)
    except (NameInvalid, DigestInvalid):
        return
    assert re.fullmatch(r"/v2(/[!$&'()*+,;=:@A-Za-z0-9._~-]+)*/?", path)
    assert not {".", ".."} & set(path.split("/"))
    match endpoint:
        case Manifest(repository, reference):
            assert path == f"/v2/{repository}/manifests/{reference}"
        case Blob(repository, digest):
            assert path == f"/v2/{repository}/blobs/{digest}"
        case Referrers(repository, digest):
            assert path == f"/v2/{repository}/referrers/{digest}"
        case Upload(repository, session):
            assert path == f"/v2/{repository}/blobs/uploads/{session}"
        case Tags(repository):
            assert path == f"/v2/{repository}/tags/list"
        case _:
            assert path.startswith("/v2")
