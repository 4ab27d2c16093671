"""Zstandard: frames one after another, walked here and decoded by the library.

The walk reads frame and block headers alone. So a window is refused before memory is taken for it,
and as each block makes at most 128 KiB, the library is never given more at once than makes about
1 MiB, whatever the headers claim. It decodes, and verifies content sizes and checksums.
Source: RFC 8878 §3.1 (frames, skippable frames), §3.1.1.1 (frame header), §3.1.1.2 (blocks).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import zstandard

from proxy.errors import SizeInvalid
from proxy.formats.progress import Point, Progress, Unpacker, malformed

_MAGIC = b"\x28\xb5\x2f\xfd"
# Of frames with content, and of skippable ones.
_MAGICS = (_MAGIC, *(bytes((0x50 + nibble,)) + b"\x2a\x4d\x18" for nibble in range(16)))
_SKIPPABLE_HEADER_BYTES = 8
_BLOCK_HEADER_BYTES = 3
_BLOCK_LIMIT = 128 * 1024
_CHECKSUM_BYTES = 4
_DICTIONARY_ID_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)

_RLE_BLOCK = 1
_COMPRESSED_BLOCK = 2
_RESERVED_BLOCK = 3

# What the blocks given to the library at once may make; less costs speed.
_RUN_BYTES = 1024 * 1024


class _Place(enum.Enum):
    HEADER = "in a frame's header, or before it"
    SKIPPED = "in a skippable frame"
    BLOCKS = "behind a frame's header"


class _ZstdUnpacker:
    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._library = zstandard.ZstdDecompressor(max_window_size=window_bytes)
        self._frame = self._library.decompressobj()
        self._place = _Place.HEADER
        self._empty = True  # whether no frame was seen yet
        self._header = bytearray()  # of a frame or a block, as far as it came
        self._left = 0  # bytes to come of a skippable frame, or of a block with its checksum
        self._is_last = False  # the block
        self._block_limit = 0
        self._checksum_bytes = 0

    @property
    def lacking(self) -> str | None:
        if self._place is not _Place.HEADER or self._header:
            return "the rest of a zstd frame"
        return "a zstd frame" if self._empty else None

    def step(self, progress: Progress, limit: int) -> bytes:
        while progress.remaining:
            if self._place is _Place.HEADER:
                self._read_header(progress)
            elif self._place is _Place.SKIPPED:
                used = min(self._left, progress.remaining)
                progress.advance(used)
                self._left -= used
                self._place = _Place.SKIPPED if self._left else _Place.HEADER
            elif plain := self._decode_blocks(progress):
                return plain
        return b""

    def _read_header(self, progress: Progress) -> None:
        header = self._header
        if not header and not self._empty:
            progress.mark()
        self._empty = False
        missing = _header_bytes(header) - len(header)
        part = progress.chunk[progress.at : progress.at + missing]
        header += part
        progress.advance(len(part))
        start = progress.position - len(header)
        if len(header) == len(_MAGIC) and header not in _MAGICS:
            raise malformed("a zstd frame", start, f"the bytes {header.hex(' ')}")
        if len(header) < _header_bytes(header):
            return
        if header.startswith(_MAGIC):
            self._begin_frame(start)
        else:
            self._left = int.from_bytes(header[len(_MAGIC) :], "little")
            self._place = _Place.SKIPPED if self._left else _Place.HEADER
        header.clear()

    def _begin_frame(self, start: int) -> None:
        """``start`` is the offset of the frame in the blob."""
        frame = _frame_header(self._header)
        if frame.dictionary_id:
            raise malformed("no dictionary", start, f"dictionary {frame.dictionary_id}")
        if frame.window_bytes > self._window_bytes:
            raise SizeInvalid(
                f"expected a zstd window of at most {self._window_bytes} bytes,"
                f" found {frame.window_bytes} at byte {start} of the blob",
                detail={"offset": start},
            )
        self._frame = self._library.decompressobj()
        self._decode(bytes(self._header), start)
        self._checksum_bytes = _CHECKSUM_BYTES if frame.has_checksum else 0
        self._block_limit = min(frame.window_bytes, _BLOCK_LIMIT)
        self._is_last = False
        self._place = _Place.BLOCKS

    def _decode_blocks(self, progress: Progress) -> bytes:
        chunk, begin = progress.chunk, progress.at
        end, at, makes = len(chunk), begin, 0
        while at < end and makes < _RUN_BYTES and self._place is _Place.BLOCKS:
            if not self._left:
                part = chunk[at : at + _BLOCK_HEADER_BYTES - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) < _BLOCK_HEADER_BYTES:
                    break
                makes += self._begin_block(progress.position + at - begin - _BLOCK_HEADER_BYTES)
            used = min(self._left, end - at)
            self._left -= used
            at += used
            if self._is_last and not self._left:
                self._place = _Place.HEADER
        plain = self._decode(memoryview(chunk)[begin:at], progress.position)
        progress.advance(at - begin, len(plain))
        return plain

    def _begin_block(self, start: int) -> int:
        """How many plain bytes it makes at most; ``start`` is its offset in the blob."""
        header = int.from_bytes(self._header, "little")
        self._header.clear()
        self._is_last = bool(header & 1)
        kind, size = header >> 1 & 3, header >> 3
        if kind == _RESERVED_BLOCK:
            raise malformed("a block of a known type", start, f"type {kind}")
        if size > self._block_limit:
            raise malformed(f"a block of at most {self._block_limit} bytes", start, f"{size}")
        self._left = 1 if kind == _RLE_BLOCK else size
        if self._is_last:
            self._left += self._checksum_bytes
        return self._block_limit if kind == _COMPRESSED_BLOCK else size

    def _decode(self, part: bytes | memoryview, start: int) -> bytes:
        try:
            return self._frame.decompress(part)
        except zstandard.ZstdError as error:
            raise malformed("a zstd frame", start, repr(str(error))) from error


@dataclass(frozen=True, slots=True)
class _FrameHeader:
    window_bytes: int
    dictionary_id: int  # 0 is none
    has_checksum: bool


def _header_bytes(header: bytearray) -> int:
    """How long the header is, as far as can be told from what came of it."""
    if len(header) < len(_MAGIC):
        return len(_MAGIC)
    if not header.startswith(_MAGIC):
        return _SKIPPABLE_HEADER_BYTES
    if len(header) == len(_MAGIC):
        return len(_MAGIC) + 1
    descriptor = header[len(_MAGIC)]
    window, dictionary_id, content_size = _field_bytes(descriptor)
    return len(_MAGIC) + 1 + window + dictionary_id + content_size


def _field_bytes(descriptor: int) -> tuple[int, int, int]:
    """How long the fields behind the descriptor are: window, dictionary, content size."""
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
    return 1 - single_segment, _DICTIONARY_ID_BYTES[descriptor & 3], content_size


def _frame_header(header: bytearray) -> _FrameHeader:
    descriptor = header[len(_MAGIC)]
    window, dictionary_id, content_size = _field_bytes(descriptor)
    at = len(_MAGIC) + 1 + window
    dictionary = int.from_bytes(header[at : at + dictionary_id], "little")
    if window:
        exponent, mantissa = divmod(header[at - 1], 8)
        base = 1 << (10 + exponent)
        window_bytes = base + base // 8 * mantissa
    else:  # the frame is one segment: its content is its window
        window_bytes = int.from_bytes(header[at + dictionary_id :], "little")
        window_bytes += 256 if content_size == 2 else 0
    return _FrameHeader(window_bytes, dictionary, bool(descriptor & 4))


def open_zstd(start: Point, *, window_bytes: int) -> Unpacker:
    """Zstd from ``start`` with windows of at most ``window_bytes``, 1 KiB or more.

    Raises:
        ValueError: ``start`` is no point of a zstd blob.
    """
    if start.bits or start.window:
        raise ValueError("expected the start of a frame, found a point within a gzip member")
    return _ZstdUnpacker(window_bytes)
