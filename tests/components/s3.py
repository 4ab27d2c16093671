"""An S3 server, and docker-registry that keeps its blobs there and redirects to it.

moto is large, so it stands in an environment of its own in the cache folder:
``python -m tests.components.s3`` makes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.components.content import ask
from tests.components.programs import cache_folder, logged, require, running, unavailable
from tests.components.registries import Server

_MOTO = "moto[server,s3]==5.2.5"
_INSTALL_SECONDS = 600
_BUCKET = "blobs"
_LISTENING = r"listening on (127\.0\.0\.1:\d+)"

# moto's application on a free port. Of each request it writes what the tests want to know, and of
# an Authorization only the scheme.
_SERVE = """\
import json, logging, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").disabled = True
application = DomainDispatcherApplication(create_backend_app)

def noted(environ, start_response):
    def start(status, headers, exc_info=None):
        line = {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"],
            "presigned": "X-Amz-Signature=" in environ.get("QUERY_STRING", ""),
            "authorization": environ.get("HTTP_AUTHORIZATION", "").partition(" ")[0],
            "cookie": environ.get("HTTP_COOKIE", ""),
            "range": environ.get("HTTP_RANGE", ""),
            "agent": environ.get("HTTP_USER_AGENT", ""),
            "status": int(status.partition(" ")[0]),
        }
        print("request", json.dumps(line), flush=True)
        return start_response(status, headers, exc_info)
    return application(environ, start)

server = make_server("127.0.0.1", 0, noted, threaded=True)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True, slots=True)
class S3Request:
    """A request that the S3 server has answered; ``authorization`` is its scheme alone."""

    method: str
    path: str
    presigned: bool
    authorization: str
    cookie: str
    range: str
    agent: str
    status: int


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server with one bucket."""

    url: str
    log: Path

    @property
    def host(self) -> str:
        """Host and port, as ``redirect_hosts`` takes them."""
        return self.url.removeprefix("http://")

    def presigned(self) -> list[S3Request]:
        """The requests so far that came by a presigned address."""
        lines = self.log.read_text(errors="replace").splitlines()
        requests = [
            S3Request(**json.loads(line.removeprefix("request ")))
            for line in lines
            if line.startswith("request ")
        ]
        return [request for request in requests if request.presigned]


def install() -> bool:
    """Make the environment with moto; whether it had to be made.

    Raises:
        subprocess.SubprocessError: it could not be made; the next call tries again.
    """
    if is_installed():
        return False
    folder = _folder()
    for argv in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _MOTO],
    ):
        subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=_INSTALL_SECONDS, check=True)
    _stamp().write_text(_MOTO)
    return True


def require_moto() -> Path:
    """The interpreter that has moto; without it the test is skipped, or fails on CI."""
    if not is_installed():
        unavailable("moto is not installed; to get it: python -m tests.components.s3")
    return _python()


def _folder() -> Path:
    return cache_folder().with_name("moto")


def _python() -> Path:
    return _folder() / "bin" / "python"


def _stamp() -> Path:
    return _folder() / "installed"


def is_installed() -> bool:
    """Whether moto is there, in the version that is wanted."""
    # Written last, so that a broken installation does not count, nor another version.
    return _stamp().exists() and _stamp().read_text() == _MOTO


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """moto's S3 with an empty bucket, on a free loopback port."""
    python, log = require_moto(), folder / "s3.log"

    def answers() -> bool:
        return logged(log, _LISTENING) is not None

    with running([python, "-c", _SERVE], log=log, ready=answers):
        found = S3Server(f"http://{logged(log, _LISTENING)}", log)
        made = ask("PUT", f"{found.url}/{_BUCKET}")
        assert made.status == 200, made
        yield found


@contextmanager
def s3_registry(
    folder: Path, s3: S3Server, *, auth: Mapping[str, object] | None = None
) -> Iterator[Server]:
    """docker-registry whose blobs are in ``s3``: it answers blob reads by 307 to S3."""
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {
            "s3": {
                "region": "us-east-1",
                "regionendpoint": s3.url,
                "bucket": _BUCKET,
                "accesskey": "key-of-the-tests",
                "secretkey": "secret-of-the-tests",
                "secure": False,
                "v4auth": True,
            },
            "redirect": {"disable": False},
        },
        "http": {"addr": "127.0.0.1:0"},
    }
    if auth is not None:
        settings["auth"] = auth
    config, log = folder / "registry.yml", folder / "registry.log"
    config.write_text(yaml.safe_dump(settings))

    def answers() -> bool:
        host = logged(log, _LISTENING)
        return host is not None and ask("GET", f"http://{host}/v2/").status in (200, 401)

    # Debian's build stops where this variable names a file it does not like.
    environment = {"AWS_CA_BUNDLE": "", "OTEL_TRACES_EXPORTER": "none"}
    argv: list[str | Path] = [require("docker-registry"), "serve", config]
    with running(argv, log=log, ready=answers, env=environment):
        yield Server(f"http://{logged(log, _LISTENING)}", log)


if __name__ == "__main__":
    install()
