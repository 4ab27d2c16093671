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
from typing import Literal, Protocol

from proxy.errors import ProxyError
from proxy.formats.gzip import open_gzip
from proxy.formats.progress import START, DecoderLimits, Point, Progress, Unpacker, malformed
from proxy.formats.zstd import open_zstd

Compression = Literal["gzip", "zstd"]

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
    unpacker = (
        open_gzip(start, collect=collect)
        if compression == "gzip"
        else open_zstd(start, window_bytes=limits.window_bytes)
    )
    return _Decoder(unpacker, Progress(start, limits))
