"""What a layout folder holds when the registry starts, whoever wrote it.

``index.json`` is the only record. The manifests its entries stand for are read, each once and
within bounds, and what hangs below them too; their blobs belong to the repositories of the entries.
Entries that name nothing we can serve are kept: not ours to judge, and not ours to drop.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.embedded.disk import Folder
from proxy.embedded.index import LayoutIndex, Place
from proxy.embedded.records import ManifestRecord, Repository
from proxy.errors import MalformedArtifact, ManifestInvalid
from proxy.oci.digest import Digest
from proxy.oci.manifest import MANIFEST_BYTES_LIMIT

DEPTH_LIMIT = 8
MANIFESTS_LIMIT = 100_000


def adopt(folder: Folder) -> tuple[LayoutIndex, dict[str, Repository]]:
    """The index of an open ``folder`` and its repositories by name; blocks.

    Raises:
        MalformedArtifact: index.json is no index.
        OSError: the folder cannot be read.
    """
    head = folder.read_index()
    found = head.pop("manifests", None)
    if found is None:
        found = []  # Go writes a nil slice as null
    if not isinstance(found, list):
        raise MalformedArtifact(f"expected a list at $.manifests of {folder.path}/index.json")
    repositories: dict[str, Repository] = {}
    entries: dict[tuple[str, str], dict[str, object]] = {}
    foreign: list[object] = []
    manifests = _Manifests(folder)
    for entry in found:
        place = Place.of(entry, folder_name=folder.path.name)
        manifest = None
        if place is not None:
            manifest = manifests.find(place.digest, place.media_type)
        if place is None or manifest is None:
            foreign.append(entry)
            continue
        # Two entries of one name: the last one counts, as for whoever appended it.
        if (earlier := entries.pop(place.key, None)) is not None:
            foreign.append(earlier)
        entries[place.key] = entry
        repository = repositories.setdefault(place.repository.text, Repository())
        if place.tag is not None:
            repository.tags[place.tag] = place.digest
        for member in manifests.reachable(manifest):
            repository.manifests[member.digest] = member
            repository.blobs.update(blob for blob in member.blobs if manifests.holds(blob))
    return LayoutIndex(head=head, foreign=foreign, entries=entries), repositories


class _Manifests:
    """Reads the manifests of a layout, each once, within bounds."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._names = folder.blob_names()
        self._known: dict[Digest, ManifestRecord | None] = {}

    def holds(self, digest: Digest) -> bool:
        return (digest.algorithm, digest.hex) in self._names

    def find(self, digest: Digest, media_type: str | None) -> ManifestRecord | None:
        """The manifest, or None when it is missing, broken or over the bounds."""
        if digest not in self._known:
            if len(self._known) >= MANIFESTS_LIMIT:
                return None
            self._known[digest] = self._read(digest, media_type)
        return self._known[digest]

    def reachable(self, top: ManifestRecord) -> Iterable[ManifestRecord]:
        """``top`` and whatever hangs below it, to ``DEPTH_LIMIT``."""
        seen, level = {top.digest: top}, [top]
        for _ in range(DEPTH_LIMIT):
            below: list[ManifestRecord] = []
            for child in (digest for entry in level for digest in entry.children):
                if child not in seen and (manifest := self.find(child, None)) is not None:
                    seen[child] = manifest
                    below.append(manifest)
            level = below
        return seen.values()

    def _read(self, digest: Digest, media_type: str | None) -> ManifestRecord | None:
        path = self._folder.blob_path(digest)
        if not self.holds(digest) or path.stat().st_size > MANIFEST_BYTES_LIMIT:
            return None
        body = path.read_bytes()
        if Digest.of(body, digest.algorithm) != digest:
            return None
        try:
            return ManifestRecord.read(body, announced=media_type, algorithm=digest.algorithm)
        except ManifestInvalid:
            return None
