from __future__ import annotations

import pytest

from proxy.errors import DigestInvalid, NameInvalid
from proxy.oci.digest import Digest
from proxy.oci.reference import Reference, RepositoryName, Tag

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "text",
    ["a", "a/b", "team/model", "a.b/c_d/e__f/g-h/i---j", "0/1", "x/blobs/uploads", "a" * 255],
)
def test_repository_name_in_the_grammar_is_kept(text: str) -> None:
    assert str(RepositoryName.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "a/", "/a", "a//b", "A", "a/B", "a..b", "a___b", "_a", "a_", ".a", "a.", "-a"),
        *("a b", "a\n", "ä", "a\x00", "a/../b", "..", ".", "a%2fb", "a\\b", "a" * 256),
        *("a:b", "a@b", "a._b", "a/" * 127 + "aa"),
    ],
)
def test_E1_repository_name_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid, match="expected a repository name"):
        RepositoryName.parse(text)


@pytest.mark.parametrize("text", ["v1", "_", "latest", "A.b-c_d", "1" * 128])
def test_tag_in_the_grammar_is_kept(text: str) -> None:
    assert str(Tag.parse(text)) == text


@pytest.mark.parametrize("text", ["", "-a", ".a", "a/b", "a b", "v1\n", "ü", "1" * 129, "a:b"])
def test_E1_tag_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid, match="expected a tag"):
        Tag.parse(text)


@pytest.mark.parametrize("text", ["a/b:v1", f"a/b@{DIGEST}", f"a/b:v1@{DIGEST}"])
def test_reference_is_written_back_as_people_write_it(text: str) -> None:
    assert str(Reference.parse(text)) == text


def test_reference_with_tag_asks_for_the_tag() -> None:
    assert Reference.parse("a/b:v1").target == Tag("v1")


def test_reference_with_both_asks_for_the_digest() -> None:
    assert Reference.parse(f"a/b:v1@{DIGEST}").target == Digest.parse(DIGEST)


def test_reference_made_without_either_has_no_target() -> None:
    with pytest.raises(NameInvalid, match="a has neither tag nor digest"):
        _ = Reference(RepositoryName("a"), None, None).target


@pytest.mark.parametrize(
    "text", ["", "a", "a/b", "a:", "a:v/1", ":v1", "localhost:5000/a:v1", "A:v1", "a:v1:v2"]
)
def test_E1_reference_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["a@", "a@v1", "a@sha256:00", f"a@{DIGEST}@{DIGEST}", "a:v1@"])
def test_E2_reference_with_a_bad_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Reference.parse(text)
