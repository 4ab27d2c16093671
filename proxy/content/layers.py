"""Layers opened: what packing they have, which members, any bytes of what is inside.

Callers see plain bytes; where they come from (a range of the blob, a decoder begun at a known
place, a scan on its way) is decided here. No layer is held, whatever its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from proxy.content.blobs import BlobPart, Blobs
from proxy.content.indexes import Indexes, LayerIndex, LayerKey
from proxy.content.scans import PIECE_BYTES, HeaderScan, StreamScan, batches, in_thread, kept_fault
from proxy.errors import MalformedArtifact, ProxyError, SizeInvalid, UpstreamUnreachable
from proxy.formats.compression import Compression, open_decoder
from proxy.formats.progress import Point
from proxy.formats.tar import Member
from proxy.model.artifact import TAR, ModelLayer
from proxy.model.placement import EarlyMatch
from proxy.model.sniffing import HEAD_BYTES, needs_sniffing, settle, settle_empty
from proxy.oci.byterange import ByteRange
from proxy.oci.manifest import Descriptor
from proxy.oci.reference import RepositoryName
from proxy.upstream.identity import Caller

# Bounds on what one request of a client may cost the upstream.
REQUESTS_LIMIT = 5_000
SKIPPED_BYTES_LIMIT = 256 * 1024 * 1024
# Readers of compressed layers at a time. Each holds a decoder, also while its client takes nothing:
# of gzip with what is on its way 2 MiB, of zstd a window of up to 32 MiB besides.
READERS_LIMIT: Mapping[Compression, int] = {"gzip": 128, "zstd": 16}
READER_WAIT_SECONDS = 10
# What a header, or a block that did not get smaller, adds to a part of a layer.
SLACK_BYTES = 64 * 1024
# Looking through more members than this is done in a thread.
MEMBERS_INLINE = 2_000
# A known place this near is begun at; from farther away the scan is moved on instead.
NEAR_BYTES = 6 * 1024 * 1024


class BudgetSpent(SizeInvalid):
    """One request of a client has cost the upstream all it may; no fault of a layer."""


Readers = Mapping[Compression, asyncio.Semaphore]


def new_readers() -> Readers:
    """Room for as many readers of compressed layers as one process can hold."""
    return {compression: asyncio.Semaphore(limit) for compression, limit in READERS_LIMIT.items()}


@dataclass(slots=True)
class Budget:
    """What looking for files in layers may still cost the upstream, for one client request."""

    requests: int = REQUESTS_LIMIT
    skipped_bytes: int = SKIPPED_BYTES_LIMIT

    def spend(self, skipped: int) -> None:
        """Count one read, and the bytes it had to read over.

        Raises:
            BudgetSpent: too much.
        """
        self.requests -= 1
        self.skipped_bytes -= skipped
        if self.requests < 0:
            raise BudgetSpent(
                f"expected archives whose headers take at most {REQUESTS_LIMIT} reads, found more"
            )
        if self.skipped_bytes < 0:
            raise BudgetSpent(
                f"the upstream ignores Range; expected at most {SKIPPED_BYTES_LIMIT} bytes to read "
                "over, found more"
            )


@dataclass(frozen=True, slots=True)
class Access:
    """Who reads in which repository, and what that may cost."""

    repository: RepositoryName
    caller: Caller
    budget: Budget = field(default_factory=Budget, repr=False)


@dataclass(frozen=True, slots=True)
class _Source:
    """One blob as one caller reads it; see ``scans.Source``."""

    descriptor: Descriptor
    _blobs: Blobs
    _access: Access

    @asynccontextmanager
    async def open(self, byte_range: ByteRange) -> AsyncIterator[BlobPart]:
        async with self._blobs.open(
            self._access.repository,
            self.descriptor,
            byte_range=byte_range,
            caller=self._access.caller,
        ) as part:
            self._access.budget.spend(part.skipped)
            yield part


class Layers:
    """Opens layers. Every method takes a layer as ``settled`` gives it, but ``settled`` itself.

    ``scan_bytes`` is the size of the largest compressed layer that is read through to list it;
    ``readers`` bound, for all of a process, how many compressed layers are read at a time.
    """

    def __init__(
        self, blobs: Blobs, indexes: Indexes, *, scan_bytes: int, readers: Readers | None = None
    ) -> None:
        self._blobs = blobs
        self._indexes = indexes
        self._scan_bytes = scan_bytes
        self._readers = readers or new_readers()

    async def settled(self, access: Access, layer: ModelLayer) -> tuple[ModelLayer, str | None]:
        """The layer with its real packing, and a warning where its media type lies.

        Raises:
            ProxyError: what ``Blobs.open`` raises.
        """
        if layer.descriptor.size == 0:
            return replace(layer, packing=settle_empty(layer)), None
        if not needs_sniffing(layer):
            return layer, None
        key, index = await self._index(access, layer)
        declared = (layer.packing, layer.trusted, layer.path)
        settled = index.settled
        if settled is None or index.settled_for != declared:
            if not index.head:
                last = min(HEAD_BYTES, layer.descriptor.size) - 1
                async with self._source(access, layer).open(ByteRange(0, last)) as part:
                    index.head = b"".join([chunk async for chunk in part.chunks])
            settled = settle(layer, index.head)
            index.settled, index.settled_for = settled, declared
            self._indexes.keep(key, index)
        return replace(layer, packing=settled.packing), settled.warning

    def is_indexed(self, access: Access, layer: ModelLayer) -> bool:
        """Whether all members are known already."""
        index = self._indexes.of(self._key(access, layer))
        if layer.packing == TAR:
            return index.headers is not None and index.headers.finished
        return _scan_of_members(index) is not None

    async def members(
        self, access: Access, layer: ModelLayer
    ) -> tuple[Sequence[Member], ProxyError | None]:
        """All members of a tar layer, and the fault that ends them early.

        Raises:
            SizeInvalid: a compressed layer too large to be read through.
            ProxyError: what ``Blobs.open`` raises.
        """
        key, index = await self._index(access, layer)
        source = self._source(access, layer)
        compression = layer.packing.compression
        try:
            if compression is None:
                headers = self._headers(index, layer)
                await headers.until(lambda: False, source=source)
                return headers.members, _copied(headers.failure)
            scan = _scan_of_members(index)
            if scan is None:
                self._check_scannable(layer)
                scan = self._listing(index, layer, compression)
                try:
                    room = partial(self._room, compression)
                    await scan.until(lambda: False, source=source, room=room)
                except (MalformedArtifact, SizeInvalid):
                    if scan.failure is None:
                        raise
            return scan.members, _copied(scan.tar_failure or scan.failure)
        finally:
            self._indexes.keep(key, index)

    async def find(self, access: Access, layer: ModelLayer, match: EarlyMatch) -> Member | None:
        """The member that ``match`` is sure of, read no further than needed.

        Raises:
            MalformedArtifact, SizeInvalid: the layer is broken before there.
            ProxyError: what ``Blobs.open`` raises.
        """
        key, index = await self._index(access, layer)
        source = self._source(access, layer)
        compression = layer.packing.compression
        taken = 0
        found: Member | None = None

        def is_found(scan: HeaderScan | StreamScan) -> bool:
            nonlocal taken, found
            new = scan.members[taken:]  # a thread may be adding more
            taken += len(new)
            found = found or match.take(new)
            return found is not None

        async def take_many(scan: HeaderScan | StreamScan) -> None:
            if len(scan.members) > MEMBERS_INLINE:
                await asyncio.to_thread(is_found, scan)

        try:
            if compression is None:
                headers = self._headers(index, layer)
                await take_many(headers)
                await headers.until(lambda: is_found(headers), source=source)
                if not is_found(headers) and headers.failure is not None:
                    raise kept_fault(headers.failure)
                return found
            scan = _scan_of_members(index) or self._seeking(index, layer, compression)
            await take_many(scan)
            await scan.until(
                lambda: is_found(scan) or scan.members_known,
                source=source,
                room=partial(self._room, compression),
            )
            failure = scan.tar_failure or scan.failure
            if not is_found(scan) and failure is not None:
                raise kept_fault(failure)
            return found
        finally:
            self._indexes.keep(key, index)

    async def plain_size(self, access: Access, layer: ModelLayer, *, scan: bool) -> int | None:
        """The size of the one file that a raw layer is; None if unknown and not to be scanned for.

        Raises:
            MalformedArtifact, SizeInvalid: the stream is broken, or too large to be read through.
            ProxyError: what ``Blobs.open`` raises.
        """
        compression = layer.packing.compression
        if compression is None:
            return layer.descriptor.size
        key, index = await self._index(access, layer)
        sizes = (found.plain_size for found in index.streams)
        size = next((size for size in sizes if size is not None), None)
        if size is not None or not scan:
            return size
        self._check_scannable(layer)
        seeking = self._seeking(index, layer, compression)
        try:
            await seeking.until(
                lambda: False,
                source=self._source(access, layer),
                room=partial(self._room, compression),
            )
        finally:
            self._indexes.keep(key, index)
        if seeking.failure is not None:
            raise kept_fault(seeking.failure)
        return seeking.plain_size

    def open(
        self,
        access: Access,
        layer: ModelLayer,
        byte_range: ByteRange | None,
        *,
        offset: int,
        indexing: bool = True,
    ) -> AbstractAsyncContextManager[BlobPart]:
        """Bytes of what is inside: ``byte_range`` counted from ``offset``; None: all of it.

        Without ``indexing`` a compressed layer is read faster, and no places to begin at are learnt
        for the next one who reads it.

        Raises:
            MalformedArtifact, SizeInvalid: the stream is broken, or over a limit.
            UpstreamUnreachable: too many compressed layers are being read.
            ProxyError: what ``Blobs.open`` raises.
        """
        compression = layer.packing.compression
        if compression is not None:
            shifted = None if byte_range is None else byte_range.shifted(offset)
            return self._open_compressed(access, layer, compression, shifted, indexing=indexing)
        whole = byte_range or ByteRange(0, layer.descriptor.size - 1)
        return self._blobs.open(
            access.repository,
            layer.descriptor,
            byte_range=whole.shifted(offset),
            caller=access.caller,
        )

    @asynccontextmanager
    async def _open_compressed(
        self,
        access: Access,
        layer: ModelLayer,
        compression: Compression,
        wanted: ByteRange | None,
        *,
        indexing: bool,
    ) -> AsyncIterator[BlobPart]:
        first, last = (0, None) if wanted is None else (wanted.first, wanted.last)
        pieces = self._plain(access, layer, compression, first, last, indexing=indexing)
        async with self._room(compression), aclosing(pieces) as plain:
            # The first piece is waited for here, so that a broken layer is an answer.
            yield BlobPart(await _begun(plain), None, 0)

    @asynccontextmanager
    async def _room(self, compression: Compression) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(READER_WAIT_SECONDS):
                await self._readers[compression].acquire()
        except TimeoutError as error:
            raise UpstreamUnreachable(
                f"{READERS_LIMIT[compression]} {compression} layers are being read, the most at a "
                "time; try again"
            ) from error
        try:
            yield
        finally:
            self._readers[compression].release()

    async def _plain(
        self,
        access: Access,
        layer: ModelLayer,
        compression: Compression,
        first: int,
        last: int | None,
        *,
        indexing: bool,
    ) -> AsyncGenerator[bytes, None]:
        """Plain bytes ``first`` to ``last``, None for the end.

        Where the scan has not come so far, it is moved on and its bytes are handed out on the way;
        while somebody else moves it, this waits for a place to begin at.
        """
        key, index = await self._index(access, layer)
        source = self._source(access, layer)
        scan = self._seeking(index, layer, compression)
        position = first
        for known in index.streams:
            if known.is_other_content and known.failure is not None:
                raise kept_fault(known.failure)
        try:
            while True:
                token = scan.may_lead(position) if indexing else None
                if token is not None:
                    pieces = scan.lead(token, source=source, keep_from=position)
                else:
                    point = _nearest(index, position)
                    is_passed = scan.finished or scan.plain_position > position or not indexing
                    if not is_passed and position - point.plain_position > NEAR_BYTES:
                        await scan.wait_for(position)
                        continue
                    pieces = _decoded(source, compression, point, keep_from=position, last=last)
                async with aclosing(pieces):
                    async for piece in pieces:
                        part = piece if last is None else piece[: last + 1 - position]
                        if part:
                            position += len(part)
                            yield part
                        if last is not None and position > last:
                            return
                # Who led may have lost the turn: then another one found the end, not these pieces.
                is_end = scan.plain_size is not None and position >= scan.plain_size
                if token is None or is_end:
                    break
        finally:
            self._indexes.keep(key, index)
        if last is not None:
            raise MalformedArtifact(
                f"expected {last + 1} bytes in the layer {layer.descriptor.digest}, "
                f"found {position}"
            )

    async def _index(self, access: Access, layer: ModelLayer) -> tuple[LayerKey, LayerIndex]:
        """What is known of the layer in this repository.

        What was learnt in another one counts once the upstream lets this caller read the blob here.
        """
        key = self._key(access, layer)
        index = self._indexes.of(key)
        if index.streams:
            return key, index
        if (shared := self._indexes.shared(key)) is not None:
            async with self._source(access, layer).open(ByteRange(0, 0)):
                index.listing, index.seeking = shared.listing, shared.seeking
            self._indexes.keep(key, index)
        return key, index

    def _key(self, access: Access, layer: ModelLayer) -> LayerKey:
        upstream, repository = self._blobs.place(access.repository)
        return LayerKey(upstream, repository, layer.descriptor.digest)

    def _source(self, access: Access, layer: ModelLayer) -> _Source:
        return _Source(layer.descriptor, self._blobs, access)

    def _headers(self, index: LayerIndex, layer: ModelLayer) -> HeaderScan:
        if index.headers is None:
            index.headers = HeaderScan(size=layer.descriptor.size)
            index.headers.take_head(index.head)
        return index.headers

    def _listing(
        self, index: LayerIndex, layer: ModelLayer, compression: Compression
    ) -> StreamScan:
        """The fastest way to the members."""
        if compression == "zstd":
            return self._seeking(index, layer, compression)
        is_tar = layer.packing.container == "tar"
        if index.listing is None or index.listing.is_tar != is_tar:
            index.listing = StreamScan(compression, is_tar=is_tar, collects=False)
        return index.listing

    def _seeking(
        self, index: LayerIndex, layer: ModelLayer, compression: Compression
    ) -> StreamScan:
        is_tar = layer.packing.container == "tar"
        if index.seeking is None or index.seeking.is_tar != is_tar:
            index.seeking = StreamScan(compression, is_tar=is_tar, collects=True)
        return index.seeking

    def _check_scannable(self, layer: ModelLayer) -> None:
        size = layer.descriptor.size
        if size > self._scan_bytes:
            raise SizeInvalid(
                f"expected a compressed layer of at most {self._scan_bytes} bytes to read through "
                f"(models.scan_bytes), found {size}"
            )


def _copied(fault: ProxyError | None) -> ProxyError | None:
    return None if fault is None else kept_fault(fault)


def _scan_of_members(index: LayerIndex) -> StreamScan | None:
    return next((scan for scan in index.streams if scan.is_tar and scan.members_known), None)


def _nearest(index: LayerIndex, plain_position: int) -> Point:
    points = (scan.nearest(plain_position) for scan in index.streams)
    return max(points, key=lambda point: point.plain_position)


async def _decoded(
    source: _Source, compression: Compression, point: Point, *, keep_from: int, last: int | None
) -> AsyncGenerator[bytes, None]:
    """What decoding from ``point`` gives from ``keep_from`` on, at least to ``last``; None: all.

    No more of the blob is asked for than that can take: packed bytes are hardly ever more than
    plain ones. Where they are, there is another read.
    """
    decoder = open_decoder(compression, start=point)
    size = source.descriptor.size
    while decoder.position < size and (last is None or decoder.plain_position <= last):
        end = size
        if last is not None:
            plain = last + 1 - decoder.plain_position
            end = min(size, decoder.position + plain + plain // 64 + SLACK_BYTES)
        async with (
            source.open(ByteRange(decoder.position, end - 1)) as part,
            aclosing(batches(part.chunks)) as coming,
        ):
            async for batch in coming:
                decoder.feed(batch)
                while piece := await in_thread(partial(decoder.take, PIECE_BYTES)):
                    if decoder.plain_position > keep_from:
                        start = decoder.plain_position - len(piece)
                        yield piece[max(0, keep_from - start) :]
    if last is None or decoder.plain_position <= last:
        decoder.end()


async def _begun(pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them waited for: a fault there is still an answer."""
    first = await anext(pieces, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        if first:
            yield first
        async for piece in pieces:
            yield piece

    return all_of_them()
