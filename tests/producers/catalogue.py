"""All artifacts, by their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tests.producers import (
    aikit,
    cnai_drafts,
    docker_model,
    hostile,
    kitops,
    modctl,
    ollama,
    olot,
    oras_files,
    synthetic,
)
from tests.producers.artifact import Artifact

PRODUCERS = (
    modctl,
    cnai_drafts,
    aikit,
    docker_model,
    kitops,
    ollama,
    olot,
    oras_files,
    synthetic,
)


def _labelled(found: Iterator[Artifact]) -> Mapping[str, Artifact]:
    by_label: dict[str, Artifact] = {}
    for artifact in found:
        assert by_label.setdefault(artifact.label, artifact) is artifact, artifact.label
    return MappingProxyType(by_label)


# What somebody writes, or could by the specification.
HONEST = _labelled(artifact for module in PRODUCERS for artifact in module.artifacts())
HOSTILE = _labelled(hostile.artifacts())
EVERY = MappingProxyType({**HONEST, **HOSTILE})
