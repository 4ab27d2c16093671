"""``python -m tests.components.install``: get the real components that this machine can get.

Debian packages as root where apt is, Go programs where Go is, moto from PyPI in a venv of its own.
Says what it did and what it could not get; the exit code is always 0, since tests skip what is
missing and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.components import s3
from tests.components.programs import DEBIAN_PACKAGES, GO_PACKAGES, cache_folder, find

_APT_SECONDS = 900
_GO_SECONDS = 900


def main() -> None:
    """Install what is missing and report, one line for each step."""
    missing_packages = sorted({p for name, p in DEBIAN_PACKAGES.items() if find(name) is None})
    missing_go = {name: p for name, p in GO_PACKAGES.items() if find(name) is None}
    if not missing_packages and not missing_go and s3.is_installed():
        _say("all components are installed")
        return
    if missing_packages:
        _apt(missing_packages)
    if missing_go:
        _go(missing_go)
    _moto()


def _moto() -> None:
    try:
        if s3.install():
            _say("installed: moto, an S3 server")
    except (OSError, subprocess.SubprocessError) as error:
        _say(f"could not install: moto: {error}")


def _apt(packages: Sequence[str]) -> None:
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if shutil.which("apt-get") is None:
        _say(f"not installed, no apt-get here: {' '.join(packages)}")
        return
    if os.geteuid() != 0:
        _say(f"not installed, needs root: {' '.join(command)}")
        return
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    done = _run(["apt-get", "update", "-q"], environment, _APT_SECONDS) and _run(
        command, environment, _APT_SECONDS
    )
    _say(f"{'installed' if done else 'could not install'}: {' '.join(packages)}")


def _go(packages: Mapping[str, str]) -> None:
    if shutil.which("go") is None:
        _say(f"not installed, no Go here: {' '.join(packages.values())}")
        return
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in packages.items():
        done = _run(["go", "install", package], {"GOBIN": str(folder)}, _GO_SECONDS)
        _say(f"{'installed' if done else 'could not install'}: {name} ({package})")


def _run(command: Sequence[str], environment: Mapping[str, str], seconds: int) -> bool:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"{' '.join(command[:2])}: {error}")
        return False
    if done.returncode != 0:
        _say(f"{' '.join(command[:2])}: exit {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode == 0


def _say(text: str) -> None:
    sys.stdout.write(f"components: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
