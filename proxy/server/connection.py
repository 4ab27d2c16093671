"""One client's connection: limits on what it may send before a handler sees it, and its end.

aiohttp's server has no time limit for a request's header, logs what it cannot parse, secrets
included, and on its own way to close a connection throws away the rest of a body that is still
coming in; its connection handler is extended here for that, and only for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from proxy.errors import BadRequest, ProxyError
from proxy.facade.client import reset, unacknowledged
from proxy.facade.responses import error_response

logger = logging.getLogger(__name__)

# Bounds on one line of a request's head. GAR and ECR tokens need tens of KiB in one header.
REQUEST_LINE_BYTES = 16 * 1024
HEADER_BYTES = 64 * 1024
# After an answer that did not want the rest of the body, how long it is read and thrown away, so
# that the client sees the answer and not a reset connection.
LINGERING_SECONDS = 2.0
# Bytes of a body held before the socket is no longer read.
READ_BUFFER_BYTES = 128 * 1024
# Bytes of an answer held for a slow reader behind TLS, where asyncio would hold 512 KiB.
WRITE_BUFFER_BYTES = 64 * 1024
# aiohttp's words for the first bytes of a TLS handshake.
_TLS_HELLO = "HTTPS traffic on an HTTP port"
# What a client that is asked to end TLS gets where nothing is on its way to it any more: one that
# keeps its connection in a pool does not look at it and never answers.
GOODBYE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Seconds a client may take; see the settings of the same names."""

    header_seconds: float = 10.0
    keepalive_seconds: float = 75.0
    drain_seconds: float = 30.0


class Connection(web.RequestHandler):
    """One client connection, closed when its first request takes too long to arrive (row I2)."""

    __slots__ = (
        *("_header_timer", "_is_parting", "_when_gone", "_wire", "cut_reason", "is_finishing"),
    )

    def __init__(
        self,
        server: web.Server,
        limits: ListenerLimits,
        *,
        when_gone: Callable[[Connection], None],
    ) -> None:
        """``when_gone`` is called once the connection is lost and its last handler has ended."""
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
        self._when_gone = when_gone
        # The transport until it is lost; aiohttp forgets its own when it begins to close it.
        self._wire: asyncio.Transport | None = None
        # Whether the next answer is the last one.
        self.is_finishing = False
        # Whether it is closed already, but for the client's end.
        self._is_parting = False
        # Why the proxy itself ended this connection, for the access line of what it cut.
        self.cut_reason: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if isinstance(transport, asyncio.Transport):
            self._wire = transport
            if transport.get_extra_info("sslcontext") is not None:
                transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the timer with the connection."""
        self._header_timer.cancel()
        self._wire = None
        handlers = self._task_handler
        super().connection_lost(exc)
        if handlers is None or handlers.done():
            self._when_gone(self)
        else:
            handlers.add_done_callback(lambda _: self._when_gone(self))

    def force_close(self) -> None:
        """Close now, once; asyncio loses hold of a TLS connection that is closed twice."""
        if self.transport is not None and self.transport.is_closing():
            self.transport = None
        super().force_close()
        self._part()

    async def start(self) -> None:
        """Answer requests until one of them is the connection's last."""
        try:
            await super().start()
        finally:
            self._part()

    def _part(self) -> None:
        """See to it that a client who is silent from now on keeps no closing connection (TLS)."""
        if self._wire is not None and not self._is_parting:
            self._is_parting = True
            self._loop.call_later(GOODBYE_SECONDS, self._drop_once_taken)

    def _drop_once_taken(self) -> None:
        if self._wire is not None and unacknowledged(self._wire) > 0:
            # Bytes of an answer are on their way; how long is the listener's TLS_END_SECONDS.
            self._loop.call_later(GOODBYE_SECONDS, self._drop_once_taken)
        else:
            self.drop()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """End the answer, and with it the connection if that is asked for meanwhile."""
        response, is_broken = await super().finish_response(request, resp, start_time)
        if self.is_finishing:
            response.force_close()
        return response, is_broken

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
            _log_malformed(exc, request.remote)
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
        """Whether a request is being answered, or the client has not taken all of an answer."""
        handlers = self._task_handler
        if handlers is not None and not handlers.done() and not self._force_close:
            return not self._is_idle
        return self._wire is not None and unacknowledged(self._wire) > 0

    def finish(self) -> None:
        """Close once the running request is answered, or now where none runs.

        Where the first request is still to come it is answered: its client has just chosen this
        connection for it. The time limit for the header bounds the wait.
        """
        self.is_finishing = True
        if self._request_count > 0:
            self.close_idle()
            # Again for the one that ends its answer in this very turn of the loop.
            self._loop.call_soon(self.close_idle)

    def close_idle(self) -> None:
        """Close now if no request is being answered."""
        if self._is_idle:
            self.force_close()

    def cut(self, reason: str) -> None:
        """End the connection now, whatever is on its way."""
        self.cut_reason = reason
        reset(self._wire)

    def drop(self) -> None:
        """Let go of the socket, with whatever is still to be sent."""
        if self._wire is not None:
            self._wire.abort()

    @property
    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _drop_if_silent(self) -> None:
        waits = self._request_count == 0 and self._current_request is None
        if waits and self.transport is not None:
            self.transport.abort()


async def announce_end(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the client if this answer is the connection's last; a hook for ``on_response_prepare``.

    Without the header it would send its next request into the closing connection.
    """
    if isinstance(request.protocol, Connection) and request.protocol.is_finishing:
        response.headers[hdrs.CONNECTION] = "close"
        response.force_close()


def _log_malformed(error: HttpProcessingError, client: str | None) -> None:
    if _TLS_HELLO in error.message:
        # docker tries TLS before plain HTTP where it may do both, each time.
        level = logging.DEBUG if client in ("127.0.0.1", "::1") else logging.INFO
        text = "a client began TLS, but this listener speaks plain HTTP: see listen.tls client=%s"
        logger.log(level, text, client)
    else:
        logger.info("malformed request client=%s error=%s", client, type(error).__name__)


def _explain(error: HttpProcessingError) -> str:
    if isinstance(error, LineTooLong):
        return (
            f"expected a request line of at most {REQUEST_LINE_BYTES} bytes and headers of at most "
            f"{HEADER_BYTES} bytes each"
        )
    return "the request is not valid HTTP/1.1"
