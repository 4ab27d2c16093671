"""The client's end of a connection: how long it may take nothing, and how it is cut."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

# A client slower than this holds a connection to the upstream for too little use.
LEAST_BYTES_PER_SECOND = 1024
# Part of the patience after which is asked whether the client took anything at all.
_LOOK_AFTER = 0.9
# tcpi_bytes_acked in struct tcp_info of linux/tcp.h; kernels since 4.1 have it.
_BYTES_ACKED_AT = 120
_TCP_INFO_BYTES = _BYTES_ACKED_AT + 8


class ClientStalled(ConnectionError):
    """The client took next to nothing for the write timeout; its connection is cut."""


@asynccontextmanager
async def client_takes(client: asyncio.Transport, seconds: float) -> AsyncIterator[None]:
    """Give one write inside ``seconds``, and again as long as the client takes 1 KiB/s.

    A socket is writable only when a good part of its buffer is free, so a steady slow reader would
    look like one that does not read; the kernel's count of acknowledged bytes tells them apart.
    (Bytes not yet sent would not do: behind TLS asyncio holds some where nobody can count them.)

    Raises:
        ClientStalled: it took less.
    """
    loop = asyncio.get_running_loop()
    looked, taken = 0.0, 0
    timer: asyncio.Handle

    def start() -> None:
        nonlocal looked, taken, timer
        looked, taken = loop.time(), _acknowledged(client)
        timer = loop.call_later(seconds * _LOOK_AFTER, look)

    def look() -> None:
        nonlocal looked, taken, timer
        now, total = loop.time(), _acknowledged(client)
        if total - taken >= (now - looked) * LEAST_BYTES_PER_SECOND:
            deadline.reschedule(now + seconds)
            looked, taken = now, total
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
    if not isinstance(client, asyncio.WriteTransport):
        return
    found = _socket_of(client)
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.abort()


def close_if_said(response: web.StreamResponse) -> None:
    """Let the connection end after an answer whose headers say so."""
    if response.headers.get(hdrs.CONNECTION) == "close":
        response.force_close()


def unacknowledged(client: asyncio.BaseTransport) -> int:
    """Bytes the kernel holds for the client: not sent, or not acknowledged yet.

    None means that nothing else is on its way either; what we hold goes to the kernel first.
    """
    found = _socket_of(client)
    if found is None:
        return 0
    # SIOCOUTQ, which Linux gives the number of TIOCOUTQ: tcp(7).
    queued = fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int(struct.unpack("i", queued)[0])


def _acknowledged(client: asyncio.BaseTransport) -> int:
    """Bytes the client has acknowledged so far, behind TLS those of TLS."""
    found = _socket_of(client)
    if found is None:
        return 0
    known = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int(struct.unpack_from("Q", known, _BYTES_ACKED_AT)[0])


def _socket_of(client: asyncio.BaseTransport) -> TransportSocket | None:
    """The client's socket as long as it is open."""
    try:
        found = client.get_extra_info("socket")
    except AttributeError:  # a TLS transport of asyncio's that was closed twice
        return None
    is_open = isinstance(found, TransportSocket) and found.fileno() >= 0
    return found if is_open else None


async def expect(request: web.Request) -> None:
    """Answer ``Expect: 100-continue``; other expectations may be ignored (RFC 9110 §10.1.1).

    aiohttp's own answer to those would have neither our error body nor an access line.
    """
    is_continue = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if is_continue and tuple(request.version) >= (1, 1) and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
