"""Manifests and indexes: bytes in, frozen descriptors out. The bytes are kept, never written anew.

Decoding is for those who ask what a manifest *is*; what a registry client pulls is never decoded.
Everything found here was written by whoever could push: types, sizes and counts are checked,
ambiguous documents are refused.
Source: image-spec v1.1, manifest.md, image-index.md, descriptor.md; CVE-2021-41190 for ambiguity.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.errors import DigestInvalid, MalformedArtifact
from proxy.oci.digest import Digest

# Registries take at least 4 MiB (distribution-spec v1.1, "Pushing Manifests"); twice that here.
MANIFEST_BYTES_LIMIT = 8 * 1024 * 1024
JSON_DEPTH_LIMIT = 64
DESCRIPTORS_LIMIT = 20_000
ANNOTATIONS_LIMIT = 20_000

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"

# What we ask for when we fetch a manifest for ourselves; without it old registries answer schema 1.
ACCEPT_MANIFESTS = f"{OCI_MANIFEST}, {OCI_INDEX}, {DOCKER_MANIFEST}, {DOCKER_INDEX}, */*;q=0.1"

_SIZE_LIMIT = 1 << 63
# Possessive, so that a string of megabytes costs no memory for ways back; the last quote may be
# missing, so that one without an end is not looked at again from each quote in it.
_STRING = re.compile(rb'(?s)"[^"\\]*+(?:\\.[^"\\]*+)*+"?')
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

# Go's decoder, the one in most clients, takes keys whatever their case.
_KEYS = (
    *("mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject"),
    *("annotations", "digest", "size"),
)
# descriptor.md, "Properties".
_DESCRIPTOR_KEYS = frozenset(
    ("mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform")
)
_KEYS_BY_FOLDED = {key.casefold(): key for key in _KEYS}


@dataclass(frozen=True, slots=True)
class Platform:
    """What a child of an index runs on, as image-index.md names it; "" where it does not say."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        parts = (self.os, self.architecture, self.variant)
        return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of one blob; ``media_type`` is lower case without parameters.

    ``type_parameters`` is what stood behind the media type's first ``;``. ``content`` is the blob
    itself where the descriptor carries it (``data``) and it is the content of the digest.
    ``extensions`` are the members that image-spec does not know, as they came.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str]
    artifact_type: str | None = None
    type_parameters: str = ""
    platform: Platform | None = None
    content: bytes | None = None
    extensions: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest or artifact manifest. ``media_type`` is the body's own, if it has one."""

    media_type: str | None
    artifact_type: str | None
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    subject: Descriptor | None


@dataclass(frozen=True, slots=True)
class Index:
    """An index; ``manifests`` are the descriptors of its children."""

    media_type: str | None
    artifact_type: str | None
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    subject: Descriptor | None


def load_json(body: bytes, *, what: str) -> object:
    """Hostile JSON as Python values.

    Raises:
        MalformedArtifact: no JSON in UTF-8, duplicate keys, NaN or Infinity, nested deeper than 64.
    """
    if _is_deeper(body, JSON_DEPTH_LIMIT):
        raise MalformedArtifact(f"expected {what} nested at most {JSON_DEPTH_LIMIT} deep")
    try:
        return json.loads(
            body.decode("utf-8"),  # from bytes, UTF-16 would be guessed, which no client reads
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedArtifact(f"expected {what} to be plain JSON: {error}") from error


def normalise_media_type(text: str) -> str:
    """A media type for comparison: lower case, parameters cut off."""
    return text.partition(";")[0].strip().lower()


def decode(body: bytes) -> Manifest | Index:
    """Read a manifest or an index.

    Raises:
        MalformedArtifact: not JSON, neither layers nor manifests, both of them, or a field of the
            wrong type; the message names the place.
    """
    document = load_json(body, what="the manifest")
    if not isinstance(document, dict):
        raise MalformedArtifact("expected the manifest to be a JSON object")
    _refuse_lookalikes(document, "$")
    media_type = _optional_text(document, "mediaType", "$")
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document or "blobs" in document):
        raise MalformedArtifact("ambiguous: both 'manifests' and 'layers' or 'config' at $")
    if not is_index and "layers" not in document and "blobs" not in document:
        raise MalformedArtifact("expected 'layers' or 'manifests' at $, found neither")
    if media_type is not None:
        claims_index = normalise_media_type(media_type) in (OCI_INDEX, DOCKER_INDEX)
        claims_manifest = normalise_media_type(media_type) in (OCI_MANIFEST, DOCKER_MANIFEST)
        if (is_index and claims_manifest) or (not is_index and claims_index):
            raise MalformedArtifact(f"ambiguous: $.mediaType is {media_type[:100]!r}")
    artifact_type = _optional_text(document, "artifactType", "$")
    annotations = _annotations(document, "$")
    subject = document.get("subject")
    subject = None if subject is None else _descriptor(subject, "$.subject")
    if is_index:
        children = _descriptors(document["manifests"], "$.manifests")
        return Index(media_type, artifact_type, children, annotations, subject)
    config = document.get("config")
    key = "layers" if "layers" in document else "blobs"
    return Manifest(
        media_type=media_type,
        artifact_type=artifact_type,
        config=None if config is None else _descriptor(config, "$.config"),
        layers=_descriptors(document[key], f"$.{key}"),
        annotations=annotations,
        subject=subject,
    )


def _descriptors(value: object, place: str) -> tuple[Descriptor, ...]:
    if value is None:
        return ()  # Go writes a nil slice as null
    if not isinstance(value, list):
        raise MalformedArtifact(f"expected a list at {place}")
    if len(value) > DESCRIPTORS_LIMIT:
        raise MalformedArtifact(
            f"expected at most {DESCRIPTORS_LIMIT} entries at {place}, found {len(value)}"
        )
    return tuple(_descriptor(entry, f"{place}[{number}]") for number, entry in enumerate(value))


def _descriptor(value: object, place: str) -> Descriptor:
    if not isinstance(value, dict):
        raise MalformedArtifact(f"expected an object at {place}")
    _refuse_lookalikes(value, place)
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str):
        raise MalformedArtifact(f"expected a digest at {place}.digest")
    if type(size) is not int or not 0 <= size < _SIZE_LIMIT:
        raise MalformedArtifact(f"expected a count of bytes at {place}.size")
    try:
        parsed = Digest.parse(digest)
    except DigestInvalid as error:
        raise MalformedArtifact(f"{error.message} at {place}.digest") from error
    media_type = _optional_text(value, "mediaType", place) or ""
    return Descriptor(
        media_type=normalise_media_type(media_type),
        digest=parsed,
        size=size,
        annotations=_annotations(value, place),
        artifact_type=_optional_text(value, "artifactType", place),
        type_parameters=media_type.partition(";")[2].strip(),
        platform=_platform(value.get("platform")),
        content=_content(value.get("data"), parsed, size),
        extensions={key: extra for key, extra in value.items() if key not in _DESCRIPTOR_KEYS},
    )


def _platform(value: object) -> Platform | None:
    """A platform of a wrong form is none: nothing but a choice depends on it."""
    if not isinstance(value, dict):
        return None
    parts = [value.get(key, "") for key in ("os", "architecture", "variant")]
    os, architecture, variant = (part if isinstance(part, str) else "" for part in parts)
    return Platform(os, architecture, variant)


def _content(data: object, digest: Digest, size: int) -> bytes | None:
    """The blob in ``data``, base64, or None where that is not the blob: then it is fetched."""
    if not isinstance(data, str):
        return None
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError:
        return None
    return (
        content if len(content) == size and Digest.of(content, digest.algorithm) == digest else None
    )


def _annotations(parent: dict[str, object], place: str) -> Mapping[str, str]:
    value = parent.get("annotations")
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > ANNOTATIONS_LIMIT:
        raise MalformedArtifact(
            f"expected an object of at most {ANNOTATIONS_LIMIT} entries at {place}.annotations"
        )
    # A value of another type is no annotation; the rest of the entry still counts.
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _optional_text(parent: dict[str, object], key: str, place: str) -> str | None:
    value = parent.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise MalformedArtifact(f"expected text at {place}.{key}")


def _refuse_lookalikes(parent: dict[str, object], place: str) -> None:
    for key in parent:
        meant = _KEYS_BY_FOLDED.get(key.casefold(), key)
        if meant != key:
            raise MalformedArtifact(
                f"ambiguous: expected the key {meant!r} at {place}, found {key[:100]!r}"
            )


def _is_deeper(body: bytes, limit: int) -> bool:
    """Whether brackets nest deeper: every round takes the innermost pairs away.

    What is left of unbalanced ones is no JSON, and the decoder says so.
    """
    brackets = _STRING.sub(b"", body).translate(_AS_BRACKETS, _NO_BRACKETS)
    for _ in range(limit):
        if b"[]" not in brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return b"[]" in brackets


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:100]!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")
