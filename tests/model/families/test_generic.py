from __future__ import annotations

import dataclasses

import pytest

from proxy.model.families import recognise
from proxy.oci.manifest import Manifest
from tests.build import descriptor
from tests.model.families.golden import Row, golden, rows


@pytest.mark.parametrize(
    ("name", "family", "expected", "warnings"),
    [
        (
            "oras-files",
            "generic",
            [
                ("weight", "tar", False, "m.gguf", None),
                ("other", "tar+gzip", True, "docs", None),
                ("weight", "raw", False, "b.bin", None),
            ],
            [],
        ),
        (
            "oras-py",
            "generic",
            [("weight", "raw", False, "b.bin", None), ("other", "tar+gzip", False, "dir", None)],
            [],
        ),
    ],
)
def test_golden_generic_is_read(
    name: str, family: str, expected: list[Row], warnings: list[str]
) -> None:
    artifact = golden(name)
    assert artifact.family == family
    assert rows(artifact) == expected
    assert list(artifact.warnings) == warnings


@pytest.mark.parametrize(
    "denied",
    [
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.dev.cosign.artifact.sig.v1+json",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.in-toto+json",
        "application/vnd.cyclonedx+json",
        "application/spdx+json",
        "application/vnd.example.sbom.v1",
        "application/vnd.wasm.config.v0+json",
        "application/vnd.cncf.flux.config.v1+json",
        "application/vnd.cncf.notary.signature",
    ],
)
def test_what_is_known_to_be_something_else_is_no_model(denied: str) -> None:
    manifest = golden("oras-files").manifest
    assert recognise(dataclasses.replace(manifest, artifact_type=denied)) is None
    config = descriptor(denied, b"{}")
    assert recognise(dataclasses.replace(manifest, config=config)) is None


def test_files_without_weights_or_in_an_image_are_no_model() -> None:
    manifest = golden("oras-files").manifest
    assert recognise(dataclasses.replace(manifest, layers=manifest.layers[1:])) is None
    config = descriptor("application/vnd.oci.image.config.v1+json", b"{}")
    assert recognise(dataclasses.replace(manifest, config=config, artifact_type=None)) is None


def test_files_without_config_and_artifact_type_are_a_model() -> None:
    manifest: Manifest = golden("oras-files").manifest
    assert recognise(dataclasses.replace(manifest, config=None, artifact_type=None)) is not None
