"""A long body moved from the upstream's socket to the client's inside the kernel.

Through Python a GiB costs more than twice the CPU, and each slow reader holds buffers; spliced, it
holds one pipe. Both sides must be plain sockets and the length known; ``sending`` has the rest.
Source: splice(2), pipe(7). Measured in bench/.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from aiohttp import hdrs, web
from multidict import CIMultiDict

from proxy.errors import BadUpstream, UpstreamTimeout
from proxy.facade.client import client_takes, close_if_said
from proxy.facade.trace import Trace, trace_of
from proxy.upstream.bodies import UpstreamResponse

# Shorter bodies are through before the take-over pays, which also costs the upstream connection.
LEAST_BYTES = 1024 * 1024
# What may lie between the two sockets. Where the system grants a user no such pipes any more, the
# pipe keeps its 64 KiB and the transfer only takes more turns.
PIPE_BYTES = 1024 * 1024
# One transfer lets the others go on after this much.
TURN_BYTES = 8 * 1024 * 1024

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


def can_be_spliced(
    request: web.Request, answer: UpstreamResponse, status: int, headers: Mapping[str, str]
) -> bool:
    """Whether this answer's body can go to this request's client by splice, and is worth it."""
    client, length = request.transport, answer.content_length
    return (
        request.method == "GET"
        and status in (200, 206)
        and length is not None
        and length >= LEAST_BYTES
        and headers.get(hdrs.CONTENT_LENGTH) == str(length)
        and client is not None
        and client.get_extra_info("sslcontext") is None
        and answer.is_plain
    )


async def send_spliced(
    request: web.Request,
    answer: UpstreamResponse,
    *,
    status: int,
    headers: CIMultiDict[str],
    write_seconds: float,
) -> web.StreamResponse:
    """Send the answer with its body spliced; the upstream connection ends with it.

    Raises:
        BadUpstream: the body ended before its declared length.
        UpstreamTimeout: no byte came for the upstream's idle time.
        ClientStalled: the client took no byte for ``write_seconds``.
    """
    trace, client = trace_of(request), request.transport
    if client is None:
        raise ConnectionResetError("the client left")
    response = web.StreamResponse(status=status, headers=headers)
    close_if_said(response)
    trace.started_answer = True
    writer = await response.prepare(request)
    if writer is None:
        raise ConnectionResetError("the client left")
    with answer.taken_over() as body:
        low, high = client.get_write_buffer_limits()
        # From here on drain() means: every byte written so far is in the socket.
        client.set_write_buffer_limits(0)
        try:
            writer.send_headers()
            for chunk in body.received:
                async with client_takes(client, write_seconds):
                    await response.write(chunk)
                trace.sent_bytes += len(chunk)
            async with client_takes(client, write_seconds):
                await writer.drain()
            with _duplicate(client) as target, _pipe() as pipe:
                transfer = _Transfer(body.descriptor, target, pipe, client, trace)
                await transfer.run(body.left, answer.idle_seconds, write_seconds)
        finally:
            client.set_write_buffer_limits(high, low)
    await response.write_eof()
    return response


class _Transfer:
    """Bytes on their way: source socket → pipe → target socket."""

    def __init__(
        self,
        source: int,
        target: int,
        pipe: tuple[int, int],
        client: asyncio.Transport,
        trace: Trace,
    ) -> None:
        self._source = source
        self._target = target
        self._out, self._into = pipe
        self._client = client
        self._trace = trace
        self._held = 0

    async def run(self, left: int, idle_seconds: float, write_seconds: float) -> None:
        """Move exactly ``left`` bytes; what the upstream sends behind them stays unread."""
        loop = asyncio.get_running_loop()
        turn = 0
        while left:
            if not self._fill(left) and not self._held:
                try:
                    async with asyncio.timeout(idle_seconds):
                        await _ready(loop.add_reader, loop.remove_reader, self._source)
                except TimeoutError as error:
                    raise UpstreamTimeout("the upstream sent no byte in time") from error
                continue
            moved = self._empty()
            left -= moved
            turn += moved
            self._trace.sent_bytes += moved
            if not moved:
                async with client_takes(self._client, write_seconds):
                    await _ready(loop.add_writer, loop.remove_writer, self._target)
            elif turn >= TURN_BYTES:
                turn = 0
                await asyncio.sleep(0)

    def _fill(self, left: int) -> bool:
        """Take what the upstream has; False when that is nothing right now."""
        wanted = min(left - self._held, PIPE_BYTES)
        if not wanted:
            return True
        try:
            taken = os.splice(self._source, self._into, wanted, flags=_FLAGS)
        except BlockingIOError:
            return False
        except OSError as error:
            raise BadUpstream("the upstream's connection failed within its body") from error
        if not taken:
            raise BadUpstream("the upstream's body ended before its declared length")
        self._held += taken
        return True

    def _empty(self) -> int:
        """Give the client what it takes now, in bytes."""
        try:
            given = os.splice(self._out, self._target, self._held, flags=_FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionResetError("the client left") from error
        self._held -= given
        return given


@contextmanager
def _duplicate(transport: asyncio.BaseTransport) -> Iterator[int]:
    """The transport's socket under a number of its own: asyncio guards the other one."""
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    out, into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        yield out, into
    finally:
        os.close(out)
        os.close(into)


async def _ready(
    watch: Callable[[int, Callable[[], None]], None],
    unwatch: Callable[[int], bool],
    descriptor: int,
) -> None:
    waiter = asyncio.get_running_loop().create_future()
    watch(descriptor, lambda: None if waiter.done() else waiter.set_result(None))
    try:
        await waiter
    finally:
        # Before the number is closed: the open file would stay in the poller.
        unwatch(descriptor)
