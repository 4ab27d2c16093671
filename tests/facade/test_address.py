from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import DigestInvalid, ManifestUnknown, NameInvalid
from proxy.facade.address import parse

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("raw_path", "reference", "view", "path"),
    [
        ("/cnai/model:v1", "model:v1", "", ""),
        ("/cnai/model:v1/", "model:v1", "", ""),
        ("/cnai/team/sub/model:v1", "team/sub/model:v1", "", ""),
        ("/cnai/team%2Fmodel%3Av1", "team/model:v1", "", ""),
        (f"/cnai/model@sha256:{HEX}", f"model@sha256:{HEX}", "", ""),
        (f"/cnai/model%40sha256%3a{HEX}/files", f"model@sha256:{HEX}", "files", ""),
        (f"/cnai/a/model:v1@sha256:{HEX}/readme", f"a/model:v1@sha256:{HEX}", "readme", ""),
        ("/cnai/model:v1/files/", "model:v1", "files", ""),
        ("/cnai/model:v1/files/a/b.bin", "model:v1", "files", "a/b.bin"),
        ("/cnai/model:v1/files/a/", "model:v1", "files", "a"),
        ("/cnai/model:v1/files//a//b//", "model:v1", "files", "a//b"),
        ("/cnai/model:v1/files/a%2Fb", "model:v1", "files", "a/b"),
        ("/cnai/model:v1/files/a%20b%25", "model:v1", "files", "a b%"),
        ("/cnai/model:v1/files/a+b", "model:v1", "files", "a+b"),
        ("/cnai/model:v1/files/x:y@z", "model:v1", "files", "x:y@z"),
        ("/cnai/model:v1/files/../x", "model:v1", "files", "../x"),
        ("/cnai/model:v1/files/%ff", "model:v1", "files", "\udcff"),
        ("/cnai/model:v1/files/%zz%", "model:v1", "files", "%zz%"),
        ("/cnai/model:v1/files/%2500", "model:v1", "files", "%00"),
    ],
)
def test_address_is_reference_view_and_path(
    raw_path: str, reference: str, view: str, path: str
) -> None:
    found = parse(raw_path)
    assert (str(found.reference), found.view, found.path) == (reference, view, path)


@pytest.mark.parametrize("raw_path", ["/cnai/", "/cnai/model", "/cnai/team/model/files", "/cnai//"])
def test_address_without_tag_and_digest_is_unknown(raw_path: str) -> None:
    with pytest.raises(ManifestUnknown, match="neither tag nor digest"):
        parse(raw_path)


@pytest.mark.parametrize(
    "raw_path",
    [
        "/cnai/Model:v1",
        "/cnai/a//b:v1",
        "/cnai//a:v1",
        "/cnai/../a:v1",
        "/cnai/%2e%2e/a:v1",
        "/cnai/a:",
        "/cnai/:v1",
        "/cnai/a:v1%2F..%2Fb",
        "/cnai/a%00:v1",
        "/cnai/a:v1%0a",
        "/cnai/%ff:v1",
        "/cnai/a%253Av1:x",
    ],
)
def test_E1_address_with_a_name_outside_the_grammar_is_refused(raw_path: str) -> None:
    with pytest.raises(NameInvalid):
        parse(raw_path)


@pytest.mark.parametrize("digest", ["", "sha256:", f"sha256:{HEX.upper()}", f"md5:{HEX[:32]}", "@"])
def test_E2_address_with_a_malformed_digest_is_refused(digest: str) -> None:
    with pytest.raises(DigestInvalid):
        parse(f"/cnai/model@{digest}/files")


def test_address_at_its_longest() -> None:
    start = "/cnai/a:v1/files/"
    longest = start + "x" * (16 * 1024 - len(start))
    assert len(parse(longest).path) == 16 * 1024 - len(start)
    with pytest.raises(NameInvalid, match="16384"):
        parse(f"{longest}x")


@given(st.text(string.ascii_lowercase + "/:@%.2fFeE0\\ \x00é"))
def test_address_parses_or_fails_by_name(rest: str) -> None:
    try:
        found = parse(f"/cnai/{rest}")
    except (NameInvalid, DigestInvalid, ManifestUnknown) as error:
        message = error.message
    else:
        assert found.reference.tag or found.reference.digest
        message = ""
    assert len(message) < 2000
