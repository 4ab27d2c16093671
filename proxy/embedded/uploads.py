"""Bytes of single blobs on disk: an upload that grows until it is a blob, a blob being read.

Which repository a blob belongs to, and when an upload ends, is ``layout``'s business.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.embedded.disk import INLINE_BYTES_LIMIT, in_thread, move
from proxy.errors import BlobUploadUnknown
from proxy.oci.digest import Digest, Hasher
from proxy.oci.reference import RepositoryName

_PIECE_BYTES = 1024 * 1024


class BlobUpload:
    """An upload under way: a file that grows, and the hash of what it holds so far.

    Whoever appends holds ``turn``, so that two requests cannot interleave.
    """

    def __init__(self, repository: RepositoryName, *, path: Path, algorithm: str) -> None:
        self.repository = repository
        self.session = path.name
        self.size = 0
        self.turn = asyncio.Lock()
        self.ended = False
        self._path = path
        self._hasher = Hasher(algorithm)

    async def append(self, chunk: bytes) -> None:
        """Add bytes to the end; they are hashed on the way.

        Raises:
            BlobUploadUnknown: the upload was cancelled meanwhile.
        """
        if self.ended:
            raise BlobUploadUnknown(f"the upload {self.session} has ended")
        try:
            if len(chunk) < INLINE_BYTES_LIMIT:
                self._append(chunk)
            else:
                await in_thread(self._append, chunk)
        except FileNotFoundError as error:
            raise BlobUploadUnknown(f"the upload {self.session} was cancelled") from error

    async def append_exactly(self, chunks: AsyncIterator[bytes], *, size: int) -> bool:
        """Add ``chunks`` if they make ``size`` bytes; else leave the upload as it was.

        When the client goes away, what came stays: it may go on from there.

        Raises:
            BlobUploadUnknown: the upload was cancelled meanwhile.
        """
        start, before = self.size, self._hasher.copy()
        async for chunk in chunks:
            if self.size - start + len(chunk) > size:
                break
            await self.append(chunk)
        else:
            if self.size - start == size:
                return True
        if not self.ended:
            await in_thread(os.truncate, self._path, start)
        self.size, self._hasher = start, before
        return False

    def _append(self, chunk: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            written = 0
            while written < len(chunk):
                written += os.pwrite(handle, memoryview(chunk)[written:], self.size + written)
        finally:
            os.close(handle)
        self._hasher.update(chunk)
        self.size += len(chunk)

    def seal(self, expected: Digest) -> bool:
        """Flush to disk and say whether the bytes are those of ``expected``; blocks."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            hasher = self._hasher
            if expected.algorithm != hasher.algorithm:
                # The algorithm was not known when the bytes came: read them once more.
                hasher = Hasher(expected.algorithm)
                while piece := file.read(_PIECE_BYTES):
                    hasher.update(piece)
            return hasher.digest() == expected

    def move(self, target: Path) -> None:
        """Make the file the blob at ``target``; blocks."""
        move(self._path, target)

    def discard(self) -> None:
        """Remove the file if it is still there; blocks."""
        self._path.unlink(missing_ok=True)


class BlobReader:
    """An open blob of ``size`` bytes; it survives the removal of its file. The caller closes it."""

    def __init__(self, handle: int) -> None:
        self.size = os.fstat(handle).st_size
        self._handle = handle

    async def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset`` on; fewer only where the blob ends."""
        return await in_thread(os.pread, self._handle, length, offset)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)
