"""Artifacts as producers write them, with what a reader must find in each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.components import content

PACKINGS = ("raw", "tar", "tar+gzip", "tar+zstd", "raw+gzip", "raw+zstd")
INDEX = "index"


@dataclass(frozen=True, slots=True)
class Part:
    """A config or layer: its blob and what the descriptor says besides digest and size.

    ``size`` makes the descriptor lie; ``members`` are further members of the descriptor.
    """

    media_type: str
    blob: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, object] = field(default_factory=dict)
    size: int | None = None

    def descriptor(self) -> dict[str, object]:
        """The descriptor as JSON values, in the order in which Go's structs write it."""
        document: dict[str, object] = {
            "mediaType": self.media_type,
            "digest": str(Digest.of(self.blob)),
            "size": len(self.blob) if self.size is None else self.size,
        }
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        return {**document, **self.members}


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact. ``packing`` is the column of the table in which it counts, or ``index``.

    ``files`` are the paths that must open, with their content. ``refused`` are paths that are
    listed but do not open, with a word of the reason; the path ``""`` stands for the model as a
    whole, which then has no files. Of a set of models, ``children`` are asked for one by one.
    """

    label: str
    producer: str
    family: str
    packing: str
    media_type: str
    manifest: bytes
    blobs: Mapping[str, bytes]
    files: Mapping[str, bytes]
    refused: Mapping[str, str] = field(default_factory=dict)
    children: tuple[Artifact, ...] = ()

    @property
    def digest(self) -> Digest:
        """Digest of the manifest."""
        return Digest.of(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of everything that is stored."""
        own = len(self.manifest) + sum(map(len, self.blobs.values()))
        return own + sum(child.size for child in self.children)

    def stored(self) -> content.Artifact:
        """As a client pushes it."""
        return content.Artifact(
            self.manifest,
            self.media_type,
            tuple(self.blobs.values()),
            tuple(child.stored() for child in self.children),
        )


@dataclass(frozen=True, slots=True)
class Maker:
    """Which producer writes, and how its manifests look.

    ``states_type``: whether the manifest has a ``mediaType`` (kits of 2024 have none).
    """

    producer: str
    family: str
    artifact_type: str | None = None
    media_type: str = OCI_MANIFEST
    states_type: bool = True
    annotations: Mapping[str, str] = field(default_factory=dict)

    def artifact(
        self,
        label: str,
        packing: str,
        layers: Sequence[Part],
        *,
        config: Part,
        files: Mapping[str, bytes],
        refused: Mapping[str, str] | None = None,
    ) -> Artifact:
        """A manifest over ``layers``, their blobs beside it."""
        document: dict[str, object] = {"schemaVersion": 2}
        if self.states_type:
            document["mediaType"] = self.media_type
        if self.artifact_type is not None:
            document["artifactType"] = self.artifact_type
        document["config"] = config.descriptor()
        document["layers"] = [layer.descriptor() for layer in layers]
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        return Artifact(
            label=label,
            producer=self.producer,
            family=self.family,
            packing=packing,
            media_type=self.media_type,
            manifest=compact(document),
            blobs={str(Digest.of(part.blob)): part.blob for part in (config, *layers)},
            files=dict(files),
            refused=dict(refused or {}),
        )


def index_of(
    label: str,
    children: Sequence[tuple[Artifact, Mapping[str, object]]],
    *,
    files: Mapping[str, bytes] | None = None,
    refused: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
) -> Artifact:
    """An index of ``children``, each with further members of its descriptor; the last is shown."""
    entries = [
        {
            "mediaType": child.media_type,
            "digest": str(child.digest),
            "size": len(child.manifest),
            **members,
        }
        for child, members in children
    ]
    document: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
    if artifact_type is not None:
        document["artifactType"] = artifact_type
    document["manifests"] = entries
    shown = children[-1][0]
    return Artifact(
        label=label,
        producer=shown.producer,
        family=shown.family,
        packing=INDEX,
        media_type=OCI_INDEX,
        manifest=compact(document),
        blobs={},
        files=dict(files or {}),
        refused=dict(refused or {}),
        children=tuple(child for child, _ in children),
    )


def compact(document: object) -> bytes:
    """JSON as Go's ``json.Marshal`` writes it: no blanks, and three characters escaped."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()
