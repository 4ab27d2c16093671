"""CNCF ModelPack and CNAI, the same convention under its name before mid-2025.

For some weeks both were mixed (cncf types, cnai annotations), and tools that rewrite a manifest
keep what they find: each family reads the annotations of both.
Source: model-spec v0.0.7, "Manifest" and "Annotations"; v0.0.1 to v0.0.6 and the drafts before
them for CNAI.
"""

from __future__ import annotations

import re

from proxy.model.artifact import LayerClass
from proxy.model.families.family import TITLE, Family, LayerRule

_CLASSES = {
    "weight": LayerClass.WEIGHT,
    "weight.config": LayerClass.CONFIG,
    "config": LayerClass.CONFIG,  # weight.config, as drafts of December 2024 called it
    "doc": LayerClass.DOC,
    "code": LayerClass.CODE,
    "dataset": LayerClass.DATASET,
    "layer": LayerClass.OTHER,  # any file, before weight, doc and code were told apart
}
# The drafts of 2024 had one layer type; these annotations said what is in it.
_MARKED_CLASSES = {
    "org.cnai.model.readme": LayerClass.DOC,
    "org.cnai.model.license": LayerClass.DOC,
    "org.cnai.model.config": LayerClass.CONFIG,
    "org.cnai.model.model": LayerClass.WEIGHT,
}


def _rule(vendor: str) -> LayerRule:
    # The last token may be a concrete format: docker wrote weight.v1.gguf from December 2025 to
    # April 2026, one raw file.
    pattern = (
        rf"application/vnd\.{vendor}\.model\.(?P<token>[a-z0-9_.-]+)\.v[0-9]+"
        r"\.(?P<container>[a-z0-9]+)(?:\+(?P<compression>gzip|zstd))?"
    )
    return LayerRule(re.compile(pattern), _CLASSES)


def _metadata_keys(vendor: str) -> tuple[str, str]:
    # "+json" was added to the key in May 2025.
    key = f"org.{vendor}.model.file.metadata"
    return (f"{key}+json", key)


_CNCF_PATH = "org.cncf.model.filepath"
_CNAI_PATH = "org.cnai.model.filepath"

MODELPACK = Family(
    name="modelpack",
    artifact_types=frozenset(("application/vnd.cncf.model.manifest.v1+json",)),
    config_types=frozenset(("application/vnd.cncf.model.config.v1+json",)),
    layer_rules=(_rule("cncf"),),
    path_annotations=(_CNCF_PATH, _CNAI_PATH, TITLE),
    metadata_annotations=(*_metadata_keys("cncf"), *_metadata_keys("cnai")),
    marks=(_CNCF_PATH,),
    class_annotations=_MARKED_CLASSES,
)

CNAI = Family(
    name="cnai",
    artifact_types=frozenset(("application/vnd.cnai.model.manifest.v1+json",)),
    config_types=frozenset(("application/vnd.cnai.model.config.v1+json",)),
    layer_rules=(_rule("cnai"),),
    path_annotations=(_CNAI_PATH, _CNCF_PATH, TITLE),
    metadata_annotations=(*_metadata_keys("cnai"), *_metadata_keys("cncf")),
    marks=(_CNAI_PATH,),
    class_annotations=_MARKED_CLASSES,
)
