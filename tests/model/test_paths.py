from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model.paths import path_warning, sanitise_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.txt", "a/b.txt"),
        ("./a//b/.", "a/b"),
        ("a/", "a"),
        ("/etc/passwd", "etc/passwd"),
        ("../../x", "x"),
        ("a/../../b", "b"),
        ("a/b/../c", "a/c"),
        ("a\\b", "a/b"),
        ("\\\\host\\share", "host/share"),
        ("C:\\x", "x"),
        ("C:/x", "x"),
        ("/C:/D:/x", "x"),
        ("a/C:/x", "a/C:/x"),
        ("D:foo", "D:foo"),
        ("größe/模型", "größe/模型"),
        (".git/config", ".git/config"),
        ("...", "..."),
        ("a" * 255, "a" * 255),
        ("/".join("a" * 64), "/".join("a" * 64)),
        ("", None),
        ("/", None),
        ("..", None),
        ("C:", None),
        ("a/b\\c", None),
        ("a\0b", None),
        ("a\nb", None),
        ("a\x7fb", None),
        ("a\x85b", None),
        ("a\u202eb", None),
        ("a\u2066b", None),
        ("a\u2028b", None),
        ("a\udcffb", None),
        ("long/\ud800", None),
        ("a" * 256, None),
        ("é" * 128, None),
        ("a/" * 2049, None),
        ("é/" * 2000, None),
        ("/".join("a" * 65), None),
        (("é" * 100 + "/") * 25, None),
    ],
)
def test_E3_sanitise_path_table(text: str, expected: str | None) -> None:
    assert sanitise_path(text) == expected


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab/.\\:C\0\udcff é"), max_size=30) | st.text(max_size=40))
def test_E3_sanitise_path_result_is_relative_and_stays(text: str) -> None:
    path = sanitise_path(text)
    path_warning(text)
    if path is not None:
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
        assert "\\" not in path
        assert sanitise_path(path) == path


def test_path_warning_only_for_unsafe_paths() -> None:
    assert path_warning("a/b") is None
    assert path_warning("./a//b/") is None
    assert path_warning("/a") == "the path '/a' is unsafe, shown as 'a'"
    assert path_warning("../a") == "the path '../a' is unsafe, shown as 'a'"
    assert path_warning("a\udcff") == "the path 'a\\udcff' has no safe form"
