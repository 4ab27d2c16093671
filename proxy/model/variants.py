"""Which manifest of an index is meant: one by the index's own marks, by a wish, or none of several.

An index holds a model beside its image (olot), beside attestations (buildkit), for several
platforms, or as a set of quantisations that stand side by side (kitops): of a set none is chosen
without a wish.
Source: image-spec v1.1, image-index.md; the annotations of buildkit and olot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.errors import BadRequest, ManifestUnknown, SizeInvalid
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor, Index, Platform, normalise_media_type

CHILDREN_LIMIT = 1_000

_SET_TYPE = re.compile(
    r"application/vnd\.(?:kitops\.modelkit|cncf\.model|cnai\.model)\.index(?:[.+].*)?"
)
_ATTACHED = {"vnd.docker.reference.type", "vnd.docker.reference.digest"}
_ATTACHED_TYPE = re.compile(r"(?s).*(?:in-toto|cosign|sigstore|notary|attestation|sbom).*")
_MODEL_MARK = ("io.opendatahub.modelcar.manifest.type", "modelpack")
_NAMES = ("org.opencontainers.image.title", "org.opencontainers.image.ref.name")
_DEFAULT_PLATFORM = "linux/amd64"
_PLATFORM = re.compile(r"[a-z0-9_.-]+/[a-z0-9_.-]+(?:/[a-z0-9_.-]+)?")
# As containerd reads them: "Normalize" in its platforms package.
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
_PLAIN_VARIANTS = {("amd64", "v1"), ("arm64", "v8"), ("arm64", "8")}


@dataclass(frozen=True, slots=True)
class Variant:
    """A child of an index; ``size`` is the manifest's, in bytes, ``metadata`` what kitops adds."""

    digest: Digest
    size: int
    media_type: str
    artifact_type: str | None
    platform: str | None
    name: str | None
    metadata: Mapping[str, object] = field(default_factory=dict)
    is_marked: bool = False

    def to_json(self) -> dict[str, object]:
        """The variant as a record lists it."""
        return {
            "digest": str(self.digest),
            "size": self.size,
            "mediaType": self.media_type,
            "artifactType": self.artifact_type,
            "platform": self.platform,
            "name": self.name,
            "metadata": _clean(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What is wished for: a platform, ``os/architecture[/variant]``; a variant's digest or name."""

    platform: str | None = None
    variant: str | None = None


def variants(index: Index) -> tuple[Variant, ...]:
    """The children that can be a model, in their order; attestations and signatures are none.

    Raises:
        SizeInvalid: more than 1,000 children.
    """
    if len(index.manifests) > CHILDREN_LIMIT:
        raise SizeInvalid(
            f"expected an index of at most {CHILDREN_LIMIT} manifests, found {len(index.manifests)}"
        )
    return tuple(_variant(child) for child in index.manifests if not _is_attached(child))


def choose(index: Index, choice: Choice, *, is_model_type: Callable[[str], bool]) -> Variant | None:
    """The child that is meant, or None for a set of which none was wished for.

    Raises:
        ManifestUnknown: none is left, or not the one wished for; the detail lists what there is.
        BadRequest: a wish of no known form.
        SizeInvalid: as ``variants``.
    """
    found = variants(index)
    if not found:
        raise ManifestUnknown("the index holds no manifest that could be a model")
    if choice.variant is not None:
        return _by_wish(found, choice.variant)
    if choice.platform is not None:
        found = _by_platform(found, choice.platform)
    if _is_one(found):
        return found[0]
    if _SET_TYPE.fullmatch(normalise_media_type(index.artifact_type or "")):
        return None
    for narrower in (
        [one for one in found if one.is_marked],
        [one for one in found if one.artifact_type and is_model_type(one.artifact_type)],
    ):
        found = tuple(narrower) or found
        if _is_one(found):
            return found[0]
    usual = [one for one in found if one.platform == _DEFAULT_PLATFORM]
    return usual[0] if _is_one(usual) else None


def _is_one(found: Sequence[Variant]) -> bool:
    """Whether all are the same manifest: an index may list it once for each platform."""
    return len({one.digest for one in found}) == 1


def _by_wish(found: Sequence[Variant], wish: str) -> Variant:
    # A digest goes before a name, which could be written like the digest of another.
    named = [one for one in found if str(one.digest) == wish] or [
        one for one in found if one.name == wish
    ]
    if not _is_one(named):
        what = "no variant" if not named else f"{len(named)} variants"
        raise _unknown(f"the index has {what} {wish[:200]!r}", found)
    return named[0]


def _by_platform(found: Sequence[Variant], wish: str) -> tuple[Variant, ...]:
    """Those of the platform; without a variant in the wish, of the plain one or the first."""
    text = wish.lower()
    if not _PLATFORM.fullmatch(text):
        raise BadRequest(f"expected platform=<os>/<architecture>[/<variant>], found {wish[:200]!r}")
    wanted = _normal(*text.split("/"))
    there = [one.platform for one in found if one.platform is not None]
    if wanted not in there and text.count("/") == 1:
        wanted = next((one for one in there if one.startswith(f"{wanted}/")), wanted)
    if wanted not in there:
        raise _unknown(f"the index has nothing for the platform {wish[:200]!r}", found)
    return tuple(one for one in found if one.platform == wanted)


def _unknown(text: str, found: Sequence[Variant]) -> ManifestUnknown:
    # Without the metadata, which has no bound but the index's own: the record has it.
    shown = [replace(one, metadata={}).to_json() for one in found[:100]]
    return ManifestUnknown(text, detail={"variants": shown})


def _clean(metadata: Mapping[str, object]) -> object:
    """As JSON in UTF-8 can carry it: no lone surrogates, null for ``1e999``, read as infinite."""
    text = json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace")
    return json.loads(text, parse_constant=lambda _: None)


def _variant(child: Descriptor) -> Variant:
    metadata = child.extensions.get("modelMetadata")
    names = (child.annotations.get(key) for key in _NAMES)
    key, value = _MODEL_MARK
    return Variant(
        digest=child.digest,
        size=child.size,
        media_type=child.media_type,
        artifact_type=normalise_media_type(child.artifact_type) if child.artifact_type else None,
        platform=_platform_text(child.platform),
        name=next((name for name in names if name), None),
        metadata=metadata if isinstance(metadata, dict) else {},
        is_marked=child.annotations.get(key) == value,
    )


def _is_attached(child: Descriptor) -> bool:
    kinds = (normalise_media_type(child.artifact_type or ""), child.media_type)
    return not _ATTACHED.isdisjoint(child.annotations) or any(
        _ATTACHED_TYPE.fullmatch(kind) for kind in kinds
    )


def _platform_text(platform: Platform | None) -> str | None:
    if platform is None or not platform.os or not platform.architecture:
        return None
    os, architecture = platform.os.lower(), platform.architecture.lower()
    if "unknown" in (os, architecture):
        return None
    return _normal(os, architecture, platform.variant.lower())


def _normal(os: str, architecture: str, variant: str = "") -> str:
    architecture = _ARCHITECTURES.get(architecture, architecture)
    if (architecture, variant) in _PLAIN_VARIANTS:
        variant = ""
    return str(Platform(os, architecture, variant))
