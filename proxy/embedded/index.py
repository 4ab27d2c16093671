"""``index.json`` of the layout: which entry stands for which tag or manifest of which repository.

A tagged manifest is an entry whose ``ref.name`` is ``<repository>:<tag>``; one without a tag
carries its repository in an annotation of ours. Entries of other tools are kept as they were found.
Pure: a change gives a new ``LayoutIndex``, and whoever asked for it writes it down.
Source: image-spec v1.1, image-layout.md and annotations.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.embedded.records import ManifestRecord
from proxy.errors import DigestInvalid, NameInvalid
from proxy.oci.digest import Digest
from proxy.oci.reference import NAME, RepositoryName, Tag

REF_NAME = "org.opencontainers.image.ref.name"
REPOSITORY = "dev.cnai-proxy.repository"

_NAME = re.compile(NAME)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry belongs: under a tag of a repository, or (None) under its digest alone."""

    repository: RepositoryName
    tag: str | None
    digest: Digest
    media_type: str | None

    @classmethod
    def of(cls, entry: object, *, folder_name: str) -> Place | None:
        """The place of an entry of index.json; None when it is no descriptor we can read.

        What names no repository belongs to the one named after the layout's folder.
        """
        if not isinstance(entry, dict):
            return None
        text, media_type = entry.get("digest"), entry.get("mediaType")
        if not isinstance(text, str) or not (media_type is None or isinstance(media_type, str)):
            return None
        annotations = _annotations(entry)
        try:
            digest = Digest.parse(text)
            if REF_NAME not in annotations and REPOSITORY in annotations:
                repository = RepositoryName.parse(annotations[REPOSITORY])
                return cls(repository, None, digest, media_type)
        except (DigestInvalid, NameInvalid):
            return None
        name, colon, tag = annotations.get(REF_NAME, "").rpartition(":")
        try:
            repository = RepositoryName.parse(name) if colon else _folder_repository(folder_name)
            return cls(repository, Tag.parse(tag).text, digest, media_type)
        except NameInvalid:
            # Another tool's idea of a name: its manifest is readable by digest.
            return cls(_folder_repository(folder_name), None, digest, media_type)

    @property
    def key(self) -> tuple[str, str]:
        """What the entry is found by: repository, and tag or digest."""
        return self.repository.text, self.tag if self.tag is not None else str(self.digest)


@dataclass(frozen=True, slots=True)
class LayoutIndex:
    """Our ``entries`` by (repository, tag or digest), ``foreign`` ones, and all else (``head``).

    ``pointers`` are always the tags of the repository as they are before the change.
    """

    head: Mapping[str, object]
    foreign: Sequence[object]
    entries: Mapping[tuple[str, str], dict[str, object]]

    def document(self) -> dict[str, object]:
        """What stands in index.json."""
        return {**self.head, "manifests": [*self.foreign, *self.entries.values()]}

    def keeps(self, digest: Digest) -> bool:
        """Whether a foreign entry stands for ``digest``: its bytes are not ours to remove."""
        named = str(digest)
        return any(
            isinstance(entry, dict) and entry.get("digest") == named for entry in self.foreign
        )

    def with_manifest(
        self,
        repository: RepositoryName,
        manifest: ManifestRecord,
        *,
        tags: Sequence[Tag],
        pointers: Mapping[str, Digest],
    ) -> LayoutIndex:
        """``manifest`` added, and ``tags`` pointing at it; what they pointed at stays by digest."""
        name, own = repository.text, str(manifest.digest)
        fields: dict[str, object] = {
            "mediaType": manifest.media_type,
            "digest": own,
            "size": manifest.size,
        }
        entries, pointers = dict(self.entries), dict(pointers)
        for tag in tags:
            previous = entries.pop((name, tag.text), {})
            label = _annotations(previous).get(REF_NAME, f"{name}:{tag}")
            entries[name, tag.text] = {**fields, "annotations": {REF_NAME: label}}
            pointers[tag.text] = manifest.digest
            if previous:
                _keep_untagged(entries, name, previous=previous, pointers=pointers)
        entries.setdefault((name, own), _untagged(fields, name))
        if manifest.digest in pointers.values():
            entries.pop((name, own))
        return replace(self, entries=entries)

    def without_tag(
        self, repository: RepositoryName, tag: Tag, *, pointers: Mapping[str, Digest]
    ) -> LayoutIndex:
        """``tag``, which is there, taken out; its manifest stays by digest."""
        left = {text: digest for text, digest in pointers.items() if text != tag.text}
        entries = dict(self.entries)
        previous = entries.pop((repository.text, tag.text))
        _keep_untagged(entries, repository.text, previous=previous, pointers=left)
        return replace(self, entries=entries)

    def without_manifest(
        self, repository: RepositoryName, digest: Digest, *, pointers: Mapping[str, Digest]
    ) -> LayoutIndex:
        """The manifest taken out, with all tags that point at it."""
        gone = {(repository.text, tag) for tag, held in pointers.items() if held == digest}
        gone.add((repository.text, str(digest)))
        left = {key: entry for key, entry in self.entries.items() if key not in gone}
        return replace(self, entries=left)


def _folder_repository(folder_name: str) -> RepositoryName:
    """``My Models`` as ``my-models``: what a bare tag of a foreign layout belongs to."""
    if _NAME.fullmatch(folder_name):
        return RepositoryName(folder_name)
    return RepositoryName("-".join(re.findall(r"[a-z0-9]+", folder_name.lower())) or "model")


def _annotations(fields: Mapping[str, object]) -> dict[str, str]:
    found = fields.get("annotations")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _untagged(fields: Mapping[str, object], repository: str) -> dict[str, object]:
    annotations = {k: v for k, v in _annotations(fields).items() if k != REF_NAME}
    return {**fields, "annotations": {**annotations, REPOSITORY: repository}}


def _keep_untagged(
    entries: dict[tuple[str, str], dict[str, object]],
    repository: str,
    *,
    previous: dict[str, object],
    pointers: Mapping[str, Digest],
) -> None:
    """A manifest that lost its last tag stays readable by digest."""
    digest = str(previous["digest"])
    if digest not in map(str, pointers.values()):
        entries.setdefault((repository, digest), _untagged(previous, repository))
