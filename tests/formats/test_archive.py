from __future__ import annotations

import datetime
import io
import itertools
import os
import shutil
import subprocess
import tarfile  # noqa: TID251 - the archives read here are made by the test
import tracemalloc
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import SizeInvalid
from proxy.formats.archive import (
    ArchiveKind,
    ArchiveMember,
    ArchiveWriter,
    TarWriter,
    ZipWriter,
    archive_size,
    open_writer,
)
from proxy.formats.tar import MemberKind, TarReader

_KINDS: tuple[ArchiveKind, ...] = ("tar", "zip")
_GIB = 1 << 30
_FILES = {
    "README.md": b"# model\n",
    "sub/config.json": b"{}" * 300,
    "empty": b"",
    "größe/模型 🤗.bin": bytes(range(256)) * 5,
    "sub/" + "n" * 255: b"a whole part",
    "d" * 140 + "/weights.safetensors": b"\x00" * 512,
    "-dash": b"-",
    "space at end ": b" ",
    "*.[x]": b"glob",
}
_LONG = "/".join(["é" * 127] * 16)
_MODIFIED = 1_700_000_001

_needs_unzip = pytest.mark.skipif(shutil.which("unzip") is None, reason="apt-get install unzip")
_needs_bsdtar = pytest.mark.skipif(
    shutil.which("bsdtar") is None, reason="apt-get install libarchive-tools"
)


def _members(files: Iterable[tuple[str, int]]) -> list[ArchiveMember]:
    return [ArchiveMember(path, size, _MODIFIED) for path, size in files]


def _pieces(
    writer: ArchiveWriter, files: Iterable[tuple[str, bytes]], *, chunk_bytes: int = 1000
) -> Iterator[bytes]:
    for path, content in files:
        yield writer.begin(ArchiveMember(path, len(content), _MODIFIED))
        for start in range(0, len(content), chunk_bytes):
            chunk = content[start : start + chunk_bytes]
            sent = writer.content(chunk)
            assert sent is chunk
            yield sent
        yield writer.finish()
    yield writer.end()


def _archive(kind: ArchiveKind, files: Iterable[tuple[str, bytes]]) -> bytes:
    return b"".join(_pieces(open_writer(kind), files))


def _sparse(target: Path, writer: TarWriter | ZipWriter, sizes: Sequence[tuple[str, int]]) -> None:
    """Write an archive whose contents are holes; nobody computes the checksums of gigabytes."""
    with target.open("wb") as file:
        for member in _members(sizes):
            file.write(writer.begin(member))
            writer._progress.take(member.size)
            file.seek(member.size, os.SEEK_CUR)
            file.write(writer.finish())
        file.write(writer.end())


def _run(arguments: Sequence[str], place: Path, *, given: bytes = b"") -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return subprocess.run(
        arguments, cwd=place, input=given, capture_output=True, check=True, env=environment
    ).stdout.decode()


def _files_below(place: Path) -> dict[str, bytes]:
    return {
        file.relative_to(place).as_posix(): file.read_bytes()
        for file in place.rglob("*")
        if file.is_file()
    }


def test_writers_media_types() -> None:
    assert open_writer("tar").media_type == "application/x-tar"
    assert open_writer("zip").media_type == "application/zip"


def test_tar_unpacked_by_gnu_tar_has_same_files_modes_and_times(tmp_path: Path) -> None:
    shown = _run(["tar", "-xvf", "-"], tmp_path, given=_archive("tar", _FILES.items()))
    assert len(shown.splitlines()) == len(_FILES)
    assert _files_below(tmp_path) == _FILES
    status = (tmp_path / "README.md").stat()
    assert (status.st_mode & 0o777, int(status.st_mtime)) == (0o644, _MODIFIED)


@_needs_unzip
def test_zip_unpacked_by_unzip_has_same_files_modes_and_times(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(_archive("zip", _FILES.items()))
    _run(["unzip", "-q", "a.zip", "-d", "out"], tmp_path)
    assert _files_below(tmp_path / "out") == _FILES
    status = (tmp_path / "out" / "README.md").stat()
    assert (status.st_mode & 0o777, int(status.st_mtime)) == (0o644, _MODIFIED - 1)


@_needs_bsdtar
@pytest.mark.parametrize("kind", _KINDS)
def test_archive_streamed_through_bsdtar_has_same_files(tmp_path: Path, kind: ArchiveKind) -> None:
    # What reads a zip as a stream looks for the descriptor: one within a content must not end it.
    files = {**_FILES, "model.pt": _archive("zip", _FILES.items())}
    _run(["bsdtar", "-xf", "-"], tmp_path, given=_archive(kind, files.items()))
    assert _files_below(tmp_path) == files


def test_tar_is_ustar_where_it_fits_and_ends_with_two_zero_blocks() -> None:
    files = {"d" * 150 + "/" + "n" * 100: b"x" * 513}
    archive = _archive("tar", files.items())
    assert len(archive) == 512 + 1024 + 1024
    assert archive[-1024:] == bytes(1024)
    assert archive[257:265] == b"ustar\x0000"
    assert archive[108:124] == b"0000000\0" * 2  # owner and group
    assert archive[265:329] == bytes(64)  # their names
    assert archive[156:157] == b"0"


@pytest.mark.parametrize("path", ["größe", "n" * 101, "d" * 156 + "/n", _LONG])
def test_tar_path_beyond_ustar_has_a_pax_record(path: str) -> None:
    archive = _archive("tar", [(path, b"content")])
    assert archive[156:157] == b"x"
    [member] = TarReader(size=len(archive)).feed(0, archive)
    assert (member.name, member.kind, member.size) == (path, MemberKind.REGULAR, 7)
    with tarfile.TarFile(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getnames() == [path]
    listed = _run(["tar", "-t", "--quoting-style=literal"], Path("/"), given=archive)
    assert listed == f"{path}\n"


@pytest.mark.parametrize("seconds", [-5, 0, 1 << 33, 1 << 40])
def test_tar_time_of_any_range_is_kept(seconds: int) -> None:
    writer = TarWriter()
    archive = writer.begin(ArchiveMember("a", 0, seconds)) + writer.finish() + writer.end()
    with tarfile.TarFile(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getmember("a").mtime == seconds


@pytest.mark.parametrize(
    ("seconds", "held"),
    [
        (-5, (1980, 1, 1, 0, 0, 0)),
        (0, (1980, 1, 1, 0, 0, 0)),
        (315_532_800, (1980, 1, 1, 0, 0, 0)),
        (_MODIFIED, (2023, 11, 14, 22, 13, 20)),
        (1 << 60, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_zip_time_is_utc_within_what_zip_can_say(
    seconds: int, held: tuple[int, int, int, int, int, int]
) -> None:
    writer = ZipWriter()
    archive = writer.begin(ArchiveMember("a", 0, seconds)) + writer.finish() + writer.end()
    assert zipfile.ZipFile(io.BytesIO(archive)).getinfo("a").date_time == held
    assert datetime.datetime(*held, tzinfo=datetime.UTC).year >= 1980


def test_zip_members_are_stored_utf_8_with_descriptors() -> None:
    with zipfile.ZipFile(io.BytesIO(_archive("zip", _FILES.items()))) as opened:
        assert opened.testzip() is None
        for entry in opened.infolist():
            assert opened.read(entry) == _FILES[entry.filename]
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.flag_bits == 0x808
            assert entry.external_attr >> 16 == 0o100644
            assert (entry.extract_version, entry.extra, entry.comment) == (20, b"", b"")


def test_zip_path_of_4096_bytes_reads_back() -> None:
    path = "/".join(["é" * 127] * 16) + "n"
    assert len(path.encode()) == 16 * 255
    longest = f"{'d' * 15}/{path}"
    assert len(longest.encode()) == 4096
    opened = zipfile.ZipFile(io.BytesIO(_archive("zip", [(longest, b"1"), ("b", b"2")])))
    assert opened.namelist() == [longest, "b"]
    assert opened.testzip() is None


@pytest.mark.parametrize("kind", _KINDS)
def test_archive_of_nothing_is_one(tmp_path: Path, kind: ArchiveKind) -> None:
    archive = _archive(kind, [])
    assert len(archive) == archive_size(kind, []) == {"tar": 1024, "zip": 22}[kind]
    if kind == "tar":
        assert _run(["tar", "-t"], tmp_path, given=archive) == ""
    else:
        assert zipfile.ZipFile(io.BytesIO(archive)).namelist() == []


_PART = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"),
    min_size=1,
    max_size=60,
).filter(lambda part: part not in (".", ".."))
_PATH = st.lists(_PART, min_size=1, max_size=6).map("/".join)
_TREE = st.dictionaries(_PATH, st.binary(max_size=1600), max_size=6)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(_TREE, st.integers(min_value=1, max_value=1600))
def test_archive_size_is_what_is_written_and_all_reads_back(
    files: dict[str, bytes], chunk_bytes: int
) -> None:
    sizes = _members((path, len(content)) for path, content in files.items())
    tar, zipped = (
        b"".join(_pieces(open_writer(kind), files.items(), chunk_bytes=chunk_bytes))
        for kind in _KINDS
    )
    assert archive_size("tar", sizes) == len(tar)
    assert archive_size("zip", sizes) == len(zipped)

    reader = TarReader(size=len(tar))
    found = reader.feed(0, tar)
    reader.end()
    ours = {m.name: tar[m.offset : m.offset + m.size] for m in found}
    assert ours == files
    assert all(m.kind is MemberKind.REGULAR for m in found)
    with tarfile.TarFile(fileobj=io.BytesIO(tar)) as opened:
        assert [(e.name, e.size, e.mtime, e.mode) for e in opened.getmembers()] == [
            (path, len(content), _MODIFIED, 0o644) for path, content in files.items()
        ]
    with zipfile.ZipFile(io.BytesIO(zipped)) as unzipped:
        assert {entry.orig_filename: unzipped.read(entry) for entry in unzipped.infolist()} == files


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 511, 2**32 - 2, 2**32 - 1, 2**32, 2**33 - 1, 2**33, 2**40])))
def test_archive_size_of_huge_members_is_what_is_written(sizes: list[int]) -> None:
    members = _members((f"{number}.bin", size) for number, size in enumerate(sizes))
    for kind in _KINDS:
        writer: TarWriter | ZipWriter = TarWriter() if kind == "tar" else ZipWriter()
        framing = 0
        for member in members:
            framing += len(writer.begin(member))
            writer._progress.take(member.size)
            framing += len(writer.finish())
        framing += len(writer.end())
        assert archive_size(kind, members) == framing + sum(sizes)


def test_tar_member_over_8_gib_has_its_size_in_a_pax_record(tmp_path: Path) -> None:
    sizes = [("fits.bin", 8 * _GIB - 1), ("large.bin", 8 * _GIB), ("behind", 5)]
    target = tmp_path / "a.tar"
    _sparse(target, TarWriter(), sizes)
    assert target.stat().st_size == archive_size("tar", _members(sizes))
    with tarfile.TarFile(target) as opened:
        assert [(entry.name, entry.size) for entry in opened.getmembers()] == sizes
        assert ["size" in entry.pax_headers for entry in opened.getmembers()] == [0, 1, 0]
    listed = [line.split() for line in _run(["tar", "-tvf", "a.tar"], tmp_path).splitlines()]
    assert [(line[-1], int(line[2])) for line in listed] == sizes
    reader = TarReader(size=target.stat().st_size)
    found: list[tuple[str, int]] = []
    with target.open("rb") as file:
        while not reader.finished:
            file.seek(reader.position)
            found += [(m.name, m.size) for m in reader.feed(reader.position, file.read(2048))]
    assert found == sizes


def test_zip_member_over_4_gib_and_all_behind_it_are_zip64(tmp_path: Path) -> None:
    sizes = [("small", 0), ("fits.bin", 2**32 - 2), ("large.bin", 2**32 - 1), ("behind", 0)]
    target = tmp_path / "a.zip"
    _sparse(target, ZipWriter(), sizes)
    assert target.stat().st_size == archive_size("zip", _members(sizes))
    with zipfile.ZipFile(target) as opened:
        entries = opened.infolist()
        assert [(entry.filename, entry.file_size) for entry in entries] == sizes
        assert [entry.extract_version for entry in entries] == [20, 20, 45, 45]
        assert opened.read("small") == opened.read("behind") == b""
        opened.open("large.bin").close()  # reads its local header
    with target.open("rb") as file:
        file.seek(entries[2].header_offset)
        header = file.read(30 + len("large.bin") + 20)
        assert header[14:26] == bytes(4) + b"\xff" * 8
        assert header[-20:] == b"\x01\x00\x10\x00" + bytes(16)
        file.seek(2**32 - 1, os.SEEK_CUR)
        descriptor = file.read(24)
    assert descriptor == b"PK\7\x08" + bytes(4) + (2**32 - 1).to_bytes(8, "little") * 2


def test_zip_behind_4_gib_ends_with_zip64_records(tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    _sparse(target, ZipWriter(), [("fits.bin", 2**32 - 2)])
    with target.open("rb") as file:
        file.seek(-(56 + 20 + 22), os.SEEK_END)
        tail = file.read()
    assert [tail[at : at + 4] for at in (0, 56, 76)] == [b"PK\6\6", b"PK\6\7", b"PK\5\6"]
    assert zipfile.ZipFile(target).getinfo("fits.bin").file_size == 2**32 - 2


@pytest.mark.parametrize(("count", "extra"), [(65_534, 0), (65_535, 76)])
def test_zip_member_count_beyond_16_bits_takes_zip64_records(count: int, extra: int) -> None:
    entry = 30 + 5 + 16 + 46 + 5
    sizes = (ArchiveMember(f"{number:05}", 0) for number in range(count))
    assert archive_size("zip", sizes) == count * entry + extra + 22


def test_zip_of_70000_members_reads_back(tmp_path: Path) -> None:
    paths = [f"{number % 100}/{number}" for number in range(70_000)]
    archive = _archive("zip", zip(paths, itertools.repeat(b"x")))
    opened = zipfile.ZipFile(io.BytesIO(archive))
    assert opened.namelist() == paths
    assert opened.read(paths[-1]) == b"x"


@pytest.mark.slow
@_needs_unzip
def test_zip_over_4_gib_is_whole_to_unzip(tmp_path: Path) -> None:
    zeros = bytes(16 << 20)
    writer = ZipWriter()
    with (tmp_path / "a.zip").open("wb") as file:
        for path, count in (("large.bin", 257), ("behind.bin", 1)):
            file.write(writer.begin(ArchiveMember(path, count * len(zeros))))
            for _ in range(count):
                file.seek(len(writer.content(zeros)), os.SEEK_CUR)
            file.write(writer.finish())
        file.write(writer.end())
    assert "No errors detected" in _run(["unzip", "-t", "a.zip"], tmp_path)


@pytest.mark.parametrize("kind", _KINDS)
def test_writer_holds_no_content(kind: ArchiveKind) -> None:
    writer = open_writer(kind)
    chunk = bytes(1 << 20)
    tracemalloc.start()
    try:
        writer.begin(ArchiveMember("a", 64 * len(chunk)))
        for _ in range(64):
            writer.content(chunk)
        writer.finish()
        writer.end()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024


@pytest.mark.parametrize("kind", _KINDS)
def test_writer_more_content_than_size_is_an_error(kind: ArchiveKind) -> None:
    writer = open_writer(kind)
    with pytest.raises(ValueError, match="at most 0 bytes more, found 1"):
        writer.content(b"x")
    writer.begin(ArchiveMember("a", 3))
    writer.content(b"12")
    with pytest.raises(ValueError, match="at most 1 bytes more, found 2"):
        writer.content(b"34")
    writer.content(b"3")
    writer.finish()


@pytest.mark.parametrize("kind", _KINDS)
def test_writer_less_content_than_size_is_an_error(kind: ArchiveKind) -> None:
    writer = open_writer(kind)
    writer.begin(ArchiveMember("a", 3))
    writer.content(b"12")
    with pytest.raises(ValueError, match="1 bytes more of 'a'"):
        writer.finish()


@pytest.mark.parametrize("kind", _KINDS)
def test_writer_steps_out_of_order_are_errors(kind: ArchiveKind) -> None:
    writer = open_writer(kind)
    with pytest.raises(ValueError, match="a member that has begun"):
        writer.finish()
    writer.begin(ArchiveMember("a", 0))
    with pytest.raises(ValueError, match="'a' to be finished first"):
        writer.begin(ArchiveMember("b", 0))
    with pytest.raises(ValueError, match="'a' to be finished first"):
        writer.end()
    writer.finish()
    with pytest.raises(ValueError, match="a member that has begun"):
        writer.finish()
    writer.end()
    with pytest.raises(ValueError, match="has ended"):
        writer.begin(ArchiveMember("b", 0))
    with pytest.raises(ValueError, match="has ended"):
        writer.end()


@pytest.mark.parametrize("kind", _KINDS)
def test_archive_beyond_63_bits_is_refused_with_limit_and_found(kind: ArchiveKind) -> None:
    member = ArchiveMember("a", 2**62)
    assert archive_size(kind, [member]) > 2**62
    with pytest.raises(SizeInvalid, match=f"at most {2**63 - 1} bytes") as caught:
        archive_size(kind, [member, member])
    assert isinstance(caught.value.detail, dict)
    assert caught.value.detail["found"] > caught.value.detail["limit"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "a/",
        "a//b",
        ".",
        "./a",
        "..",
        "a/../b",
        "a\0b",
        "a\\..\\b",
        "\udcff",
    ],
)
def test_E3_member_with_unsafe_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        ArchiveMember(path, 0)


def test_member_out_of_bounds_is_refused() -> None:
    assert ArchiveMember("n" * 65_535, 0).size == 0
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        ArchiveMember("n" * 65_536, 0)
    with pytest.raises(ValueError, match="found -1"):
        ArchiveMember("a", -1)
