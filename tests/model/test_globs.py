from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadRequest, SizeInvalid
from proxy.model.globs import WORK_LIMIT, Filter, Glob

_PATHS = (
    "README.md",
    "a.bin",
    "abc",
    "sub/a.bin",
    "sub/deep/a.bin",
    "sub/deep/abc/file",
    "build/x",
    "größe/模型.bin",
    "[x]",
    "a*b",
    "a\\b",
    "!x",
    "#x",
    "x ",
)


def _taken(glob: str) -> list[str]:
    parsed = Glob.parse(glob)
    return [path for path in _PATHS if parsed.matches(path)]


@pytest.mark.parametrize(
    ("glob", "taken"),
    [
        ("README.md", ["README.md"]),
        ("a.bin", ["a.bin", "sub/a.bin", "sub/deep/a.bin"]),
        ("/a.bin", ["a.bin"]),
        ("sub/a.bin", ["sub/a.bin"]),
        ("deep/a.bin", []),
        ("**/deep/a.bin", ["sub/deep/a.bin"]),
        ("sub/**/a.bin", ["sub/a.bin", "sub/deep/a.bin"]),
        ("sub/**", ["sub/a.bin", "sub/deep/a.bin", "sub/deep/abc/file"]),
        ("sub/**/", ["sub/deep/a.bin", "sub/deep/abc/file"]),
        ("sub/*/", ["sub/deep/a.bin", "sub/deep/abc/file"]),
        ("deep", ["sub/deep/a.bin", "sub/deep/abc/file"]),
        ("abc", ["abc", "sub/deep/abc/file"]),
        ("abc/", ["sub/deep/abc/file"]),
        ("/abc/", []),
        ("*", list(_PATHS)),
        ("**", list(_PATHS)),
        ("/**", list(_PATHS)),
        ("a?bin", ["a.bin", "sub/a.bin", "sub/deep/a.bin"]),
        ("sub?a.bin", []),
        ("*.md", ["README.md"]),
        ("[a-b]bc", ["abc", "sub/deep/abc/file"]),
        ("[!b]bc", ["abc", "sub/deep/abc/file"]),
        ("??.bin", ["größe/模型.bin"]),
        ("gr[ä-ö]ße", ["größe/模型.bin"]),
        (r"\[x]", ["[x]"]),
        ("[[]x[]]", ["[x]"]),
        (r"a\*b", ["a*b"]),
        (r"a\\b", ["a\\b"]),
        ("a*b", ["a*b", "a\\b"]),
        (r"\!x", ["!x"]),
        ("#x", ["#x"]),
        ("x ", ["x "]),
        ("[[:upper:]]*", ["README.md"]),
        ("a//b", []),
        ("readme.md", []),
    ],
)
def test_glob_form_takes_in_what_it_names(glob: str, taken: list[str]) -> None:
    assert _taken(glob) == taken


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("foo**/bar", "foo/bar", True),
        ("foo**/bar", "fooz/bar", True),
        ("foo**/bar", "foo/x/bar", False),
        ("foo**/bar", "foobar", False),
        ("/a**", "ab/c", True),
        ("a/***/b", "a/x/y/b", True),
        ("**/**/b", "b", True),
    ],
)
def test_glob_stars_as_the_manual_says(glob: str, path: str, matches: bool) -> None:
    # git 2.39 takes foo**/bar for foo + **/bar, against its own manual.
    assert Glob.parse(glob).matches(path) is matches


@pytest.mark.parametrize(
    ("glob", "characters"),
    [
        ("[b-d]", "bcd"),
        ("[d-b]", "d"),
        ("[^b-d]", "ae-]"),
        ("[]b]", "b]"),
        ("[!]b]", "acde-"),
        ("[b-]", "b-"),
        ("[-b]", "b-"),
        (r"[\]b]", "b]"),
        (r"[b-\d]", "bcd"),
        ("[b-de-]", "bcde-"),
        ("[[:digit:]b]", "b"),
        ("[[:digit:]-b]", "b-"),
        ("[b[:]", "b"),
        ("[+-e]", "abcde-]"),
    ],
)
def test_glob_bracket_holds_what_posix_says(glob: str, characters: str) -> None:
    parsed = Glob.parse(glob)
    assert [char for char in "abcde-]" if parsed.matches(char)] == list(characters)


def test_glob_bracket_with_slash_is_anchored_and_never_matches_it() -> None:
    assert Glob.parse("a[+-9]b").matches("a.b")
    assert not Glob.parse("a[+-9]b").matches("a/b")
    assert not Glob.parse("a[/x]b").matches("a/b")
    assert Glob.parse("a[/x]b").matches("axb")
    assert not Glob.parse("a[/x]b").matches("sub/axb")


@pytest.mark.parametrize(
    "glob",
    ["", "/", "//", "!a", "[", "[a", "a/[!", "[]", r"[a\]", "[[:nope:]]", "[[::]]", "a\\", "a\\/"],
)
def test_glob_that_nothing_matches_is_refused(glob: str) -> None:
    with pytest.raises(BadRequest, match=r"^expected .*, found "):
        Glob.parse(glob)


def test_glob_over_its_length_is_refused_with_limit_and_found() -> None:
    assert Glob.parse("ö" * 512).matches("ö" * 512)
    with pytest.raises(BadRequest, match=r"at most 1024 bytes, found 1026 bytes") as caught:
        Glob.parse("ö" * 513)
    assert caught.value.detail == {"limit": 1024, "found": 1026}


def test_glob_broken_text_is_matched_as_any_other() -> None:
    assert Glob.parse("\udcff*").matches("\udcffa")


def test_glob_equality_is_that_of_the_text() -> None:
    assert Glob.parse("*.bin") == Glob.parse("*.bin") != Glob.parse("*.md")
    assert repr(Glob.parse("*.bin")) == "Glob(text='*.bin')"


def test_filter_nothing_included_wants_all_but_the_excluded() -> None:
    chosen = Filter.parse([], ["*.bin"])
    assert [path for path in ("README.md", "a.bin", "sub/a.bin") if chosen.wants(path)] == [
        "README.md"
    ]
    assert Filter.parse((), ()).wants("anything")
    assert Filter() == Filter.parse([], [])


def test_filter_exclude_wins_over_include() -> None:
    chosen = Filter.parse(["sub/", "*.md"], ["deep", "NOTES.md"])
    assert chosen.wants("sub/a.bin")
    assert chosen.wants("README.md")
    assert not chosen.wants("sub/deep/a.bin")
    assert not chosen.wants("NOTES.md")
    assert not chosen.wants("a.bin")


def test_filter_too_many_globs_are_refused_with_limit_and_found() -> None:
    assert Filter.parse(["a"] * 60, ["b"] * 4).wants("a")
    with pytest.raises(BadRequest, match="at most 64 globs, found 65") as caught:
        Filter.parse(["a"] * 60, ["b"] * 5)
    assert caught.value.detail == {"limit": 64, "found": 65}


@pytest.mark.parametrize(
    ("glob", "path"),
    [
        ("a*" * 511 + "b", "a" * 4096),
        ("*a" * 512, "a" * 4095 + "b"),
        ("a*" * 511 + "b", "a" * 4095 + "c"),
        ("*?" * 511 + "b", "a" * 4096),
        ("*" + "a" * 1022 + "b", "a" * 4096),
        ("*" + "[a-b]" * 200 + "c", "a" * 4096),
        ("**/a/" * 204 + "b", "a/" * 2047 + "a"),
        ("**/*a/" * 170 + "b", "aa/" * 1365 + "a"),
        ("**/" + "a/" * 500 + "b", "a/" * 2047 + "a"),
        ("**/" + "*a*/" * 250 + "b", "aaaaaaa/" * 511 + "a"),
        ("*/" * 511 + "b", "a/" * 2047 + "a"),
        ("*/**/" * 204 + "b", "a/" * 2047 + "a"),
        ("**/*a*a*a*a*a*b/" * 64, "a" * 2047 + "/" + "a" * 2047),
        ("[!b]*" * 204 + "b", "a" * 4096),
    ],
)
def test_F9_hostile_glob_costs_at_most_glob_times_path(glob: str, path: str) -> None:
    started = time.perf_counter()
    matched = Glob.parse(glob).matches(path)
    assert time.perf_counter() - started < 1.0
    assert not matched


_TOKENS = ("a", "b", "B", "-", ".", "?", "*", "**", "/", "**/", "/**/", "/**", "\\a", "\\*")
_BRACKETS = ("[ab]", "[!a]", "[^b-]", "[a-b]", "[b-a]", "[]a]", "[\\]a-]", "[[:upper:]]", "[!-b]")
_GLOBS = st.lists(st.sampled_from(_TOKENS + _BRACKETS), min_size=1, max_size=7).map("".join)
_PART = st.text(alphabet="abB-*", min_size=1, max_size=3)
_TREE = st.lists(st.lists(_PART, min_size=1, max_size=4).map("/".join), min_size=1, max_size=12)


def _ignored(
    place: Path, globs: Sequence[str], paths: Sequence[str]
) -> Mapping[str, Sequence[str]]:
    """What git says each glob takes in: each is the whole .gitignore of a directory of its own."""
    asked: list[str] = []
    for number, glob in enumerate(globs):
        directory = place / str(number)
        directory.mkdir(exist_ok=True)
        (directory / ".gitignore").write_text(f"{glob}\n")
        asked += [f"{number}/{path}" for path in paths]
    answer = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin", "-z"],
        cwd=place,
        input="\0".join(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(place), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    assert answer.returncode in (0, 1), answer.stderr
    taken = set(answer.stdout.split("\0"))
    return {
        glob: [path for path in paths if f"{number}/{path}" in taken]
        for number, glob in enumerate(globs)
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("apt-get install git")
    place = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", str(place)], check=True)
    return place


def _is_comparable(glob: str) -> bool:
    # git reads text before ** as if it ended a part; a line and a query differ in what ! is.
    return not re.search(r"[^/*]\*\*", glob) and glob.strip("/") != ""


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.lists(_GLOBS.filter(_is_comparable), min_size=1, max_size=20, unique=True), _TREE)
def test_glob_takes_in_what_git_ignores(
    repository: Path, globs: list[str], paths: list[str]
) -> None:
    said = {glob: [path for path in paths if Glob.parse(glob).matches(path)] for glob in globs}
    assert said == _ignored(repository, globs, paths)


def test_glob_refused_ignores_nothing_in_git(repository: Path) -> None:
    globs = ["/", "//", "[", "[a", "a/[!", "[]", r"[a\]", "[[:nope:]]", "[[::]]", "a\\", "a\\/"]
    paths = ["a", "[", "[a", "a/[!", "[]", "a\\", "a/b", "x/a", "b:", "n"]
    assert set(map(tuple, _ignored(repository, globs, paths).values())) == {()}


def test_filter_chosen_is_what_it_wants() -> None:
    wanted = Filter.parse(["*.json"], ["b/"])
    assert wanted.chosen(["a.json", "b/a.json", "c.bin"]) == [True, False, False]
    assert Filter.parse([], []).chosen(["a"] * 3) == [True] * 3


def test_F9_filter_work_over_the_limit_is_refused_with_both_numbers() -> None:
    wanted = Filter.parse(["*" + "[a-z]" * 127 + "b"] * 10, [])
    paths = ["x" * 4096] * 20
    with pytest.raises(SizeInvalid, match=str(WORK_LIMIT)) as raised:
        wanted.chosen(paths)
    assert raised.value.detail == {"limit": WORK_LIMIT, "found": 637 * 10 * 4096 * 20}
