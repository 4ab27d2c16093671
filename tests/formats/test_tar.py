from __future__ import annotations

import io
import itertools
import tarfile  # noqa: TID251 - the archives read here are made by the test

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import MalformedArtifact
from proxy.formats.tar import Member, MemberKind, TarLimits, TarReader
from tests.build import (
    TarFormat,
    padded,
    pax_record,
    tar_archive,
    tar_entry,
    tar_extension,
    tar_header,
    tar_of,
)

_LONG = "deep/" * 40 + "weights.safetensors"
_FILES = {
    "README.md": b"# model\n",
    "sub/config.json": b"{}" * 300,
    "empty": b"",
    "größe/模型.bin": b"\x00\x01" * 700,
    _LONG: b"x" * 512,
}
_MIXED = tar_of(
    tar_extension(b"g", pax_record("comment", "a" * 600)),
    tar_entry(b"sub/", flag=b"5"),
    tar_extension(b"x", pax_record("path", _LONG) + pax_record("mtime", "1.5")),
    tar_entry(b"cut", b"content" * 100),
    tar_extension(b"L", b"long/" * 30 + b"name\0"),
    tar_entry(b"long", b"y"),
    tar_header(
        b"holes",
        size=512,
        flag=b"S",
        magic=b"ustar  \0",
        tail=bytes(137) + b"\x01" + b"00000001000\0",
    ),
    bytes(504) + b"\x01" + bytes(7),
    bytes(512),
    bytes(512),
    tar_entry(b"last", b"z" * 1025),
)


def _read(archive: bytes, *, size: int | None = None) -> list[Member]:
    reader = TarReader(size=size)
    found = reader.feed(0, archive)
    reader.end()
    return found


def _feed_to_its_fault(reader: TarReader, archive: bytes) -> None:
    """Feed all; where members come before the fault, the next call raises it."""
    reader.feed(0, archive)
    reader.feed(reader.position, b"")


def _stdlib(archive: bytes) -> list[tuple[str, int, int]]:
    with tarfile.TarFile(fileobj=io.BytesIO(archive)) as opened:
        return [(entry.name, entry.size, entry.offset_data) for entry in opened.getmembers()]


@pytest.mark.parametrize("layout", ["gnu", "pax"])
def test_reader_stdlib_archive_agrees_with_stdlib(layout: TarFormat) -> None:
    archive = tar_archive(_FILES, layout=layout)
    found = _read(archive, size=len(archive))
    assert [(member.name, member.size, member.offset) for member in found] == _stdlib(archive)
    assert [archive[m.offset : m.offset + m.size] for m in found] == list(_FILES.values())


def test_reader_ustar_prefix_agrees_with_stdlib() -> None:
    archive = tar_archive({_LONG: b"1", "b": b"2"}, layout="ustar")
    found = _read(archive)
    assert [(member.name, member.size, member.offset) for member in found] == _stdlib(archive)


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-zé模/._-]{1,300}[a-z]", fullmatch=True),
        st.binary(max_size=1500),
        max_size=6,
    ),
    layout=st.sampled_from(("gnu", "pax")),
)
def test_reader_any_stdlib_archive_agrees_with_stdlib(
    files: dict[str, bytes], layout: TarFormat
) -> None:
    archive = tar_archive(files, layout=layout)
    found = _read(archive, size=len(archive))
    assert [(member.name, member.size, member.offset) for member in found] == _stdlib(archive)


@settings(max_examples=80, deadline=None)
@given(cuts=st.lists(st.integers(0, len(_MIXED)), max_size=30), fault=st.booleans())
def test_reader_any_chunking_finds_the_same(cuts: list[int], fault: bool) -> None:
    archive = _MIXED[:-1024] + b"\xff" * 512 if fault else _MIXED
    whole = TarReader()
    expected = whole.feed(0, archive)
    assert len(expected) == 5
    reader = TarReader()
    found: list[Member] = []
    edges = [0, *sorted(min(cut, len(archive)) for cut in cuts), len(archive)]
    failed = False
    for first, last in itertools.pairwise(edges):
        try:
            found += reader.feed(first, archive[first:last])
        except MalformedArtifact:
            failed = True
            break
    assert found == expected
    if fault:
        with pytest.raises(MalformedArtifact, match="wrong checksum"):
            reader.end()
    else:
        assert not failed
        assert reader.finished
        assert reader.position == whole.position == len(archive)


def test_reader_byte_by_byte_finds_the_same() -> None:
    reader = TarReader()
    found = [m for at in range(len(_MIXED)) for m in reader.feed(at, _MIXED[at : at + 1])]
    assert found == _read(_MIXED)


def test_F3_reader_every_prefix_is_a_part_or_a_clean_error() -> None:
    expected = _read(_MIXED)
    for length in range(0, len(_MIXED), 7):
        for size in (None, length):
            reader = TarReader(size=size)
            try:
                found = reader.feed(0, _MIXED[:length])
                assert found == expected[: len(found)]
                reader.end()
            except MalformedArtifact:
                assert not reader.finished


def test_reader_ranged_jumps_over_contents() -> None:
    archive = tar_of(tar_entry(b"big", b"\xff" * 100_000), tar_entry(b"small", b"s"))
    reader = TarReader(size=len(archive))
    found: list[Member] = []
    reads = 0
    while not reader.finished:
        at = reader.position
        found += reader.feed(at, archive[at : at + 512])
        reads += 1
    assert [member.name for member in found] == ["big", "small"]
    assert reads == 4
    assert reader.feed(10**9, b"ignored") == []


def test_reader_gap_is_refused() -> None:
    reader = TarReader()
    assert reader.feed(0, _MIXED[:700]) == []
    with pytest.raises(ValueError, match="from 700 on"):
        reader.feed(701, b"x")


def test_reader_known_bytes_are_ignored() -> None:
    reader = TarReader()
    archive = tar_of(tar_entry(b"a", b"1"))
    assert reader.feed(0, archive[:300]) == []
    assert [member.name for member in reader.feed(100, archive[100:])] == ["a"]


@pytest.mark.parametrize("archive", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_reader_without_members_is_empty(archive: bytes) -> None:
    assert _read(archive) == []
    assert _read(archive, size=len(archive)) == []
    reader = TarReader(size=0)
    assert reader.finished


def test_reader_end_without_zero_blocks_is_an_end() -> None:
    archive = tar_header(b"a", size=700) + bytes(700)  # not even padded
    assert [member.size for member in _read(archive, size=len(archive))] == [700]
    reader = TarReader()
    reader.feed(0, archive)
    reader.end()
    assert reader.finished


def test_reader_global_block_at_the_end_is_an_end() -> None:
    archive = tar_entry(b"a") + tar_extension(b"g", pax_record("comment", "c"))
    assert [member.name for member in _read(archive, size=len(archive))] == ["a"]


def test_reader_kinds_are_told_apart() -> None:
    archive = tar_of(
        tar_header(b"old-file", flag=b"\0", magic=b""),
        tar_header(b"old-directory/", flag=b"\0", magic=b"", size=512),
        tar_entry(b"directory/", b"skipped"),
        tar_header(b"directory", flag=b"5", size=512),
        tar_header(b"soft", flag=b"2", target=b"../t"),
        tar_header(b"hard", flag=b"1", target=b"old-file", size=512),
        tar_header(b"device", flag=b"3", size=512),
        tar_entry(b"contiguous", b"c", flag=b"7"),
        tar_entry(b"vendor", b"v" * 600, flag=b"Z"),
        tar_entry(b"after", b"a"),
    )
    found = _read(archive, size=len(archive))
    assert [(member.name, member.kind, member.size, member.link_target) for member in found] == [
        ("old-file", MemberKind.REGULAR, 0, None),
        ("old-directory/", MemberKind.DIRECTORY, 0, None),
        ("directory/", MemberKind.DIRECTORY, 0, None),
        ("directory", MemberKind.DIRECTORY, 0, None),
        ("soft", MemberKind.SYMLINK, 0, "../t"),
        ("hard", MemberKind.HARDLINK, 0, "old-file"),
        ("device", MemberKind.OTHER, 0, None),
        ("contiguous", MemberKind.REGULAR, 1, None),
        ("vendor", MemberKind.OTHER, 600, None),
        ("after", MemberKind.REGULAR, 1, None),
    ]


def test_reader_signed_checksum_is_accepted() -> None:
    archive = tar_of(tar_header("größe".encode("latin-1"), signed_sum=True))
    assert [member.name for member in _read(archive)] == ["gr\udcf6\udcdfe"]


def test_reader_gnu_prefix_area_is_no_prefix() -> None:
    archive = tar_of(tar_header(b"a", magic=b"ustar  \0", prefix=b"00000000000\0"))
    assert [member.name for member in _read(archive)] == ["a"]


def test_reader_records_override_the_header() -> None:
    archive = tar_of(
        tar_extension(b"g", pax_record("path", "global") + pax_record("linkpath", "far")),
        tar_entry(b"one", b"1"),
        tar_extension(b"x", pax_record("path", "local") + pax_record("size", "3") + bytes(9)),
        tar_header(b"two", size=0) + padded(b"222"),
        tar_extension(b"x", pax_record("path", "") + pax_record("size", "")),
        tar_entry(b"three", b"33"),
        tar_extension(b"L", b"gnu\0"),
        tar_extension(b"K", b"near\0"),
        tar_extension(b"x", pax_record("path", "never")),
        tar_header(b"four", flag=b"2", target=b"nowhere"),
        tar_header(b"five", flag=b"2", target=b"nowhere"),
    )
    found = _read(archive)
    assert [(member.name, member.size, member.link_target) for member in found] == [
        ("global", 1, None),
        ("local", 3, None),
        ("three", 2, None),
        ("gnu", 0, "near"),
        ("global", 0, "far"),
    ]


def test_reader_base256_size_of_9_gib_is_read() -> None:
    nine = 9 * 1024**3
    header = tar_header(b"big", size=b"\x80" + nine.to_bytes(11, "big"))
    reader = TarReader()
    found = reader.feed(0, header)
    assert found == [Member("big", MemberKind.REGULAR, nine, 512)]
    assert reader.position == 512 + nine
    assert reader.feed(reader.position, bytes(1024)) == []
    assert reader.finished


def test_F3_sparse_members_are_told_with_their_real_name_and_size() -> None:
    pax_1_0 = (
        pax_record("GNU.sparse.major", "1")
        + pax_record("GNU.sparse.minor", "0")
        + pax_record("GNU.sparse.name", "real.bin")
        + pax_record("GNU.sparse.realsize", "209715200")
    )
    pax_0_0 = pax_record("GNU.sparse.size", "4096") + pax_record("GNU.sparse.numblocks", "0")
    archive = tar_of(
        tar_extension(b"x", pax_1_0),
        tar_entry(b"./GNUSparseFile.1/real.bin", b"map and content"),
        tar_extension(b"x", pax_0_0),
        tar_entry(b"old.bin", b"content"),
        tar_header(b"gnu", size=1, flag=b"S", tail=bytes(138) + b"00000001000\0") + padded(b"c"),
        tar_entry(b"plain"),
    )
    found = _read(archive, size=len(archive))
    assert [(member.name, member.kind, member.size) for member in found] == [
        ("real.bin", MemberKind.SPARSE, 209715200),
        ("old.bin", MemberKind.SPARSE, 4096),
        ("gnu", MemberKind.SPARSE, 512),
        ("plain", MemberKind.REGULAR, 0),
    ]


_ONE_SPARSE_MAP = tar_header(b"s", flag=b"S", tail=bytes(137) + b"\x01" + b"00000000000\0")
_BAD: dict[str, tuple[bytes, str]] = {
    "text": (b"not an archive " * 40, "wrong checksum at byte 0|a header at byte 0"),
    "late junk": (tar_entry(b"a") + b"\xff" * 512, "a header at byte 512"),
    "checksum no number": (tar_header(b"a")[:148] + b"zz" + tar_header(b"a")[150:], "byte 0"),
    "negative base-256": (tar_header(b"a", size=b"\xff" * 12), "2\\*\\*63 - 1 at byte 124"),
    "huge base-256": (tar_header(b"a", size=b"\x80\0\0\0\x80" + bytes(7)), "byte 124"),
    "negative octal": (tar_header(b"a", size=b"-0000000001\0"), "at byte 124"),
    "negative pax": (
        tar_extension(b"x", pax_record("size", "-1")) + tar_header(b"a"),
        "at byte 1024",
    ),
    "huge pax": (tar_extension(b"x", pax_record("size", str(1 << 63))) + tar_header(b"a"), "1024"),
    "pax length": (tar_extension(b"x", b"x path=a\n"), "length of a PAX record at byte 512"),
    "pax endless length": (tar_extension(b"x", b"1" * 600), "length of a PAX record"),
    "pax zero length": (tar_extension(b"x", b"0 path=a\n"), "whole PAX record"),
    "pax too long": (tar_extension(b"x", b"999 path=a\n"), "whole PAX record"),
    "pax no newline": (tar_extension(b"x", b"9 path=ab"), "whole PAX record"),
    "pax no equals": (tar_extension(b"x", b"9 pathab\n"), "whole PAX record"),
    "pax block over 1 MiB": (tar_header(b"x", size=(1 << 20) + 1, flag=b"x"), "1048576 bytes"),
    "long name of 2 GiB": (tar_header(b"L", size=1 << 31, flag=b"L"), "at most 4097 bytes"),
    "long target of 2 GiB": (tar_header(b"K", size=1 << 31, flag=b"K"), "at most 4097 bytes"),
    "pax name": (tar_extension(b"x", pax_record("path", "a" * 4097)), "name of at most 4096"),
    "lone zero block": (bytes(512) + tar_header(b"a"), "second zero block at byte 512"),
    "name without member": (tar_extension(b"L", b"a\0") + bytes(1024), "found zeros"),
}


@pytest.mark.parametrize(("archive", "message"), _BAD.values(), ids=_BAD.keys())
def test_F3_reader_malformed_is_refused_with_its_place(archive: bytes, message: str) -> None:
    reader = TarReader()
    with pytest.raises(MalformedArtifact, match=message) as raised:
        _feed_to_its_fault(reader, archive)
    assert isinstance(raised.value.detail, dict)
    with pytest.raises(MalformedArtifact):
        reader.feed(0, archive)
    with pytest.raises(MalformedArtifact):
        reader.end()
    assert not reader.finished


def test_F3_reader_limits_hold_at_their_edge() -> None:
    limits = TarLimits(metadata_bytes=3072, members=2, name_bytes=20, pax_block_bytes=600)
    block = tar_extension(b"x", pax_record("path", "a" * 20))
    allowed = block + tar_entry(b"1") + block + tar_entry(b"2") + _ONE_SPARSE_MAP
    reader = TarReader(limits=limits)
    assert [member.name for member in reader.feed(0, allowed)] == ["a" * 20] * 2
    reader.feed(reader.position, bytes(504))
    with pytest.raises(MalformedArtifact, match="at most 2 members"):
        reader.feed(reader.position, bytes(8))
    flood = TarReader(limits=limits)
    flood.feed(0, tar_header(b"g", flag=b"g") * 6)
    with pytest.raises(MalformedArtifact, match="at most 3072 bytes of metadata"):
        flood.feed(flood.position, tar_header(b"g", flag=b"g"))
    sparse_flood = TarReader(limits=limits)
    sparse_flood.feed(0, _ONE_SPARSE_MAP)
    with pytest.raises(MalformedArtifact, match="bytes of metadata"):
        sparse_flood.feed(512, (bytes(504) + b"\x01" + bytes(7)) * 7)
    with pytest.raises(MalformedArtifact, match="name of at most 20"):
        TarReader(limits=limits).feed(0, tar_header(b"a" * 21))
    with pytest.raises(MalformedArtifact, match="name of at most 20"):
        TarReader(limits=limits).feed(0, tar_header(b"a", flag=b"2", target=b"b" * 21))


def test_F3_pax_flood_is_refused_in_flat_memory() -> None:
    block = tar_extension(b"g", pax_record("comment", "c" * 1_000_000))
    reader = TarReader()
    for number in range(67):
        assert reader.feed(number * len(block), block) == []
    with pytest.raises(MalformedArtifact, match="67108864 bytes of metadata"):
        reader.feed(67 * len(block), block)


@pytest.mark.parametrize(
    "archive",
    [
        tar_header(b"a", size=1 << 40) + bytes(512),
        tar_entry(b"a")[:500],
        tar_entry(b"a") + bytes(512) + bytes(100),
        tar_extension(b"x", pax_record("path", "a")),
        tar_header(b"x", flag=b"x", size=513),
        _ONE_SPARSE_MAP,
    ],
)
def test_F4_member_beyond_the_archive_is_refused(archive: bytes) -> None:
    reader = TarReader(size=len(archive))
    with pytest.raises(MalformedArtifact, match="at byte"):
        _feed_to_its_fault(reader, archive)


def test_reader_end_before_the_promised_size_is_refused() -> None:
    archive = tar_entry(b"a")
    reader = TarReader(size=len(archive) + 1024)
    reader.feed(0, archive)
    with pytest.raises(MalformedArtifact, match="more bytes at byte 512"):
        reader.end()


def test_reader_end_inside_metadata_is_refused() -> None:
    for archive in (tar_entry(b"a")[:1], tar_extension(b"L", b"a\0"), _ONE_SPARSE_MAP):
        reader = TarReader()
        reader.feed(0, archive)
        with pytest.raises(MalformedArtifact):
            reader.end()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, len(_MIXED)), st.binary(max_size=40))
def test_F3_reader_any_bytes_end_in_members_or_a_clean_error(
    junk: bytes, at: int, patch: bytes
) -> None:
    for archive in (junk, _MIXED[:at] + patch + _MIXED[at + len(patch) :]):
        reader = TarReader(size=len(archive))
        try:
            for member in reader.feed(0, archive):
                assert member.offset <= len(archive)
            reader.end()
        except MalformedArtifact:
            assert not reader.finished


@pytest.mark.parametrize("blank", [b" " * 12, bytes(12), b" " * 11 + b"\0"])
def test_tar_blank_size_is_zero(blank: bytes) -> None:
    header = bytearray(tar_header(b"empty", size=0))
    header[124:136] = blank
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (member,) = TarReader().feed(0, bytes(header))
    assert (member.name, member.kind, member.size) == ("empty", MemberKind.REGULAR, 0)
