"""KitOps ModelKits: layers are named by the Kitfile, which is the config.

An entry of the Kitfile with a ``digest`` owns the layer of that digest; before those were written,
entries and layers of a type stood in the same order. With a digest, members of a tar are whole
paths; without one they are relative to the directory that holds the entry's path.
Source: the KitOps documentation, "Kitfile format" and "ModelKit specification".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from proxy.model.artifact import LayerClass
from proxy.model.families.family import Family, LayerName, LayerRule
from proxy.oci.manifest import Descriptor, Manifest

_CLASSES = {
    "model": LayerClass.WEIGHT,
    "modelpart": LayerClass.WEIGHT,
    "dataset": LayerClass.DATASET,
    "code": LayerClass.CODE,
    "docs": LayerClass.DOC,
    "mcpb": LayerClass.CODE,
}
_LAYER_TYPE = re.compile(
    r"application/vnd\.kitops\.modelkit\.(?P<token>[a-z0-9_-]+)\.v[0-9]+"
    r"\.(?P<container>[a-z0-9]+)(?:\+(?P<compression>gzip|zstd))?"
)
# A prompt is a layer of code; its entry stands in a list of its own.
_SUBTYPE = "ml.kitops.modelkit.layer-subtype"
_LISTS = {"dataset": "datasets", "code": "code", "docs": "docs", "mcpb": "mcpServers"}


def names_from_kitfile(manifest: Manifest, config: Mapping[str, object]) -> Mapping[int, LayerName]:
    """What the Kitfile tells of each layer, by the layer's number in the manifest."""
    layers: dict[str, list[int]] = {}
    by_digest: dict[tuple[str, str], list[int]] = {}
    for number, descriptor in enumerate(manifest.layers):
        if (kind := _kind(descriptor)) is not None:
            layers.setdefault(kind, []).append(number)
            by_digest.setdefault((kind, str(descriptor.digest)), []).append(number)
    found: dict[int, LayerName] = {}
    left: dict[str, list[Mapping[str, object]]] = {}
    for kind, entry in _entries(config):
        owned = by_digest.get((kind, str(entry.get("digest"))), [])
        # Two entries of the same content share one digest: each takes a layer while there are any.
        if owned:
            found[owned[0]] = _name(entry)
            if len(owned) > 1:
                owned.pop(0)
        else:
            left.setdefault(kind, []).append(entry)
    for kind, entries in left.items():
        free = [number for number in layers.get(kind, ()) if number not in found]
        found.update((number, _name(entry)) for number, entry in zip(free, entries, strict=False))
    return found


def _kind(descriptor: Descriptor) -> str | None:
    match = _LAYER_TYPE.fullmatch(descriptor.media_type[:255])
    if match is None:
        return None
    kind = match["token"]
    is_prompt = kind == "code" and descriptor.annotations.get(_SUBTYPE) == "prompt"
    return "prompt" if is_prompt else kind


def _entries(config: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Kind and entry, in the Kitfile's order, without those that own no layer.

    A model whose path is another kit's reference has no layer of its kind to be given.
    """
    model = config.get("model")
    if isinstance(model, dict):
        yield "model", model
        for part in _objects(model.get("parts")):
            yield "modelpart", part
    for kind, key in (*_LISTS.items(), ("prompt", "prompts")):
        for entry in _objects(config.get(key)):
            if not entry.get("remotePath"):
                yield kind, entry


def _objects(value: object) -> Iterator[Mapping[str, object]]:
    # An entry of a wrong type still has its place in the order.
    for entry in value if isinstance(value, list) else ():
        yield entry if isinstance(entry, dict) else {}


def _name(entry: Mapping[str, object]) -> LayerName:
    path, description = entry.get("path"), entry.get("description")
    path = path if isinstance(path, str) and path else None
    prefix: str | None = None
    if entry.get("digest"):
        prefix = ""
    elif path is not None:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        prefix = "/".join(parts[:-1])
    return LayerName(path, prefix, description if isinstance(description, str) else None)


KITOPS = Family(
    name="kitops",
    artifact_types=frozenset(("application/vnd.kitops.modelkit.manifest.v1+json",)),
    # Kits until mid-2025 have no artifact type.
    config_types=frozenset(("application/vnd.kitops.modelkit.config.v1+json",)),
    layer_rules=(LayerRule(_LAYER_TYPE, _CLASSES),),
    path_annotations=("org.cncf.model.filepath", "org.opencontainers.image.title"),
    metadata_annotations=("org.cncf.model.file.metadata+json",),
    names_from_config=names_from_kitfile,
)
