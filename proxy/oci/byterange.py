"""Range and conditional requests, decided against a size and a strong ETag.

A decision is a plain value; who serves it does not matter. Several ranges and malformed ones are
answered with the whole, as RFC 9110 allows, never with an error.
Source: RFC 9110 §13.1 (conditions), §13.2.2 (their order), §14 (ranges).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SINGLE = re.compile(
    r"bytes=\s*(?:(?P<first>\d{1,19})-(?P<last>\d{1,19})?|-(?P<suffix>\d{1,19}))\s*",
    re.ASCII | re.IGNORECASE,
)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII | re.IGNORECASE)
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``first`` to ``last``, both included, of something longer."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Count of bytes."""
        return self.last - self.first + 1

    def shifted(self, offset: int) -> ByteRange:
        """The same bytes seen from a container in which they start at ``offset``."""
        return ByteRange(self.first + offset, self.last + offset)

    def to_header(self) -> str:
        """The value of a ``Range`` header."""
        return f"bytes={self.first}-{self.last}"

    def content_range(self, size: int) -> str:
        """The value of ``Content-Range`` for a whole of ``size`` bytes."""
        return f"bytes {self.first}-{self.last}/{size}"


@dataclass(frozen=True, slots=True)
class Whole:
    """Answer 200 with all bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """Answer 206 with these bytes."""

    range: ByteRange


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """Answer 416 with ``Content-Range: bytes */size``."""


@dataclass(frozen=True, slots=True)
class NotModified:
    """Answer 304: the client holds this very representation."""


Decision = Whole | Part | Unsatisfiable | NotModified


def decide(
    *,
    size: int,
    etag: str,
    range_header: str | None,
    if_range: str | None,
    if_none_match: str | None,
) -> Decision:
    """What to answer for a representation of ``size`` bytes with the strong, quoted ``etag``."""
    if if_none_match is not None and _matches_weakly(if_none_match, etag):
        return NotModified()
    if range_header is None or (if_range is not None and if_range.strip() != etag):
        return Whole()
    match = _SINGLE.fullmatch(range_header)
    if match is None:
        return Whole()
    if (suffix := match["suffix"]) is not None:
        length = min(int(suffix), size)
        return Part(ByteRange(size - length, size - 1)) if length else Unsatisfiable()
    first = int(match["first"])
    last = int(match["last"]) if match["last"] is not None else size - 1
    if match["last"] is not None and last < first:
        return Whole()  # an invalid range is ignored: RFC 9110 §14.1.1
    if first >= size:
        return Unsatisfiable()
    return Part(ByteRange(first, min(last, size - 1)))


def parse_content_range(value: str) -> tuple[ByteRange, int | None] | None:
    """``bytes a-b/size`` as range and size (None for ``*``); None when it is anything else."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        return None
    found = ByteRange(int(match[1]), int(match[2]))
    size = None if match[3] == "*" else int(match[3])
    if found.last < found.first or (size is not None and found.last >= size):
        return None
    return found, size


def _matches_weakly(header: str, etag: str) -> bool:
    if header.strip() == "*":
        return True
    return any(found.removeprefix("W/") == etag for found in _ETAG.findall(header))
