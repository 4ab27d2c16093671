"""The files of ``deploy/`` as the tests run them, with addresses of this machine in them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.certificates import Authority, Issued
from tests.components import registries
from tests.components.content import USER_AGENT, Answer
from tests.components.programs import require, running
from tests.components.registries import Server

FOLDER = Path(__file__).parents[2] / "deploy"
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Tls:
    """What servers of a recipe show, and the authority that clients trust."""

    authority: Authority
    server: Issued

    @property
    def ca_file(self) -> Path:
        """For clients that take a file."""
        return self.authority.ca_file

    @property
    def cert_dir(self) -> str:
        """For clients that take a folder with a ``ca.crt``, as skopeo and podman."""
        folder = self.authority.folder / "trusted"
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self.ca_file.read_bytes())
        return str(folder)

    def changes(self, folder: str) -> dict[str, str]:
        """The paths of certificate and key below ``folder``, and what they are here."""
        return {
            f"{folder}/tls.crt": str(self.server.cert_file),
            f"{folder}/tls.key": str(self.server.key_file),
        }


def read(name: str, changes: Mapping[str, str]) -> str:
    """``deploy/<name>`` with each key of ``changes`` replaced, which has to stand there."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    for theirs, ours in changes.items():
        assert theirs in text, f"deploy/{name}: expected {theirs!r}"
        text = text.replace(theirs, ours)
    return text


@contextmanager
def proxy(
    folder: Path, name: str, changes: Mapping[str, str], *, port: int | None = None
) -> Iterator[Server]:
    """The proxy by the settings of ``deploy/<name>``, on loopback and ``port`` or a free one."""
    settings = yaml.safe_load(read(name, changes))
    flags = ["--host", "127.0.0.1", "--port", str(port or free_port())]
    with registries.proxy(folder, *flags, settings=settings) as server:
        yield server


@contextmanager
def nginx(folder: Path, changes: Mapping[str, str], *, port: int) -> Iterator[Path]:
    """nginx with ``deploy/nginx.conf`` in its ``conf.d``; yields its access log."""
    binary = require("nginx")
    included = folder / "conf.d"
    included.mkdir()
    (included / "registry.conf").write_text(read("nginx.conf", changes))
    config, access = folder / "nginx.conf", folder / "access.log"
    config.write_text(_NGINX.format(folder=folder))
    argv: list[str | Path] = [binary, "-c", config, "-p", folder, "-e", folder / "error.log"]
    with running(argv, log=folder / "nginx.log", ready=lambda: _accepts(port)):
        yield access


# What a system's own nginx.conf has around conf.d, in a folder of the test's own. The workers
# keep the tests' user: their folders are closed to others.
_NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/conf.d/*.conf;
}}
"""


def free_port() -> int:
    """A port that is free now: for what has to be known before its server starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ask(
    method: str,
    url: str,
    *,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    source: str = "127.0.0.1",
) -> Answer:
    """One request from the address ``source``, the target exactly as it stands in ``url``."""
    scheme, _, rest = url.partition("://")
    host, _, target = rest.partition("/")
    connection: http.client.HTTPConnection
    if scheme == "https":
        assert tls is not None
        context = ssl.create_default_context(cafile=tls.ca_file)
        connection = http.client.HTTPSConnection(
            host, timeout=_SECONDS, source_address=(source, 0), context=context
        )
    else:
        connection = http.client.HTTPConnection(host, timeout=_SECONDS, source_address=(source, 0))
    try:
        given = {"User-Agent": USER_AGENT, **(headers or {})}
        connection.request(method, f"/{target}", headers=given)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def access_lines(server: Server) -> list[dict[str, object]]:
    """What the proxy has logged of its requests so far."""
    entries = [
        json.loads(line)
        for line in server.log.read_text(errors="replace").splitlines()
        if line.startswith("{")
    ]
    return [entry for entry in entries if entry["message"] == "request"]
