"""Container engines started by hand, each with folders, socket and login file of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.components.programs import Ran, require, require_root, run, running, wait_until

_CONTAINERD = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = ""
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
# The default shares content between namespaces, and a second pull would fetch nothing.
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "isolated"
"""


# The host itself leads nowhere, so that what comes can only come from the mirror.
_MIRROR = """\
[[registry]]
prefix = "{host}"
location = "127.0.0.1:1"
insecure = true
[[registry.mirror]]
location = "{location}"
insecure = true
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """podman as a command."""

    options: tuple[str, ...]
    login_file: Path
    registries_file: Path

    def __call__(self, *words: str, text: str | None = None, check: bool = True) -> Ran:
        """Run ``podman <words>``."""
        environment = {
            "REGISTRY_AUTH_FILE": str(self.login_file),
            "CONTAINERS_REGISTRIES_CONF": str(self.registries_file),
        }
        return run(["podman", *self.options, *words], env=environment, text=text, check=check)

    def mirror(self, host: str, location: str) -> None:
        """Have ``host`` pulled from ``location`` first, a host with or without a path."""
        self.registries_file.write_text(_MIRROR.format(host=host, location=location))


@dataclass(slots=True)
class Engine:
    """A daemon's settings file and, once it runs, its process."""

    settings: Path
    process_id: int = 0

    def reload(self, settings: Mapping[str, object]) -> None:
        """Put ``settings`` in force without a restart."""
        self.settings.write_text(json.dumps(settings))
        os.kill(self.process_id, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Docker:
    """The docker client of a running engine."""

    binary: str
    socket: Path
    config: Path
    engine: Engine

    def with_login_file(self, folder: Path) -> Docker:
        """The same engine with logins of its own, kept in ``folder``."""
        return replace(self, config=folder)

    @contextmanager
    def mirror(self, url: str) -> Iterator[None]:
        """Have Docker Hub's names pulled from ``url`` first, as ``registry-mirrors`` does."""
        self._reload([f"{url}/"])
        try:
            yield
        finally:
            self._reload([])

    def _reload(self, mirrors: Sequence[str]) -> None:
        def found() -> object:
            text = self("info", "--format={{json .RegistryConfig.Mirrors}}").out
            return json.loads(text) or []

        # A key that is absent from the file would stay as it was.
        self.engine.reload({"registry-mirrors": mirrors})
        wait_until(lambda: found() == mirrors, what=lambda: f"dockerd to have {mirrors}")

    def __call__(self, *words: str, text: str | None = None, check: bool = True) -> Ran:
        """Run ``docker <words>``."""
        environment = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.config)}
        return run([self.binary, *words], env=environment, text=text, check=check)


@dataclass(frozen=True, slots=True)
class Containerd:
    """The ctr client of a running containerd."""

    binary: str
    socket: Path

    def __call__(self, namespace: str, *words: str, check: bool = True) -> Ran:
        """Run ``ctr --namespace <namespace> <words>``."""
        argv = [self.binary, "--address", str(self.socket), "--namespace", namespace, *words]
        return run(argv, check=check)


@contextmanager
def podman() -> Iterator[Podman]:
    """podman with storage of its own; nothing runs, so nothing has to be stopped."""
    require("podman")
    require_root()
    with _folder() as folder:
        options = (
            *("--root", str(folder / "root"), "--runroot", str(folder / "run")),
            # Works on every file system, also where the tests themselves run on an overlay.
            *("--tmpdir", str(folder / "tmp"), "--storage-driver", "vfs"),
        )
        login_file, registries_file = folder / "auth.json", folder / "registries.conf"
        login_file.write_text("{}")
        registries_file.write_text("")
        yield Podman(options, login_file, registries_file)


@contextmanager
def docker() -> Iterator[Docker]:
    """A Docker engine without network and firewall set-up: pull, push, build, import."""
    dockerd, client = require("dockerd"), require("docker")
    require_root()
    with _folder() as folder:
        socket = folder / "d.sock"
        flags = ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        engine = Engine(folder / "daemon.json")
        found = Docker(client, socket, folder / "client", engine)
        found.config.mkdir()
        engine.settings.write_text("{}")
        argv: Sequence[str | Path] = [
            dockerd,
            *("--config-file", engine.settings, "--data-root", folder / "data"),
            *("--exec-root", folder / "exec", "--pidfile", folder / "pid"),
            *("--host", f"unix://{socket}", "--storage-driver", "vfs", "--bridge=none"),
            *flags,
        ]
        try:
            with running(
                argv,
                log=folder / "log",
                ready=lambda: socket.exists() and found("version", check=False).code == 0,
            ) as process:
                engine.process_id = process.pid
                yield found
        finally:
            # The engine leaves this mount behind.
            subprocess.run(
                ["umount", str(folder / "exec" / "netns" / "default")],
                stderr=subprocess.DEVNULL,
                check=False,
            )


@contextmanager
def containerd() -> Iterator[Containerd]:
    """A containerd that stores and fetches; it runs nothing."""
    binary, client = require("containerd"), require("ctr")
    require_root()
    with _folder() as folder:
        settings, socket = folder / "config.toml", folder / "c.sock"
        settings.write_text(_CONTAINERD.format(folder=folder))
        found = Containerd(client, socket)
        with running(
            [binary, "--config", settings],
            log=folder / "log",
            ready=lambda: socket.exists() and found("default", "version", check=False).code == 0,
        ):
            yield found


@contextmanager
def _folder() -> Iterator[Path]:
    # Not pytest's folder: a socket's path has at most 107 bytes, podman's runroot at most 50.
    folder = Path(tempfile.mkdtemp(prefix="cnai-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
