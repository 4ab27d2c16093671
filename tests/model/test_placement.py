from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.formats.tar import Member, MemberKind, TarReader
from proxy.model.artifact import RAW, TAR, LayerClass, ModelLayer, Packing
from proxy.model.placement import (
    EarlyMatch,
    FileEntry,
    entry_of_layer,
    may_hold,
    place_members,
)
from tests.build import descriptor, tar_archive


def _layer(
    path: str | None,
    *,
    packing: Packing = TAR,
    layer_class: LayerClass = LayerClass.OTHER,
    media_type: str = "x",
    size: int = 10**6,
    declared: int | None = None,
) -> ModelLayer:
    return ModelLayer(descriptor(media_type, size=size), layer_class, packing, path, declared)


def _members(*names: str) -> list[Member]:
    """Members of one byte each; a trailing slash makes a directory, ``->`` a symbolic link."""
    found = []
    for number, name in enumerate(names):
        kind, target = MemberKind.REGULAR, None
        if name.endswith("/"):
            kind = MemberKind.DIRECTORY
        elif "->" in name:
            kind, (name, _, target) = MemberKind.SYMLINK, name.partition("->")
        found.append(Member(name, kind, 1, 512 * (number + 1), target))
    return found


def _paths(layer: ModelLayer, members: Sequence[Member]) -> list[str]:
    return [entry.path for entry in place_members(layer, members, layer_index=0)]


def test_entry_of_raw_layer_is_its_file() -> None:
    layer = _layer("sub/model.gguf", packing=RAW, size=42, declared=7)
    entry = entry_of_layer(layer, layer_index=3)
    assert entry == FileEntry(
        path="sub/model.gguf",
        layer=layer,
        layer_index=3,
        size=42,
        exact=True,
        offset=0,
        file_class=LayerClass.WEIGHT,
    )
    assert entry.name == "model.gguf"
    assert entry.sha256 == layer.descriptor.digest.hex


@pytest.mark.parametrize(
    ("packing", "declared", "size", "offset"),
    [
        (TAR, 50, 50, None),
        (TAR, 101, None, None),
        (TAR, None, None, None),
        (Packing("tar", "gzip"), 5000, 5000, None),
        (Packing("raw", "gzip"), 5000, 5000, 0),
        (Packing("raw", "zstd"), None, None, 0),
    ],
)
def test_entry_of_unopened_layer_is_what_the_annotation_claims(
    packing: Packing, declared: int | None, size: int | None, offset: int | None
) -> None:
    layer = _layer("a", packing=packing, size=100, declared=declared)
    entry = entry_of_layer(layer, layer_index=0)
    assert (entry.size, entry.exact, entry.offset) == (size, False, offset)
    assert entry.unsupported is None
    assert entry.sha256 is None


@pytest.mark.parametrize(
    ("layer", "ending"),
    [
        (_layer(None, packing=RAW), ""),
        (_layer(None, packing=RAW, media_type="application/vnd.cncf.model.doc.v1.raw"), ""),
        (_layer(None, packing=RAW, media_type="application/vnd.x.weight.v1.gguf"), ".gguf"),
        (_layer("..\0/X.SafeTensors", packing=RAW), ".safetensors"),
        (_layer(None), ".tar"),
        (_layer("\udcff", packing=Packing("tar", "zstd")), ".tar.zst"),
        (_layer(None, packing=Packing("raw", "gzip")), ".gz"),
    ],
)
def test_E3_layer_without_a_safe_name_gets_one_of_its_class_and_digest(
    layer: ModelLayer, ending: str
) -> None:
    entry = entry_of_layer(layer, layer_index=0)
    assert entry.path == f"other/{layer.descriptor.digest.short}{ending}"
    assert entry.raw_path == layer.path
    assert len(entry.warnings) == (1 if layer.path else 0)
    assert may_hold(layer, entry.path)


def test_E3_unsafe_path_is_shown_safe_with_its_original() -> None:
    entry = entry_of_layer(_layer("../README.md", packing=RAW), layer_index=0)
    assert (entry.path, entry.raw_path) == ("README.md", "../README.md")
    assert len(entry.warnings) == 1


@pytest.mark.parametrize(
    ("annotated", "members", "expected"),
    [
        # one regular member: the annotated path
        ("sub/a.bin", ["a.bin"], ["sub/a.bin"]),
        ("a.bin", ["models/a.bin"], ["a.bin"]),
        ("../a.bin", ["x"], ["a.bin"]),
        ("a.bin", ["x", "l->x"], ["a.bin", "a.bin~/l"]),
        # no annotation, or no safe one: as they are
        (None, ["models/a.bin"], ["models/a.bin"]),
        (None, ["a", "b/c"], ["a", "b/c"]),
        ("..", ["a"], ["a"]),
        # members at or below the annotated path: as they are
        ("dir", ["dir/", "dir/a", "dir/b/c"], ["dir/a", "dir/b/c"]),
        ("dir", ["dir/", "dir/a"], ["dir/a"]),
        ("dir", ["./dir/a", "./dir/b"], ["dir/a", "dir/b"]),
        ("a", ["a", "b"], ["a", "a/b"]),
        ("dir", ["dir/a", "dirty"], ["dir/a", "dir/dirty"]),
        # elsewhere: below the annotated path
        ("dir", ["a", "b/c"], ["dir/a", "dir/b/c"]),
        ("dir", ["sub/", "sub/a"], ["dir/sub/a"]),
        ("dir", ["a", "dir/b"], ["dir/a", "dir/dir/b"]),
        ("dir/", ["a"], ["dir/a"]),
        ("dir/", ["dir/a"], ["dir/a"]),
        ("dir\\", ["a"], ["dir/a"]),
        # a bundle word places nothing
        ("docs", ["README.md", "LICENSE"], ["README.md", "LICENSE"]),
        ("docs", ["README.md"], ["README.md"]),
        ("config", ["config"], ["config"]),
        ("code", ["code/a.py", "b.py"], ["code/a.py", "b.py"]),
        # nothing in it
        ("dir", ["dir/"], []),
        ("dir", [], []),
        ("dir", ["l->x"], ["dir/l"]),
    ],
)
def test_place_members_table(
    annotated: str | None, members: list[str], expected: list[str]
) -> None:
    layer = _layer(annotated)
    assert _paths(layer, _members(*members)) == expected
    assert all(may_hold(layer, path) for path in expected)


def test_place_members_entry_tells_size_offset_and_class() -> None:
    layer = _layer("docs", layer_class=LayerClass.DOC)
    members = [
        Member("./README.md", MemberKind.REGULAR, 7, 512),
        Member("/b.safetensors", MemberKind.REGULAR, 9, 2048),
    ]
    first, second = place_members(layer, members, layer_index=4)
    assert first == FileEntry(
        path="README.md",
        layer=layer,
        layer_index=4,
        size=7,
        exact=True,
        offset=512,
        file_class=LayerClass.DOC,
        raw_path="./README.md",
    )
    assert second.file_class is LayerClass.WEIGHT
    assert second.raw_path == "/b.safetensors"
    assert second.warnings == ("the path '/b.safetensors' is unsafe, shown as 'b.safetensors'",)
    assert second.sha256 is None


def test_E3_members_without_safe_names_are_told_apart() -> None:
    layer = _layer(None, layer_class=LayerClass.WEIGHT)
    short = layer.descriptor.digest.short
    entries = place_members(layer, _members("\udcff.gguf", "..", "ok"), layer_index=0)
    assert [entry.path for entry in entries] == [
        f"weight/{short}-0.gguf",
        f"weight/{short}-1",
        "ok",
    ]
    assert entries[0].raw_path == "\udcff.gguf"


def test_E6_links_are_shown_and_only_hard_links_to_earlier_files_are_opened() -> None:
    members = [
        Member("real", MemberKind.REGULAR, 5, 512),
        Member("soft", MemberKind.SYMLINK, 0, 1536, "/etc/passwd"),
        Member("hard", MemberKind.HARDLINK, 0, 2048, "./real"),
        Member("up", MemberKind.HARDLINK, 0, 2560, "../x"),
        Member("self", MemberKind.HARDLINK, 0, 3072, "self"),
        Member("second", MemberKind.HARDLINK, 0, 3584, "hard"),
        Member("ahead", MemberKind.HARDLINK, 0, 4096, "later"),
        Member("none", MemberKind.HARDLINK, 0, 4608),
        Member("later", MemberKind.REGULAR, 6, 5120),
        Member("device", MemberKind.OTHER, 0, 6144),
    ]
    entries = {e.path: e for e in place_members(_layer(None), members, layer_index=0)}
    assert list(entries) == [member.name for member in members[:-1]]
    assert (entries["hard"].size, entries["hard"].offset) == (5, 512)
    assert entries["hard"].unsupported is None
    for name in ("soft", "up", "self", "second", "ahead", "none"):
        assert entries[name].unsupported
        assert (entries[name].size, entries[name].exact, entries[name].offset) == (
            None,
            False,
            None,
        )
    assert "'/etc/passwd'" in str(entries["soft"].unsupported)


def test_F3_sparse_member_is_shown_but_not_opened() -> None:
    members = [Member("s", MemberKind.SPARSE, 209715200, 512)]
    (entry,) = place_members(_layer(None), members, layer_index=0)
    assert (entry.size, entry.exact, entry.offset) == (209715200, False, None)
    assert entry.unsupported == "a sparse member is not expanded"


def test_E7_first_member_of_a_name_counts() -> None:
    first, other = place_members(_layer(None), _members("a", "./a", "b", "a"), layer_index=0)
    assert (first.path, first.offset) == ("a", 512)
    assert first.warnings == (
        "2 later members of the same path are hidden; unpacking leaves the last",
    )
    assert (other.path, other.warnings) == ("b", ())


@pytest.mark.parametrize(
    ("annotated", "packing", "path", "expected"),
    [
        ("a", RAW, "a", True),
        ("../a", RAW, "a", True),
        ("a", RAW, "a/b", False),
        ("a", TAR, "a", True),
        ("a", TAR, "a/b", True),
        ("a", TAR, "ab", False),
        ("a/b", TAR, "a", False),
        ("docs", TAR, "README.md", True),
        (None, TAR, "anything", True),
        ("..", TAR, "anything", True),
        ("a", Packing("tar", "gzip"), "a/b", True),
        ("a", Packing("raw", "gzip"), "a/b", False),
    ],
)
def test_may_hold_table(annotated: str | None, packing: Packing, path: str, expected: bool) -> None:
    assert may_hold(_layer(annotated, packing=packing), path) is expected


@pytest.mark.parametrize(
    ("annotated", "members", "path", "decided"),
    [
        (None, ["a"], "a", True),
        (None, ["x", "a"], "a", True),
        (None, ["x"], "a", False),
        ("a", ["a"], "a", True),
        ("dir/a", ["dir/a"], "dir/a", True),
        ("a", ["x"], "a", False),
        ("a", ["a", "b"], "a/b", True),
        ("dir", ["dir/a"], "dir/a", True),
        ("dir", ["dir/", "dir/a"], "dir/a", True),
        ("dir", ["a", "b"], "dir/a", True),
        ("dir", ["x->y"], "dir/x", False),
        ("dir/", ["a"], "dir/a", True),
        ("docs", ["README.md"], "README.md", True),
        (None, ["a->b", "a"], "a", False),
    ],
)
def test_early_match_table(
    annotated: str | None, members: list[str], path: str, decided: bool
) -> None:
    found = EarlyMatch(_layer(annotated), path).take(_members(*members))
    assert (found is not None) is decided
    if found is not None:
        assert found.name.endswith(path.rpartition("/")[2])


_KINDS = st.sampled_from(
    [MemberKind.REGULAR] * 4
    + [MemberKind.DIRECTORY, MemberKind.SYMLINK, MemberKind.HARDLINK, MemberKind.SPARSE]
    + [MemberKind.OTHER]
)
_NAMES = st.sampled_from(
    ["a", "b", "d", "d/a", "./d/a", "d/b", "d/d/a", "docs", "docs/a", "../a", "..", "\udcff"]
)


@settings(max_examples=500, deadline=None)
@given(
    annotated=st.sampled_from([None, "a", "d", "d/", "d/a", "docs", "..", "../d"]),
    drawn=st.lists(st.tuples(_NAMES, _KINDS), max_size=5),
)
@example(annotated="a", drawn=[("a", MemberKind.SYMLINK), ("a", MemberKind.REGULAR)])
def test_early_match_never_contradicts_the_whole_archive(
    annotated: str | None, drawn: list[tuple[str, MemberKind]]
) -> None:
    layer = _layer(annotated)
    members = [
        Member(name, kind, 1, 512 * (at + 1), "a" if "link" in kind.value else None)
        for at, (name, kind) in enumerate(drawn)
    ]
    whole = {entry.path: entry for entry in place_members(layer, members, layer_index=0)}
    assert all(may_hold(layer, path) for path in whole)
    for path in [*whole, "a", "d", "d/a", "d/d/a", "b", "x"]:
        running = EarlyMatch(layer, path)
        for count in range(1, len(members) + 1):
            found = running.take(members[count - 1 : count])
            assert found == EarlyMatch(layer, path).take(members[:count])
            if found is not None:
                assert whole[path].offset == found.offset
                assert whole[path].unsupported is None


def test_early_match_many_members_is_linear() -> None:
    running = EarlyMatch(_layer("dir"), "dir/none")
    started = time.process_time()
    for member in _members(*(f"dir/{number}" for number in range(20_000))):
        assert running.take([member]) is None
    assert time.process_time() - started < 2


def test_place_members_of_real_archives() -> None:
    archive = tar_archive({"README.md": b"hello", "b": b"2"}, layout="gnu", links={"l": "b"})
    members = TarReader(size=len(archive)).feed(0, archive)
    entries = place_members(_layer("docs"), members, layer_index=0)
    assert [entry.path for entry in entries] == ["README.md", "b", "l"]
    offset = entries[0].offset
    assert offset is not None
    assert archive[offset : offset + 5] == b"hello"


@pytest.mark.parametrize(
    ("path", "prefix", "members", "expected"),
    [
        ("docs/README.md", "docs", ["README.md"], ["docs/README.md"]),
        ("model", "", ["model/", "model/a.bin", "b"], ["model/a.bin", "b"]),
        (None, "", ["a"], ["a"]),
        ("x", "../up", ["a"], ["up/a"]),
        ("x", "..", ["a"], ["a"]),
    ],
)
def test_members_relative_to_a_directory_are_placed_below_it(
    path: str | None, prefix: str, members: list[str], expected: list[str]
) -> None:
    layer = dataclasses.replace(_layer(path), member_prefix=prefix)
    found = _members(*members)
    assert _paths(layer, found) == expected
    for wanted in expected:
        assert may_hold(layer, wanted)
        assert EarlyMatch(layer, wanted).take(found) is not None
    assert may_hold(layer, "elsewhere/z") is (not prefix or prefix == "..")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["models/a.bin", "b"], ["dir/a.bin", "dir/a.bin~/b"]),
        (["a.bin", "a.bin"], ["dir/a.bin", "dir/a.bin~/a.bin"]),
        (["l->x", "a.bin"], ["dir/a.bin~/l", "dir/a.bin"]),
        (["sub/", "sub/a.bin", "b"], ["dir/a.bin/sub/a.bin", "dir/a.bin/b"]),
        (["b", "a.bin"], ["dir/a.bin/b", "dir/a.bin/a.bin"]),
    ],
)
def test_first_file_of_the_annotated_name_gets_the_annotated_path(
    members: list[str], expected: list[str]
) -> None:
    layer = _layer("dir/a.bin")
    assert _paths(layer, _members(*members)) == expected
    for wanted in expected:
        assert may_hold(layer, wanted)


def test_early_match_of_the_annotated_name_reads_no_further() -> None:
    found = EarlyMatch(_layer("dir/a.bin"), "dir/a.bin").take(_members("models/a.bin"))
    assert found is not None
    assert found.name == "models/a.bin"


@pytest.mark.parametrize("packing", [RAW, TAR, Packing("tar", "gzip")])
def test_layer_without_a_path_has_the_name_of_its_family(packing: Packing) -> None:
    layer = dataclasses.replace(_layer(None, packing=packing), name="model.gguf")
    assert entry_of_layer(layer, layer_index=0).path == "model.gguf"
    assert may_hold(layer, "model.gguf")


@pytest.mark.parametrize("path", ["a", "a/b"])
def test_layer_of_unknown_packing_may_hold_what_a_file_or_an_archive_would(path: str) -> None:
    assert may_hold(dataclasses.replace(_layer("a", packing=RAW), trusted=False), path)
    assert not may_hold(dataclasses.replace(_layer("b", packing=RAW), trusted=False), path)


@pytest.mark.parametrize(
    ("title", "members", "expected"),
    [
        ("x.txt", ["models/sub/x.txt"], ["sub/x.txt"]),
        ("x.txt", ["models/x.txt"], ["x.txt"]),
        ("x.txt", ["x.txt"], ["x.txt"]),
        ("x.txt", ["models/sub/x.txt", "y"], ["sub/x.txt", "x.txt~/y"]),
        ("sub/x.txt", ["models/sub/x.txt"], ["sub/x.txt"]),
    ],
)
def test_title_is_only_the_last_part_of_a_path(
    title: str, members: list[str], expected: list[str]
) -> None:
    layer = dataclasses.replace(_layer(title), is_titled=True)
    found = _members(*members)
    assert _paths(layer, found) == expected
    assert all(entry.warnings == () for entry in place_members(layer, found, layer_index=0))
    for wanted in expected:
        assert may_hold(layer, wanted)
    assert EarlyMatch(layer, expected[0]).take(found) is not None


def test_only_members_below_the_root_are_the_models() -> None:
    layer = dataclasses.replace(_layer(None), only_below="models")
    members = _members("usr/bin/sh", "models/", "models/a.gguf", "modelsx/b")
    assert _paths(layer, members) == ["models/a.gguf"]
    assert EarlyMatch(layer, "usr/bin/sh").take(members) is None
    assert EarlyMatch(layer, "models/a.gguf").take(members) is not None
