"""The families known, and how a manifest is recognised as a model of one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.errors import MalformedArtifact
from proxy.model.artifact import (
    RAW,
    LayerClass,
    ModelArtifact,
    ModelLayer,
    Packing,
    bounded,
    classify,
)
from proxy.model.families.family import Family, LayerRule
from proxy.model.families.modelpack import CNAI, MODELPACK
from proxy.model.paths import path_warning
from proxy.oci.manifest import Descriptor, Manifest, load_json, normalise_media_type

FAMILIES: tuple[Family, ...] = (MODELPACK, CNAI)

_SIZE_LIMIT = 1 << 63
# What types of no family still tell of the packing: "…layer.v1.tar+gzip", "…diff.tar.gzip".
_ANY_PACKING = re.compile(r".*[./](?P<container>tar|raw)(?:[+.](?P<compression>gzip|zstd))?")


def recognise(manifest: Manifest, families: Sequence[Family] = FAMILIES) -> ModelArtifact | None:
    """The model that ``manifest`` is, or None where it is none.

    The artifact type decides, then the config's type, then the type of any layer; a family that
    stands earlier wins. A bad entry of a layer (path, metadata, unknown type) becomes a warning.
    """
    family = _family_of(manifest, families)
    if family is None:
        return None
    # A layer added by a tool of another generation keeps that generation's type.
    known = (family, *(other for other in families if other is not family))
    layers: list[ModelLayer] = []
    warnings: list[str] = []
    for number, descriptor in enumerate(manifest.layers):
        layer, faults = _read_layer(descriptor, known)
        layers.append(layer)
        warnings.extend(f"layers[{number}]: {fault}" for fault in faults)
    return ModelArtifact(family.name, manifest, tuple(layers), bounded(warnings))


def _family_of(manifest: Manifest, families: Sequence[Family]) -> Family | None:
    # In January 2025 the manifest's own media type took the place of the artifact type.
    own_types = {
        normalise_media_type(text) for text in (manifest.artifact_type, manifest.media_type) if text
    }
    for family in families:
        if own_types & family.artifact_types:
            return family
    if manifest.config is not None:
        for family in families:
            if manifest.config.media_type in family.config_types:
                return family
    for family in families:
        if any(_match(descriptor, (family,)) for descriptor in manifest.layers):
            return family
    return None


def _read_layer(descriptor: Descriptor, families: Sequence[Family]) -> tuple[ModelLayer, list[str]]:
    warnings: list[str] = []
    path = _first(descriptor, families[0].path_annotations)
    declared_class, packing, known = _typed(descriptor, families)
    if not known:
        warnings.append(f"unknown layer type {descriptor.media_type[:200]!r}, read as {packing}")
    if path is not None and (unsafe := path_warning(path)) is not None:
        warnings.append(unsafe)
    size: int | None = None
    if (metadata := _first(descriptor, families[0].metadata_annotations)) is not None:
        size = _declared_size(metadata)
        if size is None:
            warnings.append("the file metadata is no JSON object with a sane size")
        elif packing == RAW and size != descriptor.size:
            warnings.append(
                f"the file metadata claims {size} bytes, the raw layer has {descriptor.size}"
            )
    layer_class = declared_class if path is None else classify(path, declared_class)
    return ModelLayer(descriptor, layer_class, packing, path, size), warnings


def _first(descriptor: Descriptor, keys: Sequence[str]) -> str | None:
    return next((text for key in keys if (text := descriptor.annotations.get(key))), None)


def _match(
    descriptor: Descriptor, families: Sequence[Family]
) -> tuple[re.Match[str], LayerRule] | None:
    # Before 2025 the descriptor's artifact type said what the media type says since.
    for text in (descriptor.media_type, normalise_media_type(descriptor.artifact_type or "")):
        for family in families:
            for rule in family.layer_rules:
                if (match := rule.pattern.fullmatch(text)) is not None:
                    return match, rule
    return None


def _typed(descriptor: Descriptor, families: Sequence[Family]) -> tuple[LayerClass, Packing, bool]:
    """Class and packing by type, and whether the class was known."""
    if (found := _match(descriptor, families)) is not None:
        match, rule = found
        layer_class = rule.classes.get(match["token"])
        return layer_class or LayerClass.OTHER, _packing(match), layer_class is not None
    any_match = _ANY_PACKING.fullmatch(descriptor.media_type)
    return LayerClass.OTHER, RAW if any_match is None else _packing(any_match), False


def _packing(match: re.Match[str]) -> Packing:
    compression = match["compression"]
    return Packing(
        "tar" if match["container"] == "tar" else "raw",
        "gzip" if compression == "gzip" else "zstd" if compression == "zstd" else None,
    )


def _declared_size(metadata: str) -> int | None:
    """``size`` of a file's metadata, bytes, 0 ≤ n < 2**63; None where it holds none."""
    try:
        document = load_json(metadata.encode("utf-8", "surrogatepass"), what="the file metadata")
    except MalformedArtifact:
        return None
    size = document.get("size") if isinstance(document, dict) else None
    return size if type(size) is int and 0 <= size < _SIZE_LIMIT else None
