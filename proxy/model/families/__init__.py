"""The families known, and how a manifest is recognised as a model of one of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

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
from proxy.model.families.docker_model import DOCKER
from proxy.model.families.family import TITLE, TYPE_LENGTH_LIMIT, Family, LayerRule, is_of_type
from proxy.model.families.generic import GENERIC
from proxy.model.families.kitops import KITOPS
from proxy.model.families.modelcar import MODELCAR
from proxy.model.families.modelpack import CNAI, MODELPACK
from proxy.model.families.ollama import OLLAMA
from proxy.model.paths import path_warning
from proxy.oci.manifest import Descriptor, Manifest, load_json, normalise_media_type

FAMILIES: tuple[Family, ...] = (MODELPACK, CNAI, KITOPS, DOCKER, OLLAMA, MODELCAR, GENERIC)

_SIZE_LIMIT = 1 << 63
# What types of no family still tell of the packing: "…layer.v1.tar+gzip", "…diff.tar.gzip".
_ANY_PACKING = re.compile(r".*[./](?P<container>tar|raw)(?:[+.](?P<compression>gzip|zstd))?")
# RFC 9110, "Parameters"; possessive, as the text is hostile.
_PARAMETER = re.compile(
    r"""\s*+(?P<key>[^=;\s]++)\s*+=\s*+(?:"(?P<quoted>[^"]*+)"|(?P<bare>[^;]*+))[^;]*+;?"""
)
_UNPACKED = Packing("tar", "gzip")

_Match = tuple[re.Match[str], LayerRule]


def with_declared(declared: Sequence[Family]) -> tuple[Family, ...]:
    """All families, with those an operator declared before the one that guesses."""
    return (*FAMILIES[:-1], *declared, FAMILIES[-1])


def is_model_type(text: str, families: Sequence[Family] = FAMILIES) -> bool:
    """Whether this artifact type makes a manifest a model."""
    wanted = normalise_media_type(text)
    return any(is_of_type(wanted, family.artifact_types) for family in families)


def recognise(manifest: Manifest, families: Sequence[Family] = FAMILIES) -> ModelArtifact | None:
    """The model that ``manifest`` is, or None where it is none.

    The artifact type decides, then the config's type, then the type of any layer, then marks among
    the annotations, then the files' names; a family that stands earlier wins. A bad entry of a
    layer (path, metadata, unknown type) becomes a warning.
    """
    family = _family_of(manifest, families)
    if family is None:
        return None
    reader = _LayerReader(family, families)
    layers: list[ModelLayer] = []
    names: list[tuple[str, bool] | None] = []
    warnings: list[str] = []
    keeps_unmarked = family.root is not None and _lost_marks(manifest, family)
    if keeps_unmarked:
        warnings.append(
            f"layers have lost their annotations; what lies below {family.root}/ is listed"
        )
    for number, descriptor in enumerate(manifest.layers):
        is_own = not family.layer_marks or _is_marked(descriptor.annotations, family.layer_marks)
        if not is_own and not keeps_unmarked:
            continue
        layer, faults = reader.read(descriptor)
        if not is_own:
            layer = replace(layer, only_below=family.root)
        layers.append(layer)
        names.append(reader.name(descriptor) if layer.path is None else None)
        warnings.extend(f"layers[{number}]: {fault}" for fault in faults)
    named = (
        layer if name is None else _named(layer, name)
        for layer, name in zip(layers, _numbered(names), strict=True)
    )
    return ModelArtifact(
        family.name,
        manifest,
        tuple(named),
        bounded(warnings),
        needs_config=family.names_from_config is not None,
    )


def with_config(
    artifact: ModelArtifact, config: Mapping[str, object], families: Sequence[Family] = FAMILIES
) -> ModelArtifact:
    """The same model with what its config tells of the layers; an annotated path stays."""
    find = next((one.names_from_config for one in families if one.name == artifact.family), None)
    if find is None:
        return artifact
    found = find(artifact.manifest, config)
    layers = list(artifact.layers)
    warnings: list[str] = []
    for number, name in sorted(found.items()):
        layer = layers[number]
        if layer.path is None and name.path is not None:
            layer_class = classify(name.path, layer.layer_class)
            layer = replace(layer, path=name.path, layer_class=layer_class)
            if (unsafe := path_warning(name.path)) is not None:
                warnings.append(f"layers[{number}]: {unsafe}")
        layers[number] = replace(
            layer, member_prefix=name.member_prefix, description=name.description
        )
    kept = bounded((*artifact.warnings, *warnings))
    return replace(artifact, layers=tuple(layers), warnings=kept)


def _family_of(manifest: Manifest, families: Sequence[Family]) -> Family | None:
    # In January 2025 the manifest's own media type took the place of the artifact type.
    own_types = {
        normalise_media_type(text) for text in (manifest.artifact_type, manifest.media_type) if text
    }
    config_types = {manifest.config.media_type} if manifest.config is not None else set()
    layer_types = {text for descriptor in manifest.layers for text in _types(descriptor)}
    annotations = dict(manifest.annotations)
    for descriptor in manifest.layers:
        annotations.update(descriptor.annotations)
    for family in families:
        if any(is_of_type(text, family.artifact_types) for text in own_types):
            return family
    for family in families:
        if any(is_of_type(text, family.config_types) for text in config_types):
            return family
    for family in families:
        if family.own_layer_types and any(_match(text, (family,)) for text in layer_types):
            return family
    for family in families:
        if _is_marked(annotations, family.marks):
            return family
    for family in families:
        if family.accepts is not None and family.accepts(manifest):
            return family
    return None


class _LayerReader:
    """Reads the layers of a model of one family; what a type means is looked up once."""

    def __init__(self, family: Family, families: Sequence[Family]) -> None:
        self._family = family
        # A layer added by a tool of another generation keeps that generation's type.
        others = (one for one in families if one is not family and one.own_layer_types)
        self._known = (family, *others)
        self._matches: dict[tuple[str, ...], _Match | None] = {}

    def read(self, descriptor: Descriptor) -> tuple[ModelLayer, list[str]]:
        """The layer, and what is wrong with it."""
        family = self._family
        warnings: list[str] = []
        path = next(_paths(descriptor, family), None)
        if path is not None and family.absolute_paths:
            path = path.lstrip("/")
        declared_class, packing, trusted = self._typed(descriptor)
        if declared_class is None:
            media_type = descriptor.media_type[:200]
            warnings.append(f"unknown layer type {media_type!r}, read as {packing}")
        if path is not None and (unsafe := path_warning(path)) is not None:
            warnings.append(unsafe)
        size: int | None = None
        if (metadata := _first(descriptor, family.metadata_annotations)) is not None:
            size = _declared_size(metadata)
            if size is None:
                warnings.append("the file metadata is no JSON object with a sane size")
            elif packing == RAW and trusted and size != descriptor.size:
                warnings.append(
                    f"the file metadata claims {size} bytes, the raw layer has {descriptor.size}"
                )
        layer_class = declared_class or LayerClass.OTHER
        if layer_class is LayerClass.OTHER:
            marked = (
                found
                for key, found in family.class_annotations.items()
                if descriptor.annotations.get(key) == "true"
            )
            layer_class = next(marked, LayerClass.OTHER)
        if path is not None:
            layer_class = classify(path, layer_class)
        is_titled = path is not None and not any(
            descriptor.annotations.get(key) for key in family.path_annotations if key != TITLE
        )
        layer = ModelLayer(descriptor, layer_class, packing, path, size, trusted)
        return replace(layer, is_titled=is_titled), warnings

    def name(self, descriptor: Descriptor) -> tuple[str, bool] | None:
        """The name of a layer without a path, and whether several are shards."""
        found = self._find(descriptor)
        if found is None or found[1].name is None:
            return None
        return found[1].name, found[1].sharded

    def _typed(self, descriptor: Descriptor) -> tuple[LayerClass | None, Packing, bool]:
        """Class (None: unknown), packing, and whether that is to be trusted."""
        found = self._find(descriptor)
        any_match = _ANY_PACKING.fullmatch(descriptor.media_type)
        by_type = RAW if any_match is None else _packing(any_match)
        layer_class, packing, trusted = None, by_type, False
        if found is not None:
            match, rule = found
            groups = match.groupdict()
            layer_class = rule.layer_class or rule.classes.get(groups.get("token") or "")
            trusted = rule.trusted
            if rule.packing is not None:
                packing = rule.packing
            elif "container" in groups:
                packing = _packing(match)
            else:
                trusted = trusted and any_match is not None
        if any(
            descriptor.annotations.get(key) == "true" for key in self._family.unpack_annotations
        ):
            packing, trusted = _UNPACKED, True
        return layer_class, packing, trusted

    def _find(self, descriptor: Descriptor) -> _Match | None:
        types = _types(descriptor)
        if types not in self._matches:
            found = (match for text in types if (match := _match(text, self._known)) is not None)
            self._matches[types] = next(found, None)
        return self._matches[types]


def _types(descriptor: Descriptor) -> tuple[str, ...]:
    # Before 2025 the descriptor's artifact type said what the media type says since.
    own = normalise_media_type(descriptor.artifact_type or "")
    return (descriptor.media_type, own) if own else (descriptor.media_type,)


def _match(text: str, families: Iterable[Family]) -> _Match | None:
    if len(text) > TYPE_LENGTH_LIMIT:
        return None
    for family in families:
        for rule in family.layer_rules:
            if (match := rule.pattern.fullmatch(text)) is not None:
                return match, rule
    return None


def _lost_marks(manifest: Manifest, family: Family) -> bool:
    """Whether no layer that is marked has weights, by its path."""
    marked = (one for one in manifest.layers if _is_marked(one.annotations, family.layer_marks))
    paths = (next(_paths(one, family), "") for one in marked)
    return not any(classify(path, LayerClass.OTHER) is LayerClass.WEIGHT for path in paths)


def _is_marked(annotations: Mapping[str, str], marks: Sequence[str]) -> bool:
    return any(
        any(key.startswith(mark[:-1]) for key in annotations)
        if mark.endswith("*")
        else mark in annotations
        for mark in marks
    )


def _paths(descriptor: Descriptor, family: Family) -> Iterator[str]:
    """Every path the layer claims to have, the most trusted one first."""
    if (annotated := _first(descriptor, family.path_annotations)) is not None:
        yield annotated
    for key in family.path_members:
        if isinstance(text := descriptor.extensions.get(key), str) and text:
            yield text
    if family.path_parameters:
        parameters = _parameters(descriptor.type_parameters)
        yield from (parameters[key] for key in family.path_parameters if parameters.get(key))


def _parameters(text: str) -> dict[str, str]:
    """The parameters of a media type, keys in lower case; of one key the first counts."""
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(text):
        value = match["quoted"] if match["quoted"] is not None else match["bare"].strip()
        found.setdefault(match["key"].lower(), value)
    return found


def _first(descriptor: Descriptor, keys: Sequence[str]) -> str | None:
    return next((text for key in keys if (text := descriptor.annotations.get(key))), None)


def _named(layer: ModelLayer, name: str) -> ModelLayer:
    return replace(layer, name=name, layer_class=classify(name, layer.layer_class))


def _numbered(names: Sequence[tuple[str, bool] | None]) -> Iterator[str | None]:
    """Each name once: the first one as it is and the next with a number, or all as shards."""
    counts = Counter(name for name in names if name is not None)
    seen: Counter[tuple[str, bool]] = Counter()
    for name in names:
        if name is None:
            yield None
            continue
        seen[name] += 1
        text, sharded = name
        stem, dot, extension = text.rpartition(".") if "." in text else (text, "", "")
        if sharded and counts[name] > 1:
            yield f"{stem}-{seen[name]:05d}-of-{counts[name]:05d}{dot}{extension}"
        elif seen[name] > 1:
            yield f"{stem}-{seen[name]}{dot}{extension}"
        else:
            yield text


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
