"""What is measured and what it stands beside, each a process on a free loopback port.

Every peer ends with its context, by its own process id. One that is not installed raises
``PeerAbsent`` and becomes a row that says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from bench.load import Connection, LoadError

DIRECT = "direct"
NGINX = "nginx"
NGINX_TUNED = "nginx 256k"
STATIC = "static nginx"
PRODUCT = "cnai-proxy"
ONE_UPSTREAM = "cnai-proxy, one upstream"

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.005
_ROOT = Path(__file__).resolve().parent.parent
_QUIET = {"CNAI_PROXY_LOG__LEVEL": "error"}
_OWN: Mapping[str, str] = MappingProxyType({})

_REGISTRY_SETTINGS = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {content}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:0"}}
"""

# What an operator would set for a registry; the buffer size is the only difference of the two.
_NGINX_SETTINGS = """\
daemon off;
worker_processes 1;
error_log {folder}/nginx-error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  upstream registry {{ server {upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://registry;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_buffering off;
      proxy_request_buffering off;
      {tuning}
    }}
  }}
}}
"""

# Blobs as docker-registry keeps them, manifests as files of their tags.
_STATIC_SETTINGS = """\
daemon off;
worker_processes 1;
{user}
error_log {folder}/nginx-error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  server {{
    listen 127.0.0.1:{port};
    location = /v2/ {{ return 200; }}
    location ~ "^/v2/.+/blobs/sha256:(..)([0-9a-f]{{62}})$" {{
      types {{}}
      default_type application/octet-stream;
      alias {blobs}/$1/$1$2/data;
    }}
    location ~ "^/v2/(.+)/manifests/(.+)$" {{
      types {{}}
      default_type {manifest_type};
      alias {manifests}/$1/$2;
    }}
  }}
}}
"""
_TUNING = "proxy_buffer_size 256k; proxy_buffers 8 256k; proxy_busy_buffers_size 256k;"


class PeerAbsent(Exception):
    """The peer's program is not on this machine."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that answers registry calls; without a ``pid`` it is the upstream itself."""

    name: str
    url: str
    pid: int | None = None
    started_seconds: float = 0.0
    """From the start of the process to its first answer."""


@contextmanager
def registry(folder: Path) -> Iterator[Peer]:
    """docker-registry with its content below ``folder``: the upstream of all peers."""
    executable = program("docker-registry")
    settings = folder / "registry.yml"
    settings.write_text(_REGISTRY_SETTINGS.format(content=folder / "content"))
    log = folder / "registry.log"
    with _running(
        [executable, "serve", str(settings)],
        log=log,
        url=lambda: _logged(log, r"listening on (127\.0\.0\.1:\d+)"),
    ) as (pid, url, seconds):
        yield Peer("docker-registry", url, pid, seconds)


@contextmanager
def direct(upstream: str, folder: Path) -> Iterator[Peer]:
    """No proxy at all."""
    del folder
    yield Peer(DIRECT, upstream)


@contextmanager
def nginx(upstream: str, folder: Path) -> Iterator[Peer]:
    """An nginx that buffers nothing, with the buffer sizes it comes with."""
    with _nginx(NGINX, upstream, folder / "nginx", "") as peer:
        yield peer


@contextmanager
def nginx_tuned(upstream: str, folder: Path) -> Iterator[Peer]:
    """The same with a larger buffer."""
    with _nginx(NGINX_TUNED, upstream, folder / "nginx-tuned", _TUNING) as peer:
        yield peer


@contextmanager
def product(upstream: str, folder: Path) -> Iterator[Peer]:
    """The proxy of this working copy, its access log off as the others'."""
    log = folder / "proxy.log"
    argv = [sys.executable, "-m", "proxy", "serve", "--upstream", upstream, "--port", "0"]
    with _running(
        argv, log=log, url=lambda: _logged(log, r"ready on http://(\S+)"), env=_QUIET
    ) as (pid, url, seconds):
        yield Peer(PRODUCT, url, pid, seconds)


# One of twenty ways to choose.
ROUTED_PREFIX = "site0"


@contextmanager
def routed(upstream: str, folder: Path) -> Iterator[Peer]:
    """The proxy before twenty upstreams, which are one registry all."""
    upstreams = [
        {
            "name": f"site{number}",
            "url": upstream,
            "prefix": f"site{number}",
            "hosts": [f"site{number}.example"],
            "namespaces": [f"registry{number}.example"],
        }
        for number in range(20)
    ]
    folder.mkdir()
    settings = folder / "settings.yaml"
    # JSON is YAML.
    settings.write_text(json.dumps({"listen": {"port": 0}, "upstreams": upstreams}))
    log = folder / "proxy.log"
    argv = [sys.executable, "-m", "proxy", "serve", "--config", str(settings)]
    with _running(
        argv, log=log, url=lambda: _logged(log, r"ready on http://(\S+)"), env=_QUIET
    ) as (pid, url, seconds):
        yield Peer(PRODUCT, url, pid, seconds)


@contextmanager
def static(blobs: Path, manifests: Path, manifest_type: str, folder: Path) -> Iterator[Peer]:
    """An nginx that serves files as if it were a registry: as fast as an upstream can be.

    ``blobs`` is laid out as docker-registry does it (``ab/abcd…/data``), ``manifests`` holds one
    file for each repository and tag; all of them are of ``manifest_type``.
    """
    executable = program("nginx")
    folder.mkdir()
    port = _free_port()
    settings = folder / "nginx.conf"
    settings.write_text(
        _STATIC_SETTINGS.format(
            folder=folder,
            blobs=blobs,
            manifests=manifests,
            manifest_type=manifest_type,
            port=port,
            # Started by root, its worker would else be somebody who may not read the folder.
            user="user root;" if os.geteuid() == 0 else "",
        )
    )
    with _running(
        [executable, "-p", str(folder), "-c", str(settings)],
        log=folder / "nginx.log",
        url=lambda: f"127.0.0.1:{port}",
    ) as (pid, url, seconds):
        yield Peer(STATIC, url, pid, seconds)


@contextmanager
def _nginx(name: str, upstream: str, folder: Path, tuning: str) -> Iterator[Peer]:
    executable = program("nginx")
    folder.mkdir()
    port = _free_port()
    settings = folder / "nginx.conf"
    settings.write_text(
        _NGINX_SETTINGS.format(
            folder=folder, upstream=urlsplit(upstream).netloc, port=port, tuning=tuning
        )
    )
    with _running(
        [executable, "-p", str(folder), "-c", str(settings)],
        log=folder / "nginx.log",
        url=lambda: f"127.0.0.1:{port}",
    ) as (pid, url, seconds):
        yield Peer(name, url, pid, seconds)


@contextmanager
def _running(
    argv: list[str], *, log: Path, url: Callable[[], str | None], env: Mapping[str, str] = _OWN
) -> Iterator[tuple[int, str, float]]:
    """A server's process id, address and seconds to its first answer; stopped at the end."""
    started = time.perf_counter()
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            argv,
            cwd=_ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            address = _answering(process, url, started + START_SECONDS, log)
            yield process.pid, address, time.perf_counter() - started
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answering(
    process: subprocess.Popen[bytes], url: Callable[[], str | None], deadline: float, log: Path
) -> str:
    while process.poll() is None and time.perf_counter() < deadline:
        if (found := url()) is not None:
            with suppress(OSError, LoadError):
                connection = Connection(f"http://{found}")
                try:
                    connection.ask("GET", "/v2/")
                finally:
                    connection.close()
                return f"http://{found}"
        time.sleep(_POLL_SECONDS)
    raise LoadError(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")


def _logged(log: Path, pattern: str) -> str | None:
    found = re.search(pattern, log.read_text(errors="replace"))
    return found[1] if found else None


def program(name: str) -> str:
    """Where a program is.

    Raises:
        PeerAbsent: nowhere.
    """
    # Daemons live in sbin, which is not on every user's PATH.
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise PeerAbsent(f"{name} is not installed")
    return found


def version(name: str) -> str:
    """What a program says of its version, or that it is absent."""
    try:
        executable = program(name)
    except PeerAbsent:
        return "absent"
    flag = "-v" if name == "nginx" else "--version"
    done = subprocess.run(
        [executable, flag], capture_output=True, text=True, timeout=10, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


STARTERS: Mapping[str, Callable[[str, Path], AbstractContextManager[Peer]]] = MappingProxyType(
    {DIRECT: direct, NGINX: nginx, NGINX_TUNED: nginx_tuned, PRODUCT: product}
)


@dataclass(slots=True)
class Traffic:
    """What has crossed a go-between; both figures only grow."""

    requests: int = 0
    received_bytes: int = 0
    """Bytes that came from the upstream, headers included."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def counting(upstream: str) -> Iterator[tuple[str, Traffic]]:
    """A go-between before ``upstream``: its address, and what has crossed it.

    It relays bytes and knows of HTTP only what a request line looks like, so it counts requests
    without bodies.
    """
    traffic = Traffic()
    parts = urlsplit(upstream)
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listening.accept()
                    far = socket.create_connection((parts.hostname, parts.port or 80))
                    opened.extend((near, far))
                    for source, target, is_asking in ((near, far, True), (far, near, False)):
                        threading.Thread(
                            target=_relay, args=(source, target, traffic, is_asking), daemon=True
                        ).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", traffic
        finally:
            # Wakes the thread that waits in accept.
            listening.shutdown(socket.SHUT_RDWR)
            for connection in opened:
                connection.close()


def _relay(source: socket.socket, target: socket.socket, traffic: Traffic, is_asking: bool) -> None:
    with suppress(OSError):
        while piece := source.recv(256 * 1024):
            with traffic.lock:
                if is_asking:
                    traffic.requests += piece.count(b" HTTP/1.1\r\n")
                else:
                    traffic.received_bytes += len(piece)
            target.sendall(piece)
    for connection in (source, target):
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
