"""Tar archives: where each member's content lies, learnt from the headers alone.

``TarReader`` walks 512-byte headers and jumps over contents, so it serves a stream (feed all of it)
as well as ranged reads (feed what starts at ``position``). It hands out members, never content.
Two ends of an archive count: two zero blocks, or no more bytes where a header would start.

Every byte is hostile: checksums are verified, numbers bounded, metadata counted as it lies in the
archive. Members found before a fault are handed out first, the fault is raised by the next call;
so how the bytes were cut into chunks never shows.
Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual,
"Basic Tar Format" (types L, K, S, base-256 numbers) and "PAX Formats for Sparse Files".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from zlib import adler32

from proxy.errors import MalformedArtifact

BLOCK_BYTES = 512

_NUMBER_LIMIT = 1 << 63
_ZEROS = bytes(BLOCK_BYTES)
_BLANKS = b" " * 8
_ASCII = bytes(range(0x80))
_OCTAL_DIGITS = b"01234567"
_DECIMAL = re.compile(r"[0-9]{1,20}")
_RECORD_LENGTH = re.compile(rb"([0-9]{1,20}) ")

_PAX_SPARSE = b"GNU.sparse."
_PAX_SPARSE_NAME = b"GNU.sparse.name"
# Format 1.0 calls the size of the file as read "realsize", 0.0 and 0.1 call it "size".
_PAX_SPARSE_SIZES = (b"GNU.sparse.realsize", b"GNU.sparse.size")
# The only records that place or name a member; all others are read over, never kept.
_PAX_KEYS = frozenset((b"path", b"linkpath", b"size", _PAX_SPARSE_NAME, *_PAX_SPARSE_SIZES))
# Memory of each character of a string, once one of them lies beyond ASCII: at most so much.
_WIDE_CHARACTER_BYTES = 4
# What a record counts at least: reading one costs a microsecond, however short it is.
_PAX_RECORD_BYTES = 64


class MemberKind(enum.Enum):
    """What a member is; OTHER stands for devices, pipes and types of single vendors."""

    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    SPARSE = "sparse"
    OTHER = "other"


_KINDS: Mapping[int, MemberKind] = {
    ord("\0"): MemberKind.REGULAR,
    ord("0"): MemberKind.REGULAR,
    ord("1"): MemberKind.HARDLINK,
    ord("2"): MemberKind.SYMLINK,
    ord("5"): MemberKind.DIRECTORY,
    ord("7"): MemberKind.REGULAR,
    ord("S"): MemberKind.SPARSE,
}
_LINKS = b"12"
# No content follows these, whatever their size field says: POSIX pax, "ustar", field size.
_HEADER_ONLY = b"123456"
# GNU's long name and long link target, PAX records of one member and of all members to come.
_LONG = b"LK"
_EXTENSIONS = b"LKxg"


@dataclass(frozen=True, slots=True)
class Member:
    """One member; ``name`` and ``link_target`` are as written, UTF-8 with surrogate escapes.

    ``size`` is bytes of content; of a sparse member it is what the file would be, expanded.
    ``offset`` is where the content starts, in bytes from the start of the archive.
    """

    name: str
    kind: MemberKind
    size: int
    offset: int
    link_target: str | None = None


@dataclass(frozen=True, slots=True)
class TarLimits:
    """What one archive may cost.

    ``metadata_bytes`` bounds all long names, PAX blocks and sparse maps together, with headers and
    padding, as they lie in the archive, a PAX record as 64 bytes at least, and names beyond ASCII
    by the memory they may take. ``member_metadata_bytes`` more are free with each member: common
    writers put one small PAX block before every file.
    Plain headers are bounded by ``members``: 500,000 with common names take 106 MiB of memory.
    """

    metadata_bytes: int = 64 * 1024 * 1024
    member_metadata_bytes: int = 1536
    members: int = 500_000
    name_bytes: int = 4096
    pax_block_bytes: int = 1024 * 1024


_DEFAULT_LIMITS = TarLimits()


class _Step(enum.Enum):
    HEADER = "header"
    EXTENSION = "extension"
    SPARSE_MAP = "sparse map"


class TarReader:
    """Finds the members of one archive.

    ``position`` is the offset of the next byte wanted: all before it is known or of no interest,
    so it jumps behind a member's content. ``finished`` says that nothing more is wanted.
    ``size`` is the whole archive's count of bytes, if known: then a member must fit into it.
    At most one metadata block and one header are held.
    """

    def __init__(self, *, size: int | None = None, limits: TarLimits = _DEFAULT_LIMITS) -> None:
        self.position = 0
        self.finished = size == 0
        self._size = size
        self._limits = limits
        self._step = _Step.HEADER
        self._held = bytearray()
        self._wanted = BLOCK_BYTES
        self._failure: MalformedArtifact | None = None
        self._zero_seen = False
        self._members = 0
        self._metadata = 0
        self._extension = 0  # type flag of the extension that is being read
        self._sparse_header, self._sparse_start = b"", 0
        self._global_records: dict[bytes, str] = {}
        self._forget_extensions()

    def feed(self, offset: int, chunk: bytes | bytearray | memoryview) -> list[Member]:
        """Take the bytes that start at ``offset``; what lies before ``position`` is ignored.

        It costs by the header, not by the byte.

        Raises:
            MalformedArtifact: not a tar archive, or over a limit; the message names the offset.
            ValueError: the chunk starts behind ``position``.
        """
        if self._failure is not None:
            raise self._failure
        if offset > self.position and not self.finished:
            raise ValueError(f"expected bytes from {self.position} on, found bytes from {offset}")
        found: list[Member] = []
        try:
            with memoryview(
                chunk
            ) as view:  # let go of it: a fault's traceback would lock a bytearray
                self._walk(offset, view, found)
        except MalformedArtifact as error:
            self._failure = error
            if not found:
                raise
        return found

    def end(self) -> None:
        """Say that there are no more bytes.

        Raises:
            MalformedArtifact: that cuts a header, or metadata from the member it belongs to, or
                ``size`` promises more. Content that is cut is the business of who reads content.
        """
        if self._failure is not None:
            raise self._failure
        if self.finished:
            return
        promised = self._size is not None and self.position < self._size
        if self._held or self._pending or promised:
            raise _malformed("more bytes", self.position, "the end of the archive")
        self.finished = True

    def _walk(self, offset: int, view: memoryview, found: list[Member]) -> None:
        while not self.finished:
            start = self.position - len(self._held)
            if self._size is not None and start + self._wanted > self._size:
                raise _malformed(
                    f"{self._wanted} bytes of {self._step.value}",
                    start,
                    f"the end of the archive at {self._size}",
                )
            first = self.position - offset
            block = bytes(view[first : first + self._wanted - len(self._held)])
            self.position += len(block)
            if self._held or len(block) < self._wanted:
                self._held += block
                if len(self._held) < self._wanted:
                    return
                block = bytes(self._held)
                self._held.clear()
            if (member := self._take(start, block)) is not None:
                found.append(member)

    def _take(self, start: int, block: bytes) -> Member | None:
        if self._step is _Step.HEADER:
            return self._take_header(start, block)
        if self._step is _Step.SPARSE_MAP:
            return self._take_sparse_map(start, block)
        self._take_extension(start, block)
        return None

    @property
    def _pending(self) -> bool:
        """Whether something was read that belongs to a member still to come."""
        return self._step is not _Step.HEADER or self._extended

    def _want_header(self, position: int) -> None:
        self._step = _Step.HEADER
        self._wanted = BLOCK_BYTES
        self.position = position
        self.finished = self._size is not None and position >= self._size and not self._extended

    def _forget_extensions(self) -> None:
        self._extended = False
        self._local_records: dict[bytes, str] = {}
        self._long_name = ""
        self._long_target = ""

    def _count_metadata(self, count: int, start: int) -> None:
        self._metadata += count
        limits = self._limits
        limit = limits.metadata_bytes + self._members * limits.member_metadata_bytes
        if self._metadata > limit:
            raise _malformed(f"at most {limit} bytes of metadata", start, "more")

    def _take_header(self, start: int, block: bytes) -> Member | None:
        if block == _ZEROS:
            self._take_zeros(start)
            return None
        if self._zero_seen:
            raise _malformed("a second zero block", start, "a header")
        if not is_tar_header(block):
            raise _malformed("a header", start, "a block with a wrong checksum")
        flag = block[156]
        if flag in _EXTENSIONS:
            self._begin_extension(start, flag=flag, size=_number(block[124:136], start + 124))
            return None
        if flag == ord("S") and block[482]:
            self._begin_sparse_map(start)
            self._sparse_header, self._sparse_start = block, start
            return None
        return self._member(block, start)

    def _take_zeros(self, start: int) -> None:
        if self._extended:
            raise _malformed("the member that a metadata block belongs to", start, "zeros")
        self._want_header(self.position)
        self.finished = self.finished or self._zero_seen
        self._zero_seen = True

    def _begin_extension(self, start: int, *, flag: int, size: int) -> None:
        limit = self._limits.pax_block_bytes
        if flag in _LONG:
            limit = self._limits.name_bytes + 1  # it ends with a NUL
        if size > limit:
            raise _malformed(f"a metadata block of at most {limit} bytes", start, f"{size} bytes")
        self._count_metadata(BLOCK_BYTES + _padded(size), start)
        self._step = _Step.EXTENSION
        self._wanted = size
        self._extension = flag

    def _take_extension(self, start: int, block: bytes) -> None:
        match chr(self._extension):
            case "L":
                self._long_name = self._name(_text(block), start)
            case "K":
                self._long_target = self._name(_text(block), start)
            case "x":
                self._local_records = self._records(block, start)
            case _:
                self._global_records.update(self._records(block, start))
        # A global block belongs to no member in particular: an archive may end behind it.
        self._extended = self._extended or self._extension != ord("g")
        self._want_header(start + _padded(len(block)))

    def _begin_sparse_map(self, start: int) -> None:
        self._count_metadata(BLOCK_BYTES, start)
        self._step = _Step.SPARSE_MAP
        self._wanted = BLOCK_BYTES

    def _take_sparse_map(self, start: int, block: bytes) -> Member | None:
        if block[504]:
            self._begin_sparse_map(start)
            return None
        return self._member(self._sparse_header, self._sparse_start)

    def _member(self, block: bytes, start: int) -> Member:
        """The member of ``block``; its content starts at ``position``; ``start`` is for faults."""
        self._members += 1
        if self._members > self._limits.members:
            raise _malformed(f"at most {self._limits.members} members", start, "more")
        records = self._local_records
        if self._global_records:
            records = {**self._global_records, **records}
        flag = block[156]
        kind = _KINDS.get(flag, MemberKind.OTHER)
        stored = _number(block[124:136], start + 124)
        if value := records.get(b"size"):
            stored = _decimal(value, start)
        size = stored
        name = self._long_name or records.get(b"path") or self._name(_header_name(block), start)
        target = None
        if flag in _LINKS:
            target = self._long_target or records.get(b"linkpath")
            target = target or self._name(_text(block[157:257]), start)
        if flag in _HEADER_ONLY:
            size = stored = 0
        elif kind is MemberKind.SPARSE:
            size = _number(block[483:495], start + 483)
        elif kind is MemberKind.REGULAR:
            if _PAX_SPARSE in records:
                kind = MemberKind.SPARSE
                name = records.get(_PAX_SPARSE_NAME) or name
                sizes = (records[key] for key in _PAX_SPARSE_SIZES if records.get(key))
                size = _decimal(next(sizes, "0"), start)
            elif name.endswith("/"):
                kind = MemberKind.DIRECTORY  # how archives older than type 5 write one
                size = 0
                stored = stored if flag else 0  # as readers in Go and Python skip it
        offset = self.position
        if self._size is not None and offset + stored > self._size:
            raise _malformed(
                f"a member within the archive's {self._size} bytes", start, f"{stored} bytes"
            )
        if self._extended:
            self._forget_extensions()
        self._want_header(offset + _padded(stored))
        return Member(name, kind, size, offset, target)

    def _records(self, block: bytes, start: int) -> dict[bytes, str]:
        counted = _PAX_RECORD_BYTES * block.count(b"\n")
        if counted > self._limits.pax_block_bytes:
            raise _malformed(
                f"at most {self._limits.pax_block_bytes // _PAX_RECORD_BYTES} records",
                start,
                "more",
            )
        self._count_metadata(max(0, counted - _padded(len(block))), start)
        found = _pax_records(block, start)
        return {key: self._name(value, start) for key, value in found.items()}

    def _name(self, text: bytes, start: int) -> str:
        if len(text) > self._limits.name_bytes:
            raise _malformed(
                f"a name of at most {self._limits.name_bytes} bytes", start, f"{len(text)} bytes"
            )
        name = text.decode("utf-8", "surrogateescape")
        if not name.isascii():
            self._count_metadata(_WIDE_CHARACTER_BYTES * len(name), start)
        return name


def is_tar_header(block: bytes) -> bool:
    """Whether this is one block of 512 bytes, not all zeros, with the checksum of a header.

    Source: POSIX.1-2017 pax, "ustar Interchange Format", field chksum: it counts itself as blanks.
    """
    if len(block) != BLOCK_BYTES or (field := _octal(block[148:156])) is None:
        return False
    counted = block[:148] + _BLANKS + block[156:]
    unsigned = _sum_of_bytes(counted)
    if field == unsigned:
        return True
    # Some old writers summed signed characters.
    return field == unsigned - 256 * len(counted.translate(None, delete=_ASCII))


def _sum_of_bytes(block: bytes) -> int:
    """The sum of a block's 512 bytes.

    The lower half of an Adler-32 is one more than that sum modulo 65521, which 256 bytes cannot
    reach: a fifth of the time that ``sum`` takes, which would be a third of a header's.
    """
    return (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2


def _malformed(expected: str, offset: int, found: str) -> MalformedArtifact:
    return MalformedArtifact(
        f"expected {expected} at byte {offset} of the archive, found {found}",
        detail={"offset": offset},
    )


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _header_name(block: bytes) -> bytes:
    name = _text(block[0:100])
    # GNU's magic is "ustar " and it keeps times where POSIX keeps the prefix.
    if block[345] and block[257:263] == b"ustar\0":
        return _text(block[345:500]) + b"/" + name
    return name


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0").partition(b"\0")[0]
    if digits.strip(_OCTAL_DIGITS):  # int() would take signs, underscores and a prefix too
        return None
    return int(digits or b"0", 8)


def _number(field: bytes, offset: int) -> int:
    """A numeric header field, octal or GNU's base-256, 0 ≤ n < 2**63."""
    value: int | None
    if field[0] & 0x80:
        negative = field[0] & 0x40
        value = None if negative else int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    else:
        value = _octal(field)
    if value is None or value >= _NUMBER_LIMIT:
        raise _malformed("a number from 0 to 2**63 - 1", offset, repr(field))
    return value


def _decimal(text: str, offset: int) -> int:
    """A number in a PAX record, 0 ≤ n < 2**63."""
    if not _DECIMAL.fullmatch(text) or int(text) >= _NUMBER_LIMIT:
        raise _malformed("a number from 0 to 2**63 - 1", offset, repr(text[:40]))
    return int(text)


def _pax_records(block: bytes, start: int) -> dict[bytes, bytes]:
    """The records that count, ``<length> <key>=<value>`` a line; an empty value unsets."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(block) and block[position]:  # a NUL starts padding
        length = _RECORD_LENGTH.match(block, position)
        if length is None:
            raise _malformed("the length of a PAX record", start + position, "something else")
        end = position + int(length[1])
        equals = block.find(b"=", length.end(), end)
        if end > len(block) or equals < 0 or block[end - 1] != ord("\n"):
            raise _malformed("a whole PAX record", start + position, "something else")
        key = block[length.end() : equals]
        if key.startswith(_PAX_SPARSE):
            found[_PAX_SPARSE] = b""  # marks the member, whichever of them it is
        if key in _PAX_KEYS:
            found[key] = block[equals + 1 : end - 1]
        position = end
    return found
