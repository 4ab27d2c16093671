"""Every packing that the specification names, and two that only readers know, in both generations.

Nobody writes all of these; whatever somebody does write is among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.build import Generation
from tests.producers import files, modctl
from tests.producers.artifact import PACKINGS, Artifact

_GENERATIONS: tuple[Generation, ...] = ("cncf", "cnai")
_PRODUCERS = {"cncf": "the specification, ModelPack", "cnai": "the specification, CNAI"}


def of(generation: Generation, packing: str, *, silent: bool = False) -> Artifact:
    """A file per layer; ``silent``: without the annotations, all of which are optional."""
    layers = modctl.layered(generation, packing)
    if silent:
        layers = [replace(layer, annotations={}) for layer in layers]
    maker = replace(modctl.maker(generation, _PRODUCERS[generation]), annotations={})
    return maker.artifact(
        f"spec-{'silent-' if silent else ''}{packing}-{generation}",
        packing,
        layers,
        config=modctl.config(generation, [layer.blob for layer in layers]),
        files=files.TREE,
    )


def artifacts() -> Iterator[Artifact]:
    """All of them. A tar tells the names even where no annotation does."""
    for generation in _GENERATIONS:
        for packing in PACKINGS:
            yield of(generation, packing)
            if packing.startswith("tar"):
                yield of(generation, packing, silent=True)
