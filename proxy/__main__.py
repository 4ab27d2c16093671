"""The command line: arguments and environment become settings, settings become a running proxy.

The only place that exits. Exit codes: 0 stopped and drained, 1 the start failed (address, folder)
or a second signal came, 2 the settings or the command line are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path

from aiohttp import http_parser

from proxy import __version__, logs
from proxy.demo import run_demo
from proxy.errors import MalformedArtifact
from proxy.running import Reloads, embedded_registry, serving
from proxy.server.listener import CannotListen
from proxy.settings import Settings, SettingsError, UpstreamSettings, load
from proxy.settings.rules import is_loopback, warnings

logger = logging.getLogger("proxy")

_NO_UPSTREAM = """\
cnai-proxy: no registry to stand before. Three ways to go on:
  cnai-proxy serve --upstream https://registry.example   an existing registry
  cnai-proxy serve --config FILE                         settings that name an upstream
  cnai-proxy serve --embedded DIR                        a registry of our own over the folder DIR
To look around first: cnai-proxy demo"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if sys.stdout is None:  # started with a closed one: no socket may get its number either
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for good
    arguments = _parser().parse_args(argv)
    try:
        settings = _read(arguments)
    except SettingsError as error:
        for fault in error.faults:
            _complain(fault)
        return 2
    if arguments.command == "check":
        if not settings.upstreams:
            _complain("upstreams: none is set; serve will want --upstream or --embedded")
        for path, text in warnings(settings):
            _complain(f"warning: {path}: {text}")
        return _say(settings.to_yaml())
    _configure_logs(settings)
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        logger.warning("aiohttp's C parser is missing; the Python one has known smuggling flaws")
    reloads = Reloads(lambda: _read(arguments), when_done=_take_over)
    try:
        if arguments.command == "demo":
            return asyncio.run(_until_stopped(run_demo(settings, reloads.follow), reloads))
        if not settings.upstreams and arguments.embedded is None:
            _complain(_NO_UPSTREAM)
            return 2
        return asyncio.run(_until_stopped(_serve(settings, arguments.embedded, reloads), reloads))
    except MalformedArtifact as error:
        _complain(f"cnai-proxy: --embedded: {error.message}")
        return 2
    except CannotListen as error:
        _complain(f"cnai-proxy: cannot start: {error}")
        return 1
    except BlockingIOError:
        _complain(f"cnai-proxy: --embedded: another process serves {arguments.embedded}")
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _complain(f"cnai-proxy: cannot start: {place}{error.strerror or error}")
        return 1


async def _serve(settings: Settings, embedded: Path | None, reloads: Reloads) -> None:
    if embedded is None:
        await _run(settings, reloads)
        return
    async with embedded_registry(embedded) as (url, layout):
        logger.info("embedded registry repositories=%s", ",".join(layout.repositories()) or "none")
        if not is_loopback(settings.listen.host):
            logger.warning(
                "--embedded has no access control: whoever reaches %s may push and delete",
                settings.listen.host,
            )
        await _run(settings.with_upstream(url), reloads, own_upstream=url)


async def _run(settings: Settings, reloads: Reloads, *, own_upstream: str | None = None) -> None:
    async with serving(settings) as proxy:
        _announce(settings)
        _say(f"cnai-proxy ready on {proxy.url}\n")
        await reloads.follow(proxy, own_upstream)


def _take_over(settings: Settings) -> None:
    """What a reload changes outside the proxy that runs."""
    _configure_logs(settings)
    _announce(settings)


def _configure_logs(settings: Settings) -> None:
    logs.configure(style=settings.log.format, level=settings.log.level)


def _announce(settings: Settings) -> None:
    """Say whom the proxy serves and what in that is dangerous, at the start and at each reload."""
    for path, text in warnings(settings):
        logger.warning("%s: %s", path, text)
    for upstream in settings.upstreams:
        logger.info(
            "upstream name=%s url=%s chosen_by=%s credentials=%s",
            upstream.name,
            upstream.url,
            ",".join(_choices(settings, upstream)),
            upstream.credentials if isinstance(upstream.credentials, str) else "account",
        )


def _choices(settings: Settings, upstream: UpstreamSettings) -> Iterator[str]:
    """By what in a request this upstream is chosen."""
    if upstream.prefix is not None:
        yield f"prefix:{upstream.prefix}"
    yield from (f"host:{host}" for host in upstream.hosts)
    yield from (f"ns:{namespace}" for namespace in upstream.namespaces)
    if upstream is settings.default_upstream:
        yield "default"


async def _until_stopped(work: Coroutine[None, None, None], reloads: Reloads) -> int:
    """Run ``work`` until SIGTERM or SIGINT, let it drain; a second signal exits at once.

    SIGHUP asks for a reload.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            os._exit(1)
        stopping = True
        if task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    try:
        await work
    except asyncio.CancelledError:
        if not stopping:
            raise
    return 0


def _read(arguments: argparse.Namespace) -> Settings:
    file = getattr(arguments, "config", None)
    return load(file=file, environment=os.environ, flags=_flags(arguments))


def _flags(arguments: argparse.Namespace) -> dict[str, object]:
    flags: dict[str, object] = {}
    if getattr(arguments, "upstream", None) is not None:
        flags["upstreams"] = [{"url": arguments.upstream}]
    if getattr(arguments, "host", None) is not None:
        flags["listen.host"] = arguments.host
    if getattr(arguments, "port", None) is not None:
        flags["listen.port"] = arguments.port
    if getattr(arguments, "log_format", None) is not None:
        flags["log.format"] = arguments.log_format
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnai-proxy",
        description="A reverse proxy for OCI registries that understands AI models.",
        epilog="Every setting is explained in config.example.yaml.",
    )
    parser.add_argument("--version", action="version", version=f"cnai-proxy {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the proxy before a registry")
    _add_config(serve)
    upstream = serve.add_mutually_exclusive_group()
    upstream.add_argument("--upstream", metavar="URL", help="the registry to stand before")
    upstream.add_argument(
        "--embedded", metavar="DIR", type=Path, help="serve an OCI layout folder as the registry"
    )
    serve.add_argument("--host", metavar="H", help="address to listen on (default 127.0.0.1)")
    _add_port(serve)
    serve.add_argument("--log-format", choices=("text", "json"), help="form of the log lines")
    demo = commands.add_parser("demo", help="run the proxy before a registry of sample models")
    _add_port(demo)
    check = commands.add_parser("check", help="validate settings and print the effective ones")
    _add_config(check)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file")


def _add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", metavar="N", help="port to listen on (default 8080; 0: any)")


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _say(text: str) -> int:
    """Write to standard output, which may be full: 1 then, else 0."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _complain(f"cnai-proxy: cannot write to standard output: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
