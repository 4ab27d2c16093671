"""Real registries and the proxy itself as subprocesses on free loopback ports."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
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
from proxy.app import embedded_registry

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
        return self.url.removeprefix("http://")


@dataclass(frozen=True, slots=True)
class Proxied:
    """The proxy and the registry behind it."""

    proxy: Server
    upstream: Server

    @property
    def host(self) -> str:
        """Where clients go: the proxy."""
        return self.proxy.host

    def written(self, repository: str) -> Counter[str]:
        """Methods of the writing requests for ``repository`` that came through the proxy.

        Fails the test if the registry saw a request for ``repository`` that the proxy did not
        forward: a client that left the proxy behind, say on an upload's Location (row K1).
        """
        wait_until(
            lambda: _in_registry(self.upstream, repository) == _in_proxy(self.proxy, repository),
            what=lambda: (
                "registry and proxy to have seen the same requests: "
                f"{_in_registry(self.upstream, repository)} {_in_proxy(self.proxy, repository)}"
            ),
        )
        forwarded = _in_proxy(self.proxy, repository)
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
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """``python -m proxy serve``, its access lines as JSON in the log."""
    upstream = [] if upstream_url is None else ["--upstream", upstream_url]
    argv = [sys.executable, "-m", "proxy", "serve", "--port", "0", "--log-format", "json"]
    log = folder / "proxy.log"
    with running([*argv, *upstream, *flags], log=log, ready=lambda: _answers(log), env=env):
        yield Server(_url(log), log)


def _url(log: Path) -> str:
    host = logged(log, r"(?:listening on|ready on) (?:http://)?(127\.0\.0\.1:\d+)")
    return f"http://{host}" if host else ""


def _answers(log: Path) -> bool:
    url = _url(log)
    if not url:
        return False
    try:
        return ask("GET", f"{url}/v2/").status in (200, 401)
    except OSError:
        return False
