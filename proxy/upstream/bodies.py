"""Bodies on their way: an answer whose headers are here, an upload and its clock."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDictProxy

from proxy.errors import BadUpstream, ProxyError
from proxy.upstream.failures import translate


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. None of them bounds a whole transfer: large layers take hours."""

    connect_seconds: float = 10.0
    idle_seconds: float = 60.0
    response_seconds: float = 60.0
    upload_response_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class TakenBody:
    """A body on its way: what came already, and the socket that the ``left`` bytes come from."""

    received: tuple[bytes, ...]
    descriptor: int
    left: int


class UpstreamResponse:
    """An answer whose headers are here and whose body is still on the way."""

    def __init__(self, response: aiohttp.ClientResponse, *, idle_seconds: float) -> None:
        self._response = response
        # Seconds the upstream may send nothing of the body.
        self.idle_seconds = idle_seconds

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """All headers, repeated lines kept."""
        return self._response.headers

    @property
    def content_length(self) -> int | None:
        """Declared bytes of the body, None when the upstream did not say."""
        value = self._response.headers.get("Content-Length")
        return int(value) if value is not None and value.isascii() and value.isdigit() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives.

        Raises:
            BadUpstream: it ended before its declared length.
            UpstreamTimeout: no byte for the idle timeout.
        """
        content = self._response.content
        while True:
            try:
                chunk = await content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise translate(error) from error
            if not chunk:
                return
            yield chunk

    async def read(self, limit: int) -> bytes | None:
        """The whole body, or None when it is longer than ``limit`` bytes."""
        parts = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                return None
            parts.append(chunk)
        return b"".join(parts)

    @property
    def is_plain(self) -> bool:
        """Whether the body comes as it is from a socket without TLS."""
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        return transport is not None and transport.get_extra_info("sslcontext") is None

    @contextmanager
    def taken_over(self) -> Iterator[TakenBody]:
        """The body of an answer with a Content-Length, to be read from its socket directly.

        aiohttp reads no more of it, and the connection is never used again.

        Raises:
            BadUpstream: the connection is gone.
        """
        connection, content = self._response.connection, self._response.content
        if connection is None or connection.protocol is None or connection.transport is None:
            raise BadUpstream("the upstream's connection failed within its body")
        descriptor = os.dup(connection.transport.get_extra_info("socket").fileno())
        try:
            # What came already is in the stream and, above its high water, in the parser: each
            # read lets the parser go on. Nothing may be awaited between the last and the pause.
            received = []
            while chunk := content.read_nowait():
                received.append(chunk)
            if not content.is_eof():
                connection.protocol.pause_reading()
            left = (self.content_length or 0) - sum(map(len, received))
            yield TakenBody(tuple(received), descriptor, left)
        except aiohttp.ClientError as error:
            raise translate(error) from error
        finally:
            os.close(descriptor)
            self._response.close()

    def discard(self) -> None:
        """Give up the connection: what is still on the way is not wanted."""
        self._response.close()


class RequestBody:
    """A body streamed upstream, and the clock that tells a slow transfer from a stalled one."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._deadline: asyncio.Timeout | None = None
        self._timeouts = Timeouts()
        self.failure: ProxyError | None = None

    def watch(self, deadline: asyncio.Timeout, timeouts: Timeouts) -> None:
        """Let ``deadline`` follow the body: idle while it runs, the answer's time when it ends."""
        self._deadline, self._timeouts = deadline, timeouts

    def release(self) -> None:
        """Leave the deadline alone: the answer is here, though the body may still be going out."""
        self._deadline = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                self._move(self._timeouts.idle_seconds)
                yield chunk
                # The upstream took it; the wait for the client's next bytes has its own limit.
                self._move(None)
        except ProxyError as error:
            self.failure = error
            raise
        self._move(self._timeouts.upload_response_seconds)

    def _move(self, seconds: float | None) -> None:
        if self._deadline is not None:
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if seconds is None else now + seconds)
