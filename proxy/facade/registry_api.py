"""``/v2/``: the distribution API. Reads the raw address once, refuses what is unsafe, forwards."""

from __future__ import annotations

from typing import assert_never

from aiohttp import web

from proxy.errors import MethodNotAllowed
from proxy.facade.client import expect
from proxy.facade.passthrough import Passthrough
from proxy.facade.trace import Trace, trace_of
from proxy.oci import endpoint
from proxy.oci.digest import Digest

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class RegistryApi:
    """The facade that registry clients talk to."""

    def __init__(self, passthrough: Passthrough) -> None:
        self._passthrough = passthrough

    def routes(self) -> list[web.RouteDef]:
        """One catch-all: the grammar is ``oci.endpoint``'s, on the raw path."""
        return [
            web.route("*", "/v2", self.handle, expect_handler=expect),
            # (?s): aiohttp matches the decoded path, and %0a is for our grammar to refuse.
            web.route("*", "/v2/{rest:(?s:.*)}", self.handle, expect_handler=expect),
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request at or below ``/v2``."""
        trace = trace_of(request)
        trace.route = "/v2/"
        if request.method not in _METHODS:
            raise MethodNotAllowed.of(", ".join(_METHODS), request.method)
        path, query = endpoint.split_target(request.raw_path)
        call = endpoint.parse(path)
        _describe(trace, call)
        return await self._passthrough.forward(request, f"{path}?{query}" if query else path, call)


def _describe(trace: Trace, call: endpoint.Endpoint) -> None:
    match call:
        case endpoint.Ping():
            trace.route = "/v2/"
        case endpoint.Catalog():
            trace.route = "/v2/_catalog"
        case endpoint.Manifest(repository, reference):
            trace.route = "/v2/<name>/manifests/<reference>"
            trace.repository, trace.reference = repository.text, _short(reference)
        case endpoint.Blob(repository, digest):
            trace.route = "/v2/<name>/blobs/<digest>"
            trace.repository, trace.reference = repository.text, _short(digest)
        case endpoint.Upload(repository, _):
            trace.route = "/v2/<name>/blobs/uploads/<session>"
            trace.repository = repository.text
        case endpoint.Tags(repository):
            trace.route = "/v2/<name>/tags/list"
            trace.repository = repository.text
        case endpoint.Referrers(repository, digest):
            trace.route = "/v2/<name>/referrers/<digest>"
            trace.repository, trace.reference = repository.text, _short(digest)
        case endpoint.Other():
            trace.route = "/v2/<other>"
        case _:
            assert_never(call)


def _short(reference: object) -> str:
    return reference.short if isinstance(reference, Digest) else str(reference)[:140]
