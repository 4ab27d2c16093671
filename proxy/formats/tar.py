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

from proxy.errors import MalformedArtifact

BLOCK_BYTES = 512

_NUMBER_LIMIT = 1 << 63
_ZEROS = bytes(BLOCK_BYTES)
_OCTAL = re.compile(rb"[0-7]+")
_DECIMAL = re.compile(rb"[0-9]{1,20}")

_PAX_SPARSE = b"GNU.sparse."
_PAX_SPARSE_NAME = b"GNU.sparse.name"
# Format 1.0 calls the size of the file as read "realsize", 0.0 and 0.1 call it "size".
_PAX_SPARSE_SIZES = (b"GNU.sparse.realsize", b"GNU.sparse.size")
# The only records that place or name a member; all others are read over, never kept.
_PAX_KEYS = frozenset((b"path", b"linkpath", b"size", _PAX_SPARSE_NAME, *_PAX_SPARSE_SIZES))


class MemberKind(enum.Enum):
    """What a member is; OTHER stands for devices, pipes and types of single vendors."""

    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    SPARSE = "sparse"
    OTHER = "other"


_KINDS: Mapping[bytes, MemberKind] = {
    b"\0": MemberKind.REGULAR,
    b"0": MemberKind.REGULAR,
    b"1": MemberKind.HARDLINK,
    b"2": MemberKind.SYMLINK,
    b"5": MemberKind.DIRECTORY,
    b"7": MemberKind.REGULAR,
    b"S": MemberKind.SPARSE,
}
# No content follows these, whatever their size field says: POSIX pax, "ustar", field size.
_HEADER_ONLY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))


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
    padding, as they lie in the archive; plain headers are bounded by ``members``.
    """

    metadata_bytes: int = 64 * 1024 * 1024
    members: int = 1_000_000
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
        self._extension = b""  # type flag of the extension that is being read
        self._sparse_header = b""
        self._global_records: dict[bytes, bytes] = {}
        self._forget_extensions()

    def feed(self, offset: int, chunk: bytes) -> list[Member]:
        """Take the bytes that start at ``offset``; what lies before ``position`` is ignored.

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
            self._walk(offset, memoryview(chunk), found)
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
            part = view[first : first + self._wanted - len(self._held)]
            self._held += part
            self.position += len(part)
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
            return self._take_sparse_map(block)
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
        self._local_records: dict[bytes, bytes] = {}
        self._long_name = b""
        self._long_target = b""

    def _count_metadata(self, count: int, start: int) -> None:
        self._metadata += count
        if self._metadata > self._limits.metadata_bytes:
            raise _malformed(
                f"at most {self._limits.metadata_bytes} bytes of metadata", start, "more"
            )

    def _take_header(self, start: int, block: bytes) -> Member | None:
        if block == _ZEROS:
            if self._extended:
                raise _malformed("the member that a metadata block belongs to", start, "zeros")
            self._want_header(self.position)
            self.finished = self.finished or self._zero_seen
            self._zero_seen = True
            return None
        if self._zero_seen:
            raise _malformed("a second zero block", start, "a header")
        if not _checksum_matches(block):
            raise _malformed("a header", start, "a block with a wrong checksum")
        flag = block[156:157]
        size = _number(block[124:136], start + 124)
        if flag in (b"L", b"K", b"x", b"g"):
            self._begin_extension(start, flag=flag, size=size)
            return None
        if flag == b"S" and block[482]:
            self._begin_sparse_map(start)
            self._sparse_header = block
            return None
        return self._member(block, start)

    def _begin_extension(self, start: int, *, flag: bytes, size: int) -> None:
        if flag in (b"L", b"K"):
            limit = self._limits.name_bytes + 1  # it ends with a NUL
        else:
            limit = self._limits.pax_block_bytes
        if size > limit:
            raise _malformed(f"a metadata block of at most {limit} bytes", start, f"{size} bytes")
        self._count_metadata(BLOCK_BYTES + _padded(size), start)
        self._step = _Step.EXTENSION
        self._wanted = size
        self._extension = flag

    def _take_extension(self, start: int, block: bytes) -> None:
        match self._extension:
            case b"L":
                self._long_name = _text(block)
            case b"K":
                self._long_target = _text(block)
            case b"x":
                self._local_records = self._records(block, start)
            case _:
                self._global_records.update(self._records(block, start))
        # A global block belongs to no member in particular: an archive may end behind it.
        self._extended = self._extended or self._extension != b"g"
        self._want_header(start + _padded(len(block)))

    def _begin_sparse_map(self, start: int) -> None:
        self._count_metadata(BLOCK_BYTES, start)
        self._step = _Step.SPARSE_MAP
        self._wanted = BLOCK_BYTES

    def _take_sparse_map(self, block: bytes) -> Member | None:
        start = self.position - BLOCK_BYTES
        if block[504]:
            self._begin_sparse_map(start)
            return None
        return self._member(self._sparse_header, start)

    def _member(self, block: bytes, start: int) -> Member:
        """The member of ``block``; its content starts at ``position``; ``start`` is for faults."""
        self._members += 1
        if self._members > self._limits.members:
            raise _malformed(f"at most {self._limits.members} members", start, "more")
        records = {**self._global_records, **self._local_records}
        flag = block[156:157]
        name = self._long_name or records.get(b"path", b"") or _header_name(block)
        target = self._long_target or records.get(b"linkpath", b"") or _text(block[157:257])
        kind = _KINDS.get(flag, MemberKind.OTHER)
        stored = _number(block[124:136], start + 124)
        if value := records.get(b"size"):
            stored = _decimal(value, start)
        size = stored
        if kind is MemberKind.SPARSE:
            size = _number(block[483:495], start + 483)
        elif kind is MemberKind.REGULAR and _PAX_SPARSE in records:
            kind = MemberKind.SPARSE
            name = records.get(_PAX_SPARSE_NAME, b"") or name
            sizes = (records[key] for key in _PAX_SPARSE_SIZES if records.get(key))
            size = _decimal(next(sizes, b"0"), start)
        elif kind is MemberKind.REGULAR and name.endswith(b"/"):
            kind = MemberKind.DIRECTORY  # how archives older than type 5 write one
            size = 0
            stored = 0 if flag == b"\0" else stored  # as readers in Go and Python skip it
        if flag in _HEADER_ONLY:
            size = stored = 0
        self._check_names((name, target), start)
        offset = self.position
        if self._size is not None and offset + stored > self._size:
            raise _malformed(
                f"a member within the archive's {self._size} bytes", start, f"{stored} bytes"
            )
        self._forget_extensions()
        self._want_header(offset + _padded(stored))
        is_link = kind in (MemberKind.SYMLINK, MemberKind.HARDLINK)
        return Member(_decoded(name), kind, size, offset, _decoded(target) if is_link else None)

    def _records(self, block: bytes, start: int) -> dict[bytes, bytes]:
        records = _pax_records(block, start)
        self._check_names(tuple(records.values()), start)
        return records

    def _check_names(self, names: tuple[bytes, ...], start: int) -> None:
        longest = max(map(len, names), default=0)
        if longest > self._limits.name_bytes:
            raise _malformed(
                f"a name of at most {self._limits.name_bytes} bytes", start, f"{longest} bytes"
            )


def _malformed(expected: str, offset: int, found: str) -> MalformedArtifact:
    return MalformedArtifact(
        f"expected {expected} at byte {offset} of the archive, found {found}",
        detail={"offset": offset},
    )


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _header_name(block: bytes) -> bytes:
    name = _text(block[0:100])
    # GNU's magic is "ustar " and it keeps times where POSIX keeps the prefix.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _checksum_matches(block: bytes) -> bool:
    field = _octal(block[148:156])
    if field is None:
        return False
    counted = block[:148] + block[156:]
    unsigned = sum(counted) + 8 * ord(" ")
    if field == unsigned:
        return True
    # Some old writers summed signed characters.
    return field == unsigned - 256 * sum(byte >= 0x80 for byte in counted)


def _octal(field: bytes) -> int | None:
    digits = _text(field.strip(b" \0"))
    if not digits:
        return 0
    return int(digits, 8) if _OCTAL.fullmatch(digits) else None


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


def _decimal(text: bytes, offset: int) -> int:
    """A number in a PAX record, 0 ≤ n < 2**63."""
    if not _DECIMAL.fullmatch(text) or int(text) >= _NUMBER_LIMIT:
        raise _malformed("a number from 0 to 2**63 - 1", offset, repr(text[:40]))
    return int(text)


def _pax_records(block: bytes, start: int) -> dict[bytes, bytes]:
    """The records that count, ``<length> <key>=<value>`` a line; an empty value unsets."""
    found: dict[bytes, bytes] = {}
    position = 0
    while position < len(block) and block[position]:  # a NUL starts padding
        space = block.find(b" ", position, position + 21)
        digits = block[position:space] if space >= 0 else b""
        if not _DECIMAL.fullmatch(digits):
            raise _malformed("the length of a PAX record", start + position, "something else")
        end = position + int(digits)
        equals = block.find(b"=", space + 1, end)
        if end > len(block) or equals < 0 or block[end - 1] != ord("\n"):
            raise _malformed("a whole PAX record", start + position, "something else")
        key = block[space + 1 : equals]
        if key.startswith(_PAX_SPARSE):
            found[_PAX_SPARSE] = b""  # marks the member, whichever of them it is
        if key in _PAX_KEYS:
            found[key] = block[equals + 1 : end - 1]
        position = end
    return found
