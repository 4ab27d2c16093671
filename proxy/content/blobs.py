"""Blobs for the proxy's own routes: a part or the whole, streamed as the caller.

A part is cut out here when the upstream answers a Range with the whole, and checked against the
range asked for when it answers with a part. A blob of another length than its descriptor says is
the artifact's fault: a registry stores descriptors without comparing them.
Source: RFC 9110 §14.4, §15.3.7; distribution#4667 for 200 answers to a Range.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.content.reader import AuthorizedReader
from proxy.errors import BadUpstream, BlobUnknown, MalformedArtifact
from proxy.oci.byterange import ByteRange, parse_content_range
from proxy.oci.manifest import Descriptor
from proxy.oci.reference import RepositoryName
from proxy.upstream.bodies import UpstreamResponse
from proxy.upstream.identity import Caller


@dataclass(frozen=True, slots=True)
class BlobPart:
    """The bytes asked for.

    ``answer`` is the upstream's where its body is those very bytes; ``skipped`` counts the bytes
    before them that an upstream without Range sends, and that are read over.
    """

    chunks: AsyncIterator[bytes]
    answer: UpstreamResponse | None
    skipped: int


class Blobs:
    """Reads layers and configs from the upstream."""

    def __init__(self, reader: AuthorizedReader) -> None:
        self._reader = reader

    def place(self, repository: RepositoryName) -> tuple[str, str]:
        """The upstream and its own name for ``repository``; raises as ``upstream_name`` does."""
        return self._reader.place(repository)

    @asynccontextmanager
    async def open(
        self,
        repository: RepositoryName,
        descriptor: Descriptor,
        *,
        byte_range: ByteRange,
        caller: Caller,
    ) -> AsyncIterator[BlobPart]:
        """Exactly the bytes of ``byte_range``; leaving the context frees the connection.

        Raises:
            BlobUnknown: the upstream has no such blob in ``repository``.
            MalformedArtifact: the blob is longer or shorter than ``descriptor`` says.
            BadUpstream: another part than asked for, or fewer bytes.
            ProxyError: what ``AuthorizedReader.open`` raises.
        """
        if descriptor.content is not None:
            inline = descriptor.content[byte_range.first : byte_range.last + 1]
            yield BlobPart(_once(inline), None, 0)
            return
        async with self._reader.open(
            "GET",
            repository,
            f"blobs/{descriptor.digest}",
            caller=caller,
            headers={"Range": byte_range.to_header(), "Accept": "*/*"},
        ) as answer:
            leading = _leading(answer, byte_range, descriptor)
            is_exact = leading == 0 and answer.content_length == byte_range.length
            yield BlobPart(_cut(answer, byte_range, leading), answer if is_exact else None, leading)

    async def read(
        self,
        repository: RepositoryName,
        descriptor: Descriptor,
        *,
        byte_range: ByteRange,
        caller: Caller,
    ) -> bytes:
        """The bytes of ``byte_range`` in memory: for headers and small files only."""
        async with self.open(repository, descriptor, byte_range=byte_range, caller=caller) as part:
            return b"".join([chunk async for chunk in part.chunks])


def _leading(answer: UpstreamResponse, wanted: ByteRange, descriptor: Descriptor) -> int:
    """How many bytes of the answer come before the wanted ones."""
    match answer.status:
        case 200:
            _check_size(descriptor, answer.content_length)
            return wanted.first
        case 206:
            found = parse_content_range(answer.headers.get("Content-Range", ""))
            part, total = found or (None, None)
            # A registry answers with what there is of a range that leads beyond the end.
            if total and part == ByteRange(wanted.first, min(wanted.last, total - 1)):
                _check_size(descriptor, total)
            if part != wanted:
                raise BadUpstream(f"expected {wanted.to_header()}, found another part")
            return 0
        case 404:
            raise BlobUnknown(f"the upstream has no blob {descriptor.digest} in this repository")
        case 416:
            raise MalformedArtifact(
                f"expected a blob of {descriptor.size} bytes as its descriptor says, found a "
                f"shorter one: {descriptor.digest}"
            )
        case status:
            raise BadUpstream(f"expected a blob, found status {status}")


def _check_size(descriptor: Descriptor, size: int | None) -> None:
    """Refuse a blob whose whole ``size``, where the upstream tells it, is not the descriptor's."""
    if size is not None and size != descriptor.size:
        raise MalformedArtifact(
            f"expected a blob of {descriptor.size} bytes as its descriptor says, found {size} "
            f"bytes: {descriptor.digest}"
        )


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _cut(answer: UpstreamResponse, wanted: ByteRange, skip: int) -> AsyncIterator[bytes]:
    left = wanted.length
    async for received in answer.chunks():
        chunk = received
        if skip:
            skip, chunk = skip - min(skip, len(received)), received[skip:]
        chunk = chunk[:left]
        left -= len(chunk)
        if chunk:
            yield chunk
        if not left:
            return
    if left:
        raise BadUpstream(f"the upstream's blob ended {left} bytes early")
