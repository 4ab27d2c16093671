"""The README's commands, replayed against the demo: what it prints is what a newcomer sees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components.programs import require

ROOT = Path(__file__).parent.parent
ADDRESS = "127.0.0.1:8080"


def sessions() -> list[tuple[bool, list[tuple[str, str]]]]:
    """Each console block: whether it is replayed, its commands with what they print."""
    text = (ROOT / "README.md").read_text()
    found = []
    block = re.compile(r"(<!-- not replayed: [^\n]*-->\n)?```console\n(.*?)```", re.DOTALL)
    for match in block.finditer(text):
        parts = re.split(r"^\$ ", match[2], flags=re.MULTILINE)[1:]
        pairs = [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]
        found.append((match[1] is None, pairs))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether ``printed`` is ``expected``, in which ``…`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[str, str]]:
    """The demo's address and all it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "demo", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        printed = ""
        while "Ctrl-C" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        ready = re.search(r"ready on http://(\S+)", printed)
        assert ready is not None
        yield ready[1], printed
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def test_readme_start_prints_what_the_demo_prints(demo: tuple[str, str]) -> None:
    address, printed = demo
    _, (start, *_) = sessions()[0]
    assert start[0] == "make run"
    assert matches(start[1], printed.replace(address, ADDRESS))


def test_readme_commands_print_what_it_says(demo: tuple[str, str], tmp_path: Path) -> None:
    tools = [require(name) for name in ("curl", "skopeo", "oras")]
    folders = [str(Path(tool).parent) for tool in tools]
    path = os.pathsep.join([*folders, os.environ["PATH"]])
    replayed = [pair for is_replayed, pairs in sessions() if is_replayed for pair in pairs]
    assert len(replayed) >= 8
    for command, expected in replayed:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command.replace(ADDRESS, demo[0])],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            timeout=60,
            check=False,
        )
        assert matches(expected, done.stdout), (command, done.stdout, done.stderr)
