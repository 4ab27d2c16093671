"""Tar and zip archives written as one stream: nothing is read back, no content is held.

A writer is told each member, then its content piece by piece, and says which bytes to send.
Sizes are known beforehand, so the length of the whole archive is, too. Checksums are not: a zip
writes each behind its content, in a data descriptor. Contents are stored as they are, since
weights hardly compress. What is held is the zip's central directory, 46 bytes and a path a member.
Source: POSIX.1-2017 pax, "ustar Interchange Format"; PKWARE APPNOTE 6.3.10 §4.3 to §4.5.
"""

from __future__ import annotations

import datetime
import struct
import tarfile  # noqa: TID251 - it writes headers here; only reading with it is dangerous
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.errors import SizeInvalid

ArchiveKind = Literal["tar", "zip"]

# The length of a name has 16 bits in a zip.
PATH_BYTES_LIMIT = 0xFFFF
ARCHIVE_BYTES_LIMIT = 2**63 - 1

_TAR_BLOCK_BYTES = 512

# A field of a zip that is all ones says that the number is in a Zip64 field.
_FULL_32 = 0xFFFFFFFF
_FULL_16 = 0xFFFF
_VERSION = 20  # 2.0, of the specification a reader has to know
_VERSION_64 = 45
_MADE_BY_UNIX = 3 << 8  # attributes hold a Unix mode
# Bit 3: checksum and sizes follow the content. Bit 11: the name is UTF-8.
_FLAGS = 1 << 3 | 1 << 11
_STORED = 0
_REGULAR_0644 = 0o100644 << 16
_FIELD_64 = 0x0001
# What the two 16-bit fields of MS-DOS can say, even seconds only.
_DOS_EPOCH = int(datetime.datetime(1980, 1, 1, tzinfo=datetime.UTC).timestamp())
_DOS_END = int(datetime.datetime(2107, 12, 31, 23, 59, 58, tzinfo=datetime.UTC).timestamp())

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = struct.Struct("<4s3I")
_DESCRIPTOR_64 = struct.Struct("<4sI2Q")
_DIRECTORY_HEADER = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_END_64_LOCATOR = struct.Struct("<4sIQI")


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A regular file of an archive.

    ``size`` is its exact length in bytes, ``modified_seconds`` are counted from 1970 UTC.

    Raises:
        ValueError: a size below zero; a path that has an empty, ``.`` or ``..`` part, a NUL, a
            backslash or broken UTF-8, or that is longer than 65,535 bytes.
    """

    path: str
    size: int
    modified_seconds: int = 0

    def __post_init__(self) -> None:
        # What unpacks elsewhere may trust names: whatever the caller forgot ends here.
        parts = self.path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in self.path or "\\" in self.path:
            raise ValueError(f"expected a safe relative path, found {self.path[:200]!r}")
        if len(self.path.encode()) > PATH_BYTES_LIMIT:
            raise ValueError(f"expected a path of at most {PATH_BYTES_LIMIT} bytes, found more")
        if self.size < 0:
            raise ValueError(f"expected a size of at least 0, found {self.size}")


class ArchiveWriter(Protocol):
    """Turns members and their content into the bytes of one archive, in order.

    ``begin``, ``content`` as often as needed, ``finish`` for each member; then ``end``.
    """

    media_type: str

    def begin(self, member: ArchiveMember) -> bytes:
        """What to send before the content of ``member``.

        Raises:
            ValueError: the member before has not been finished, or the archive has ended.
            SizeInvalid: with it the archive would be longer than 2**63 - 1 bytes.
        """

    def content(self, chunk: bytes) -> bytes:
        """What to send for the next bytes of content: ``chunk`` itself, of every kind.

        Raises:
            ValueError: that is more than the member's size.
        """

    def finish(self) -> bytes:
        """What to send behind the content.

        Raises:
            ValueError: less content came than the member's size, or no member has begun.
        """

    def end(self) -> bytes:
        """What to send behind the last member.

        Raises:
            ValueError: a member has not been finished, or the archive has ended.
        """


class _Progress:
    """Holds the caller to the order of calls and the sizes; ``position`` counts bytes sent."""

    def __init__(self) -> None:
        self.position = 0
        self._member: ArchiveMember | None = None
        self._missing = 0
        self._ended = False

    def begin(self, member: ArchiveMember) -> None:
        self._check_between_members()
        if self.position + member.size > ARCHIVE_BYTES_LIMIT:
            raise SizeInvalid(
                f"expected an archive of at most {ARCHIVE_BYTES_LIMIT} bytes, "
                f"found {self.position} and a member of {member.size} bytes",
                detail={"limit": ARCHIVE_BYTES_LIMIT, "found": self.position + member.size},
            )
        self._member = member
        self._missing = member.size

    def take(self, count: int) -> None:
        if count > self._missing:
            raise ValueError(f"expected at most {self._missing} bytes more, found {count}")
        self._missing -= count
        self.position += count

    def finish(self) -> ArchiveMember:
        if self._member is None:
            raise ValueError("expected a member that has begun, found none")
        if self._missing:
            raise ValueError(f"expected {self._missing} bytes more of {self._member.path[:200]!r}")
        member, self._member = self._member, None
        return member

    def end(self) -> None:
        self._check_between_members()
        self._ended = True

    def sent(self, framing: bytes) -> bytes:
        """Count bytes that are no content; gives them back."""
        self.position += len(framing)
        return framing

    def _check_between_members(self) -> None:
        if self._member is not None:
            raise ValueError(f"expected {self._member.path[:200]!r} to be finished first")
        if self._ended:
            raise ValueError("expected an archive that goes on, found one that has ended")


class TarWriter:
    """Writes ustar, with PAX records for what it cannot say; see ``ArchiveWriter``."""

    media_type = "application/x-tar"

    def __init__(self) -> None:
        self._progress = _Progress()

    def begin(self, member: ArchiveMember) -> bytes:
        """The header, behind a PAX block where one is needed."""
        self._progress.begin(member)
        return self._progress.sent(_tar_header(member))

    def content(self, chunk: bytes) -> bytes:
        """``chunk`` itself."""
        self._progress.take(len(chunk))
        return chunk

    def finish(self) -> bytes:
        """Zeros up to a whole block."""
        member = self._progress.finish()
        return self._progress.sent(bytes(-member.size % _TAR_BLOCK_BYTES))

    def end(self) -> bytes:
        """Two blocks of zeros."""
        self._progress.end()
        return self._progress.sent(bytes(2 * _TAR_BLOCK_BYTES))


class ZipWriter:
    """Writes stored members with data descriptors, Zip64 where it is needed; see ``ArchiveWriter``.

    Times are UTC, and 1980 at the least.
    """

    media_type = "application/zip"

    def __init__(self) -> None:
        self._progress = _Progress()
        self._offset = 0
        self._crc = 0
        self._count = 0
        self._directory = bytearray()

    def begin(self, member: ArchiveMember) -> bytes:
        """The local header; its sizes and checksum are left to the descriptor."""
        self._offset = self._progress.position
        self._progress.begin(member)
        self._crc = 0
        name = member.path.encode()
        # A Zip64 field here says that the descriptor has 64-bit sizes.
        is_large = member.size >= _FULL_32
        size = _FULL_32 if is_large else 0
        field = _field_64(0, 0) if is_large else b""
        version = _VERSION_64 if is_large else _VERSION
        header = _LOCAL_HEADER.pack(
            b"PK\3\4",
            version,
            _FLAGS,
            _STORED,
            *_dos_time(member.modified_seconds),
            0,
            size,
            size,
            len(name),
            len(field),
        )
        return self._progress.sent(header + name + field)

    def content(self, chunk: bytes) -> bytes:
        """``chunk`` itself."""
        self._progress.take(len(chunk))
        self._crc = zlib.crc32(chunk, self._crc)
        return chunk

    def finish(self) -> bytes:
        """The data descriptor."""
        member = self._progress.finish()
        self._count += 1
        self._directory += self._directory_entry(member)
        descriptor = _DESCRIPTOR_64 if member.size >= _FULL_32 else _DESCRIPTOR
        return self._progress.sent(descriptor.pack(b"PK\7\10", self._crc, member.size, member.size))

    def end(self) -> bytes:
        """The central directory."""
        self._progress.end()
        start = self._progress.position
        size = len(self._directory)
        if self._count >= _FULL_16 or size >= _FULL_32 or start >= _FULL_32:
            self._directory += _END_64.pack(
                b"PK\6\6",
                _END_64.size - 12,  # what follows this very number
                _MADE_BY_UNIX | _VERSION_64,
                _VERSION_64,
                0,
                0,
                self._count,
                self._count,
                size,
                start,
            )
            self._directory += _END_64_LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
        count = min(self._count, _FULL_16)
        self._directory += _END.pack(
            b"PK\5\6", 0, 0, count, count, min(size, _FULL_32), min(start, _FULL_32), 0
        )
        return self._progress.sent(bytes(self._directory))

    def _directory_entry(self, member: ArchiveMember) -> bytes:
        numbers = (member.size, member.size, self._offset)
        large = [number for number in numbers if number >= _FULL_32]
        field = _field_64(*large) if large else b""
        compressed, size, offset = (min(number, _FULL_32) for number in numbers)
        version = _VERSION_64 if large else _VERSION
        name = member.path.encode()
        header = _DIRECTORY_HEADER.pack(
            b"PK\1\2",
            _MADE_BY_UNIX | version,
            version,
            _FLAGS,
            _STORED,
            *_dos_time(member.modified_seconds),
            self._crc,
            compressed,
            size,
            len(name),
            len(field),
            0,
            0,
            0,
            _REGULAR_0644,
            offset,
        )
        return header + name + field


_WRITERS: Mapping[ArchiveKind, type[TarWriter | ZipWriter]] = {"tar": TarWriter, "zip": ZipWriter}


def open_writer(kind: ArchiveKind) -> ArchiveWriter:
    """A writer of one archive of this kind."""
    return _WRITERS[kind]()


def archive_size(kind: ArchiveKind, members: Iterable[ArchiveMember]) -> int:
    """How many bytes the archive of these members, in this order, will have.

    All is written but the contents, so it takes as long: some 20 µs a member.

    Raises:
        SizeInvalid: more than 2**63 - 1 bytes.
    """
    writer = _WRITERS[kind]()
    progress = writer._progress
    for member in members:
        writer.begin(member)
        progress.take(member.size)
        writer.finish()
    writer.end()
    return progress.position


def _tar_header(member: ArchiveMember) -> bytes:
    header = tarfile.TarInfo(member.path)
    header.size = member.size
    header.mtime = member.modified_seconds
    # ustar says nothing of a name's encoding. Where the writer finds no room in it, it raises; PAX
    # it would also choose for paths that ustar has room for, in two fields.
    if member.path.isascii():
        try:
            return header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
        except ValueError:
            pass
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _dos_time(seconds: int) -> tuple[int, int]:
    """Time and date as zips hold them."""
    held = min(max(seconds, _DOS_EPOCH), _DOS_END)
    at = datetime.datetime.fromtimestamp(held, datetime.UTC)
    time = at.hour << 11 | at.minute << 5 | at.second // 2
    return time, (at.year - 1980) << 9 | at.month << 5 | at.day


def _field_64(*numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", _FIELD_64, 8 * len(numbers), *numbers)
