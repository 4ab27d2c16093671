"""How far a decoder has come, what it may cost, and the places to begin at that it finds.

What ``gzip`` and ``zstd`` share; ``compression`` makes decoders of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proxy.errors import MalformedArtifact, SizeInvalid


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


def malformed(expected: str, offset: int, found: str) -> MalformedArtifact:
    """The fault of a blob whose bytes at ``offset`` are not what they have to be."""
    return MalformedArtifact(
        f"expected {expected} at byte {offset} of the blob, found {found}",
        detail={"offset": offset},
    )
