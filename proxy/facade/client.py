"""The client's end of a connection: how long it may take nothing, and how it is cut."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

# A client slower than this holds a connection to the upstream for too little use.
LEAST_BYTES_PER_SECOND = 1024
# Part of the patience after which is asked whether the client took anything at all.
_LOOK_AFTER = 0.9


class ClientStalled(ConnectionError):
    """The client took next to nothing for the write timeout; its connection is cut."""


@asynccontextmanager
async def client_takes(client: asyncio.Transport, seconds: float) -> AsyncIterator[None]:
    """Give one write inside ``seconds``, and again as long as the client takes 1 KiB/s.

    A socket is writable only when a good part of its buffer is free, so a steady slow reader would
    look like one that does not read; the kernel's count of unsent bytes tells them apart.

    Raises:
        ClientStalled: it took less.
    """
    loop = asyncio.get_running_loop()
    looked, unsent = 0.0, 0
    timer: asyncio.Handle

    def start() -> None:
        nonlocal looked, unsent, timer
        looked, unsent = loop.time(), _unsent(client)
        timer = loop.call_later(seconds * _LOOK_AFTER, look)

    def look() -> None:
        nonlocal looked, unsent, timer
        now, left = loop.time(), _unsent(client)
        if unsent - left >= (now - looked) * LEAST_BYTES_PER_SECOND:
            deadline.reschedule(now + seconds)
            looked, unsent = now, left
            timer = loop.call_later(seconds * _LOOK_AFTER, look)

    # Counted from the first wait on: what is written before it would hide what the client takes.
    timer = loop.call_soon(start)
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except TimeoutError as error:
        raise ClientStalled("the client took next to no byte in time") from error
    finally:
        timer.cancel()


def reset(client: asyncio.BaseTransport | None) -> None:
    """Cut a connection so that the client cannot take it for the end of a body.

    A plain close would be one to an HTTP/1.0 client, whose bodies may end with the connection.
    """
    if not isinstance(client, asyncio.WriteTransport) or client.is_closing():
        return
    found = client.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()


def close_if_said(response: web.StreamResponse) -> None:
    """Let the connection end after an answer whose headers say so."""
    if response.headers.get(hdrs.CONNECTION) == "close":
        response.force_close()


def _unsent(client: asyncio.Transport) -> int:
    """Bytes not yet acknowledged by the client: in our buffer and in the kernel's."""
    found = client.get_extra_info("socket")
    if found is None or found.fileno() < 0:
        return 0
    # SIOCOUTQ, which Linux gives the number of TIOCOUTQ: tcp(7).
    queued = struct.unpack("i", fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    return int(queued) + client.get_write_buffer_size()


async def expect(request: web.Request) -> None:
    """Answer ``Expect: 100-continue``; other expectations may be ignored (RFC 9110 §10.1.1).

    aiohttp's own answer to those would have neither our error body nor an access line.
    """
    is_continue = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if is_continue and tuple(request.version) >= (1, 1) and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
