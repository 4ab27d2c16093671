"""One file of a model, found and ready to be opened."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from proxy.content.blobs import BlobPart
from proxy.content.layers import Access, Layers
from proxy.model.placement import FileEntry
from proxy.oci.byterange import ByteRange


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that can be opened. Its ETag is strong and quoted.

    ``size`` is exact bytes; None for a compressed file that nobody has read to its end yet: see
    ``measured``.
    """

    entry: FileEntry
    size: int | None
    etag: str
    _access: Access
    _layers: Layers

    @property
    def start(self) -> int:
        """Where it begins in what is inside its layer, in bytes."""
        return self.entry.offset or 0

    async def measured(self) -> ModelFile:
        """The same file with its size, for which a compressed one is read through once.

        Raises:
            MalformedArtifact, SizeInvalid: broken, or too large for that.
            ProxyError: what ``Blobs.open`` raises.
        """
        if self.size is not None:
            return self
        size = await self._layers.plain_size(self._access, self.entry.layer, scan=True)
        return replace(self, size=size)

    def open(self, byte_range: ByteRange | None) -> AbstractAsyncContextManager[BlobPart]:
        """The bytes of ``byte_range`` of the file, None for all of it; see ``Layers.open``."""
        wanted = byte_range
        if wanted is None and self.size is not None:
            wanted = ByteRange(0, self.size - 1)
        return self._layers.open(self._access, self.entry.layer, wanted, offset=self.start)
