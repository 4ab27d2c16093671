"""Compressed layers: bytes of the blob go in, plain bytes come out, both in bounded pieces.

``open_decoder`` gives a decoder for gzip or zstd. It is fed the blob piece by piece and asked for
at most so many plain bytes at a time, so whatever the blob claims, memory stays flat. As it goes it
finds points from which a later decoder can begin, so that one pass makes the whole layer seekable.
Here: counting, limits and points. The formats themselves: ``gzip.py`` and ``zstd.py``.

What was decoded before a fault is given out first, the fault is raised by the next call and by
every call after it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.errors import MalformedArtifact, ProxyError, SizeInvalid

Compression = Literal["gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class Point:
    """A place where decoding can begin.

    ``position`` is the offset in the blob of the first byte a decoder needs, ``plain_position``
    the offset in what comes out of the first byte it gives.
    ``bits`` (0 to 7) is for gzip: how many of the byte at ``position``, its upper ones, belong to
    what follows; 0 is the whole byte.
    ``window`` is the zlib-deflated, up to 32 KiB of plain bytes before the point; it is empty at
    the start of a member or frame, which needs none.
    """

    position: int
    plain_position: int
    bits: int = 0
    window: bytes = b""


START = Point(0, 0)


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """What one decoder may cost.

    ``window_bytes`` bounds the memory a zstd frame may ask for. The first ``free_bytes`` of plain
    bytes are never questioned; beyond them there may be at most ``ratio`` plain bytes for each
    byte of the blob used, both counted from where the decoder began.
    Points lie at least ``spacing_bytes`` of plain bytes apart. There are never more than
    ``points`` of them: one more doubles the spacing and drops every second one. With windows a
    point takes up to 32 KiB.
    """

    window_bytes: int = 32 * 1024 * 1024
    free_bytes: int = 256 * 1024 * 1024
    ratio: int = 200
    spacing_bytes: int = 4 * 1024 * 1024
    points: int = 1024


_DEFAULT_LIMITS = DecoderLimits()


class Decoder(Protocol):
    """One compressed blob, from a point on.

    To use it: ``feed`` a piece, ``take`` until that gives nothing, and so on; at the blob's end
    ``end``. It never holds more than the piece fed, what one ``take`` gives, and about 1 MiB.
    """

    @property
    def position(self) -> int:
        """The offset in the blob of the first byte of the next piece."""

    @property
    def plain_position(self) -> int:
        """The offset in what comes out of the next byte that ``take`` gives."""

    @property
    def points(self) -> list[Point]:
        """The points found so far behind the one it began at, ascending; some may go again.

        Those within a gzip member may lie elsewhere where the blob came in other pieces.
        """

    def feed(self, chunk: bytes) -> None:
        """Give the bytes of the blob from ``position`` on.

        Raises:
            ValueError: ``take`` has not said yet that it needs them.
        """

    def take(self, limit: int) -> bytes:
        """At most ``limit`` (1 or more) plain bytes; none means that it needs more of the blob.

        Raises:
            MalformedArtifact: the blob is corrupt; the message names the offset.
            SizeInvalid: over a limit.
            ValueError: ``limit`` is less than 1.
        """

    def end(self) -> None:
        """Say that there are no more bytes.

        Raises:
            MalformedArtifact: that cuts a member or frame, or not a byte came.
            ValueError: ``take`` has not said yet that it needs more.
        """


class Progress:
    """How far a decoder has come: the piece fed, what of it is used, what came of it, points.

    The formats read ``chunk`` from ``at`` on and say by ``advance`` what they used and made.
    """

    def __init__(self, start: Point, limits: DecoderLimits) -> None:
        self.chunk = b""
        self.at = 0
        self.position = start.position  # of chunk[at] in the blob
        self.plain_position = start.plain_position
        self.points: list[Point] = []
        self._start = start
        self._limits = limits
        self._spacing = limits.spacing_bytes
        self._next_point = start.plain_position + self._spacing

    def feed(self, chunk: bytes) -> None:
        """Go on with another piece: the last one is used up."""
        self.chunk = bytes(chunk)  # the same object, unless it is no bytes: C code gets its address
        self.at = 0

    @property
    def remaining(self) -> int:
        """How many bytes of the piece are not used yet."""
        return len(self.chunk) - self.at

    @property
    def until_point(self) -> int:
        """How many plain bytes are to come before the next point is wanted; 0 or less: now."""
        return self._next_point - self.plain_position

    def advance(self, used: int, made: int = 0) -> None:
        """Count ``used`` bytes of the piece and the ``made`` plain bytes that came of them.

        Raises:
            SizeInvalid: too many plain bytes for so few used.
        """
        position = self.position + used
        compressed = position - self._start.position
        plain = self.plain_position + made - self._start.plain_position
        limits = self._limits
        if plain > limits.free_bytes and plain > limits.ratio * compressed:
            raise SizeInvalid(
                f"expected at most {limits.ratio} plain bytes for each byte of the blob, beyond the"
                f" first {limits.free_bytes}; found {plain} made of {compressed}"
                f" at byte {position} of the blob",
                detail={"offset": position},
            )
        self.at += used
        self.position = position
        self.plain_position += made

    def mark(self, *, bits: int = 0, window: bytes = b"") -> None:
        """Keep the place reached as a point if one is wanted by now."""
        if self.until_point > 0:
            return
        position = self.position - 1 if bits else self.position
        self.points.append(Point(position, self.plain_position, bits, window))
        if len(self.points) > self._limits.points:
            del self.points[::2]
            self._spacing *= 2
        last = self.points[-1] if self.points else self._start
        self._next_point = last.plain_position + self._spacing


class Unpacker(Protocol):
    """One format; it holds what is to be known between two pieces, and no piece itself."""

    def step(self, progress: Progress, limit: int) -> bytes:
        """Decode on from ``progress``; nothing means that the piece is used up.

        A format that cannot stop at ``limit`` plain bytes may give up to about 1 MiB.
        """

    @property
    def lacking(self) -> str | None:
        """What an end of the blob would cut here, if anything."""


class _Decoder:
    """A ``Decoder`` over one format."""

    def __init__(self, unpacker: Unpacker, progress: Progress) -> None:
        self._unpacker = unpacker
        self._progress = progress
        self._plain = b""
        self._given = 0  # of _plain
        self._hungry = True
        # Not to share a decoder, which is an error, but to keep C code from one that is shared.
        self._lock = threading.Lock()
        self._failure: ProxyError | None = None

    @property
    def position(self) -> int:
        return self._progress.position + self._progress.remaining

    @property
    def plain_position(self) -> int:
        return self._progress.plain_position - (len(self._plain) - self._given)

    @property
    def points(self) -> list[Point]:
        return self._progress.points

    def feed(self, chunk: bytes) -> None:
        with self._lock:
            self._expect_hunger()
            self._progress.feed(chunk)
            self._hungry = False

    def take(self, limit: int) -> bytes:
        if limit < 1:
            raise ValueError(f"expected a limit of 1 or more, found {limit}")
        parts: list[bytes] = []
        with self._lock:
            while limit and (part := self._part(limit)):
                parts.append(part)
                limit -= len(part)
            if not parts and self._failure is not None:
                raise self._failure
            self._hungry = not parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def end(self) -> None:
        with self._lock:
            self._expect_hunger()
            if (lacking := self._unpacker.lacking) is not None:
                raise malformed(lacking, self._progress.position, "its end")

    def _part(self, room: int) -> bytes:
        if self._given == len(self._plain):
            self._plain = self._decoded(room)
            self._given = 0
        part = self._plain[self._given : self._given + room]
        self._given += len(part)
        return part

    def _decoded(self, room: int) -> bytes:
        """What the piece still gives; nothing where it is used up or a fault lies."""
        if self._failure is None:
            try:
                return self._unpacker.step(self._progress, room)
            except ProxyError as error:
                self._failure = error
        return b""

    def _expect_hunger(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._hungry or self._progress.remaining:
            raise ValueError("expected that take() gave nothing before, found bytes to be taken")


def malformed(expected: str, offset: int, found: str) -> MalformedArtifact:
    """The fault of a blob whose bytes at ``offset`` are not what they have to be."""
    return MalformedArtifact(
        f"expected {expected} at byte {offset} of the blob, found {found}",
        detail={"offset": offset},
    )


def open_decoder(
    compression: Compression,
    *,
    start: Point = START,
    collect: bool = False,
    limits: DecoderLimits = _DEFAULT_LIMITS,
) -> Decoder:
    """A decoder that begins at ``start``.

    The starts of members and frames are kept as points in any case. With ``collect`` gzip also
    finds points within a member, at half the speed, if the system's zlib is to be had.

    Raises:
        PackingUnsupported: ``start`` is within a gzip member, and there is no such zlib.
        ValueError: ``start`` is no point of this compression.
    """
    # Both build on what this module defines.
    from proxy.formats.gzip import open_gzip
    from proxy.formats.zstd import open_zstd

    unpacker = (
        open_gzip(start, collect=collect)
        if compression == "gzip"
        else open_zstd(start, window_bytes=limits.window_bytes)
    )
    return _Decoder(unpacker, Progress(start, limits))
