"""Composition root: opens what the proxy needs, wires it, closes it in the reverse order.

The only place that names concrete parts; everyone else gets them in the constructor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from proxy.content.blobs import Blobs
from proxy.content.manifests import Manifests
from proxy.content.models import Models
from proxy.embedded.layout import Layout
from proxy.embedded.registry import build_registry
from proxy.facade.cnai_api import CnaiApi
from proxy.facade.middleware import RequestTracer
from proxy.facade.ops_api import OpsApi
from proxy.facade.passthrough import Passthrough
from proxy.facade.registry_api import RegistryApi
from proxy.facade.trace import request_id_of
from proxy.metrics import Metrics
from proxy.server import Listener, ListenerLimits, listen
from proxy.settings import Settings, UpstreamSettings
from proxy.upstream.auth import AuthorizedReader
from proxy.upstream.bodies import Timeouts
from proxy.upstream.client import TlsPolicy, Upstream, open_upstream


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Listener]:
    """The proxy, listening until the context ends; on exit it drains.

    Raises:
        CannotListen: the address of the settings cannot be used.
    """
    limits = ListenerLimits(
        header_seconds=settings.listen.header_seconds,
        keepalive_seconds=settings.listen.keepalive_seconds,
        drain_seconds=settings.listen.drain_seconds,
    )
    async with (
        open_app(settings) as app,
        listen(app, host=settings.listen.host, port=settings.listen.port, limits=limits) as found,
    ):
        yield found


@asynccontextmanager
async def embedded_registry(folder: Path) -> AsyncIterator[tuple[str, Layout]]:
    """A registry of our own over an OCI layout, on a free loopback port: its address and layout.

    The proxy talks HTTP to it as to any other upstream.

    Raises:
        MalformedArtifact: the folder holds other things than an OCI layout.
        OSError: the folder cannot be used, or another process serves it.
    """
    async with AsyncExitStack() as stack:
        layout = await Layout.open(folder)
        stack.push_async_callback(layout.aclose)
        listener = await stack.enter_async_context(
            listen(build_registry(layout), host="127.0.0.1", port=0, limits=ListenerLimits())
        )
        yield listener.url, layout


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[web.Application]:
    """The proxy as an application, its upstream connections open until the context ends."""
    metrics = Metrics()
    (upstream_settings,) = settings.upstreams
    async with _upstream(upstream_settings, metrics) as upstream:
        reader = AuthorizedReader(upstream, auth_hosts=upstream_settings.auth_hosts)
        app = web.Application(middlewares=[RequestTracer(metrics).handle])
        app.on_response_prepare.append(_sign)
        app.add_routes(OpsApi(metrics, expose_metrics=settings.metrics.enabled).routes())
        if settings.models.enabled:
            models = Models(Manifests(reader), Blobs(reader))
            write_seconds = settings.listen.write_seconds
            app.add_routes(CnaiApi(models, write_seconds=write_seconds).routes())
        passthrough = Passthrough(
            upstream,
            body_seconds=settings.listen.body_seconds,
            write_seconds=settings.listen.write_seconds,
        )
        app.add_routes(RegistryApi(passthrough).routes())
        yield app


def _upstream(
    settings: UpstreamSettings, metrics: Metrics
) -> AbstractAsyncContextManager[Upstream]:
    timeouts = settings.timeouts
    return open_upstream(
        name=settings.name,
        base_url=settings.url,
        follow_redirects=settings.redirects == "follow",
        redirect_hosts=settings.redirect_hosts,
        timeouts=Timeouts(
            connect_seconds=timeouts.connect_seconds,
            idle_seconds=timeouts.idle_seconds,
            response_seconds=timeouts.response_seconds,
            upload_response_seconds=timeouts.upload_response_seconds,
        ),
        tls=TlsPolicy(
            ca_file=str(settings.tls.ca_file) if settings.tls.ca_file else None,
            insecure=settings.tls.insecure,
        ),
        connections=settings.connections,
        metrics=metrics,
    )


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    # aiohttp would name its own version and Python's.
    response.headers["Server"] = "cnai-proxy"
    if (request_id := request_id_of(request)) is not None:
        response.headers["X-Request-Id"] = request_id
