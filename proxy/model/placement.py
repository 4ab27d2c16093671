"""Placement: which files a layer holds, and the path of each.

``entry_of_layer`` or ``place_members`` give one layer's files; ``tree`` joins the layers. Nothing
that an artifact says fails here: a file without a safe path gets a synthetic name.

A tar's annotated path may name the one file in it, a directory around its members, or (aikit) just
a bundle such as ``docs``. The first file decides how the others are placed, and the first member of
a name counts, so that a reader looking for one file can stop early.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from proxy.formats.tar import Member, MemberKind
from proxy.model.artifact import LayerClass, ModelLayer, classify
from proxy.model.paths import path_warning, sanitise_path

# aikit packs each of these as one tar and annotates it with the word; members lie at the root.
BUNDLE_WORDS = frozenset(("config", "docs", "code", "dataset"))

_EXTENSION = re.compile(r".*(\.[A-Za-z0-9]{1,12})", re.DOTALL)
# A concrete format as the last token of a layer type: weight.v1.gguf.
_TYPE_FORMAT = re.compile(r".*\.v[0-9]+\.(?!raw$)([a-z0-9]{1,12})")
_COMPRESSED = {None: "", "gzip": ".gz", "zstd": ".zst"}
_SIZED = (MemberKind.REGULAR, MemberKind.SPARSE)
_FILES = (*_SIZED, MemberKind.HARDLINK)
_SHOWN = (*_FILES, MemberKind.SYMLINK)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the model.

    ``path`` is safe; ``raw_path`` is what was written, where that differs. ``size`` is bytes,
    certain if ``exact``, else what the annotation claims. ``offset`` is where the content starts
    in the layer, in bytes of what is inside its compression; None: not known or not to be opened.
    ``unsupported`` says why a file cannot be opened at all; a link has its ``link_target``, and
    ``is_broken_layer`` marks the entry that stands for a layer which cannot be read, or not to its
    end.
    """

    path: str
    layer: ModelLayer
    layer_index: int
    size: int | None
    exact: bool
    offset: int | None
    file_class: LayerClass
    raw_path: str | None = None
    unsupported: str | None = None
    warnings: tuple[str, ...] = ()
    link_target: str | None = None
    is_broken_layer: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the content in hex, where the manifest tells it: file and blob are one."""
        packing, digest = self.layer.packing, self.layer.descriptor.digest
        if packing.container == "raw" and not packing.compression and digest.algorithm == "sha256":
            return digest.hex
        return None


def entry_of_layer(layer: ModelLayer, *, layer_index: int) -> FileEntry:
    """The file a raw layer is, or what stands for a layer that has not been or cannot be opened."""
    label = _label(layer)
    path = label or _synthetic(layer)
    packing, declared = layer.packing, layer.declared_size
    is_raw = packing.container == "raw" and packing.compression is None
    if packing.compression is None and declared is not None and declared > layer.descriptor.size:
        declared = None  # an uncompressed archive is longer than its files
    warning = path_warning(layer.path) if layer.path else None
    return FileEntry(
        path=path,
        layer=layer,
        layer_index=layer_index,
        size=layer.descriptor.size if is_raw else declared,
        exact=is_raw,
        offset=0 if packing.container == "raw" else None,
        file_class=classify(path, layer.layer_class),
        raw_path=layer.path if layer.path and layer.path != path else None,
        warnings=(warning,) if warning else (),
    )


def place_members(
    layer: ModelLayer, members: Sequence[Member], *, layer_index: int
) -> tuple[FileEntry, ...]:
    """The files of a tar layer, in the archive's order; directories and devices are left out.

    The annotated path is the path of the first file where both end in the same name, or where it is
    alone and no directory is there; else it is a directory, unless that file lies at or below it
    already: then only members outside it are put below it. A bundle word places nothing. Of several
    members of one path the first counts. A hard link is the earlier regular member that it names.
    """
    placement = _Placement.of(layer)
    names = [_member_name(layer, member.name, at) for at, member in enumerate(members)]
    files = [at for at, member in enumerate(members) if member.kind in _FILES]
    first = files[0] if files else len(members)
    directories = [at for at, member in enumerate(members) if member.kind is MemberKind.DIRECTORY]
    way = _Way.WRITTEN
    if files:
        is_behind = bool(directories) and directories[0] < first
        is_lone = len(files) == 1 and not directories
        decided = placement.way(names[first], behind_directory=is_behind)
        way = decided or placement.way_of_lone(is_lone=is_lone)
    regular: dict[str, Member] = {}
    found: dict[str, FileEntry] = {}
    twins: dict[str, int] = {}
    for at, (member, name) in enumerate(zip(members, names, strict=True)):
        if member.kind not in _SHOWN or not _is_below(layer, name):
            continue
        target = member
        if member.kind is MemberKind.REGULAR:
            regular.setdefault(name, member)
        elif member.kind is MemberKind.HARDLINK:
            target = regular.get(sanitise_path(member.link_target or "") or "", member)
        path = placement.place(name, way, is_first=at == first)
        is_named = way is _Way.NAMED and at == first and path == placement.label
        written, safe = (layer.path or "", path) if is_named else (member.name, name)
        if path in found:
            twins[path] = twins.get(path, 0) + 1
            continue
        unsupported = _unsupported(target)
        warning = path_warning(written) if written != safe else None
        found[path] = FileEntry(
            path=path,
            layer=layer,
            layer_index=layer_index,
            size=target.size if target.kind in _SIZED else None,
            exact=unsupported is None,
            offset=target.offset if unsupported is None else None,
            file_class=classify(path, layer.layer_class),
            raw_path=written if written != safe else None,
            unsupported=unsupported,
            warnings=(warning,) if warning else (),
            link_target=target.link_target,
        )
    for path, count in twins.items():
        warning = f"{count} later members of the same path are hidden; unpacking leaves the last"
        found[path] = replace(found[path], warnings=(*found[path].warnings, warning))
    return tuple(found.values())


def may_hold(layer: ModelLayer, path: str) -> bool:
    """Whether the file at ``path``, as one layer places it, can come out of this layer."""
    if layer.packing.container == "raw" and layer.trusted:
        return path == (_label(layer) or _synthetic(layer))
    if path == _synthetic(layer):
        return True
    return _Placement.of(layer).may_place(path)


class EarlyMatch:
    """Looks for one path among the members of a tar layer as they are found.

    It gives a member only where ``place_members`` over the whole archive would put that regular
    member at the path; links and sparse members are left to that function. Time and memory per
    member are constant.
    """

    def __init__(self, layer: ModelLayer, path: str) -> None:
        self._layer = layer
        self._path = path
        self._placement = _Placement.of(layer)
        self._count = 0
        self._files = 0
        self._has_directory = False
        self._way: _Way | None = None
        # The first member at the path, by the way in which members are placed.
        self._candidates: dict[_Way, Member] = {}

    def take(self, members: Iterable[Member]) -> Member | None:
        """Add the next members; the member at the path once that is certain, else None."""
        for member in members:
            self._add(member)
        way = self._way
        if way is None and (self._files > 1 or (self._files and self._has_directory)):
            way = self._placement.way_of_lone(is_lone=False)
        if way is None:
            return None  # a lone file has another path than one of several
        found = self._candidates.get(way)
        return found if found is not None and found.kind is MemberKind.REGULAR else None

    def _add(self, member: Member) -> None:
        name = _member_name(self._layer, member.name, self._count)
        self._count += 1
        is_first = member.kind in _FILES and not self._files
        if is_first:
            self._way = self._placement.way(name, behind_directory=self._has_directory)
        self._has_directory = self._has_directory or member.kind is MemberKind.DIRECTORY
        self._files += member.kind in _FILES
        if member.kind in _SHOWN and _is_below(self._layer, name):
            for way in _Way:
                if self._placement.place(name, way, is_first=is_first) == self._path:
                    self._candidates.setdefault(way, member)


def _label(layer: ModelLayer) -> str | None:
    return sanitise_path(layer.path) if layer.path else None


def _synthetic(layer: ModelLayer) -> str:
    """The name of a layer that has none: its family's, or class, digest and a known extension."""
    if layer.name is not None:
        return layer.name
    if layer.packing.container == "tar":
        extension = ".tar"
    elif match := _TYPE_FORMAT.fullmatch(layer.descriptor.media_type):
        extension = f".{match[1]}"
    else:
        extension = _extension(layer.path or "")
    compressed = _COMPRESSED[layer.packing.compression]
    return f"{layer.layer_class}/{layer.descriptor.digest.short}{extension}{compressed}"


def _extension(text: str) -> str:
    match = _EXTENSION.fullmatch(text)
    return match[1].lower() if match is not None else ""


def _member_name(layer: ModelLayer, name: str, position: int) -> str:
    """The safe form of a member's name, or one made of its position in the archive."""
    safe = sanitise_path(name)
    if safe is None:
        digest = layer.descriptor.digest.short
        return f"{layer.layer_class}/{digest}-{position}{_extension(name)}"
    return safe


def _is_below(layer: ModelLayer, name: str) -> bool:
    return layer.only_below is None or name.startswith(f"{layer.only_below}/")


def _unsupported(target: Member) -> str | None:
    match target.kind:
        case MemberKind.SYMLINK:
            return f"a symbolic link to {(target.link_target or '')[:200]!r} is not followed"
        case MemberKind.HARDLINK:
            return (
                f"the hard link's target {(target.link_target or '')[:200]!r} is no earlier "
                "regular member"
            )
        case MemberKind.SPARSE:
            return "a sparse member is not expanded"
        case _:
            return None


class _Way(enum.Enum):
    """How members get their paths.

    By their own names, below the annotated path, or the first one by that path and the others
    beside it.
    """

    WRITTEN = "written"
    BELOW = "below"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class _Placement:
    """How a tar layer's annotated path places its members."""

    label: str | None
    is_bundle: bool
    may_name: bool  # the label may be the path of a file
    prefix: str | None  # members are relative to this directory, whatever the label
    is_titled: bool  # the label is but the last part of a path

    @classmethod
    def of(cls, layer: ModelLayer) -> _Placement:
        label = _label(layer)
        is_bundle = label in BUNDLE_WORDS
        is_directory = bool(layer.path) and str(layer.path).endswith(("/", "\\"))
        prefix = layer.member_prefix
        if prefix is not None:
            prefix = sanitise_path(prefix) or ""
        is_titled = layer.is_titled and label is not None and "/" not in label
        return cls(label, is_bundle, not is_bundle and not is_directory, prefix, is_titled)

    @property
    def is_silent(self) -> bool:
        """Whether the label says nothing about members."""
        return self.prefix is not None or self.label is None or self.is_bundle

    def may_place(self, path: str) -> bool:
        """Whether a member can get this path."""
        if self.prefix:
            return path.startswith(f"{self.prefix}/")
        if self.is_titled and path.endswith(f"/{self.label}"):
            return True
        return self.is_silent or self._holds(path) or path.startswith(f"{self.label}~/")

    def way(self, first_name: str, *, behind_directory: bool) -> _Way | None:
        """The way that the first file decides; None: it depends on whether it is alone."""
        if self.is_silent or self._holds(first_name):
            return _Way.WRITTEN
        same_name = first_name.rpartition("/")[2] == str(self.label).rpartition("/")[2]
        if self.may_name and same_name and not behind_directory:
            return _Way.NAMED
        return None if self.may_name else _Way.BELOW

    def way_of_lone(self, *, is_lone: bool) -> _Way:
        """The way where the first file did not decide."""
        return _Way.NAMED if is_lone and self.may_name else _Way.BELOW

    def place(self, name: str, way: _Way, *, is_first: bool) -> str:
        """The path of a member; ``is_first`` for the first file."""
        if self.prefix is not None:
            return f"{self.prefix}/{name}" if self.prefix else name
        if self.is_silent or (way is _Way.WRITTEN and self._holds(name)):
            return name
        if way is _Way.NAMED and is_first:
            # olot puts models/ before all paths, and its titles have no directories.
            below = name.partition("/")[2]
            is_path = self.is_titled and below.endswith(f"/{self.label}")
            return below if is_path else str(self.label)
        if way is _Way.NAMED:
            return f"{self.label}~/{name}"
        return f"{self.label}/{name}"

    def _holds(self, name: str) -> bool:
        """Whether a name is the label or lies below it."""
        return self.label is not None and (name == self.label or name.startswith(f"{self.label}/"))
