"""What GNU tar writes, read by ours and by GNU tar itself: names, kinds, sizes and contents."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy.errors import MalformedArtifact
from proxy.formats.tar import Member, MemberKind, TarReader
from tests.build import padded, tar_header, tar_of

_GNU_TAR = shutil.which("tar") or ""
_ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "TAR_OPTIONS": ""}


def _is_gnu(program: str) -> bool:
    if not program:
        return False
    told = subprocess.run((program, "--version"), capture_output=True, check=True, timeout=60)
    return b"GNU tar" in told.stdout


pytestmark = pytest.mark.skipif(not _is_gnu(_GNU_TAR), reason="apt-get install tar")

_LONG = "deep/" * 20 + "w" * 99  # a ustar header holds it: 99 bytes of prefix and 99 of name
_LONGER = "deep/" * 60 + "weights.safetensors"  # no header holds it
_LATIN_1 = os.fsdecode(b"latin-\xe9\xff.bin")
_SHORT_TREE: dict[str, bytes] = {
    "a.json": b"{}",
    "empty": b"",
    "with space -> and link to.txt": b"x",
    "sub/one-block": b"b" * 512,
    "sub/one-block-more": b"c" * 513,
    "größe/模型.bin": bytes(range(256)) * 40,
    _LATIN_1: b"l",
}
_LONG_TREE = {**_SHORT_TREE, _LONG: b"long"}
_LONGER_TREE = {**_LONG_TREE, _LONGER: b"longer", "語" * 60 + ".txt": b"wide"}
_TREES = {
    "v7": _SHORT_TREE,
    "ustar": _LONG_TREE,
    "oldgnu": _LONGER_TREE,
    "gnu": _LONGER_TREE,
    "posix": _LONGER_TREE,
}
_LETTERS = {
    MemberKind.REGULAR: "-",
    MemberKind.SPARSE: "-",
    MemberKind.DIRECTORY: "d",
    MemberKind.SYMLINK: "l",
    MemberKind.HARDLINK: "h",
}
_LINE = re.compile(rb"(?P<mode>\S+) +\S+ +(?P<size>[\d,]+) +\S+ +\S+ (?P<name>.*)")
_NOTE = re.compile(rb"--(Volume Header|Continued at byte \d+)--")

Row = tuple[str, bytes, int, bytes | None]


def _tar(*arguments: str | Path) -> bytes:
    command = (_GNU_TAR, *map(str, arguments))
    return subprocess.run(
        command, capture_output=True, check=True, env=_ENVIRONMENT, timeout=60
    ).stdout


def _row(line: bytes) -> Row:
    """A line of ``tar --list --verbose``: a letter for the kind, name, size and link target."""
    found = _LINE.fullmatch(line)
    assert found is not None, line
    letter, name, target = chr(found["mode"][0]), found["name"], None
    if letter == "l":
        name, _, target = name.rpartition(b" -> ")
    elif letter == "h":
        name, _, target = name.rpartition(b" link to ")
    if letter not in _LETTERS.values():
        letter = "?"
    size = 0 if b"," in found["size"] else int(found["size"])
    return letter, _NOTE.sub(b"", name), size, target


def _listed(archive: Path, *options: str) -> list[Row]:
    verbose = ("--list", "--verbose", "--numeric-owner", "--quoting-style=literal")
    return [_row(line) for line in _tar(*verbose, *options, "--file", archive).splitlines()]


def _found(archive: bytes) -> list[Member]:
    reader = TarReader(size=len(archive))
    found = reader.feed(0, archive)
    reader.feed(reader.position, b"")
    reader.end()
    return found


def _rows(members: Sequence[Member]) -> list[Row]:
    return [
        (
            _LETTERS.get(member.kind, "?"),
            os.fsencode(member.name),
            member.size,
            None if member.link_target is None else os.fsencode(member.link_target),
        )
        for member in members
    ]


def _assert_agrees(archive: Path, *, contents: bool = True) -> list[Member]:
    """Ours lists what GNU tar lists, and a regular member's bytes lie where ours says."""
    read = archive.read_bytes()
    found = _found(read)
    assert _rows(found) == _listed(archive)
    if contents:
        lying = b"".join(
            read[member.offset : member.offset + member.size]
            for member in found
            if member.kind is MemberKind.REGULAR
        )
        assert lying == _tar("--extract", "--to-stdout", "--file", archive)
    return found


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def _pack(archive: Path, folder: Path, *options: str) -> Path:
    names = sorted(child.name for child in folder.iterdir())
    _tar("--create", "--sort=name", *options, "--file", archive, "--directory", folder, *names)
    return archive


@pytest.mark.parametrize("layout", _TREES)
def test_reader_gnu_tars_own_archives_agree(tmp_path: Path, layout: str) -> None:
    folder = _write(tmp_path / "tree", _TREES[layout])
    (folder / "soft").symlink_to("sub/one-block")
    (folder / "hard").hardlink_to(folder / "a.json")
    (folder / "none").mkdir()
    if layout != "v7":
        os.mkfifo(folder / "pipe")
    if _TREES[layout] is _LONGER_TREE:
        (folder / "soft-far").symlink_to("../" * 60 + "größe")
        (folder / "zz-hard-far").hardlink_to(folder / _LONGER)
    found = _assert_agrees(_pack(tmp_path / "a.tar", folder, f"--format={layout}"))
    regular = {member.name for member in found if member.kind is MemberKind.REGULAR}
    links = {member.name for member in found if member.kind is MemberKind.HARDLINK}
    # Which of two names of one file comes first, and which is the link, is GNU tar's choice.
    assert regular | links >= set(_TREES[layout])
    assert len(links) == (2 if _TREES[layout] is _LONGER_TREE else 1)


@pytest.mark.parametrize(
    "options",
    [
        ("--format=gnu",),
        ("--format=oldgnu",),
        ("--format=posix", "--sparse-version=0.0"),
        ("--format=posix", "--sparse-version=0.1"),
        ("--format=posix", "--sparse-version=1.0"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("islands", [0, 1, 4, 5, 26, 60])
def test_F3_reader_sparse_members_agree(
    tmp_path: Path, options: tuple[str, ...], islands: int
) -> None:
    folder = _write(tmp_path / "tree", {"after": b"behind the holes"})
    with (folder / _LONGER.rpartition("/")[2]).open("wb") as holes:
        for number in range(islands):
            holes.seek(number * 8192)
            holes.write(b"island" * 100)
        holes.truncate(islands * 8192 + 100_000)
    _write(folder, {"before": b"before"})
    archive = _pack(tmp_path / "a.tar", folder, *options, "--sparse", "--hole-detection=raw")
    found = _assert_agrees(archive, contents=False)
    assert [member.kind for member in found] == [
        MemberKind.REGULAR,
        MemberKind.REGULAR,
        MemberKind.SPARSE,
    ]
    read = archive.read_bytes()
    assert [read[m.offset : m.offset + m.size] for m in found[:2]] == [
        b"behind the holes",
        b"before",
    ]


def test_reader_concatenated_archives_end_at_the_first_end(tmp_path: Path) -> None:
    first = _pack(tmp_path / "1.tar", _write(tmp_path / "1", {"one": b"1" * 700}))
    second = _pack(tmp_path / "2.tar", _write(tmp_path / "2", {"two": b"2"}))
    glued = tmp_path / "glued.tar"
    glued.write_bytes(first.read_bytes() + second.read_bytes())
    assert [member.name for member in _assert_agrees(glued)] == ["one"]
    _tar("--concatenate", "--file", first, second)
    assert [member.name for member in _assert_agrees(first)] == ["one", "two"]


@pytest.mark.parametrize("blocks", [0, 1, 2, 3, 20])
def test_reader_any_count_of_zero_blocks_at_the_end_agrees(tmp_path: Path, blocks: int) -> None:
    archive = _pack(tmp_path / "a.tar", _write(tmp_path / "tree", _SHORT_TREE))
    read = archive.read_bytes()
    last = _found(read)[-1]
    end = last.offset + len(padded(b"x" * last.size))
    archive.write_bytes(read[:end] + bytes(blocks * 512))
    assert len(_assert_agrees(archive)) == len(_SHORT_TREE) + 2


@pytest.mark.parametrize("layout", ["gnu", "posix"])
def test_reader_volume_labels_are_passed_over(tmp_path: Path, layout: str) -> None:
    folder = _write(tmp_path / "tree", {"a": b"content"})
    archive = _pack(tmp_path / "a.tar", folder, f"--format={layout}", "--label=weights")
    read = archive.read_bytes()
    found = [member for member in _found(read) if member.kind is not MemberKind.OTHER]
    # In the POSIX layout a label is no member, yet GNU tar lists one.
    assert _rows(found) == [row for row in _listed(archive) if row[0] != "?"]
    assert read[found[0].offset : found[0].offset + found[0].size] == b"content"


def test_F4_reader_volumes_of_one_archive_are_told_apart(tmp_path: Path) -> None:
    folder = _write(tmp_path / "tree", {"big": bytes(30_000), "small": b"s"})
    volumes = [tmp_path / name for name in ("1.tar", "2.tar")]
    files = [f"--file={volume}" for volume in volumes]
    _tar(
        "--create",
        "--format=gnu",
        "--multi-volume",
        "--tape-length=20",
        *files,
        "--directory",
        folder,
        "big",
        "small",
    )
    with pytest.raises(MalformedArtifact, match="a member within the archive's 20480 bytes"):
        _found(volumes[0].read_bytes())
    found = _assert_agrees(volumes[1], contents=False)
    assert [(member.name, member.kind) for member in found] == [
        ("big", MemberKind.OTHER),
        ("small", MemberKind.REGULAR),
    ]


def test_reader_base256_size_agrees(tmp_path: Path) -> None:
    nine = 9 * 1024**3
    big = tar_header(b"big", size=b"\x80" + nine.to_bytes(11, "big"), magic=b"ustar  \0")
    small = tar_of(tar_header(b"small", size=1), padded(b"s"))
    archive = tmp_path / "a.tar"
    with archive.open("wb") as sparse:
        sparse.write(big)
        sparse.seek(nine, os.SEEK_CUR)
        sparse.write(small)
    reader = TarReader(size=archive.stat().st_size)
    found: list[Member] = []
    with archive.open("rb") as opened:
        while not reader.finished:
            opened.seek(reader.position)
            found += reader.feed(reader.position, opened.read(512))
    assert _rows(found) == _listed(archive, "--seek")
    assert [member.size for member in found] == [nine, 1]
