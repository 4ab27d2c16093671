"""docker-compose.yml: valid and loadable; slow: built and run by podman as it is shipped.

The bases of the two services are stand-ins made from Debian packages under the same names, so that
nothing is pulled. An override moves the services to free loopback ports of the host's network:
bridges need rights and leave firewall rules behind.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml

from proxy import settings
from tests.components import content
from tests.components.programs import find, require, require_root, run, unavailable, wait_until

_ROOT = Path(__file__).parent.parent
_COMPOSE = _ROOT / "docker-compose.yml"
# Debian 12 has the Python of the Dockerfile's base.
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates,wget"
# Making a base and building take longer than ``programs.RUN_SECONDS`` on a busy machine.
_LONG_SECONDS = 600
_PROJECT = "cnai-compose"

# crun wants cgroups v2 alone; raising limits and making networks need rights a sandbox has not.
_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{folder}/tmp"
"""
_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{folder}/root"
runroot = "{folder}/run"
"""
# What the distribution registry's container does: one program, one volume, all by environment.
_REGISTRY_STAND_IN = """\
FROM docker.io/library/python:3.11-slim
COPY docker-registry /usr/bin/docker-registry
COPY registry.yml /etc/docker/registry/config.yml
VOLUME /var/lib/registry
ENTRYPOINT ["docker-registry", "serve"]
CMD ["/etc/docker/registry/config.yml"]
"""
_REGISTRY_SETTINGS = {
    "version": 0.1,
    "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}},
    "http": {"addr": ":5000"},
}


def _service(name: str) -> dict[str, object]:
    found = yaml.safe_load(_COMPOSE.read_text(encoding="utf-8"))["services"][name]
    assert isinstance(found, dict)
    return found


def _environment() -> dict[str, str]:
    found = _service("proxy")["environment"]
    assert isinstance(found, dict)
    return {str(key): str(value) for key, value in found.items()}


def test_compose_file_is_valid() -> None:
    run([require("docker-compose"), "-f", _COMPOSE, "config", "-q"])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param("read_only: true", "read_onyl: true", id="unknown key"),
        pytest.param("read_only: true", "read_only: maybe", id="wrong type"),
        pytest.param(
            "      registry:\n        condition", "      other:\n        condition", id="service"
        ),
        pytest.param("registry:/var/lib", "undeclared:/var/lib", id="volume"),
    ],
)
def test_compose_check_with_a_broken_copy_fails(tmp_path: Path, right: str, wrong: str) -> None:
    text = _COMPOSE.read_text(encoding="utf-8")
    assert text.count(right) == 1
    copy = tmp_path / "docker-compose.yml"
    copy.write_text(text.replace(right, wrong), encoding="utf-8")

    done = run([require("docker-compose"), "-f", copy, "config", "-q"], check=False)

    assert done.code != 0


def test_compose_environment_loads_as_settings() -> None:
    found = settings.load(file=None, environment=_environment(), flags={})

    assert [upstream.url for upstream in found.upstreams] == ["http://registry:5000"]
    assert found.listen.host == "0.0.0.0"


def test_compose_grace_period_is_longer_than_the_drain() -> None:
    found = settings.load(file=None, environment=_environment(), flags={})
    grace = str(_service("proxy")["stop_grace_period"])

    assert grace.endswith("s")
    assert int(grace.removesuffix("s")) > found.listen.drain_seconds


@dataclass(frozen=True, slots=True)
class Stack:
    """Both services, up and healthy; ``url`` is the proxy's."""

    url: str
    environment: Mapping[str, str]

    def podman(self, *words: str) -> str:
        """Run ``podman <words>`` and return what it wrote."""
        return run(["podman", *words], env=self.environment).out

    def container(self, service: str) -> str:
        """The container of a service."""
        label = f"label=com.docker.compose.service={service}"
        return self.podman("ps", "--all", "--quiet", "--filter", label).strip()

    def wait_healthy(self, service: str) -> None:
        """Run the health check that is shipped until it passes."""
        name = self.container(service)
        check = ["podman", "healthcheck", "run", name]
        logs = ["podman", "logs", name]
        wait_until(
            lambda: run(check, env=self.environment, check=False).code == 0,
            what=lambda: f"{service} to be healthy\n{run(logs, env=self.environment).err}",
        )

    def inside(self, source: str) -> str:
        """What a Python program prints that is run in the proxy's container."""
        return self.podman("exec", self.container("proxy"), "python3", "-c", source)


def _long(argv: Sequence[str | Path], environment: Mapping[str, str], cwd: Path) -> None:
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **environment},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_LONG_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{argv[0]}: exit {done.returncode}\n{done.stdout[-4000:]}", pytrace=False)


def _podman_compose() -> str:
    beside = Path(sys.executable).with_name("podman-compose")
    found = str(beside) if beside.exists() else find("podman-compose")
    if found is None:
        unavailable("podman-compose is not installed; to get it: pip install podman-compose")
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _override(registry_port: int, proxy_port: int) -> str:
    """What differs from the shipped file: network, ports, and the check that names a port."""
    probe = ["CMD", "wget", "-q", "--spider", f"http://127.0.0.1:{registry_port}/v2/"]
    upstreams = [{"url": f"http://registry:{registry_port}"}]
    services = {
        "services": {
            "registry": {
                "network_mode": "host",
                "environment": {"REGISTRY_HTTP_ADDR": f"127.0.0.1:{registry_port}"},
                "healthcheck": {"test": probe},
            },
            "proxy": {
                "network_mode": "host",
                "extra_hosts": ["registry:127.0.0.1"],
                "environment": {
                    "CNAI_PROXY_LISTEN__HOST": "127.0.0.1",
                    "CNAI_PROXY_LISTEN__PORT": str(proxy_port),
                    "CNAI_PROXY_UPSTREAMS": json.dumps(upstreams),
                },
            },
        }
    }
    # podman-compose appends one list to the other unless told not to.
    return yaml.safe_dump(services).replace("test:\n", "test: !override\n")


@contextmanager
def _engine() -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A folder and the environment for a podman that keeps everything in it."""
    # Not pytest's folder: podman's runroot has at most 50 characters.
    folder = Path(tempfile.mkdtemp(prefix="cnai-", dir="/tmp"))
    (folder / "containers.conf").write_text(_CONTAINERS_CONF.format(folder=folder))
    (folder / "storage.conf").write_text(_STORAGE_CONF.format(folder=folder))
    added = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        # Building with the run-time of containers fails where running has the obstacles above.
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(folder),
    }
    try:
        yield folder, MappingProxyType(added)
    finally:
        # podman leaves its storage mounted on itself.
        subprocess.run(
            ["umount", str(folder / "root" / "overlay")], stderr=subprocess.DEVNULL, check=False
        )
        shutil.rmtree(folder, ignore_errors=True)


def _make_bases(folder: Path, environment: Mapping[str, str]) -> None:
    """The two bases that the shipped files name, under the names they have there."""
    base = folder / "base.tar"
    bootstrap = [require("mmdebstrap"), "--variant=minbase", f"--include={_PACKAGES}"]
    _long([*bootstrap, _SUITE, base], environment, folder)
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    name = "docker.io/library/python:3.11-slim"
    _long(["podman", "import", "--change", path, base, name], environment, folder)
    base.unlink()
    stand_in = folder / "registry"
    stand_in.mkdir()
    (stand_in / "Dockerfile").write_text(_REGISTRY_STAND_IN)
    (stand_in / "registry.yml").write_text(yaml.safe_dump(_REGISTRY_SETTINGS))
    shutil.copy(require("docker-registry"), stand_in)
    name = "docker.io/library/registry:2"
    _long(["podman", "build", "--pull=never", "-t", name, "."], environment, stand_in)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The shipped Dockerfile built, the shipped compose file up."""
    for program in ("podman", "runc", "mmdebstrap", "docker-registry"):
        require(program)
    require_root()
    podman_compose = _podman_compose()
    registry_port, proxy_port = _free_ports(2)
    with _engine() as (folder, environment):
        _make_bases(folder, environment)
        override = folder / "override.yml"
        override.write_text(_override(registry_port, proxy_port))
        # A sandbox may look into TLS with a CA of its own; only the build here has to trust it.
        build = "--pull=never --format=docker --volume=/etc/ssl/certs:/etc/ssl/certs:ro"
        compose: list[str | Path] = [
            *(podman_compose, "-p", _PROJECT, "-f", _COMPOSE, "-f", override),
            f"--podman-build-args={build}",
        ]
        found = Stack(f"http://127.0.0.1:{proxy_port}", environment)
        _long([*compose, "build", "proxy"], environment, folder)
        try:
            # One by one: podman runs health checks by systemd's timers, so that without systemd
            # nobody but the test can tell when the registry is healthy.
            for service in ("registry", "proxy"):
                up = [*compose, "up", "-d", "--no-build", "--no-deps", service]
                _long(up, environment, folder)
                found.wait_healthy(service)
            yield found
        finally:
            _long([*compose, "down", "-v"], environment, folder)


@pytest.mark.slow
@pytest.mark.timeout(2 * _LONG_SECONDS)
def test_compose_stack_takes_a_model_and_opens_it(stack: Stack) -> None:
    model = content.model_pack("tiny")

    content.push(stack.url, "models/tiny", "v1", model)

    stored = content.stored_manifest(stack.url, "models/tiny", "v1")
    readme = content.ask("GET", f"{stack.url}/cnai/models/tiny:v1/readme")
    assert stored.body == model.manifest
    assert (readme.status, readme.body) == (200, b"# tiny\n")


@pytest.mark.slow
@pytest.mark.timeout(2 * _LONG_SECONDS)
def test_compose_proxy_runs_without_rights(stack: Stack) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in stack.inside("print(open('/proc/1/status').read())").splitlines()
        if ":\t" in line
    )

    assert status["Uid"].split() == ["10001"] * 4
    assert status["Gid"].split() == ["10001"] * 4
    assert {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {
        "CapEff": 0,
        "CapPrm": 0,
        "CapBnd": 0,
    }
    assert status["NoNewPrivs"] == "1"


@pytest.mark.slow
@pytest.mark.timeout(2 * _LONG_SECONDS)
@pytest.mark.parametrize("folder", ["/", "/opt/cnai-proxy", "/usr"])
def test_compose_proxy_cannot_write(stack: Stack, folder: str) -> None:
    flags = stack.inside(f"import os; print(os.statvfs({folder!r}).f_flag & os.ST_RDONLY)")

    assert flags.strip() == "1"


@pytest.mark.slow
@pytest.mark.timeout(2 * _LONG_SECONDS)
def test_compose_proxy_on_sigterm_drains_and_exits_0(stack: Stack) -> None:
    name = stack.container("proxy")
    started = time.monotonic()

    stack.podman("stop", "--time", "30", name)

    seconds = time.monotonic() - started
    code = stack.podman("inspect", "--format", "{{.State.ExitCode}}", name).strip()
    stack.podman("start", name)
    stack.wait_healthy("proxy")
    assert code == "0"
    assert seconds < 5
