"""Real registries and the proxy itself as subprocesses on free loopback ports."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.components.content import USER_AGENT, ask
from tests.components.programs import logged, require, running, wait_until
from tests.components.tokens import ISSUER, SERVICE, Credential, TokenService

CREDENTIAL = Credential("reader", "correct-horse")
WRONG = Credential("reader", "wrong-horse")
# bcrypt of CREDENTIAL, cost 4: made once, so that no tool is needed for it.
_HTPASSWD = "reader:$2y$04$1TrXpczBKB/oRQlEDpq72.eFaA6uS.nDlsiaDGaoE3fjvmTz0RMSm\n"

# "GET /v2/x/manifests/y HTTP/1.1" 404 91 "" "skopeo/1.9.3" in docker-registry's combined log.
_COMBINED = re.compile(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d{3}) \d+ "[^"]*" "([^"]*)"')

_EMBEDDED = """\
import asyncio, pathlib, sys
from proxy.running import embedded_registry

async def serve():
    async with embedded_registry(pathlib.Path(sys.argv[1])) as (url, _):
        print("listening on", url.removeprefix("http://"), flush=True)
        await asyncio.Event().wait()

asyncio.run(serve())
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running registry or proxy."""

    url: str
    log: Path

    @property
    def host(self) -> str:
        """Host and port, as clients write them before a repository."""
        return self.url.partition("://")[2]

    def host_at(self, address: str) -> str:
        """The same server under another of this machine's addresses, say ``127.0.0.2``."""
        return f"{address}:{self.url.rpartition(':')[2]}"


@dataclass(frozen=True, slots=True)
class Proxied:
    """The proxy and the registry behind it."""

    proxy: Server
    upstream: Server

    @property
    def host(self) -> str:
        """Where clients go: the proxy."""
        return self.proxy.host

    def written(self, repository: str, *, prefix: str = "") -> Counter[str]:
        """Methods of the writing requests for ``repository`` that came through the proxy.

        ``prefix`` stands before the name on the client's side. Fails the test if the registry saw
        a request for ``repository`` that the proxy did not forward: a client that left the proxy
        behind, say on an upload's Location (row K1).
        """
        name = f"{prefix}/{repository}" if prefix else repository
        wait_until(
            lambda: _in_registry(self.upstream, repository) == _in_proxy(self.proxy, name),
            what=lambda: (
                "registry and proxy to have seen the same requests: "
                f"{_in_registry(self.upstream, repository)} {_in_proxy(self.proxy, name)}"
            ),
        )
        forwarded = _in_proxy(self.proxy, name)
        return Counter(
            {m: n for (m, _), n in forwarded.items() if m in ("POST", "PATCH", "PUT", "DELETE")}
        )


def _in_registry(server: Server, repository: str) -> Counter[tuple[str, int]]:
    found = _COMBINED.findall(server.log.read_text(errors="replace"))
    return Counter(
        (method, int(status))
        for method, target, status, agent in found
        if target.startswith(f"/v2/{repository}/") and agent != USER_AGENT
    )


def _in_proxy(server: Server, repository: str) -> Counter[tuple[str, int]]:
    entries = [
        json.loads(line)
        for line in server.log.read_text(errors="replace").splitlines()
        if line.startswith("{")
    ]
    return Counter(
        (entry["method"], entry["status"])
        for entry in entries
        if entry["message"] == "request"
        and entry.get("repository") == repository
        and entry["origin"] == "upstream"
    )


# The address at which all upstreams of a gateway are told apart by prefix alone. All of 127/8 is
# loopback on Linux, and clients take any address of it for a host of its own.
_SHARED_ADDRESS = "127.0.0.9"


@dataclass(frozen=True, slots=True)
class Gateway:
    """One proxy before several registries, each to be reached in three ways under its name.

    By prefix as ``<host>/<name>/…``; by an address of its own, ``host_of(name)``; by containerd's
    ``ns=<name>.test``.
    """

    proxy: Server
    upstreams: Mapping[str, Server]

    @property
    def host(self) -> str:
        """Host and port that belong to no upstream."""
        return self.proxy.host_at(_SHARED_ADDRESS)

    def host_of(self, name: str) -> str:
        """Host and port that lead to one upstream alone."""
        return self.proxy.host_at(_own_address(list(self.upstreams).index(name)))

    def proxied(self, name: str) -> Proxied:
        """The proxy and the registry ``name`` behind it."""
        return Proxied(self.proxy, self.upstreams[name])


def _own_address(index: int) -> str:
    return f"127.0.0.{1 + index}"


@contextmanager
def gateway(
    folder: Path,
    upstreams: Mapping[str, Server],
    *,
    auth_hosts: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Gateway]:
    """Start one proxy before ``upstreams``; ``auth_hosts`` has those of an upstream by its name.

    The first upstream's own address is 127.0.0.1.
    """
    entries = [
        {
            "name": name,
            "url": server.url,
            "prefix": name,
            "hosts": [_own_address(index)],
            "namespaces": [f"{name}.test"],
            "auth_hosts": list((auth_hosts or {}).get(name, ())),
        }
        for index, (name, server) in enumerate(upstreams.items())
    ]
    settings = {"listen": {"host": "0.0.0.0"}, "upstreams": entries}
    with proxy(folder, settings=settings) as server:
        yield Gateway(server, upstreams)


@contextmanager
def docker_registry(
    folder: Path,
    *,
    program: str = "docker-registry",
    auth: Mapping[str, object] | None = None,
) -> Iterator[Server]:
    """Debian's docker-registry over ``folder``; ``program="registry"`` is distribution v3."""
    binary = require(program)
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "content")},
            "delete": {"enabled": True},
        },
        "http": {"addr": "127.0.0.1:0"},
    }
    if auth is not None:
        settings["auth"] = auth
    config, log = folder / "registry.yml", folder / "registry.log"
    config.write_text(yaml.safe_dump(settings))
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    with running([binary, "serve", config], log=log, ready=lambda: _answers(log), env=environment):
        yield Server(_url(log), log)


def htpasswd_auth(folder: Path) -> dict[str, object]:
    """Basic login for ``CREDENTIAL`` by a file in ``folder``."""
    file = folder / "htpasswd"
    file.write_text(_HTPASSWD)
    return {"htpasswd": {"realm": "tests", "path": str(file)}}


def token_auth(service: TokenService) -> dict[str, object]:
    """Bearer tokens of ``service``."""
    return {
        "token": {
            "realm": service.realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(service.certificate),
        }
    }


@contextmanager
def embedded_registry(folder: Path) -> Iterator[Server]:
    """The embedded registry alone, without the proxy before it."""
    log = folder / "embedded.log"
    argv = [sys.executable, "-c", _EMBEDDED, str(folder / "layout")]
    with running(argv, log=log, ready=lambda: _answers(log)):
        yield Server(_url(log), log)


@contextmanager
def proxy(
    folder: Path,
    *flags: str,
    upstream_url: str | None = None,
    settings: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """``python -m proxy serve``, its access lines as JSON in the log.

    ``settings`` is written to a file in ``folder`` as YAML. A proxy that listens on ``0.0.0.0``
    has the address 127.0.0.1 here, and all others of loopback by ``Server.host_at``.
    """
    upstream = [] if upstream_url is None else ["--upstream", upstream_url]
    argv = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--log-format", "json"]
    if settings is not None:
        config = folder / "settings.yaml"
        config.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
        argv += ["--config", str(config)]
    log = folder / "proxy.log"
    # The ready line is a promise that connections are answered: nothing is asked to make sure.
    with running([*argv, *upstream, *flags], log=log, ready=lambda: bool(_url(log)), env=env):
        yield Server(_url(log), log)


def _url(log: Path) -> str:
    found = logged(log, r"(?:listening on|ready on) ((?:https?://)?[0-9.]+:\d+)\D")
    if found is None:
        return ""
    address = found.replace("0.0.0.0", "127.0.0.1", 1)
    return address if "://" in address else f"http://{address}"


def _answers(log: Path) -> bool:
    url = _url(log)
    if not url:
        return False
    try:
        return ask("GET", f"{url}/v2/").status in (200, 401)
    except OSError:
        return False
