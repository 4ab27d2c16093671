"""What one request leaves behind for its access line and its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from aiohttp import web

from proxy.oci import endpoint
from proxy.oci.digest import Digest


@dataclass(slots=True)
class Trace:
    """Filled in by whoever knows it while the request is answered; read once at its end."""

    request_id: str
    started: float
    # Route template: the only part of the address that becomes a metric label.
    route: str = "other"
    # Where the bytes came from: "upstream", or "proxy" for its own words.
    origin: str = "proxy"
    # Which upstream was chosen: for the log alone; metrics of upstreams have labels of their own.
    upstream: str | None = None
    # The host that was asked: for the log of a request that found no upstream.
    host: str | None = None
    repository: str | None = None
    reference: str | None = None
    # The file asked for inside a model: for the log alone.
    path: str | None = None
    # The status line is out or on its way: it is too late for an error body.
    started_answer: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0
    # Why it went wrong, in words for the operator.
    failure: str | None = None

    def describe(self, call: endpoint.Endpoint) -> None:
        """Note what is asked for below ``/v2/``."""
        match call:
            case endpoint.Ping():
                self.route = "/v2/"
            case endpoint.Catalog():
                self.route = "/v2/_catalog"
            case endpoint.Manifest(repository, reference):
                self.route = "/v2/<name>/manifests/<reference>"
                self.repository, self.reference = repository.text, _short(reference)
            case endpoint.Blob(repository, digest):
                self.route = "/v2/<name>/blobs/<digest>"
                self.repository, self.reference = repository.text, _short(digest)
            case endpoint.Upload(repository, _):
                self.route = "/v2/<name>/blobs/uploads/<session>"
                self.repository = repository.text
            case endpoint.Tags(repository):
                self.route = "/v2/<name>/tags/list"
                self.repository = repository.text
            case endpoint.Referrers(repository, digest):
                self.route = "/v2/<name>/referrers/<digest>"
                self.repository, self.reference = repository.text, _short(digest)
            case endpoint.Other():
                self.route = "/v2/<other>"
            case _:
                assert_never(call)


_KEY: web.RequestKey[Trace] = web.RequestKey("trace", Trace)


def open_trace(request: web.Request, trace: Trace) -> None:
    """Attach ``trace`` to its request."""
    request[_KEY] = trace


def trace_of(request: web.Request) -> Trace:
    """The trace of a request that came through ``middleware.RequestTracer``."""
    return request[_KEY]


def request_id_of(request: web.Request) -> str | None:
    """The request's id; None where aiohttp answered before any handler could."""
    trace = request.get(_KEY)
    return trace.request_id if trace is not None else None


def _short(reference: object) -> str:
    return reference.short if isinstance(reference, Digest) else str(reference)[:140]
