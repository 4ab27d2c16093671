"""The tests mirror the code file by file, and every exception says where its tests are."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROXY = TESTS.parent / "proxy"

# Modules that move bytes: a walk through real sockets says more about them than a unit test.
COVERED_BY = {
    "app.py": "flows/test_operations.py",
    "demo.py": "flows/test_operations.py",
    "running.py": "flows/test_reload.py",
    "content/archives.py": "flows/test_packings.py",
    "content/blobs.py": "flows/test_models.py",
    "content/files.py": "flows/test_packings.py",
    "content/layers.py": "flows/test_packings.py",
    "content/manifests.py": "flows/test_models.py",
    "content/models.py": "flows/test_models.py",
    "formats/progress.py": "formats/test_compression.py",
    "facade/client.py": "flows/test_splice.py",
    "facade/cnai_api.py": "flows/test_models.py",
    "facade/middleware.py": "flows/test_framing.py",
    "facade/ops_api.py": "flows/test_operations.py",
    "facade/passthrough.py": "flows/test_push.py",
    "facade/registry_api.py": "flows/test_pull.py",
    "facade/responses.py": "flows/test_pull.py",
    "facade/trace.py": "flows/test_operations.py",
    "facade/sending.py": "flows/test_splice.py",
    "facade/shared_address.py": "flows/test_routing.py",
    "facade/splice.py": "flows/test_splice.py",
    "facade/token_api.py": "flows/test_token_api.py",
    "server/certificate.py": "flows/test_listener_tls.py",
    "server/connection.py": "flows/test_framing.py",
    "server/generation.py": "flows/test_reload.py",
    "server/listener.py": "flows/test_reload.py",
    "upstream/bodies.py": "flows/test_push.py",
    "upstream/client.py": "flows/test_backoff.py",
    "upstream/sessions.py": "flows/test_tls.py",
    "upstream/timing.py": "flows/test_operations.py",
}
MODULES = sorted(
    file.relative_to(PROXY).as_posix() for file in PROXY.rglob("*.py") if file.name != "__init__.py"
)


def _mirror(module: str) -> Path:
    path = Path(module)
    return path.parent / f"test_{path.stem.strip('_')}.py"


@pytest.mark.parametrize("module", MODULES)
def test_module_has_its_tests(module: str) -> None:
    expected = COVERED_BY.get(module, _mirror(module).as_posix())
    assert (TESTS / expected).is_file(), f"proxy/{module}: expected tests/{expected}"


@pytest.mark.parametrize("module", sorted(COVERED_BY))
def test_exception_is_still_one(module: str) -> None:
    assert module in MODULES, f"proxy/{module} is gone: take it out of COVERED_BY"
    assert not (TESTS / _mirror(module)).exists(), (
        f"tests/{_mirror(module)} exists: take {module} out of COVERED_BY"
    )
