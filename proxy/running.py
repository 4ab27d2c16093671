"""What runs: the proxy where it listens, its reloads, and a registry of our own beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path

from proxy.app import open_app
from proxy.embedded.layout import Layout
from proxy.embedded.registry import build_registry
from proxy.metrics import Metrics
from proxy.server.certificate import CertificateFiles
from proxy.server.connection import ListenerLimits
from proxy.server.listener import Listener, listen
from proxy.settings import Settings, SettingsError

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

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return self._listener.connections

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


class Reloads:
    """What a SIGHUP asks for: the settings, read as at the start, for the proxy that runs.

    ``read`` gives them; ``when_done`` is told those that have come into effect.
    """

    def __init__(
        self, read: Callable[[], Settings], *, when_done: Callable[[Settings], None]
    ) -> None:
        self._read = read
        self._when_done = when_done
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reload soon; asked for several times before it begins, it is done once."""
        self._asked.set()

    async def follow(self, proxy: RunningProxy, own_upstream: str | None = None) -> None:
        """Reload ``proxy`` whenever that is asked for, until cancelled.

        ``own_upstream`` is the address of the registry of this process: it stays the upstream.
        """
        while True:
            await self._asked.wait()
            self._asked.clear()
            settings = await proxy.reload(lambda: self._read_for(own_upstream))
            if settings is not None:
                self._when_done(settings)

    def _read_for(self, own_upstream: str | None) -> Settings:
        settings = self._read()
        if own_upstream is not None:
            return settings.with_upstream(own_upstream)
        if not settings.upstreams:
            raise SettingsError(["upstreams: none is set"])
        return settings


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
