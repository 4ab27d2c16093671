from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.facade.content_headers import content_disposition, content_type, document_type

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("README.md", TEXT),
        ("a/b/config.json", TEXT),
        ("train.py", TEXT),
        ("CONFIG.YAML", TEXT),
        ("README", TEXT),
        ("license-apache", TEXT),
        ("Modelfile", TEXT),
        (".gitattributes", TEXT),
        ("sub/.gitattributes", TEXT),
        (".html", BYTES),
        ("README.", BYTES),
        ("logo.png", "image/png"),
        ("logo.JPG", "image/jpeg"),
        ("logo.jpeg", "image/jpeg"),
        ("logo.gif", "image/gif"),
        ("logo.webp", "image/webp"),
        ("model.safetensors", BYTES),
        ("noextension", BYTES),
        ("", BYTES),
        ("dir/", BYTES),
        ("x.", BYTES),
    ],
)
def test_content_type_is_text_a_picture_or_bytes(path: str, expected: str) -> None:
    assert content_type(path) == expected


@pytest.mark.parametrize(
    "extension",
    [
        *("html", "htm", "HTML", "xhtml", "shtml", "svg", "SVG", "svgz", "xml", "xsl", "xslt"),
        *("js", "mjs", "cjs", "css", "pdf", "swf", "wasm", "mht", "mhtml", "hta", "ipynb", "rdf"),
        *("html ", "html.", "png.html", "txt.svg"),
    ],
)
def test_G2_content_type_of_what_could_run_is_bytes(extension: str) -> None:
    assert content_type(f"x.{extension}") == BYTES
    assert content_type(f"README.{extension}") == BYTES


@given(st.text())
def test_G2_content_type_of_anything_runs_nowhere(path: str) -> None:
    assert content_type(path) in (TEXT, BYTES) or content_type(path).startswith("image/")
    assert "svg" not in content_type(path)


def test_document_type_follows_the_extension() -> None:
    assert document_type("a/README.MD") == "text/markdown; charset=utf-8"
    assert document_type("x.markdown") == "text/markdown; charset=utf-8"
    assert document_type("LICENSE") == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.bin", 'inline; filename="model.bin"'),
        ("a/b/model.bin", 'inline; filename="model.bin"'),
        ("a b.bin", 'inline; filename="a b.bin"'),
        ('a"b', "inline; filename=\"a_b\"; filename*=UTF-8''a%22b"),
        ("a\\b", "inline; filename=\"a_b\"; filename*=UTF-8''a%5Cb"),
        ("a;b", "inline; filename=\"a_b\"; filename*=UTF-8''a%3Bb"),
        ("a%41b", "inline; filename=\"a_41b\"; filename*=UTF-8''a%2541b"),
        ("\U0001f916", "inline; filename=\"_\"; filename*=UTF-8''%F0%9F%A4%96"),
        ("a\r\nX: y", 'inline; filename="a__X: y"'),
        ("a\x00b\x7fc\x85d", 'inline; filename="a_b_c_d"'),
        ("a\u202egpj.exe", 'inline; filename="a_gpj.exe"'),
        ("a\u2066\u200fb", 'inline; filename="a__b"'),
        ("\udcff", 'inline; filename="_"'),
        ("", 'inline; filename="file"'),
        ("a/", 'inline; filename="file"'),
        ("..", 'inline; filename=".."'),
    ],
)
def test_G4_content_disposition_names_the_file(path: str, expected: str) -> None:
    assert content_disposition(path, attachment=False) == expected
    as_attachment = expected.replace("inline", "attachment", 1)
    assert content_disposition(path, attachment=True) == as_attachment


def test_G4_content_disposition_keeps_the_end_of_a_long_name() -> None:
    value = content_disposition("x" * 10_000 + ".safetensors", attachment=True)
    (name,) = re.findall(r'filename="([^"]*)"', value)
    assert len(name) == 255
    assert name.endswith("x.safetensors")


@given(st.text(st.characters(codec=None), max_size=600))
def test_G4_content_disposition_is_one_ascii_line(path: str) -> None:
    value = content_disposition(path, attachment=True)
    plain, encoded = r'filename="[ !#-$&-.0-:<-\[\]-~]+"', r"filename\*=UTF-8''(?P<name>[\w.~%-]+)"
    match = re.fullmatch(f"attachment; {plain}(?:; {encoded})?", value, re.ASCII)
    assert match is not None, value
    assert not re.search("[\x00-\x1f\x7f\u202a-\u202e]", unquote(match["name"] or ""))
