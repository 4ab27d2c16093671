"""Many files as one stream: the selected files of a model, packed while they are read.

Files of one layer are read in the order in which they lie there, in one go where little lies
between them, so that a compressed layer is decoded once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing

from proxy.content.files import ModelFile
from proxy.content.layers import Access, Layers
from proxy.content.scans import batches
from proxy.errors import BadUpstream
from proxy.formats.archive import (
    ArchiveKind,
    ArchiveMember,
    ArchiveWriter,
    archive_size,
    open_writer,
)
from proxy.oci.byterange import ByteRange

# Files with no more than this between them are cheaper to read in one go.
GAP_BYTES = 1024 * 1024
# Time of every member: an archive of one digest is the same bytes for ever.
MODIFIED_SECONDS = 0


class Packed:
    """Files to be sent as one archive; each has its size.

    Sorting and ``size`` take some 30 µs a file: to be done in a thread where they are many.
    """

    def __init__(self, files: Sequence[ModelFile], access: Access, layers: Layers) -> None:
        # Layer by layer, in the order in which they lie there.
        self._files = sorted(files, key=lambda file: (file.entry.layer_index, file.start))
        self._access = access
        self._layers = layers

    def size(self, kind: ArchiveKind) -> int:
        """Bytes of the whole archive."""
        return archive_size(kind, [_member(file) for file in self._files])

    @staticmethod
    def media_type(kind: ArchiveKind) -> str:
        """The archive's media type."""
        return open_writer(kind).media_type

    async def chunks(self, kind: ArchiveKind) -> AsyncGenerator[bytes, None]:
        """The archive's bytes; raises what ``Layers.open`` raises."""
        # Headers of small files come together: each write costs more than they do.
        async with (
            aclosing(self._pieces(kind)) as pieces,
            aclosing(batches(pieces)) as coming,
        ):
            async for batch in coming:
                yield batch
                await asyncio.sleep(0)  # neither files nor a client need ever be waited for

    async def _pieces(self, kind: ArchiveKind) -> AsyncGenerator[bytes, None]:
        writer = open_writer(kind)
        for run in _runs(self._files):
            async with aclosing(self._run(run, writer)) as pieces:
                async for piece in pieces:
                    yield piece
        yield writer.end()

    async def _run(
        self, run: Sequence[ModelFile], writer: ArchiveWriter
    ) -> AsyncGenerator[bytes, None]:
        """Files of one layer, read in one go."""
        first, last = run[0].start, max(file.start + (file.size or 0) for file in run) - 1
        if last < first:
            for file in run:
                yield writer.begin(_member(file)) + writer.finish()
            return
        layer = run[0].entry.layer
        wanted = ByteRange(first, last)
        async with self._layers.open(self._access, layer, wanted, offset=0, indexing=False) as part:
            reader = _Reader(part.chunks, first)
            for file in run:
                yield writer.begin(_member(file))
                async for chunk in reader.read(file.start, file.size or 0):
                    yield writer.content(chunk)
                yield writer.finish()


class _Reader:
    """Cuts files out of a stream of plain bytes that begins at ``position``."""

    def __init__(self, chunks: AsyncIterator[bytes], position: int) -> None:
        self._chunks = chunks
        self._position = position
        self._held = b""
        self._taken = 0  # of _held
        # The last small file: hard links to it, however many, are not read once more each.
        self._last = (0, 0)
        self._content = b""

    async def read(self, start: int, size: int) -> AsyncIterator[bytes]:
        """The ``size`` bytes at ``start``; what lies before is passed over."""
        if size and (start, size) == self._last:
            yield self._content
            return
        is_small = size <= GAP_BYTES
        pieces: list[bytes] = []
        end = start + size
        while self._position < end:
            if self._taken == len(self._held):
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    raise BadUpstream(f"the layer ended {end - self._position} bytes early")
                self._held, self._taken = chunk, 0
            skipped = max(0, start - self._position)
            taken = self._held[self._taken : self._taken + end - self._position]
            self._taken += len(taken)
            self._position += len(taken)
            if piece := taken[skipped:]:
                if is_small:
                    pieces.append(piece)
                yield piece
        if is_small:
            self._last, self._content = (start, size), b"".join(pieces)


def _runs(files: Sequence[ModelFile]) -> Iterator[list[ModelFile]]:
    """Files of one layer that follow each other closely; large hard links stand alone."""
    run: list[ModelFile] = []
    end = 0
    for file in files:
        is_next = (
            bool(run)
            and run[-1].entry.layer_index == file.entry.layer_index
            and (end <= file.start <= end + GAP_BYTES or _is_small_link(file, run[-1]))
        )
        if run and not is_next:
            yield run
            run = []
        run.append(file)
        end = file.start + (file.size or 0)
    if run:
        yield run


def _is_small_link(file: ModelFile, other: ModelFile) -> bool:
    return (file.start, file.size) == (other.start, other.size) and (file.size or 0) <= GAP_BYTES


def _member(file: ModelFile) -> ArchiveMember:
    return ArchiveMember(file.entry.path, file.size or 0, MODIFIED_SECONDS)
