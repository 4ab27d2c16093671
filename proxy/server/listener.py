"""The listening socket: what it is bound to, which application is behind it, and the drain.

The socket stays bound while applications come and go (``Listener.replace``). A connection belongs
to the application that is the newest when it is through with TLS, and stays with it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aiohttp import web

from proxy.server.certificate import CertificateFiles, ListenerTls, load_context
from proxy.server.connection import Connection, ListenerLimits
from proxy.server.generation import Generation
from proxy.tasks import spawn

logger = logging.getLogger(__name__)

# How often the drain looks whether the last request is answered.
DRAIN_POLL_SECONDS = 0.05
# What a client gets for the end of TLS, counted from the answer's last byte into our buffers: all
# that it has not taken by then is lost. Enough for 4 MiB, as much as a kernel holds, at 14 KiB/s.
TLS_END_SECONDS = 300.0


class CannotListen(Exception):
    """The address of the settings cannot be listened on; the message says why and what to do."""


class Listener:
    """Where a server listens; the port is the real one where 0 was asked for."""

    def __init__(
        self, newest: Generation, *, host: str, port: int, tls: ListenerTls | None
    ) -> None:
        """``listen`` makes them."""
        self.host = host
        self.port = port
        self._tls = tls
        self._newest = newest
        # Retired ones, each with the task that closes it behind its last connection.
        self._retired: dict[Generation, asyncio.Task[None]] = {}
        self._is_closed = False

    @property
    def url(self) -> str:
        """The address for people and clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many clients are connected, to whichever application."""
        return sum(len(each.connections) for each in (*self._retired, self._newest))

    async def replace(
        self,
        app: AbstractAsyncContextManager[web.Application],
        *,
        limits: ListenerLimits,
        certificate: CertificateFiles | None = None,
    ) -> None:
        """Give the connections to come to ``app``; those that stand end with their request.

        A listener that speaks TLS shows ``certificate`` from now on, or the one before if there is
        none; the time limit of a handshake stays. Raises what loading and entering raise; then
        nothing has changed.
        """
        tls, context = self._tls, None
        if tls is not None and certificate is not None:
            context = load_context(certificate)
        generation = await Generation.open(app, limits)
        if tls is not None and context is not None:
            tls.use(context)
        self._retire(self._newest)
        self._newest = generation

    def admit(self, transport: asyncio.Transport) -> None:
        """Hand a connection that has just come in to the newest application."""
        if self._is_closed:
            transport.abort()  # its handshake was on its way when the socket was closed
        else:
            self._newest.admit(transport)

    async def drain(self) -> None:
        """Wait until no request is being answered, at most ``drain_seconds``; cut what is left."""
        self._is_closed = True
        self._newest.retire()
        seconds = self._newest.limits.drain_seconds
        waiting = self._busy()
        if waiting:
            logger.info("draining requests=%d seconds=%g", len(waiting), seconds)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + seconds
            while waiting and loop.time() < deadline:
                await asyncio.sleep(min(DRAIN_POLL_SECONDS, max(deadline - loop.time(), 0)))
                waiting = self._busy()
            for connection in waiting:
                connection.cut(f"cut after the drain of {seconds:g} s: the proxy stops")
            level = logging.WARNING if waiting else logging.INFO
            logger.log(level, "drained requests_cut=%d", len(waiting))

    async def aclose(self) -> None:
        """Let go of all applications, cutting what is still connected."""
        for generation in self._retired:
            generation.give_up()
        # A failure of one is logged by its task and keeps no other from being closed.
        await asyncio.gather(*self._retired.values(), return_exceptions=True)
        await self._newest.aclose()

    def _retire(self, generation: Generation) -> None:
        generation.retire()
        name = "close a replaced application"
        self._retired[generation] = spawn(self._close_once_unused(generation), name=name)

    async def _close_once_unused(self, generation: Generation) -> None:
        await generation.unused()
        await generation.aclose()
        del self._retired[generation]

    def _busy(self) -> list[Connection]:
        """Connections with an answer on its way; idle ones are closed."""
        generations = (*self._retired, self._newest)
        standing = [each for generation in generations for each in generation.connections]
        for connection in standing:
            connection.close_idle()
        return [connection for connection in standing if connection.is_busy]


class _Arrival(asyncio.Protocol):
    """Stands for a connection until it is through with TLS."""

    def __init__(self, admit: Callable[[asyncio.Transport], None]) -> None:
        self._admit = admit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._admit(transport)


@asynccontextmanager
async def listen(
    app: AbstractAsyncContextManager[web.Application],
    *,
    host: str,
    port: int,
    limits: ListenerLimits,
    certificate: CertificateFiles | None = None,
) -> AsyncIterator[Listener]:
    """Serve ``app`` until the context ends, then drain; with a ``certificate`` over TLS.

    On exit no connection is accepted any more, idle ones are closed, running requests get
    ``drain_seconds``, then they are cut.

    Raises:
        CannotListen: the address is taken, not this machine's, or not ours to use; or the
            certificate cannot be used.
    """
    tls = _load(certificate) if certificate is not None else None
    listener = Listener(await Generation.open(app, limits), host=host, port=port, tls=tls)
    try:
        server = await _bind(listener, limits, tls)
        listener.port = server.sockets[0].getsockname()[1]
        try:
            yield listener
        finally:
            server.close()
            await listener.drain()
    finally:
        await listener.aclose()


def _load(certificate: CertificateFiles) -> ListenerTls:
    try:
        return ListenerTls(certificate)
    except OSError as error:
        raise CannotListen(f"listen.tls: {error.strerror or error}") from error


async def _bind(
    listener: Listener, limits: ListenerLimits, tls: ListenerTls | None
) -> asyncio.Server:
    host, port = listener.host, listener.port
    loop = asyncio.get_running_loop()
    context: ssl.SSLContext | None = None if tls is None else tls.context
    try:
        return await loop.create_server(
            lambda: _Arrival(listener.admit),
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=None if tls is None else limits.header_seconds,
            ssl_shutdown_timeout=None if tls is None else TLS_END_SECONDS,
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"{host}:{port} is in use; choose another port with --port or listen.port"
        elif isinstance(error, socket.gaierror):
            text = f"listen.host: {host!r} is no address and no name this machine knows"
        else:
            text = f"listen.host, listen.port: {host}:{port}: {os.strerror(error.errno or 0)}"
            if error.errno == errno.EACCES:
                text += "; ports below 1024 want root or CAP_NET_BIND_SERVICE"
        raise CannotListen(text) from error
