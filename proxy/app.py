"""Composition root: opens what the proxy needs, wires it, closes it in the reverse order.

The only place that names concrete parts; everyone else gets them in the constructor.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from pathlib import Path

from aiohttp import web

from proxy.content.blobs import Blobs
from proxy.content.manifests import Manifests
from proxy.content.models import Models
from proxy.content.sites import Entry, Site, Sites
from proxy.embedded.layout import Layout
from proxy.embedded.registry import build_registry
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
from proxy.server.certificate import CertificateFiles
from proxy.server.connection import ListenerLimits
from proxy.server.listener import Listener, listen
from proxy.settings import Settings, SettingsError, UpstreamSettings
from proxy.upstream.auth import AuthorizedClient, AuthorizedReader
from proxy.upstream.bodies import Timeouts
from proxy.upstream.client import Upstream, open_upstream
from proxy.upstream.egress import Egress
from proxy.upstream.identity import ANONYMOUS, Caller
from proxy.upstream.names import Names, Rules
from proxy.upstream.realms import RealmGuard
from proxy.upstream.sessions import TlsPolicy
from proxy.upstream.tokens import Tokens

logger = logging.getLogger(__name__)


class RunningProxy:
    """The proxy where it listens; its settings can be exchanged while it serves."""

    def __init__(self, listener: Listener, settings: Settings, metrics: Metrics) -> None:
        """``serving`` makes them."""
        self._listener = listener
        self._at_start = settings.listen
        self._metrics = metrics
        self._reloading = asyncio.Lock()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listener.port

    @property
    def url(self) -> str:
        """The address for people and clients."""
        return self._listener.url

    async def reload(self, read: Callable[[], Settings]) -> Settings | None:
        """Serve new connections by the settings that ``read`` gives; one reload at a time.

        Those that stand end with the request they are at. What cannot be read or used changes
        nothing: it is logged and counted, and the answer is None (row L3).
        """
        async with self._reloading:
            try:
                settings = await asyncio.to_thread(read)
                await self._listener.replace(
                    open_app(settings, self._metrics),
                    limits=_limits(settings),
                    certificate=_certificate(settings),
                )
            except (SettingsError, OSError) as error:
                _say_why_not(error)
            except Exception:  # the last resort: a running proxy goes on
                logger.exception("reload failed")
            else:
                self._say_what_waits_for_a_start(settings)
                self._metrics.reloaded("done")
                logger.info("settings reloaded")
                return settings
            self._metrics.reloaded("failed")
            logger.error("settings not reloaded: the ones before stay in effect")
            return None

    def _say_what_waits_for_a_start(self, settings: Settings) -> None:
        old, new = self._at_start, settings.listen
        waiting = {
            "listen.host": old.host != new.host,
            "listen.port": old.port != new.port,
            "listen.tls": (old.tls.cert_file is None) != (new.tls.cert_file is None),
        }
        for key in (key for key, differs in waiting.items() if differs):
            logger.warning("%s: the change waits for the next start; the others are in effect", key)


def _say_why_not(error: SettingsError | OSError) -> None:
    if isinstance(error, SettingsError):
        faults = error.faults
    else:  # a file that has changed since it was checked
        place = f"{error.filename}: " if error.filename else ""
        faults = [f"{place}{error.strerror or error}"]
    for fault in faults:
        logger.error("reload: %s", fault)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[RunningProxy]:
    """The proxy, listening until the context ends; on exit it drains.

    Raises:
        CannotListen: the address or the certificate of the settings cannot be used.
    """
    metrics = Metrics()
    async with listen(
        open_app(settings, metrics),
        host=settings.listen.host,
        port=settings.listen.port,
        limits=_limits(settings),
        certificate=_certificate(settings),
    ) as listener:
        yield RunningProxy(listener, settings, metrics)


def _limits(settings: Settings) -> ListenerLimits:
    return ListenerLimits(
        header_seconds=settings.listen.header_seconds,
        keepalive_seconds=settings.listen.keepalive_seconds,
        drain_seconds=settings.listen.drain_seconds,
    )


def _certificate(settings: Settings) -> CertificateFiles | None:
    tls = settings.listen.tls
    if tls.cert_file is None or tls.key_file is None:
        return None
    return CertificateFiles(str(tls.cert_file), str(tls.key_file))


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
            listen(
                nullcontext(build_registry(layout)),
                host="127.0.0.1",
                port=0,
                limits=ListenerLimits(),
            )
        )
        yield listener.url, layout


@asynccontextmanager
async def open_app(settings: Settings, metrics: Metrics) -> AsyncIterator[web.Application]:
    """The proxy as an application, its upstream connections open until the context ends."""
    async with AsyncExitStack() as stack:
        listen_settings = settings.listen
        forwarding = Forwarding(
            trusted_proxies=listen_settings.trusted_proxies, public_url=listen_settings.public_url
        )
        login = Login(settings.own_users()) if listen_settings.auth is not None else None
        entries = [
            await _entry(stack, upstream, settings, metrics) for upstream in settings.upstreams
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
    stack: AsyncExitStack, settings: UpstreamSettings, whole: Settings, metrics: Metrics
) -> Entry:
    """One upstream, opened, with its rows in the tables of ``Sites``."""
    upstream = await stack.enter_async_context(_upstream(settings, metrics))
    realms = RealmGuard(upstream.base_url, auth_hosts=settings.auth_hosts)
    client = AuthorizedClient(upstream, Tokens(upstream, realms))
    rules = Rules(allow=settings.allow, deny=settings.deny)
    own, asks_login, takes_writes = None, False, True
    match settings.credentials:
        case "caller":
            pass
        case "anonymous":
            own, asks_login = ANONYMOUS, whole.listen.auth is not None
        case account:
            own = Caller.account(account.username, account.password_text())
            asks_login, takes_writes = not account.anonymous, False

    def site(prefix: str) -> Site:
        names = Names(prefix, settings.effective_default_namespace)
        reader = AuthorizedReader(client, names=names, rules=rules, own=own)
        models = Models(Manifests(reader), Blobs(reader))
        return Site(upstream, names, rules, client, models, own, asks_login, takes_writes)

    return Entry(
        whole=site(""),
        prefixed=site(settings.prefix) if settings.prefix is not None else None,
        hosts=settings.hosts,
        namespaces=settings.known_namespaces,
        is_default=settings is whole.default_upstream,
    )


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
