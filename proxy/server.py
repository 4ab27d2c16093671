"""The listening socket: limits on what a client may send before a handler sees it, and the drain.

aiohttp's server has no time limit for a request's header and logs what it cannot parse, secrets
included; its connection handler is extended here for both, and only for that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from proxy.errors import BadRequest, ProxyError
from proxy.facade.client import reset
from proxy.facade.responses import error_response

logger = logging.getLogger(__name__)

# Bounds on one line of a request's head. GAR and ECR tokens need tens of KiB in one header.
REQUEST_LINE_BYTES = 16 * 1024
HEADER_BYTES = 64 * 1024
# After an answer that did not want the rest of the body, how long it is read and thrown away, so
# that the client sees the answer and not a reset connection.
LINGERING_SECONDS = 2.0
# How often the drain looks whether the last request is answered.
DRAIN_POLL_SECONDS = 0.05
# What a handler gets to clean up once its connection is cut.
CUT_SECONDS = 2.0
# Bytes of a body held before the socket is no longer read.
READ_BUFFER_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Seconds a client may take; see the settings of the same names."""

    header_seconds: float = 10.0
    keepalive_seconds: float = 75.0
    drain_seconds: float = 30.0


class _Connection(web.RequestHandler):
    """One client connection, closed when its first request takes too long to arrive (row I2)."""

    __slots__ = ("_header_timer", "_when_lost", "cut_reason")

    def __init__(
        self,
        server: web.Server,
        limits: ListenerLimits,
        *,
        when_lost: Callable[[_Connection], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None is what turns it off
            auto_decompress=False,
            keepalive_timeout=limits.keepalive_seconds,
            lingering_time=LINGERING_SECONDS,
            max_line_size=REQUEST_LINE_BYTES,
            max_field_size=HEADER_BYTES,
            read_bufsize=READ_BUFFER_BYTES,
        )
        self._header_timer = loop.call_later(limits.header_seconds, self._drop_if_silent)
        self._when_lost = when_lost
        # Why the proxy itself ended this connection, for the access line of what it cut.
        self.cut_reason: str | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the timer with the connection."""
        self._header_timer.cancel()
        super().connection_lost(exc)
        self._when_lost(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler with the one error body; the connection closes.

        The parser's own text is neither sent nor logged: it quotes the client's header.
        """
        if isinstance(exc, HttpProcessingError):
            logger.info("malformed request client=%s error=%s", request.remote, type(exc).__name__)
            response = error_response(BadRequest(_explain(exc)))
        else:
            logger.error("request failed outside a handler", exc_info=exc)
            response = error_response(ProxyError("internal error"))
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        response.headers["Server"] = "cnai-proxy"
        response.force_close()
        return response

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._current_request is not None

    def cut(self, reason: str) -> None:
        """End the connection now, whatever is on its way."""
        self.cut_reason = reason
        reset(self.transport)

    def _drop_if_silent(self) -> None:
        waits = self._request_count == 0 and self._current_request is None
        if waits and self.transport is not None:
            self.transport.abort()


def _explain(error: HttpProcessingError) -> str:
    if isinstance(error, LineTooLong):
        return (
            f"expected a request line of at most {REQUEST_LINE_BYTES} bytes and headers of at most "
            f"{HEADER_BYTES} bytes each"
        )
    return "the request is not valid HTTP/1.1"


class CannotListen(Exception):
    """The address of the settings cannot be listened on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a running server listens; the port is the real one where 0 was asked for."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address for people and clients."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def listen(
    app: web.Application, *, host: str, port: int, limits: ListenerLimits
) -> AsyncIterator[Listener]:
    """Serve ``app`` until the context ends, then drain.

    On exit no connection is accepted any more, idle ones are closed, running requests get
    ``drain_seconds``, then they are cut.

    Raises:
        CannotListen: the address is taken, not this machine's, or not ours to use.
    """
    # A client that leaves frees its upstream connection at once; the same in tests (design: one
    # switch for both). Work that must outlive its client is a task of its own.
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=CUT_SECONDS, access_log=None
    )
    await runner.setup()
    connections: set[_Connection] = set()
    try:
        server = runner.server
        if server is None:
            raise RuntimeError("the runner has no server after its set-up")

        def accept() -> _Connection:
            connection = _Connection(server, limits, when_lost=connections.discard)
            connections.add(connection)
            return connection

        sockets = await _bind(accept, host, port)
        try:
            yield Listener(host=host, port=sockets.sockets[0].getsockname()[1])
        finally:
            sockets.close()
            await _drain(connections, limits.drain_seconds)
    finally:
        await runner.cleanup()


async def _bind(accept: Callable[[], _Connection], host: str, port: int) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(accept, host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"{host}:{port} is in use; choose another port with --port or listen.port"
        elif isinstance(error, socket.gaierror):
            text = f"listen.host: {host!r} is no address and no name this machine knows"
        else:
            text = f"listen.host, listen.port: {host}:{port}: {os.strerror(error.errno or 0)}"
        raise CannotListen(text) from error


async def _drain(connections: set[_Connection], seconds: float) -> None:
    """Wait until no request is being answered any more, at most ``seconds``; cut what is left."""

    def busy() -> list[_Connection]:
        return [connection for connection in connections if connection.is_busy]

    for connection in connections:
        connection.close()
    waiting = busy()
    if not waiting:
        return
    logger.info("draining requests=%d seconds=%g", len(waiting), seconds)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while waiting and loop.time() < deadline:
        await asyncio.sleep(min(DRAIN_POLL_SECONDS, max(deadline - loop.time(), 0)))
        waiting = busy()
    for connection in waiting:
        connection.cut(f"cut after the drain of {seconds:g} s: the proxy stops")
    logger.log(
        logging.WARNING if waiting else logging.INFO, "drained requests_cut=%d", len(waiting)
    )
