"""The OCI conformance runner itself, with and without the proxy: no line may get worse.

Its source is distribution-spec's ``conformance`` folder; build it with Go and name the program in
``OCI_CONFORMANCE``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.components.programs import run
from tests.components.registries import Proxied, Server

_RANK = {"FAIL": 0, "Error": 0, "Skip": 1, "Disabled": 1, "Pass": 2}
_LINE = re.compile(r"^ *(OCI Conformance Test.*): (FAIL|Error|Skip|Disabled|Pass)$", re.MULTILINE)

_EVERYTHING = {
    "OCI_API_BLOBS_DIGEST_HEADER": "true",
    "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
    "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
    "OCI_API_MANIFESTS_TAG_PARAM": "true",
    "OCI_DATA_SPARSE": "true",
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "settings",
    [{"OCI_VERSION": "1.1"}, {"OCI_VERSION": "dev", **_EVERYTHING}],
    ids=["1.1", "dev"],
)
def test_conformance_runner_finds_no_line_worse_than_without_the_proxy(
    any_registry: Proxied, settings: Mapping[str, str], tmp_path: Path
) -> None:
    runner = os.environ.get("OCI_CONFORMANCE")
    if not runner:
        pytest.skip("OCI_CONFORMANCE does not name the runner; it is published as source only")
    version = settings["OCI_VERSION"].replace(".", "-")

    direct = _lines(runner, any_registry.upstream, f"direct-{version}", settings, tmp_path)
    proxied = _lines(runner, any_registry.proxy, f"proxied-{version}", settings, tmp_path)

    print("direct ", dict(Counter(direct.values())))  # noqa: T201 - the figures, with pytest -s
    print("proxied", dict(Counter(proxied.values())))  # noqa: T201
    different = {
        name: f"{direct.get(name)} direct, {proxied.get(name)} proxied"
        for name in sorted(direct.keys() | proxied.keys())
        if direct.get(name) != proxied.get(name)
    }
    print("different", *(f"{name}: {both}" for name, both in different.items()), sep="\n  ")  # noqa: T201
    worse = {
        name: both
        for name, both in different.items()
        if _RANK[proxied.get(name, "FAIL")] < _RANK[direct.get(name, "FAIL")]
    }
    assert not worse


def _lines(
    runner: str, server: Server, name: str, settings: Mapping[str, str], folder: Path
) -> dict[str, str]:
    """Each result line of one run, test to status; a test that is named again gets a number."""
    environment = {
        **settings,
        "OCI_REGISTRY": server.host,
        "OCI_TLS": "disabled",
        "OCI_REPO1": f"runner-{name}/one",
        "OCI_REPO2": f"runner-{name}/two",
        "OCI_RESULTS_DIR": str(folder / name),
        "OCI_LOG": "error",
    }
    report = run([runner], env=environment, cwd=folder, check=False)
    statuses: dict[str, list[str]] = {}
    for test, status in _LINE.findall(report.out):
        statuses.setdefault(test, []).append(status)
    assert statuses, report.err
    return {
        f"{test} #{number}": status
        for test, found in statuses.items()
        for number, status in enumerate(sorted(found, key=_RANK.__getitem__), start=1)
    }
