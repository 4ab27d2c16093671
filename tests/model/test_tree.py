from __future__ import annotations

import dataclasses
import itertools
import json
import time

import pytest

from proxy.errors import SizeInvalid
from proxy.formats.tar import Member, MemberKind, TarReader
from proxy.model.artifact import RAW, TAR, LayerClass, ModelLayer
from proxy.model.globs import Filter
from proxy.model.placement import FileEntry, entry_of_layer, place_members
from proxy.model.tree import Directory, FileTree, build_tree, subtree_json
from tests.build import descriptor, tar_entry, tar_header, tar_of


def _listed(tree: FileTree, *, flat: bool = False) -> list[dict[str, object]]:
    found = json.loads("".join(tree.to_json(flat=flat)))
    assert isinstance(found, list)
    return found


def _tar(path: str | None) -> ModelLayer:
    return ModelLayer(descriptor("x", size=10**6), LayerClass.OTHER, TAR, path)


def _raw(path: str, content: bytes = b"", *, index: int = 0) -> FileEntry:
    layer = ModelLayer(descriptor("x", content or path.encode()), LayerClass.OTHER, RAW, path)
    return entry_of_layer(layer, layer_index=index)


def test_E8_members_of_any_bytes_survive_json() -> None:
    archive = tar_of(tar_entry(b"\xff\xfe", b"1"), tar_header(b"x", flag=b"2", target=b"\xff"))
    members = TarReader().feed(0, archive)
    tree = build_tree([*place_members(_tar(None), members, layer_index=0), _raw("\ud800", b"2")])
    for flat in (True, False):
        "".join(tree.to_json(flat=flat)).encode()
    raw_paths = [str(entry.get("rawPath", "")) for entry in _listed(tree, flat=True)]
    assert sorted(raw_paths) == ["", "\ufffd\ufffd\ufffd", "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd"]
    for entry in tree.entries:
        for warning in (*entry.warnings, entry.unsupported or ""):
            warning.encode()


def test_E8_twins_of_another_normal_form_or_case_are_distinct() -> None:
    entries = [_raw("\u00e9"), _raw("e\u0301"), _raw("A"), _raw("a")]
    tree = build_tree(entries)
    assert len(tree.entries) == 4
    assert all(entry.warnings == () for entry in tree.entries)


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
    assert _listed(tree, flat=True) == [file]
    nested = [{"name": "a", "type": "directory", "size": None, "children": [file]}]
    assert _listed(tree) == nested
    assert json.loads("".join(subtree_json(tree.root))) == nested


def test_tree_without_entries_is_an_empty_list() -> None:
    tree = build_tree([])
    assert _listed(tree) == []
    assert _listed(tree, flat=True) == []


def test_E7_last_layer_of_a_path_counts() -> None:
    first, second = _raw("a", b"1", index=0), _raw("a", b"22", index=1)
    for entries in ([first, second], [second, first]):
        (shown,) = build_tree(entries).entries
        assert shown.warnings == ("'a' is in layer 0 and in layer 1, which counts",)
        assert dataclasses.replace(shown, warnings=()) == second


def test_E7_last_of_three_layers_warns_of_both_others() -> None:
    entries = [_raw("a", b"%d" % number, index=number) for number in range(3)]
    (shown,) = build_tree(entries).entries
    assert shown.layer_index == 2
    assert shown.warnings == (
        "'a' is in layer 0 and in layer 2, which counts",
        "'a' is in layer 1 and in layer 2, which counts",
    )


def test_E7_layer_of_the_same_blob_as_the_last_is_no_warning() -> None:
    entries = [_raw("a", content, index=at) for at, content in enumerate((b"1", b"2", b"1"))]
    (shown,) = build_tree(entries).entries
    assert shown.layer_index == 2
    assert shown.warnings == ("'a' is in layer 1 and in layer 2, which counts",)


def test_E7_warnings_of_the_entry_come_first_and_reach_the_json() -> None:
    files = [_raw("a", b"1", index=0), _raw("/a", b"22", index=1), _raw("a/b", index=2)]
    tree = build_tree(files)
    shown = _listed(tree, flat=True)[1]
    assert shown["path"] == "a~file"
    assert shown["rawPath"] == "/a"
    assert shown["warnings"] == [
        "the path '/a' is unsafe, shown as 'a'",
        "'a' is a file and a directory, the file is 'a~file'",
        "'a' is in layer 0 and in layer 1, which counts",
    ]


def test_tree_same_blob_twice_is_one_file() -> None:
    tree = build_tree([_raw("a", b"1", index=0), _raw("a", b"1", index=1)])
    (shown,) = tree.entries
    assert shown.warnings == ()


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
    assert renamed.warnings == ("'a' is a file and a directory, the file is 'a~file3'",)
    assert sum(len(entry.warnings) for entry in tree.entries) == 3


def test_tree_warnings_are_bounded() -> None:
    entries = [_raw("a", b"%d" % number, index=number) for number in range(300)]
    (shown,) = build_tree(entries).entries
    assert len(shown.warnings) == 101
    assert shown.warnings[-1] == "and 199 more"
    (_, renamed) = build_tree([*entries, _raw("a/b")]).entries
    assert len(renamed.warnings) == 101
    assert renamed.warnings[0] == "'a' is a file and a directory, the file is 'a~file'"
    assert renamed.warnings[-1] == "and 200 more"


def test_tree_deepest_paths_become_json() -> None:
    deep = "/".join("d" * 64)
    members = [Member(name, MemberKind.REGULAR, 1, 512) for name in (deep + "x", "y")]
    tree = build_tree(place_members(_tar(deep), members, layer_index=0))
    assert max(entry.path.count("/") for entry in tree.entries) == 127
    _listed(tree)


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


def test_selected_tree_keeps_the_shape_of_what_is_left() -> None:
    tree = build_tree([_raw(path) for path in ("a/b.json", "a/c.bin", "d.json", "e/f.bin")])
    chosen = tree.selected(Filter.parse(["*.json"], []))
    assert [entry.path for entry in chosen.entries] == ["a/b.json", "d.json"]
    assert [child.name for child in chosen.root.children] == ["a", "d.json"]
    assert chosen.lookup("e") is None
    assert tree.selected(Filter.parse([], [])) is tree


def test_E6_link_shows_its_target() -> None:
    archive = tar_of(tar_header(b"x", flag=b"2", target=b"/etc/pass\xff"))
    members = TarReader().feed(0, archive)
    (found,) = _listed(build_tree(place_members(_tar(None), members, layer_index=0)))
    assert found["linkTarget"] == "/etc/pass\ufffd\ufffd\ufffd"


def test_directory_counts_what_is_below_it_at_all_depths() -> None:
    tree = build_tree([_raw(path) for path in ("a/b/c", "a/b/d", "a/e", "f")])
    assert tree.root.count() == 6
    found = tree.lookup("a/b")
    assert isinstance(found, Directory)
    assert found.count() == 2
