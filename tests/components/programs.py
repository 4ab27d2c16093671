"""Programs of the system: found on PATH or in the cache folder, run, served from, stopped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import pytest

# Program → Debian package. Source: packages.debian.org for bookworm.
DEBIAN_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "bsdtar": "libarchive-tools",
        "containerd": "containerd",
        "ctr": "containerd",
        "curl": "curl",
        "docker": "docker.io",
        "docker-compose": "docker-compose",
        "docker-registry": "docker-registry",
        "dockerd": "docker.io",
        "mmdebstrap": "mmdebstrap",
        "nginx": "nginx-light",
        "podman": "podman",
        "runc": "runc",
        "skopeo": "skopeo",
        "unzip": "unzip",
        "wrk": "wrk",
        "zstd": "zstd",
    }
)
# Program → Go package at a fixed version.
GO_PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "oras": "oras.land/oras/cmd/oras@v1.3.6",
        "registry": "github.com/distribution/distribution/v3/cmd/registry@v3.1.1",
    }
)

START_SECONDS = 20.0
STOP_SECONDS = 20.0
RUN_SECONDS = 60.0
_POLL_SECONDS = 0.02


def cache_folder() -> Path:
    """Where Go programs for the tests are kept from run to run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cnai-proxy" / "bin"


def find(name: str) -> str | None:
    """The path of a program. The Go ones come from the cache folder: there the version is known."""
    if name in GO_PACKAGES:
        cached = cache_folder() / name
        return str(cached) if os.access(cached, os.X_OK) else None
    # Daemons live in sbin, which is not on every user's PATH.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def require(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where ``CI`` is ``true``."""
    found = find(name)
    if found is None:
        unavailable(f"{name} is not installed; to get it: {_install_command(name)}")
    return found


def require_root() -> None:
    """Engines unpack layers with their owners, which only root may."""
    if os.geteuid() != 0:
        unavailable("the engine runs as root only")


def unavailable(reason: str) -> NoReturn:
    """Skip with ``reason``; on CI, where everything has to be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _install_command(name: str) -> str:
    if name in GO_PACKAGES:
        return f"GOBIN={cache_folder()} go install {GO_PACKAGES[name]}"
    package = DEBIAN_PACKAGES.get(name, name)
    return f"python -m tests.components.install, or apt-get install {package}"


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has ended."""

    code: int
    out: str
    err: str


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
    check: bool = True,
) -> Ran:
    """Run a program to its end; ``env`` is added to ours, ``text`` is its standard input.

    With ``check`` any exit code but 0 fails the test and shows what the program wrote.
    """
    done = subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        input=text or "",
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    if check and done.returncode != 0:
        words = " ".join(str(word) for word in argv)
        pytest.fail(f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}", pytrace=False)
    return Ran(done.returncode, done.stdout, done.stderr)


@contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until ``ready``, stop it at the end. All it writes goes to ``log``."""
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            [str(word) for word in argv],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            wait_until(
                lambda: process.poll() is not None or ready(),
                what=lambda: f"{argv[0]} to be ready\n{_tail(log)}",
            )
            if process.poll() is not None:
                pytest.fail(f"{argv[0]} exited {process.returncode}\n{_tail(log)}", pytrace=False)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until(condition: Callable[[], bool], *, what: Callable[[], str]) -> None:
    """Poll ``condition`` until it holds; fails the test after ``START_SECONDS``."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {START_SECONDS:g} s for {what()}", pytrace=False)
        time.sleep(_POLL_SECONDS)


def logged(log: Path, pattern: str) -> str | None:
    """The first group of the first line of ``log`` that holds ``pattern``."""
    if not log.exists():
        return None
    match = re.search(pattern, log.read_text(errors="replace"))
    return match[1] if match else None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
