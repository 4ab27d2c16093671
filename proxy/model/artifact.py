"""A model as its manifest tells it: typed layers, whatever family packed them.

Nothing below knows a media type of a family. What a file *is* (its class) is read from its name
first, because packers mislabel; the class of its layer's media type is the second opinion.
Source: model-spec, "Layer Media Types".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from proxy.oci.manifest import Descriptor, Manifest

# Warnings kept of one thing; a hostile artifact could otherwise earn one per layer.
WARNINGS_LIMIT = 100


class LayerClass(StrEnum):
    """What a layer or a file is for."""

    WEIGHT = "weight"
    CONFIG = "config"
    DOC = "doc"
    CODE = "code"
    DATASET = "dataset"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Packing:
    """How files lie in a blob: one file raw or a tar, and how that is compressed."""

    container: Literal["raw", "tar"]
    compression: Literal["gzip", "zstd"] | None = None

    def __str__(self) -> str:
        return f"{self.container}+{self.compression}" if self.compression else self.container


RAW = Packing("raw")
TAR = Packing("tar")


@dataclass(frozen=True, slots=True)
class ModelLayer:
    """One layer. ``path`` is the annotated one exactly as written: hostile, for ``paths`` to judge.

    ``declared_size`` is the count of bytes that the layer's file metadata claims for the unpacked
    file, 0 ≤ n < 2**63. ``packing`` is what the type declares; not ``trusted``: the type says
    nothing certain, the content decides. ``name`` is the safe name that the family gives a layer
    without a path. The members of a tar are relative to ``member_prefix``, hostile too: "" if they
    are whole paths, None if the family does not say. Of a layer with ``only_below`` just members
    below that directory are the model's. ``is_titled``: the path is only the last part of one.
    """

    descriptor: Descriptor
    layer_class: LayerClass
    packing: Packing
    path: str | None = None
    declared_size: int | None = None
    trusted: bool = True
    name: str | None = None
    member_prefix: str | None = None
    description: str | None = None
    only_below: str | None = None
    is_titled: bool = False


@dataclass(frozen=True, slots=True)
class ModelArtifact:
    """A manifest recognised as a model of ``family``; ``layers`` in the manifest's order.

    ``needs_config``: the names of the layers stand in the config.
    """

    family: str
    manifest: Manifest
    layers: tuple[ModelLayer, ...]
    warnings: tuple[str, ...] = ()
    needs_config: bool = False


def bounded(warnings: Iterable[str]) -> tuple[str, ...]:
    """The first 100 warnings and, where there are more, their count."""
    found = tuple(warnings)
    if len(found) <= WARNINGS_LIMIT:
        return found
    return (*found[:WARNINGS_LIMIT], f"and {len(found) - WARNINGS_LIMIT} more")


# Extensions that say what a file is, whatever its layer claims.
_CERTAIN = {
    LayerClass.WEIGHT: "safetensors gguf ggml onnx pt pth ckpt tflite keras llamafile dduf pte "
    "mlmodel",
    LayerClass.CODE: "py ipynb sh c cc cpp cu h hpp go rs js ts",
    LayerClass.DOC: "md markdown mdown rst pdf",
    LayerClass.DATASET: "parquet arrow",
}
# Extensions that are asked only where the layer says nothing.
_LIKELY = {
    LayerClass.WEIGHT: "bin h5 npz pkl joblib pb engine msgpack",
    LayerClass.CONFIG: "json yaml yml toml ini cfg conf model tiktoken jinja",
    LayerClass.DOC: "txt html png jpg jpeg gif svg webp",
    LayerClass.DATASET: "jsonl csv tsv",
}
_CERTAIN_BY_EXTENSION = {
    extension: found for found, listed in _CERTAIN.items() for extension in listed.split()
}
_LIKELY_BY_EXTENSION = {
    extension: found for found, listed in _LIKELY.items() for extension in listed.split()
}
_CONFIG_NAME = re.compile(
    r"(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens"
    r"|preprocessor_config|processor_config|vocab|modules|params|chat_template"
    r"|[^/]*\.(?:safetensors|bin)\.index)\.json"
    r"|vocab\.txt|merges\.txt|tokenizer\.model|spiece\.model|chat_template\.jinja"
)
_DOC_NAME = re.compile(
    r"(?:readme|licen[sc]e|copying|notice|changelog|model[_-]?card)(?:[._-][^/]*)?"
)


def classify(path: str, declared: LayerClass) -> LayerClass:
    """The class of the file at ``path`` in a layer of the ``declared`` class.

    A name or extension that is certain wins, then what the layer says, then a likely extension.
    """
    name = path.rpartition("/")[2].lower()
    extension = name.rpartition(".")[2] if "." in name else ""
    if _CONFIG_NAME.fullmatch(name):
        return LayerClass.CONFIG
    if (certain := _CERTAIN_BY_EXTENSION.get(extension)) is not None:
        return certain
    if _DOC_NAME.fullmatch(name):
        return LayerClass.DOC
    if declared is not LayerClass.OTHER:
        return declared
    return _LIKELY_BY_EXTENSION.get(extension, LayerClass.OTHER)
