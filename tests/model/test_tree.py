from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import SizeInvalid
from proxy.formats.tar import Member, MemberKind, TarReader
from proxy.model.artifact import RAW, TAR, LayerClass, ModelLayer, Packing
from proxy.model.tree import (
    Directory,
    EarlyMatch,
    FileEntry,
    build_tree,
    entry_of_layer,
    may_hold,
    path_warning,
    place_members,
    sanitise_path,
    subtree_json,
)
from tests.build import descriptor, tar_archive, tar_entry, tar_header, tar_of


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


def _raw(path: str, content: bytes = b"", *, index: int = 0) -> FileEntry:
    layer = ModelLayer(descriptor("x", content or path.encode()), LayerClass.OTHER, RAW, path)
    return entry_of_layer(layer, layer_index=index)


def _paths(layer: ModelLayer, members: Sequence[Member]) -> list[str]:
    return [entry.path for entry in place_members(layer, members, layer_index=0)]


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
    ("packing", "declared", "size", "unsupported"),
    [
        (TAR, 50, 50, None),
        (TAR, 101, None, None),
        (TAR, None, None, None),
        (Packing("tar", "gzip"), 5000, 5000, "the packing tar+gzip is not opened yet"),
        (Packing("raw", "zstd"), None, None, "the packing raw+zstd is not opened yet"),
    ],
)
def test_entry_of_unopened_layer_is_what_the_annotation_claims(
    packing: Packing, declared: int | None, size: int | None, unsupported: str | None
) -> None:
    layer = _layer("a", packing=packing, size=100, declared=declared)
    entry = entry_of_layer(layer, layer_index=0)
    assert (entry.size, entry.exact, entry.offset) == (size, False, None)
    assert entry.unsupported == unsupported
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
        ("a.bin", ["x", "l->x"], ["a.bin", "a.bin/l"]),
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
    assert first.warnings == ("2 later members of the same path are not shown",)
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
        ("dir", ["dir/a"], "dir/a", False),
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


def test_E8_members_of_any_bytes_survive_json() -> None:
    archive = tar_of(tar_entry(b"\xff\xfe", b"1"), tar_header(b"x", flag=b"2", target=b"\xff"))
    members = TarReader().feed(0, archive)
    layer = _layer(None)
    other = entry_of_layer(_layer("\ud800", packing=RAW), layer_index=1)
    tree = build_tree([*place_members(layer, members, layer_index=0), other])
    text = json.dumps([tree.to_json(), tree.to_json(flat=True)], ensure_ascii=False)
    text.encode()
    raw_paths = [str(entry.get("rawPath", "")) for entry in tree.to_json(flat=True)]
    assert sorted(raw_paths) == ["", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"]
    for entry in tree.entries:
        for warning in (*entry.warnings, entry.unsupported or ""):
            warning.encode()


def test_E8_twins_of_another_normal_form_or_case_are_distinct() -> None:
    entries = [_raw("\u00e9"), _raw("e\u0301"), _raw("A"), _raw("a")]
    tree = build_tree(entries)
    assert len(tree.entries) == 4
    assert tree.shadowed == ()


def test_tree_orders_directories_first_then_bytes() -> None:
    paths = ["b", "a", "Z", "é", "c/x", "c-d/x", "c/b/y", "c.d", "模"]
    for ordered in itertools.islice(itertools.permutations(paths), 0, 5000, 97):
        tree = build_tree([_raw(path) for path in ordered])
        assert [entry.path for entry in tree.entries] == [
            *("c/b/y", "c/x", "c-d/x"),
            *("Z", "a", "b", "c.d", "é", "模"),
        ]
        assert [child.name for child in tree.root.children] == [
            *("c", "c-d"),
            *("Z", "a", "b", "c.d", "é", "模"),
        ]


def test_tree_lookup_gives_files_directories_and_the_root() -> None:
    tree = build_tree([_raw("a/b/c"), _raw("d")])
    assert tree.lookup("") is tree.root
    directory = tree.lookup("a/b")
    assert isinstance(directory, Directory)
    assert (directory.path, directory.name) == ("a/b", "b")
    assert directory.children == [tree.lookup("a/b/c")]
    assert isinstance(tree.lookup("d"), FileEntry)
    assert tree.lookup("a/") is None
    assert tree.lookup("x") is None


def test_tree_json_has_the_documented_shape() -> None:
    entry = _raw("../a/README.md", b"12")
    tree = build_tree([entry])
    file = {
        "name": "README.md",
        "type": "file",
        "size": 2,
        "path": "a/README.md",
        "digest": str(entry.layer.descriptor.digest),
        "class": "doc",
        "packing": "raw",
        "exact": True,
        "sha256": entry.layer.descriptor.digest.hex,
        "rawPath": "../a/README.md",
        "warnings": ["the path '../a/README.md' is unsafe, shown as 'a/README.md'"],
    }
    assert tree.to_json(flat=True) == [file]
    nested = [{"name": "a", "type": "directory", "size": None, "children": [file]}]
    assert tree.to_json() == nested
    assert subtree_json(tree.root) == nested


def test_tree_without_entries_is_an_empty_list() -> None:
    tree = build_tree([])
    assert tree.to_json() == []
    assert tree.to_json(flat=True) == []


def test_E7_last_layer_of_a_path_counts() -> None:
    first, second = _raw("a", b"1", index=0), _raw("a", b"22", index=1)
    for entries in ([first, second], [second, first]):
        tree = build_tree(entries)
        assert tree.entries == (second,)
        assert tree.shadowed == (first,)
        assert tree.warnings == ("'a' is in layer 0 and in layer 1, which counts",)


def test_tree_same_blob_twice_is_one_file() -> None:
    tree = build_tree([_raw("a", b"1", index=0), _raw("a", b"1", index=1)])
    assert len(tree.entries) == 1
    assert (tree.warnings, tree.shadowed) == ((), ())


def test_E7_path_that_is_file_and_directory_keeps_both() -> None:
    paths = ["a", "a/b", "a~file", "a~file2/c", "d", "d/e/f", "d/e"]
    tree = build_tree([_raw(path) for path in paths])
    assert [entry.path for entry in tree.entries] == [
        *("a/b", "a~file2/c", "d/e/f", "d/e~file"),
        *("a~file", "a~file3", "d~file"),
    ]
    assert isinstance(tree.lookup("a"), Directory)
    renamed = tree.lookup("a~file3")
    assert isinstance(renamed, FileEntry)
    assert renamed.raw_path == "a"
    assert len(tree.warnings) == 3


def test_tree_warnings_are_bounded() -> None:
    entries = [_raw("a", b"%d" % number, index=number) for number in range(300)]
    tree = build_tree(entries)
    assert len(tree.warnings) == 101
    assert len(tree.shadowed) == 299


def test_tree_deepest_paths_become_json() -> None:
    deep = "/".join("d" * 64)
    layer = _layer(deep)
    tree = build_tree(place_members(layer, _members(deep + "x", "y"), layer_index=0))
    assert max(entry.path.count("/") for entry in tree.entries) == 127
    json.dumps(tree.to_json())


def test_tree_over_the_directory_limit_is_refused() -> None:
    base = _raw("a")
    entries = [dataclasses.replace(base, path=f"{n}/a/f") for n in range(100_001)]
    assert len(build_tree(entries[:-1]).entries) == 100_000
    with pytest.raises(SizeInvalid, match="at most 200000 directories"):
        build_tree(entries)


def test_tree_of_100k_files_builds_in_two_seconds() -> None:
    base = _raw("a")
    entries = [
        dataclasses.replace(base, path=f"part-{n % 100:03}/sub-{n % 7}/file-{n:06}.bin")
        for n in range(100_000)
    ]
    started = time.process_time()
    tree = build_tree(entries)
    assert time.process_time() - started < 2
    assert len(tree.entries) == 100_000
