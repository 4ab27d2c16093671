"""Around every request: its identity, its framing checks, its errors, one access line, metrics.

Cross-cutting only: nothing here knows a repository, a cache or a credential.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from proxy.errors import BadRequest, LoopDetected, MethodNotAllowed, NotFound, ProxyError
from proxy.facade.client import ClientStalled, reset
from proxy.facade.forwarding import Forwarding
from proxy.facade.responses import error_response
from proxy.facade.trace import Trace, open_trace
from proxy.metrics import Metrics
from proxy.upstream.headers import LOOP, VIA_NAME
from proxy.upstream.timing import measure_upstream

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("proxy.access")

# nginx's word for "the client left before the answer": no status of ours reached anybody.
CLIENT_LEFT = 499

_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]+")
_VERSIONS = ((1, 0), (1, 1))


class RequestTracer:
    """The one middleware of the root application."""

    def __init__(self, metrics: Metrics, forwarding: Forwarding) -> None:
        self._metrics = metrics
        self._forwarding = forwarding

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer ``request`` by ``handler``, whatever becomes of it."""
        trace = Trace(request_id=secrets.token_hex(8), started=time.monotonic())
        open_trace(request, trace)
        self._metrics.request_started()
        upstream_time = measure_upstream()
        status = CLIENT_LEFT
        try:
            response = await self._answer(request, handler, trace)
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                trace.sent_bytes = 0 if request.method == hdrs.METH_HEAD else len(response.body)
            status = response.status
            return response
        finally:
            self._end(request, trace, status, upstream_time.seconds)

    async def _answer(
        self, request: web.Request, handler: Handler, trace: Trace
    ) -> web.StreamResponse:
        try:
            _check_framing(request)
            response = await handler(request)
        except asyncio.CancelledError:
            trace.failure = getattr(request.protocol, "cut_reason", None) or "the client left"
            raise
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            refused = MethodNotAllowed.of(allowed, request.method)
            response = self._refuse(request, trace, refused)
        except web.HTTPNotFound:
            response = self._refuse(request, trace, NotFound("no such route"))
        except web.HTTPException:
            raise
        except ProxyError as error:
            response = self._refuse(request, trace, error)
        except ClientStalled as error:
            response = _cut(request, trace, CLIENT_LEFT, str(error))
        except ConnectionError:
            response = _cut(request, trace, CLIENT_LEFT, "the client left")
        except Exception as error:  # the last resort: answered and logged, not lost
            logger.exception("request failed id=%s", trace.request_id)
            response = self._refuse(
                request, trace, ProxyError(f"internal error, request {trace.request_id}")
            )
            trace.failure = type(error).__name__
        return response

    def _refuse(self, request: web.Request, trace: Trace, error: ProxyError) -> web.StreamResponse:
        if trace.started_answer:
            # Bytes are out: an error text would become part of the body. A cut connection is the
            # only honest end.
            return _cut(request, trace, error.status, error.message)
        trace.failure = error.message
        trace.origin = "proxy"  # whatever the upstream had begun to say
        response = error_response(error)
        if isinstance(error, BadRequest) or not request.content.is_eof():
            # Where framing was in doubt, or a body is still coming, nothing more is read.
            response.force_close()
        return response

    def _end(
        self, request: web.Request, trace: Trace, status: int, upstream_seconds: float | None
    ) -> None:
        seconds = time.monotonic() - trace.started
        self._metrics.request_ended(
            route=trace.route,
            status=status,
            origin=trace.origin,
            sent_bytes=trace.sent_bytes,
            received_bytes=trace.received_bytes,
        )
        level = logging.WARNING if status >= 500 else logging.INFO
        if not access_logger.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            "id": trace.request_id,
            "method": request.method,
            "route": trace.route,
            "repository": trace.repository,
            "reference": trace.reference,
            "path": trace.path,
            "status": status,
            "origin": trace.origin,
            "upstream": trace.upstream,
            "host": trace.host if trace.upstream is None else None,
            "sent": trace.sent_bytes,
            "received": trace.received_bytes,
            "seconds": round(seconds, 4),
            "upstream_seconds": None if upstream_seconds is None else round(upstream_seconds, 4),
            "client": self._forwarding.client(request) or None,
            "reason": trace.failure,
        }
        access_logger.log(
            level,
            "request",
            extra={"fields": {k: v for k, v in fields.items() if v is not None}},
        )


def _check_framing(request: web.Request) -> None:
    """What aiohttp's parser lets pass and a reverse proxy must not (row H2)."""
    if tuple(request.version) not in _VERSIONS:
        raise BadRequest("expected HTTP/1.0 or HTTP/1.1")
    if tuple(request.version) == (1, 0) and hdrs.TRANSFER_ENCODING in request.headers:
        raise BadRequest("expected no Transfer-Encoding in an HTTP/1.0 request")
    host = request.headers.get(hdrs.HOST, "localhost")
    if not _HOST.fullmatch(host):
        raise BadRequest("expected a host name and an optional port in the header 'host'")
    if VIA_NAME in ",".join(request.headers.getall(hdrs.VIA, ())):
        raise LoopDetected(LOOP)
    if not request.raw_path.startswith("/"):
        raise BadRequest("expected a request target in origin form, such as /v2/")


def _cut(request: web.Request, trace: Trace, status: int, reason: str) -> web.StreamResponse:
    trace.failure = reason
    reset(request.transport)
    response = web.Response(status=status)
    response.force_close()
    return response
