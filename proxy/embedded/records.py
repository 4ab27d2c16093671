"""What the registry remembers of its manifests, so that it need not read them for each request.

Pure: bytes come in, records come out.
Source: image-spec v1.1, manifest.md and image-index.md; distribution-spec v1.1, "Pushing Manifests"
(the announced media type) and "Listing Referrers" (the artifact type).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import MalformedArtifact, ManifestInvalid
from proxy.oci.digest import Digest
from proxy.oci.manifest import (
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    decode,
    load_json,
    normalise_media_type,
)

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_FOREIGN_LAYER = re.compile(r"\.nondistributable\.|\.rootfs\.foreign\.")


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """What the registry must know of a manifest without reading it; ``size`` in bytes.

    ``annotations`` are kept only where a subject makes this manifest a referrer.
    """

    digest: Digest
    media_type: str
    size: int
    artifact_type: str | None
    annotations: Mapping[str, str]
    subject: Digest | None
    blobs: tuple[Digest, ...]
    children: tuple[Digest, ...]

    @classmethod
    def read(cls, body: bytes, *, announced: str | None, algorithm: str) -> ManifestRecord:
        """The record of the manifest or index in ``body``, under its ``algorithm`` digest.

        ``announced`` is the media type it came with; None takes the body's own.

        Raises:
            ManifestInvalid: no manifest, or announced as another type than its own.
        """
        try:
            decoded = decode(body)
        except MalformedArtifact as error:
            raise ManifestInvalid(error.message) from error
        own = decoded.media_type
        if announced is not None and not _MEDIA_TYPE.fullmatch(announced.partition(";")[0].strip()):
            raise ManifestInvalid(f"expected a media type, found {announced[:200]!r}")
        if own and announced and normalise_media_type(own) != normalise_media_type(announced):
            raise ManifestInvalid(
                f"expected the announced type {announced[:200]!r} at $.mediaType, "
                f"found {own[:200]!r}"
            )
        artifact_type = decoded.artifact_type
        blobs: tuple[Descriptor, ...] = ()
        children: tuple[Descriptor, ...] = ()
        if isinstance(decoded, Index):
            kind, children = OCI_INDEX, decoded.manifests
        else:
            config = () if decoded.config is None else (decoded.config,)
            kind, blobs = OCI_MANIFEST, (*config, *decoded.layers)
            if artifact_type is None and decoded.config is not None:
                artifact_type = decoded.config.media_type
        return cls(
            digest=Digest.of(body, algorithm),
            media_type=announced or own or kind,
            size=len(body),
            artifact_type=artifact_type,
            annotations=decoded.annotations if decoded.subject else {},
            subject=decoded.subject.digest if decoded.subject else None,
            blobs=tuple(dict.fromkeys(entry.digest for entry in blobs)),
            children=tuple(dict.fromkeys(entry.digest for entry in children)),
        )


@dataclass(slots=True)
class Repository:
    """What one repository holds: its tags, the manifests and the blobs it may read."""

    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, ManifestRecord] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)


def foreign_layers(body: bytes) -> set[Digest]:
    """The layers whose bytes live elsewhere, so that a push may leave them out.

    ``body`` is a manifest that ``ManifestRecord.read`` took.
    """
    document = load_json(body, what="the manifest")
    layers = document.get("layers") if isinstance(document, dict) else None
    return {
        Digest.parse(layer["digest"])
        for layer in layers or []
        if layer.get("urls") or _FOREIGN_LAYER.search(str(layer.get("mediaType")))
    }
