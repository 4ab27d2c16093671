"""Gzip: members one after another, decoded by a library; and points within a member.

ISA-L, or else Python's zlib, decodes from the start of any member; ISA-L is twice as fast. Only the
system's zlib, called through ctypes, can say where a deflate block ends and begin there; it does
both. Each of them verifies each member's checksum and length, but for the member that decoding
began within: its start was not seen.
Source: RFC 1952 (gzip); RFC 1951 (deflate); zlib's manual, inflate with Z_BLOCK, inflatePrime.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import enum
import functools
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

from proxy.errors import PackingUnsupported
from proxy.formats.progress import Point, Progress, Unpacker, malformed

try:
    from isal import isal_zlib
except ImportError:  # there are machines it is not made for
    _open_member: Callable[[int], _Member] = zlib.decompressobj
    _FAULTS: tuple[type[Exception], ...] = (zlib.error,)
else:
    _open_member = isal_zlib.decompressobj
    _FAULTS = (zlib.error, cast("type[Exception]", isal_zlib.error))  # its stub: an instance

# zlib's windowBits.
_GZIP = 31  # a gzip header, any window, a gzip trailer
_RAW = -15  # deflated bytes alone, any window

# zlib.h: how inflate is to stop, what it returns, and flags of data_type.
_NO_FLUSH = 0
_BLOCK = 5
_OK = 0
_STREAM_END = 1
_NEED_DICTIONARY = 2
_DATA_ERROR = -3
_BUFFER_ERROR = -5  # nothing could be done; more input or room is needed
_LAST_BLOCK = 64
_BLOCK_ENDED = 128
_UNUSED_BITS = 7

_FIRST_BYTE = 0x1F
_HEAD_BYTES = 4  # of the header, up to its flags
# ISA-L (python-isal 1.9.1) refuses a header of several optional fields, or with a checksum of its
# own, if it comes in several pieces. Zlib gets those; common writers make none.
_SIMPLE_FLAGS = frozenset((0x00, 0x01, 0x04, 0x08, 0x10))
_TRAILER_BYTES = 8  # checksum and length
_WINDOW_BYTES = 32 * 1024
# The library copies what it leaves of its input, so a whole piece at once would cost speed.
_INPUT_BYTES = 32 * 1024
# What one call of the system's zlib may make.
_OUTPUT_BYTES = 256 * 1024


class _Member(Protocol):
    """One member, as Python's zlib and isal_zlib decode it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


class _Inflater(Protocol):
    """Decodes one member after another."""

    ended: bool  # whether the member has no more bytes, but for ``trailer_bytes``
    trailer_bytes: int  # how much of the trailer it leaves unread

    def begin(self) -> None:
        """Expect the start of another member."""

    def inflate(self, progress: Progress, limit: int) -> bytes:
        """At most ``limit`` plain bytes; none only where the member or the piece ends."""


class _Place(enum.Enum):
    BETWEEN = "where a member may start"
    MEMBER = "in a member"
    TRAILER = "in a trailer that is skipped"
    PADDING = "behind the last member"


class _GzipUnpacker:
    """All members, and zeros behind the last one as some writers leave them."""

    def __init__(self, inflater: _Inflater, *, within_member: bool) -> None:
        self._inflater = inflater
        self._place = _Place.MEMBER if within_member else _Place.BETWEEN
        self._trailer = 0  # bytes still to be skipped
        self._empty = not within_member  # whether no member was seen yet

    @property
    def lacking(self) -> str | None:
        if self._place in (_Place.MEMBER, _Place.TRAILER):
            return "the rest of a gzip member"
        return "a gzip member" if self._empty else None

    def step(self, progress: Progress, limit: int) -> bytes:
        while True:
            if self._place is _Place.MEMBER:
                plain = self._inflater.inflate(progress, limit)
                if self._inflater.ended:
                    self._trailer = self._inflater.trailer_bytes
                    self._place = _Place.TRAILER if self._trailer else _Place.BETWEEN
                if plain or self._place is _Place.MEMBER:
                    return plain
            elif not progress.remaining:
                return b""
            elif self._place is _Place.TRAILER:
                used = min(self._trailer, progress.remaining)
                progress.advance(used)
                self._trailer -= used
                self._place = _Place.TRAILER if self._trailer else _Place.BETWEEN
            elif self._place is _Place.BETWEEN:
                self._begin(progress)
            else:
                self._skip_padding(progress)

    def _begin(self, progress: Progress) -> None:
        first = progress.chunk[progress.at]
        if first == 0 and not self._empty:
            self._place = _Place.PADDING
            return
        if first != _FIRST_BYTE:
            expected = "a gzip member" if self._empty else "a gzip member, or zeros to the end,"
            raise malformed(expected, progress.position, f"the byte 0x{first:02x}")
        if not self._empty:
            progress.mark()
        self._empty = False
        self._inflater.begin()
        self._place = _Place.MEMBER

    def _skip_padding(self, progress: Progress) -> None:
        rest = progress.chunk[progress.at :]
        zeros = len(rest) - len(rest.lstrip(b"\0"))
        progress.advance(zeros)
        if progress.remaining:
            raise malformed("zeros to the end", progress.position, f"the byte 0x{rest[zeros]:02x}")


class _MemberInflater:
    """Whole members by the quickest library."""

    def __init__(self) -> None:
        self.trailer_bytes = 0
        self.begin()

    def begin(self) -> None:
        self.ended = False
        self._head = b""

    def inflate(self, progress: Progress, limit: int) -> bytes:
        if len(self._head) < _HEAD_BYTES:
            self._read_head(progress)
            if len(self._head) < _HEAD_BYTES:
                return b""
        while True:
            part = memoryview(progress.chunk)[progress.at : progress.at + _INPUT_BYTES]
            plain = self._decode(part, progress.position, limit=limit)
            self.ended = self._member.eof
            unused = self._member.unused_data if self.ended else self._member.unconsumed_tail
            used = len(part) - len(unused)
            progress.advance(used, len(plain))
            if plain or self.ended or not used:
                return plain

    def _read_head(self, progress: Progress) -> None:
        part = progress.chunk[progress.at : progress.at + _HEAD_BYTES - len(self._head)]
        progress.advance(len(part))
        self._head += part
        if len(self._head) == _HEAD_BYTES:
            is_simple = self._head[-1] in _SIMPLE_FLAGS
            self._member = _open_member(_GZIP) if is_simple else zlib.decompressobj(_GZIP)
            self._decode(memoryview(self._head), progress.position - _HEAD_BYTES, limit=1)

    def _decode(self, part: memoryview, position: int, *, limit: int) -> bytes:
        try:
            return self._member.decompress(part, limit)
        except _FAULTS as error:
            raise malformed("a gzip member", position, str(error)) from error


class _Stream(ctypes.Structure):
    """``z_stream`` as zlib.h lays it out."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


def load_zlib(names: Iterable[str]) -> ctypes.CDLL | None:
    """The first of the libraries that is there and can do all that is wanted."""
    stream = ctypes.POINTER(_Stream)
    number, text = ctypes.c_int, ctypes.c_char_p
    for name in names:
        try:
            library = ctypes.CDLL(name)
            library.zlibVersion.argtypes = ()
            library.zlibVersion.restype = text
            library.inflateInit2_.argtypes = (stream, number, text, number)
            library.inflateReset2.argtypes = (stream, number)
            library.inflate.argtypes = (stream, number)
            library.inflatePrime.argtypes = (stream, number, number)
            library.inflateSetDictionary.argtypes = (stream, text, ctypes.c_uint)
            library.inflateGetDictionary.argtypes = (stream, text, ctypes.POINTER(ctypes.c_uint))
            library.inflateEnd.argtypes = (stream,)
        except (OSError, AttributeError):
            continue
        return library
    return None


@functools.cache
def system_zlib() -> ctypes.CDLL | None:
    """The system's zlib, looked for once."""
    return load_zlib(zlib_names())


def zlib_names(find: Callable[[str], str | None] = ctypes.util.find_library) -> Iterator[str]:
    """What the system's zlib may be called; ``find`` is asked last, since it starts programs."""
    yield "libz.so.1"
    if name := find("z"):
        yield name


def expect_ok(code: int) -> None:
    """Let no return code of zlib pass that says the call itself was wrong, or memory ran out."""
    if code not in (_OK, _STREAM_END, _BUFFER_ERROR):
        raise RuntimeError(f"expected zlib to do as it was told, found return code {code}")


class _BlockInflater:
    """Members by the system's zlib, block by block where a point is wanted.

    zlib is told addresses: of the piece fed, which ``Progress`` keeps for as long as a call lasts,
    and of an output buffer of its own. It never learns of more bytes than there are.
    """

    def __init__(self, library: ctypes.CDLL, start: Point, *, collect: bool) -> None:
        self.ended = False
        self.trailer_bytes = _TRAILER_BYTES if start.window else 0
        self._library = library
        self._collect = collect
        self._bits = start.bits  # still to be given to zlib
        self._output = ctypes.create_string_buffer(_OUTPUT_BYTES)
        self._stream = _Stream()
        version, layout = library.zlibVersion(), ctypes.sizeof(_Stream)
        window_bits = _RAW if start.window else _GZIP
        expect_ok(library.inflateInit2_(self._stream, window_bits, version, layout))
        weakref.finalize(self, library.inflateEnd, self._stream).atexit = False
        if start.window:
            window = _inflated_window(start.window)
            expect_ok(library.inflateSetDictionary(self._stream, window, len(window)))

    def begin(self) -> None:
        self.ended = False
        self.trailer_bytes = 0
        expect_ok(self._library.inflateReset2(self._stream, _GZIP))

    def inflate(self, progress: Progress, limit: int) -> bytes:
        if self._bits and progress.remaining:
            value = progress.chunk[progress.at] >> (8 - self._bits)
            expect_ok(self._library.inflatePrime(self._stream, self._bits, value))
            self._bits = 0
            progress.advance(1)
        while True:
            # Up to where a point is wanted zlib need not stop at each block; there may be millions.
            until_point = progress.until_point if self._collect else limit
            room = min(limit, _OUTPUT_BYTES, until_point if until_point > 0 else limit)
            used, made = self._call(progress, room, _NO_FLUSH if until_point > 0 else _BLOCK)
            plain = ctypes.string_at(self._output, made)
            progress.advance(used, made)
            flags = self._stream.data_type & (_BLOCK_ENDED | _LAST_BLOCK)
            if until_point <= 0 and flags == _BLOCK_ENDED:
                window = zlib.compress(self._window(), 1)
                progress.mark(bits=self._stream.data_type & _UNUSED_BITS, window=window)
            if plain or self.ended or not used:
                return plain

    def _call(self, progress: Progress, room: int, flush: int) -> tuple[int, int]:
        """How many bytes of the piece zlib used, how many it made of them: at most ``room``."""
        stream, chunk = self._stream, progress.chunk
        there = len(chunk) - progress.at
        stream.next_in = _address(chunk) + progress.at
        stream.avail_in = there
        stream.next_out = ctypes.addressof(self._output)
        stream.avail_out = room
        code: int = self._library.inflate(stream, flush)
        used, made = there - stream.avail_in, room - stream.avail_out
        if code in (_DATA_ERROR, _NEED_DICTIONARY):
            if not made:  # else it is said again by the next call
                reason = (stream.msg or b"").decode("ascii", "replace")
                raise malformed("a gzip member", progress.position + used, repr(reason))
        else:
            expect_ok(code)
            self.ended = code == _STREAM_END
        return used, made

    def _window(self) -> bytes:
        buffer = ctypes.create_string_buffer(_WINDOW_BYTES)
        length = ctypes.c_uint()
        expect_ok(self._library.inflateGetDictionary(self._stream, buffer, length))
        return buffer.raw[: length.value]


def _address(chunk: bytes) -> int:
    return cast("int", ctypes.cast(ctypes.c_char_p(chunk), ctypes.c_void_p).value)


def _inflated_window(window: bytes) -> bytes:
    member = zlib.decompressobj()
    try:
        plain = member.decompress(window, _WINDOW_BYTES + 1)
    except zlib.error as error:
        raise ValueError(f"expected a deflated window, found {error}") from error
    if not member.eof or len(plain) > _WINDOW_BYTES:
        raise ValueError(f"expected a whole window of at most {_WINDOW_BYTES} bytes")
    return plain


def open_gzip(
    start: Point,
    *,
    collect: bool,
    load: Callable[[], ctypes.CDLL | None] = system_zlib,
) -> Unpacker:
    """Gzip from ``start``; with ``collect``, points within members too where ``load`` has zlib.

    Raises:
        PackingUnsupported: ``start`` is within a member, and ``load`` has nothing.
        ValueError: ``start`` is no point of a gzip blob.
    """
    if not 0 <= start.bits <= _UNUSED_BITS or (start.bits and not start.window):
        raise ValueError(f"expected 0 to 7 bits, and none without a window, found {start.bits}")
    within_member = bool(start.window)
    library = load() if collect or within_member else None
    if library is not None:
        blocks = _BlockInflater(library, start, collect=collect)
        return _GzipUnpacker(blocks, within_member=within_member)
    if within_member:
        raise PackingUnsupported(
            f"expected the system's zlib, to begin at byte {start.position} of the blob"
            " within a gzip member, found none",
            detail={"offset": start.position},
        )
    return _GzipUnpacker(_MemberInflater(), within_member=False)
