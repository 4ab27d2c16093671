"""Scans: a layer read once from its start, as far as anyone has asked, its index kept.

A scan does nothing by itself. Whoever needs more of it takes the turn and moves it on as the caller
that they are; the others wait and hear of each step. One who leaves gives the turn back, and the
next goes on from there: nothing is read twice, and no task outlives its request.

``HeaderScan`` walks a plain tar by ranged reads and jumps over contents. ``StreamScan`` decodes a
compressed layer; what it decodes may go to a client on the way.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Protocol, TypeVar

from proxy.content.blobs import BlobPart
from proxy.errors import MalformedArtifact, ProxyError, SizeInvalid, UpstreamTimeout
from proxy.formats.compression import Compression, Decoder, open_decoder
from proxy.formats.progress import START, Point
from proxy.formats.tar import Member, MemberKind, TarReader
from proxy.oci.byterange import ByteRange
from proxy.oci.digest import Digest, Hasher
from proxy.oci.manifest import Descriptor
from proxy.tasks import spawn

# A tar's first header, with room for a long name before it and a small file behind it.
FIRST_WINDOW_BYTES = 4 * 1024
# Members closer together than this are cheaper to read through than to jump over: one request
# costs about as much as this many bytes.
JUMP_BYTES = 256 * 1024
# Read in one request where members lie close together; the window grows fourfold up to it.
WINDOW_BYTES_LIMIT = 16 * 1024 * 1024
# What one visit to a thread decodes: input joined up to, output that nobody wants, or a piece.
BATCH_BYTES = 1024 * 1024
VISIT_BYTES = 8 * 1024 * 1024
PIECE_BYTES = 512 * 1024
# Who has the turn and waits this long for its own client loses it to who waits for the scan.
PATIENCE_SECONDS = 1.0
# What an index in memory costs: a member with its name, a paused decoder with its window.
MEMBER_COST_BYTES = 320
NAME_BYTES_USUAL = 100
_DECODER_COST_BYTES = {"gzip": 256 * 1024, "zstd": 34 * 1024 * 1024}

T = TypeVar("T")


class Source(Protocol):
    """One blob as one caller may read it."""

    @property
    def descriptor(self) -> Descriptor:
        """The blob's."""
        ...

    def open(self, byte_range: ByteRange) -> AbstractAsyncContextManager[BlobPart]:
        """Exactly these bytes; see ``Blobs.open``."""
        ...


async def in_thread(work: Callable[[], T], *, meanwhile: Callable[[], None] | None = None) -> T:
    """Run ``work`` in a thread, and ``meanwhile`` here; a cancelled caller leaves after its end.

    What ``work`` changes would else be changed by it and by the next caller at once.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        if meanwhile is not None:
            meanwhile()
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            await _settled(future)
        raise


async def _settled(future: asyncio.Future[T]) -> None:
    try:
        await asyncio.wait((future,))
    except asyncio.CancelledError:
        return  # asked again to stop: the work is bounded, its end is near


def kept_fault(error: ProxyError) -> ProxyError:
    """The same fault without its traceback, which would hold whole chunks: to keep, or to raise."""
    return copy.copy(error)


class Turn:
    """Lets one at a time move a scan on, and tells those who wait of each step."""

    def __init__(self) -> None:
        self._holder: object | None = None
        self._resting_since: float | None = None
        self._moved = asyncio.Event()
        self._silence: UpstreamTimeout | None = None

    @property
    def is_free(self) -> bool:
        """Whether ``take`` gives a token."""
        since = self._resting_since
        now = asyncio.get_running_loop().time()
        return self._holder is None or (since is not None and now - since > PATIENCE_SECONDS)

    def take(self) -> object | None:
        """The turn's token, or None while somebody moves the scan on."""
        if not self.is_free:
            return None
        self._holder, self._resting_since = object(), None
        return self._holder

    def give_back(self, token: object) -> None:
        """End the turn, if it is still this one."""
        if self._holder is token:
            self._holder, self._resting_since = None, None
            self.tell()

    def rest(self) -> None:
        """The holder now waits for somebody else than the scan's source."""
        self._resting_since = asyncio.get_running_loop().time()

    def resume(self, token: object) -> bool:
        """Whether the turn is still the holder's."""
        if self._holder is not token:
            return False
        self._resting_since = None
        return True

    def tell(self) -> None:
        """Wake all who wait."""
        self._moved.set()
        self._moved = asyncio.Event()

    def fall_silent(self, error: UpstreamTimeout) -> None:
        """The holder waited in vain, and whoever waits for it has waited as long."""
        self._silence = error

    async def wait(self) -> None:
        """Until the scan has moved, or the holder may be stuck.

        Raises:
            UpstreamTimeout: the holder met it meanwhile. Else all who wait would, one by one.
        """
        silence = self._silence
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._moved.wait()
        except TimeoutError:
            return
        if self._silence is not None and self._silence is not silence:
            raise kept_fault(self._silence)


class _MemberCosts:
    """What a growing list of members costs, each looked at once."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0

    def of(self, members: Sequence[Member]) -> int:
        """Bytes of memory, about; of members that are new in it names of unusual length count."""
        for member in members[self._count :]:
            written = len(member.name) + len(member.link_target or "")
            self._bytes += MEMBER_COST_BYTES + max(0, written - NAME_BYTES_USUAL)
            self._count += 1
        return self._bytes


class HeaderScan:
    """Members of an uncompressed tar, ``members`` in the archive's order."""

    def __init__(self, *, size: int) -> None:
        self.members: list[Member] = []
        self.failure: ProxyError | None = None
        self._costs = _MemberCosts()
        self._size = size
        self._reader = TarReader(size=size)
        self._turn = Turn()

    @property
    def finished(self) -> bool:
        """Whether all members are known that can be."""
        return self.failure is not None or self._reader.finished

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return self._costs.of(self.members)

    def take_head(self, head: bytes) -> None:
        """The first bytes of the blob, read already."""
        if not self.members and self._reader.position < len(head):
            self._feed(0, head)

    async def until(self, satisfied: Callable[[], bool], *, source: Source) -> None:
        """Go on until ``satisfied``, or there is no more.

        Raises:
            ProxyError: what reading ``source`` raises. A fault of the archive is kept in
                ``failure`` instead.
        """
        while not (satisfied() or self.finished):
            if (token := self._turn.take()) is None:
                await self._turn.wait()
                continue
            try:
                await self._walk(satisfied, source)
            except UpstreamTimeout as error:
                self._turn.fall_silent(error)
                raise
            finally:
                self._turn.give_back(token)

    async def _walk(self, satisfied: Callable[[], bool], source: Source) -> None:
        window = FIRST_WINDOW_BYTES
        while not self._is_done(satisfied):
            if self._reader.position >= self._size:
                self._end()
                return
            wanted = ByteRange(
                self._reader.position, min(self._reader.position + window, self._size) - 1
            )
            async with source.open(wanted) as part:
                offset = wanted.first
                async for chunk in part.chunks:
                    self._feed(offset, chunk)
                    offset += len(chunk)
                    self._turn.tell()
                    left = wanted.last + 1 - offset
                    # Reading on to the next header, or a little to keep the connection, else not.
                    is_behind = self._reader.position > wanted.last
                    if left > JUMP_BYTES and (is_behind or self._is_done(satisfied)):
                        break
            is_far = self._reader.position - wanted.last > JUMP_BYTES
            window = FIRST_WINDOW_BYTES if is_far else min(4 * window, WINDOW_BYTES_LIMIT)

    def _is_done(self, satisfied: Callable[[], bool]) -> bool:
        return self.finished or satisfied()

    def _feed(self, offset: int, chunk: bytes) -> None:
        try:
            self.members += self._reader.feed(offset, chunk)
        except MalformedArtifact as error:
            self.failure = kept_fault(error)

    def _end(self) -> None:
        try:
            self._reader.end()
        except MalformedArtifact as error:
            self.failure = kept_fault(error)


class StreamScan:
    """A compressed layer: where decoding can begin, its plain size, its members if it is a tar.

    ``collects`` asks for places to begin within a gzip member, which costs half of the speed.
    ``tar_failure`` is a fault of the archive, ``failure`` one of the compressed stream, or, as
    ``is_other_content`` says, that it is not the content of its digest.
    """

    def __init__(self, compression: Compression, *, is_tar: bool, collects: bool) -> None:
        self.members: list[Member] = []
        self.plain_size: int | None = None
        self.failure: ProxyError | None = None
        self.tar_failure: ProxyError | None = None
        self.verified = False
        self.is_other_content = False
        self._costs = _MemberCosts()
        self.is_tar = is_tar
        self._compression = compression
        self._decoder: Decoder | None = open_decoder(compression, collect=collects)
        self._points: list[Point] = []
        self._reader = TarReader() if is_tar else None
        self._hasher: Hasher | None = None
        self._unhashed = b""
        self._has_input = False
        self._turn = Turn()

    @property
    def finished(self) -> bool:
        """Whether there is no more to learn."""
        return self._decoder is None

    @property
    def members_known(self) -> bool:
        """Whether ``members`` are all there are, or all that can be read."""
        is_end = self._reader is None or self._reader.finished
        return is_end or self.finished or self.tar_failure is not None

    @property
    def plain_position(self) -> int:
        """How far the plain bytes were seen."""
        if self._decoder is not None:
            return self._decoder.plain_position
        return 0 if self.plain_size is None else self.plain_size

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        points = self._points if self._decoder is None else list(self._decoder.points)
        windows = sum(len(point.window) + 128 for point in points)
        paused = 0 if self._decoder is None else _DECODER_COST_BYTES[self._compression]
        return windows + self._costs.of(self.members) + paused

    def nearest(self, plain_position: int) -> Point:
        """The last place known to begin at that is not behind ``plain_position``."""
        points = self._points if self._decoder is None else list(self._decoder.points)
        before = (point for point in reversed(points) if point.plain_position <= plain_position)
        return next(before, START)

    async def until(
        self,
        satisfied: Callable[[], bool],
        *,
        source: Source,
        room: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """Go on until ``satisfied``, or there is no more; raises as ``lead`` and ``room`` do.

        ``room`` is held by the one who moves the scan on, not by those who wait.
        """
        while not (satisfied() or self.finished):
            if not self._turn.is_free:
                await self._turn.wait()
                continue
            async with room():
                if (token := self._turn.take()) is None:
                    continue
                async with aclosing(self._steps(token, source, keep_from=None)) as steps:
                    async for _ in steps:
                        if satisfied():
                            break

    async def wait_for(self, plain_position: int) -> None:
        """Until somebody has moved the scan so far, or may be replaced."""
        if self.plain_position < plain_position and not self.finished:
            await self._turn.wait()

    def may_lead(self, plain_position: int) -> object | None:
        """A turn to ``lead`` from ``plain_position`` on, if that is ahead of the scan and free."""
        if self.finished or self.plain_position > plain_position:
            return None
        return self._turn.take()

    def lead(self, token: object, *, source: Source, keep_from: int) -> AsyncGenerator[bytes, None]:
        """Move the scan on and give what it decodes from ``keep_from`` on, piece by piece.

        Pieces before ``keep_from`` are empty. It ends at the end of the stream, or when the turn
        was lost to another. To be closed by who breaks off.

        Raises:
            MalformedArtifact, SizeInvalid: the stream is broken or over a limit; kept in
                ``failure``.
            ProxyError: what reading ``source`` raises.
        """
        return self._steps(token, source, keep_from=keep_from)

    async def _steps(
        self, token: object, source: Source, *, keep_from: int | None
    ) -> AsyncGenerator[bytes, None]:
        try:
            while self._has_input:
                yield await self._step(keep_from)
                if not self._turn.resume(token):
                    return
            size = source.descriptor.size
            if self._decoder is not None and self._decoder.position < size:
                async with (
                    source.open(ByteRange(self._decoder.position, size - 1)) as part,
                    aclosing(batches(part.chunks)) as coming,
                ):
                    async for batch in coming:
                        self._feed(batch, source.descriptor.digest)
                        while self._has_input:
                            yield await self._step(keep_from)
                            if not self._turn.resume(token):
                                return
            self._finish(source.descriptor)
        except UpstreamTimeout as error:
            self._turn.fall_silent(error)
            raise
        finally:
            self._turn.give_back(token)

    def _feed(self, batch: bytes, digest: Digest) -> None:
        assert self._decoder is not None  # noqa: S101 - only an unfinished scan is moved on
        if self._hasher is None:
            self._hasher = Hasher(digest.algorithm)
        self._unhashed = batch
        self._decoder.feed(batch)
        self._has_input = True

    def _hash(self) -> None:
        batch, self._unhashed = self._unhashed, b""
        if self._hasher is not None and batch:
            self._hasher.update(batch)

    async def _step(self, keep_from: int | None) -> bytes:
        try:
            piece = await in_thread(lambda: self._decode(keep_from), meanwhile=self._hash)
        except (MalformedArtifact, SizeInvalid) as error:
            self._fail(error)
            raise
        self._turn.tell()
        self._turn.rest()
        return piece

    def _decode(self, keep_from: int | None) -> bytes:
        """The next piece, from ``keep_from`` on; runs in a thread."""
        decoder = self._decoder
        assert decoder is not None  # noqa: S101 - only an unfinished scan is moved on
        visit_end = decoder.plain_position + VISIT_BYTES
        while decoder.plain_position < visit_end:
            start = decoder.plain_position
            plain = decoder.take(PIECE_BYTES)
            if not plain:
                self._has_input = False
                break
            if self._reader is not None and self.tar_failure is None:
                try:
                    self.members += self._reader.feed(start, plain)
                except MalformedArtifact as error:
                    self.tar_failure = kept_fault(error)
            if keep_from is not None and decoder.plain_position > keep_from:
                return plain[max(0, keep_from - start) :]
        return b""

    def _finish(self, descriptor: Descriptor) -> None:
        if self._decoder is None:
            return
        try:
            self._decoder.end()
        except MalformedArtifact as error:
            self._fail(error)
            raise
        self.plain_size = self._decoder.plain_position
        self._points = list(self._decoder.points)
        self._decoder = None
        if self._reader is not None and self.tar_failure is None:
            self._end_archive(self._reader, self.plain_size)
        if self._hasher is not None:
            self.verified = self._hasher.digest() == descriptor.digest
            if not self.verified:
                self.is_other_content = True
                fault = MalformedArtifact(
                    f"expected the content of {descriptor.digest}, found {self._hasher.digest()}"
                )
                self._fail(fault)
                raise fault

    def _end_archive(self, reader: TarReader, plain_size: int) -> None:
        try:
            reader.end()
        except MalformedArtifact as error:
            self.tar_failure = kept_fault(error)
        last = self.members[-1] if self.members else None
        is_file = last is not None and last.kind is MemberKind.REGULAR
        if last is not None and is_file and last.offset + last.size > plain_size:
            self.members.pop()
            self.tar_failure = MalformedArtifact(
                f"expected {last.size} bytes of {last.name[:200]!r}, found the end of the archive "
                f"at {plain_size}"
            )

    def _fail(self, error: ProxyError) -> None:
        self.failure = kept_fault(error)
        if self._decoder is not None:
            self._points = list(self._decoder.points)
            self._decoder = None
        self.plain_size = None


async def batches(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The same bytes in batches of 1 MiB or more; the next one is read while one is worked on.

    To be closed by who breaks off.
    """
    coming = spawn(_batch(chunks), name="read ahead")
    try:
        while batch := await coming:
            coming = spawn(_batch(chunks), name="read ahead")
            yield batch
    finally:
        coming.cancel()
        await asyncio.wait((coming,))


async def _batch(chunks: AsyncIterator[bytes]) -> bytes:
    held: list[bytes] = []
    count = 0
    async for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count >= BATCH_BYTES:
            break
    return b"".join(held)
