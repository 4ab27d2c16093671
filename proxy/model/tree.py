"""All layers' files as one tree, and the tree as JSON.

``placement`` gives each layer's files their paths; ``build_tree`` joins the layers. Two files that
claim one path never fail the tree: one is shown and says what became of the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from proxy.errors import SizeInvalid
from proxy.model.artifact import bounded
from proxy.model.globs import Filter
from proxy.model.placement import FileEntry

DIRECTORIES_LIMIT = 200_000

_WRITE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; ``children`` are directories first, then files, each in byte order."""

    path: str
    children: Sequence[FileEntry | Directory]

    @property
    def name(self) -> str:
        """The last part of the path; empty for the root."""
        return self.path.rpartition("/")[2]

    def count(self) -> int:
        """Files and directories below it, at all depths."""
        below = (child.count() for child in self.children if isinstance(child, Directory))
        return len(self.children) + sum(below)


@dataclass(frozen=True, slots=True)
class FileTree:
    """All files of a model. ``entries`` are in the tree's order."""

    entries: tuple[FileEntry, ...]
    root: Directory
    _index: Mapping[str, FileEntry | Directory] = field(default_factory=dict, repr=False)

    def lookup(self, path: str) -> FileEntry | Directory | None:
        """What stands at exactly this path; the empty path is the root."""
        return self._index.get(path)

    def selected(self, wanted: Filter) -> FileTree:
        """The tree of the files that ``wanted`` lets through; raises as ``Filter.chosen`` does."""
        chosen = wanted.chosen(entry.path for entry in self.entries)
        kept = tuple(compress(self.entries, chosen))
        return self if len(kept) == len(self.entries) else FileTree(kept, *_grow(kept))

    def to_json(self, *, flat: bool = False) -> Iterator[str]:
        """The root's children as nested objects, or one list: a JSON text in pieces."""
        if not flat:
            yield from subtree_json(self.root)
            return
        mark = "["
        for entry in self.entries:
            yield mark + _WRITE(_file_json(entry))
            mark = ","
        yield "]" if self.entries else "[]"


def subtree_json(directory: Directory) -> Iterator[str]:
    """The children of a directory as a JSON text in pieces; ``size`` of a directory is null."""
    yield "["
    for number, child in enumerate(directory.children):
        mark = "," if number else ""
        if isinstance(child, FileEntry):
            yield mark + _WRITE(_file_json(child))
        else:
            name = _WRITE(child.name)
            yield f'{mark}{{"name":{name},"type":"directory","size":null,"children":'
            yield from subtree_json(child)
            yield "}"
    yield "]"


def _file_json(entry: FileEntry) -> dict[str, object]:
    document: dict[str, object] = {
        "name": entry.name,
        "type": "file",
        "size": entry.size,
        "path": entry.path,
        "digest": str(entry.layer.descriptor.digest),
        "class": str(entry.file_class),
        "packing": str(entry.layer.packing),
        "exact": entry.exact,
        "sha256": entry.sha256,
    }
    if entry.raw_path is not None:
        # Bytes that were no UTF-8 would not survive as JSON.
        written = entry.raw_path.encode("utf-8", "surrogatepass")
        document["rawPath"] = written.decode("utf-8", "replace")
    if entry.link_target is not None:
        target = entry.link_target.encode("utf-8", "surrogatepass")
        document["linkTarget"] = target.decode("utf-8", "replace")
    reasons = (entry.unsupported,) if entry.unsupported else ()
    if warnings := list(dict.fromkeys((*entry.warnings, *reasons))):
        document["warnings"] = warnings
    return document


def build_tree(entries: Iterable[FileEntry]) -> FileTree:
    """One tree of all layers' files.

    Of one path in several layers the last layer counts, as when they are unpacked in order. Where
    a path is a file and a directory, the file is shown with the suffix ``~file``. The file shown
    warns of both, but not of a layer that is the very same blob.

    Raises:
        SizeInvalid: more than 200,000 directories.
    """
    winners: dict[str, FileEntry] = {}
    replaced: dict[str, list[FileEntry]] = {}
    for entry in entries:
        held = winners.setdefault(entry.path, entry)
        if held is entry or held.layer.descriptor.digest == entry.layer.descriptor.digest:
            continue
        last, other = (entry, held) if entry.layer_index >= held.layer_index else (held, entry)
        winners[entry.path] = last
        replaced.setdefault(entry.path, []).append(other)
    directories = _directories(winners)
    kept: list[FileEntry] = []
    for path, winner in winners.items():
        warnings = _replaced_warnings(winner, replaced.get(path, ()))
        entry = winner
        if path in directories:
            renamed = _unused(path, winners, directories)
            warnings.insert(
                0, f"{path[:200]!r} is a file and a directory, the file is {renamed[:200]!r}"
            )
            entry = replace(winner, path=renamed, raw_path=winner.raw_path or path)
        if warnings:
            entry = replace(entry, warnings=bounded((*entry.warnings, *warnings)))
        kept.append(entry)
    kept.sort(key=_tree_order)
    root, index = _grow(kept)
    return FileTree(tuple(kept), root, index)


def _replaced_warnings(winner: FileEntry, others: Sequence[FileEntry]) -> list[str]:
    return [
        f"{winner.path[:200]!r} is in layer {other.layer_index} and in layer "
        f"{winner.layer_index}, which counts"
        for other in others
        if other.layer.descriptor.digest != winner.layer.descriptor.digest
    ]


def _directories(paths: Iterable[str]) -> set[str]:
    """The directories that the paths lie in, at all depths; the root is none of them."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
        if len(found) > DIRECTORIES_LIMIT:
            raise SizeInvalid(
                f"expected at most {DIRECTORIES_LIMIT} directories, found more",
                detail={"limit": DIRECTORIES_LIMIT},
            )
    return found


def _unused(path: str, winners: Mapping[str, FileEntry], directories: set[str]) -> str:
    suffixed = f"{path}~file"
    number = 2
    while suffixed in winners or suffixed in directories:
        suffixed = f"{path}~file{number}"
        number += 1
    return suffixed


def _tree_order(entry: FileEntry) -> str:
    """A key that sorts directories before files, else by bytes: UTF-8 sorts as code points do.

    Parts hold no control characters, so one marks what a part is and another ends it.
    """
    parent, _, name = entry.path.rpartition("/")
    above = "".join(f"\x01{part}\x00" for part in parent.split("/")) if parent else ""
    return f"{above}\x02{name}\x00"


def _grow(entries: Sequence[FileEntry]) -> tuple[Directory, dict[str, FileEntry | Directory]]:
    """The root, and everything by path, from entries in the tree's order."""
    root_children: list[FileEntry | Directory] = []
    root = Directory("", root_children)
    index: dict[str, FileEntry | Directory] = {"": root}
    children = {"": root_children}
    for entry in entries:
        parent = entry.path.rpartition("/")[0]
        missing: list[str] = []
        while parent not in children:
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        for path in reversed(missing):
            children[path] = []
            index[path] = Directory(path, children[path])
            children[path.rpartition("/")[0]].append(index[path])
        children[entry.path.rpartition("/")[0]].append(entry)
        index[entry.path] = entry
    return root, index
