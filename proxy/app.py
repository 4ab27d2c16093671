"""Composition root: opens what one application needs, wires it, closes it in the reverse order.

The only place that names concrete parts; everyone else gets them in the constructor.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from proxy.content.blobs import Blobs
from proxy.content.indexes import Indexes
from proxy.content.layers import Layers, Readers, new_readers
from proxy.content.manifests import Manifests
from proxy.content.models import Models
from proxy.content.reader import AuthorizedReader
from proxy.content.sites import Entry, Site, Sites
from proxy.facade.cnai_api import CnaiApi
from proxy.facade.forwarding import Forwarding
from proxy.facade.login import Login
from proxy.facade.login_api import LoginApi
from proxy.facade.middleware import RequestTracer
from proxy.facade.ops_api import OpsApi
from proxy.facade.passthrough import Passthrough
from proxy.facade.registry_api import RegistryApi
from proxy.facade.selection import Selection
from proxy.facade.token_api import TokenApi
from proxy.facade.trace import request_id_of
from proxy.metrics import Metrics
from proxy.settings import Settings, UpstreamSettings
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.bodies import Timeouts
from proxy.upstream.client import Upstream, open_upstream
from proxy.upstream.egress import Egress
from proxy.upstream.identity import ANONYMOUS, Caller
from proxy.upstream.names import Names, Rules
from proxy.upstream.realms import RealmGuard
from proxy.upstream.sessions import TlsPolicy
from proxy.upstream.tokens import Tokens


@asynccontextmanager
async def open_app(settings: Settings, metrics: Metrics) -> AsyncIterator[web.Application]:
    """The proxy as an application, its upstream connections open until the context ends."""
    async with AsyncExitStack() as stack:
        listen_settings = settings.listen
        forwarding = Forwarding(
            trusted_proxies=listen_settings.trusted_proxies, public_url=listen_settings.public_url
        )
        login = Login(settings.own_users()) if listen_settings.auth is not None else None
        indexes = Indexes(limit_bytes=settings.models.index_bytes)
        readers = new_readers()
        entries = [
            await _entry(stack, upstream, settings, metrics, indexes, readers)
            for upstream in settings.upstreams
        ]
        # Before one registry, and with no word about it, ns is what it is to a registry: nothing.
        named = len(entries) > 1 or any(upstream.namespaces for upstream in settings.upstreams)
        selection = Selection(
            Sites(entries, reads_namespace=named), forwarding=forwarding, login=login
        )
        app = web.Application(middlewares=[RequestTracer(metrics, forwarding=forwarding).handle])
        app.on_response_prepare.append(_sign)
        app.add_routes(OpsApi(metrics, expose_metrics=settings.metrics.enabled).routes())
        write_seconds = listen_settings.write_seconds
        if settings.models.enabled:
            is_for_all = all(entry.whole.asks_login for entry in entries)
            app.add_routes(LoginApi(login if is_for_all else None).routes())
            app.add_routes(CnaiApi(selection, write_seconds=write_seconds).routes())
        if listen_settings.registry_api:
            body_seconds = listen_settings.body_seconds
            tokens = TokenApi(selection, forwarding=forwarding, body_seconds=body_seconds)
            app.add_routes(tokens.routes())
            registry = RegistryApi(
                Passthrough(body_seconds=body_seconds, write_seconds=write_seconds),
                selection,
                forwarding=forwarding,
                readonly=listen_settings.readonly,
            )
            app.add_routes(registry.routes())
        yield app


async def _entry(
    stack: AsyncExitStack,
    settings: UpstreamSettings,
    whole: Settings,
    metrics: Metrics,
    indexes: Indexes,
    readers: Readers,
) -> Entry:
    """One upstream, opened, with its rows in the tables of ``Sites``."""
    upstream = await stack.enter_async_context(_upstream(settings, metrics))
    realms = RealmGuard(upstream.base_url, auth_hosts=settings.auth_hosts)
    client = AuthorizedClient(upstream, Tokens(upstream, realms))
    stack.callback(client.close)
    rules = Rules(allow=settings.allow, deny=settings.deny)
    identity = _identity(settings)

    def site(prefix: str) -> Site:
        names = Names(prefix, settings.effective_default_namespace)
        reader = AuthorizedReader(client, names=names, rules=rules, identity=identity)
        blobs = Blobs(reader)
        layers = Layers(blobs, indexes, scan_bytes=whole.models.scan_bytes, readers=readers)
        families = whole.models.known_families()
        models = Models(Manifests(reader), blobs, layers, families=families)
        return Site(
            upstream=upstream,
            names=names,
            rules=rules,
            client=client,
            models=models,
            identity=identity,
            asks_login=settings.asks_login and whole.listen.auth is not None,
            takes_writes=settings.account is None,
        )

    return Entry(
        whole=site(""),
        prefixed=site(settings.prefix) if settings.prefix is not None else None,
        hosts=settings.hosts,
        namespaces=settings.known_namespaces,
        is_default=settings is whole.default_upstream,
    )


def _identity(settings: UpstreamSettings) -> Caller | None:
    """Who the upstream is asked as, None for the caller."""
    if settings.account is not None:
        return Caller.account(settings.account.username, settings.account.password_text())
    return ANONYMOUS if settings.credentials == "anonymous" else None


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
            ca_file=_path(settings.tls.ca_file),
            insecure=settings.tls.insecure,
            client_cert_file=_path(settings.tls.client_cert_file),
            client_key_file=_path(settings.tls.client_key_file),
        ),
        egress=Egress(settings.proxy, os.environ),
        connections=settings.connections,
        metrics=metrics,
    )


def _path(file: Path | None) -> str | None:
    return str(file) if file is not None else None


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    # aiohttp would name its own version and Python's.
    response.headers["Server"] = "cnai-proxy"
    if (request_id := request_id_of(request)) is not None:
        response.headers["X-Request-Id"] = request_id
