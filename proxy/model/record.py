"""The model record: what ``/cnai/`` tells of a model, from its manifest and its config.

The config is JSON that anyone could push. A field of another type than the specification's is
absent and warned of; nothing in it makes the record fail.
Source: model-spec v0.0.7, "Model Configuration"; v0.0.1 to v0.0.6 for the older spellings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from proxy.errors import MalformedArtifact
from proxy.model.artifact import ModelArtifact, ModelLayer, bounded
from proxy.model.paths import sanitise_path
from proxy.model.variants import variants
from proxy.oci.digest import Digest
from proxy.oci.manifest import Index, load_json
from proxy.oci.reference import RepositoryName, Tag

RECORD_SCHEMA = 1

_COUNT_LIMIT = 1 << 63
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"(?P<number>[0-9]{1,19}(?:\.[0-9]{1,9})?) ?(?P<unit>[kmbt]?)", re.IGNORECASE)
_SURROGATES = re.compile("[\ud800-\udfff]")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# What Go writes for a time that was never set.
_NO_YEAR = "0001-"

# Record field: the config's object and key, newest spelling first.
_TEXTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "name": ("descriptor", ("name",)),
    "title": ("descriptor", ("title",)),
    "description": ("descriptor", ("description",)),
    "architecture": ("config", ("architecture",)),
    "format": ("config", ("format",)),
    "precision": ("config", ("precision",)),
    "quantization": ("config", ("quantization", "puantization")),
    "source": ("descriptor", ("sourceURL",)),
}
_CREATED_KEYS = ("createdAt", "createTime")
_PARAMETERS_KEYS = ("paramSize", "parameterSize")
_CAPABILITY_NAMES = {
    "input_types": "inputTypes",
    "output_types": "outputTypes",
    "knowledge_cutoff": "knowledgeCutoff",
    "tool_usage": "toolUsage",
}


def read_config(body: bytes) -> tuple[dict[str, object] | None, str | None]:
    """A config blob as a JSON object fit to be sent on, or None and the reason.

    The one door for a config: all of its text and numbers are clean behind it. The caller bounds
    the length of ``body``.
    """
    try:
        document = load_json(body, what="the config")
    except MalformedArtifact as error:
        return None, error.message
    cleaned = _clean(document)
    if not isinstance(cleaned, dict):
        return None, "the config is no JSON object"
    return cleaned, None


def parse_parameters(value: object) -> int | None:
    """A count of parameters: an integer, or text such as ``8b``, ``1.5B``, ``345M``.

    None for anything else, for zero and from 2**63 on.
    """
    if type(value) is int:
        return value if 0 < value < _COUNT_LIMIT else None
    match = _COUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    count = Decimal(match["number"]) * _UNITS[match["unit"].lower()]
    whole = int(count)
    return whole if whole == count and 0 < whole < _COUNT_LIMIT else None


def model_record(
    artifact: ModelArtifact,
    *,
    repository: RepositoryName,
    tag: Tag | None,
    digest: Digest,
    media_type: str,
    config: dict[str, object] | None,
    config_warning: str | None = None,
    additions: Sequence[str] = (),
    index: Digest | None = None,
) -> dict[str, object]:
    """The record as JSON values.

    ``config`` and ``config_warning`` come from ``read_config``; ``media_type`` is the manifest's;
    ``additions`` are the names of those the model has. ``size`` is bytes of config and distinct
    layers. ``index`` is the index that was asked for, where it led to this manifest.
    """
    reader = _ConfigReader(config or {})
    fields: dict[str, object] = {
        field: reader.text(part, keys, field=field) for field, (part, keys) in _TEXTS.items()
    }
    fields["parameters"] = reader.parameters()
    fields["licenses"] = reader.licenses()
    fields["capabilities"] = reader.capabilities()
    fields["created"] = reader.created()
    manifest = artifact.manifest
    blobs = {layer.descriptor.digest: layer.descriptor.size for layer in artifact.layers}
    if manifest.config is not None:
        blobs[manifest.config.digest] = manifest.config.size
    artifact_type = manifest.artifact_type
    return {
        "schema": RECORD_SCHEMA,
        "repository": str(repository),
        "tag": str(tag) if tag else None,
        "digest": str(digest),
        "index": str(index) if index else None,
        "mediaType": _clean_text(media_type),
        "artifactType": _clean_text(artifact_type) if artifact_type else None,
        "family": artifact.family,
        "name": fields["name"],
        "title": fields["title"],
        "description": fields["description"],
        "architecture": fields["architecture"],
        "format": fields["format"],
        "parameters": fields["parameters"],
        "precision": fields["precision"],
        "quantization": fields["quantization"],
        "licenses": fields["licenses"],
        "capabilities": fields["capabilities"],
        "size": sum(blobs.values()),
        "created": fields["created"],
        "source": fields["source"],
        "layers": [_layer_json(layer) for layer in artifact.layers],
        "additions": list(additions),
        "provenance": {
            field: "config" for field, value in fields.items() if value not in (None, [])
        },
        "warnings": [
            *artifact.warnings,
            *((config_warning,) if config_warning else ()),
            *bounded(reader.warnings),
        ],
        "config": config,
    }


def set_record(
    index: Index, *, repository: RepositoryName, tag: Tag | None, digest: Digest, media_type: str
) -> dict[str, object]:
    """The record of an index whose models stand side by side: what there is to choose from."""
    artifact_type = index.artifact_type
    return {
        "schema": RECORD_SCHEMA,
        "repository": str(repository),
        "tag": str(tag) if tag else None,
        "digest": str(digest),
        "mediaType": _clean_text(media_type),
        "artifactType": _clean_text(artifact_type) if artifact_type else None,
        "family": None,
        "variants": [_clean(variant.to_json()) for variant in variants(index)],
    }


class _ConfigReader:
    """Takes fields out of the config's objects and keeps a warning for each one of a wrong type."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self.warnings: list[str] = []
        self._parts = {part: self._part(config, part) for part in ("descriptor", "config")}

    def _part(self, config: Mapping[str, object], part: str) -> Mapping[str, object]:
        value = config.get(part)
        if isinstance(value, dict):
            return value
        if value is not None:
            self._warn(f"config.{part}", "an object")
        return {}

    def _warn(self, place: str, expected: str) -> None:
        self.warnings.append(f"{place} is not {expected}")

    def _first(self, part: str, keys: Sequence[str]) -> tuple[str, object]:
        """The first key present and its value; absent, null and empty are the same."""
        for key in keys:
            if (value := self._parts[part].get(key)) not in (None, "", [], {}):
                return f"config.{part}.{key}", value
        return "", None

    def text(self, part: str, keys: Sequence[str], *, field: str) -> str | None:
        place, value = self._first(part, keys)
        if isinstance(value, str):
            return value
        if value is not None:
            self._warn(place, f"text for {field}")
        return None

    def created(self) -> str | None:
        place, value = self._first("descriptor", _CREATED_KEYS)
        if value is None:
            return None
        if not isinstance(value, str) or not _RFC3339.fullmatch(value) or not _is_date(value):
            self._warn(place, "an RFC 3339 time")
            return None
        return None if value.startswith(_NO_YEAR) else value

    def parameters(self) -> int | None:
        place, value = self._first("config", _PARAMETERS_KEYS)
        count = parse_parameters(value)
        if count is None and value not in (None, 0):
            self._warn(place, "a count of parameters such as 8b")
        return count

    def licenses(self) -> list[str]:
        place, value = self._first("descriptor", ("licenses",))
        listed = [value] if isinstance(value, str) else value
        if listed is None:
            return []
        if not isinstance(listed, list):
            self._warn(place, "a list")
            return []
        found = [name for name in listed if isinstance(name, str) and name]
        if len(found) != len(listed):
            self._warn(place, "a list of text")
        return found

    def capabilities(self) -> dict[str, object] | None:
        place, value = self._first("config", ("capabilities",))
        if isinstance(value, dict):
            written: Mapping[str, object] = value
            return {_CAPABILITY_NAMES.get(key, key): entry for key, entry in written.items()}
        if value is not None:
            self._warn(place, "an object")
        return None


def _layer_json(layer: ModelLayer) -> dict[str, object]:
    return {
        "digest": str(layer.descriptor.digest),
        "mediaType": _clean_text(layer.descriptor.media_type),
        "size": layer.descriptor.size,
        "class": str(layer.layer_class),
        "packing": str(layer.packing),
        "path": sanitise_path(layer.path) if layer.path else None,
    }


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


def _clean_text(text: str) -> str:
    """Text without lone surrogates, which no UTF-8 answer could carry."""
    return _SURROGATES.sub("\ufffd", text)


def _clean(value: object) -> object:
    """JSON values that can be written as JSON again: ``1e999`` is read as an infinite number."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    if isinstance(value, dict):
        return {_clean_text(str(key)): _clean(entry) for key, entry in value.items()}
    return value
