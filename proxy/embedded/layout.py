"""Storage of the embedded registry: many repositories in one OCI image layout folder.

``index.json`` is the only record. A tagged manifest is an entry whose ``ref.name`` is
``<repository>:<tag>``; one without a tag carries its repository in an annotation of ours. A layout
written by another tool keeps its entries: their bare tags belong to a repository named after the
folder. Which blobs a repository may read is kept in memory: what was uploaded or mounted there,
and at start whatever its manifests refer to.

Everything that changes the layout runs under one lock and to its end, even when the request that
asked for it is cancelled: disk first, then memory, so that a failed write changes neither.
Source: image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from proxy.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    MalformedArtifact,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    SizeInvalid,
)
from proxy.oci.digest import Digest
from proxy.oci.manifest import (
    MANIFEST_BYTES_LIMIT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    decode,
    load_json,
    normalise_media_type,
)
from proxy.oci.reference import NAME, RepositoryName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

REF_NAME = "org.opencontainers.image.ref.name"
REPOSITORY = "dev.cnai-proxy.repository"

# From this many bytes on, hashing and writing go to a thread: a hop costs about 0.2 ms.
INLINE_BYTES_LIMIT = 256 * 1024
UPLOADS_LIMIT = 256
INDEX_BYTES_LIMIT = 64 * 1024 * 1024
ADOPT_DEPTH_LIMIT = 8
ADOPT_MANIFESTS_LIMIT = 100_000

_NAME = re.compile(NAME)
_PARTIAL = re.compile(r"[0-9a-f]{32}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_FOREIGN_LAYER = re.compile(r"\.nondistributable\.|\.rootfs\.foreign\.")
_OWN_FOLDERS = frozenset({"blobs", "uploads", "lost+found"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredManifest:
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


@dataclass(slots=True)
class _Repository:
    tags: dict[str, Digest] = field(default_factory=dict)
    manifests: dict[Digest, StoredManifest] = field(default_factory=dict)
    blobs: set[Digest] = field(default_factory=set)


class BlobUpload:
    """An upload under way: a file that grows, and the hash of what it holds so far.

    Whoever appends holds ``turn``, so that two requests cannot interleave.
    """

    def __init__(self, repository: RepositoryName, *, path: Path, algorithm: str) -> None:
        self.repository = repository
        self.session = path.name
        self.size = 0
        self.turn = asyncio.Lock()
        self.ended = False
        self._path = path
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)

    async def append(self, chunk: bytes) -> None:
        """Add bytes to the end; they are hashed on the way.

        Raises:
            BlobUploadUnknown: the upload was cancelled meanwhile.
        """
        if self.ended:
            raise BlobUploadUnknown(f"the upload {self.session} has ended")
        try:
            if len(chunk) < INLINE_BYTES_LIMIT:
                self._append(chunk)
            else:
                await _in_thread(self._append, chunk)
        except FileNotFoundError as error:
            raise BlobUploadUnknown(f"the upload {self.session} was cancelled") from error

    async def append_exactly(self, chunks: AsyncIterator[bytes], *, size: int) -> bool:
        """Add ``chunks`` if they make ``size`` bytes; else leave the upload as it was.

        When the client goes away, what came stays: it may go on from there.

        Raises:
            BlobUploadUnknown: the upload was cancelled meanwhile.
        """
        start, before = self.size, self._hash.copy()
        async for chunk in chunks:
            if self.size - start + len(chunk) > size:
                break
            await self.append(chunk)
        else:
            if self.size - start == size:
                return True
        if not self.ended:
            await _in_thread(os.truncate, self._path, start)
        self.size, self._hash = start, before
        return False

    def _append(self, chunk: bytes) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            written = 0
            while written < len(chunk):
                written += os.pwrite(handle, memoryview(chunk)[written:], self.size + written)
        finally:
            os.close(handle)
        self._hash.update(chunk)
        self.size += len(chunk)

    def seal(self, expected: Digest) -> bool:
        """Flush to disk and say whether the bytes are those of ``expected``; blocks."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
            if expected.algorithm == self._algorithm:
                return self._hash.hexdigest() == expected.hex
            # The algorithm was not known when the bytes came: read them once more.
            return hashlib.file_digest(file, expected.algorithm).hexdigest() == expected.hex

    def move(self, target: Path) -> None:
        """Make the file the blob at ``target``; blocks."""
        _rename(self._path, target)

    def discard(self) -> None:
        """Remove the file if it is still there; blocks."""
        self._path.unlink(missing_ok=True)


class BlobReader:
    """An open blob of ``size`` bytes; it survives the removal of its file. The caller closes it."""

    def __init__(self, handle: int) -> None:
        self.size = os.fstat(handle).st_size
        self._handle = handle

    async def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset`` on; fewer only where the blob ends."""
        return await _in_thread(os.pread, self._handle, length, offset)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)


class Layout:
    """The repositories of one layout folder. ``await Layout.open(...)``; close with ``aclose``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._repositories: dict[str, _Repository] = {}
        self._uploads: dict[str, BlobUpload] = {}
        self._lock = asyncio.Lock()
        # index.json: our entries by (repository, tag or digest), the others as they were found.
        self._entries: dict[tuple[str, str], dict[str, object]] = {}
        self._foreign: list[object] = []
        self._head: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_INDEX}
        self._guard = -1

    @classmethod
    async def open(cls, folder: Path) -> Layout:
        """The layout in ``folder``, made if there is none; unfinished uploads are removed.

        Raises:
            MalformedArtifact: the folder holds something that is no image layout of version 1.
            BlockingIOError: another process serves this folder.
            OSError: the folder cannot be read or written.
        """
        layout = cls(folder)
        try:
            await _in_thread(layout._load)
        except BaseException:
            await layout.aclose()
            raise
        return layout

    async def aclose(self) -> None:
        """Wait for the change under way and let the next process have the folder."""
        async with self._lock:
            if self._guard >= 0:
                os.close(self._guard)
                self._guard = -1

    # Reading ---------------------------------------------------------------------------------

    def repositories(self) -> list[str]:
        """Names of the repositories that hold a manifest, in byte order."""
        return sorted(name for name, found in self._repositories.items() if found.manifests)

    def tags(self, repository: RepositoryName) -> list[str]:
        """All tags in byte order.

        Raises:
            NotFound: no such repository.
        """
        found = self._repositories.get(repository.text)
        if found is None or not (found.manifests or found.blobs):
            raise NotFound(f"expected a repository of this registry, found {repository.text!r}")
        return sorted(found.tags)

    def find(self, repository: RepositoryName, reference: Tag | Digest) -> StoredManifest:
        """The manifest a tag or digest stands for in this repository.

        Raises:
            ManifestUnknown: nothing of that name in this repository.
        """
        found = self._repositories.get(repository.text)
        if found is not None:
            digest = found.tags.get(reference.text) if isinstance(reference, Tag) else reference
            if digest is not None and (manifest := found.manifests.get(digest)) is not None:
                return manifest
        raise ManifestUnknown(f"{repository} has no manifest {reference}")

    async def read_manifest(self, manifest: StoredManifest) -> bytes:
        """The manifest's bytes as they were pushed.

        Raises:
            ManifestUnknown: its file is gone.
        """
        try:
            return await _in_thread(self._blob_path(manifest.digest).read_bytes)
        except FileNotFoundError as error:
            raise ManifestUnknown(f"the content of {manifest.digest} is gone") from error

    def referrers(self, repository: RepositoryName, subject: Digest) -> list[StoredManifest]:
        """The manifests of this repository whose subject is ``subject``, by digest."""
        found = self._repositories.get(repository.text)
        if found is None:
            return []
        matching = (entry for entry in found.manifests.values() if entry.subject == subject)
        return sorted(matching, key=lambda entry: str(entry.digest))

    def open_blob(self, repository: RepositoryName, digest: Digest) -> BlobReader:
        """The blob's bytes; the caller closes the reader.

        Raises:
            BlobUnknown: not a blob of this repository, or its file is not in the layout.
        """
        found = self._repositories.get(repository.text)
        if found is not None and digest in found.blobs:
            try:
                # Not in a thread: it takes microseconds, and a cancelled hop would leak the file.
                return BlobReader(os.open(self._blob_path(digest), os.O_RDONLY))
            except FileNotFoundError:
                pass
        raise BlobUnknown(f"{repository} has no blob {digest}")

    # Changing --------------------------------------------------------------------------------

    async def put_manifest(
        self,
        repository: RepositoryName,
        body: bytes,
        *,
        media_type: str | None,
        digest: Digest | None = None,
        tags: Sequence[Tag] = (),
    ) -> StoredManifest:
        """Store a manifest under ``digest`` (None: its sha256) and point ``tags`` at it.

        ``media_type`` is what the client announced; None takes the body's own.

        Raises:
            SizeInvalid: over 8 MiB.
            ManifestInvalid: no manifest, or announced as another type than its own.
            DigestInvalid: the bytes are not those of ``digest``.
            ManifestBlobUnknown: config or a layer is not in this repository. Children, the
                subject and layers that live elsewhere (``urls``) may be missing.
        """
        if len(body) > MANIFEST_BYTES_LIMIT:
            raise SizeInvalid(f"expected a manifest of at most {MANIFEST_BYTES_LIMIT} bytes")
        algorithm = digest.algorithm if digest is not None else "sha256"
        if len(body) < INLINE_BYTES_LIMIT:
            manifest = _record(body, media_type, algorithm)
        else:
            manifest = await _in_thread(_record, body, media_type, algorithm)
        if digest is not None and digest != manifest.digest:
            raise DigestInvalid(f"expected the bytes of {digest}, found {manifest.digest}")
        await asyncio.shield(self._put_manifest(repository, manifest, body, tags))
        return manifest

    async def delete_tag(self, repository: RepositoryName, tag: Tag) -> None:
        """Forget a tag; its manifest stays readable by digest.

        Raises:
            ManifestUnknown: no such tag.
        """
        await asyncio.shield(self._delete_tag(repository, tag))

    async def delete_manifest(self, repository: RepositoryName, digest: Digest) -> None:
        """Remove a manifest and the tags that point at it; its blobs stay until deleted.

        Raises:
            ManifestUnknown: no such manifest in this repository.
        """
        await asyncio.shield(self._delete_manifest(repository, digest))

    async def delete_blob(self, repository: RepositoryName, digest: Digest) -> None:
        """Take a blob from this repository, and from the disk when nobody else holds it.

        Raises:
            BlobUnknown: not a blob of this repository.
        """
        await asyncio.shield(self._delete_blob(repository, digest))

    def mount(self, repository: RepositoryName, digest: Digest, *, source: RepositoryName) -> bool:
        """Whether ``repository`` may read the blob from now on, because ``source`` may."""
        found = self._repositories.get(source.text)
        if found is None or digest not in found.blobs or not self._blob_path(digest).is_file():
            return False
        self._open_repository(repository).blobs.add(digest)
        return True

    async def start_upload(
        self, repository: RepositoryName, *, algorithm: str = "sha256"
    ) -> BlobUpload:
        """A new upload; beyond 256 of them the one that has waited longest is given up."""
        path = self._folder / "uploads" / uuid.uuid4().hex
        await _in_thread(_create, path)
        upload = BlobUpload(repository, path=path, algorithm=algorithm)
        self._uploads[upload.session] = upload
        idle = [entry for entry in self._uploads.values() if not entry.turn.locked()]
        if len(self._uploads) > UPLOADS_LIMIT and idle[0] is not upload:
            await self.cancel_upload(idle[0])
        return upload

    def upload(self, repository: RepositoryName, session: str) -> BlobUpload:
        """The upload a client goes on with.

        Raises:
            BlobUploadUnknown: no such upload in this repository, or it has ended.
        """
        upload = self._uploads.get(session)
        if upload is None or upload.repository != repository:
            raise BlobUploadUnknown(f"{repository} has no upload {session[:100]!r}")
        self._uploads[session] = self._uploads.pop(session)  # last in line to be given up
        return upload

    async def commit_upload(self, upload: BlobUpload, expected: Digest) -> None:
        """End an upload: its bytes become a blob of its repository, or nothing at all.

        Raises:
            DigestInvalid: the bytes are not those of ``expected``; the upload has ended.
            BlobUploadUnknown: it has ended before.
        """
        await asyncio.shield(self._commit_upload(upload, expected))

    async def cancel_upload(self, upload: BlobUpload) -> None:
        """Give an upload up and remove its bytes; no error when it has ended."""
        self._uploads.pop(upload.session, None)
        upload.ended = True
        await _in_thread(upload.discard)

    async def add_blob(self, repository: RepositoryName, content: bytes) -> Digest:
        """Store ``content`` as a blob of ``repository``."""
        digest = Digest.of(content)
        upload = await self.start_upload(repository)
        try:
            async with upload.turn:
                await upload.append(content)
            await self.commit_upload(upload, digest)
        finally:
            await self.cancel_upload(upload)
        return digest

    # The steps under the lock ------------------------------------------------------------------

    async def _put_manifest(
        self,
        repository: RepositoryName,
        manifest: StoredManifest,
        body: bytes,
        tags: Sequence[Tag],
    ) -> None:
        async with self._lock:
            found = self._open_repository(repository)
            missing = [digest for digest in manifest.blobs if digest not in found.blobs]
            if missing:
                # Rare enough to read the manifest again: who lists urls may leave its bytes out.
                elsewhere = await _in_thread(_foreign_layers, body)
                missing = [digest for digest in missing if digest not in elsewhere]
            if missing:
                raise ManifestBlobUnknown(
                    f"expected the manifest's blobs in {repository}, {len(missing)} are missing",
                    detail=[{"digest": str(digest)} for digest in missing[:100]],
                )
            name, own = repository.text, str(manifest.digest)
            fields: dict[str, object] = {
                "mediaType": manifest.media_type,
                "digest": own,
                "size": manifest.size,
            }
            entries = dict(self._entries)
            pointers = dict(found.tags)
            for tag in tags:
                previous = entries.pop((name, tag.text), {})
                label = _annotations(previous).get(REF_NAME, f"{name}:{tag}")
                entries[name, tag.text] = {**fields, "annotations": {REF_NAME: label}}
                pointers[tag.text] = manifest.digest
                if previous:
                    _keep_untagged(entries, name, previous, pointers)
            entries.setdefault((name, own), _untagged(fields, name))
            if manifest.digest in pointers.values():
                entries.pop((name, own))
            await _in_thread(self._write_blob, manifest.digest, body)
            await self._write_index(entries)
            found.manifests[manifest.digest] = manifest
            found.tags = pointers

    async def _delete_tag(self, repository: RepositoryName, tag: Tag) -> None:
        async with self._lock:
            self.find(repository, tag)
            found = self._repositories[repository.text]
            pointers = {text: digest for text, digest in found.tags.items() if text != tag.text}
            entries = dict(self._entries)
            previous = entries.pop((repository.text, tag.text))
            _keep_untagged(entries, repository.text, previous, pointers)
            await self._write_index(entries)
            found.tags = pointers

    async def _delete_manifest(self, repository: RepositoryName, digest: Digest) -> None:
        async with self._lock:
            self.find(repository, digest)
            found = self._repositories[repository.text]
            gone = {(repository.text, tag) for tag, held in found.tags.items() if held == digest}
            gone.add((repository.text, str(digest)))
            await self._write_index({k: v for k, v in self._entries.items() if k not in gone})
            found.tags = {tag: held for tag, held in found.tags.items() if held != digest}
            del found.manifests[digest]
            await self._remove_unheld(digest)

    async def _delete_blob(self, repository: RepositoryName, digest: Digest) -> None:
        async with self._lock:
            found = self._repositories.get(repository.text)
            if found is None or digest not in found.blobs:
                raise BlobUnknown(f"{repository} has no blob {digest}")
            found.blobs.discard(digest)
            await self._remove_unheld(digest)

    async def _commit_upload(self, upload: BlobUpload, expected: Digest) -> None:
        if self._uploads.pop(upload.session, None) is None:
            raise BlobUploadUnknown(f"the upload {upload.session} has ended")
        upload.ended = True
        try:
            if not await _in_thread(upload.seal, expected):
                raise DigestInvalid(f"expected the bytes of {expected}, found {upload.size} others")
            async with self._lock:
                await _in_thread(upload.move, self._blob_path(expected))
                self._open_repository(upload.repository).blobs.add(expected)
        finally:
            await _in_thread(upload.discard)

    def _open_repository(self, repository: RepositoryName) -> _Repository:
        return self._repositories.setdefault(repository.text, _Repository())

    async def _remove_unheld(self, digest: Digest) -> None:
        named = str(digest)
        if any(isinstance(entry, dict) and entry.get("digest") == named for entry in self._foreign):
            return
        for found in self._repositories.values():
            if digest in found.blobs or digest in found.manifests:
                return
        await _in_thread(lambda: self._blob_path(digest).unlink(missing_ok=True))

    async def _write_index(self, entries: dict[tuple[str, str], dict[str, object]]) -> None:
        document = {**self._head, "manifests": [*self._foreign, *entries.values()]}
        await _in_thread(self._write_file, self._folder / "index.json", document)
        self._entries = entries

    # Disk: blocking, called in a thread ----------------------------------------------------------

    def _blob_path(self, digest: Digest) -> Path:
        return self._folder / "blobs" / digest.algorithm / digest.hex

    def _write_blob(self, digest: Digest, body: bytes) -> None:
        path = self._blob_path(digest)
        if not path.is_file() or path.stat().st_size != len(body):
            self._write_whole(path, body)

    def _write_file(self, path: Path, document: object) -> None:
        self._write_whole(path, json.dumps(document, ensure_ascii=True).encode("ascii"))

    def _write_whole(self, path: Path, content: bytes) -> None:
        partial = self._folder / "uploads" / uuid.uuid4().hex
        _create(partial)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _rename(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def _load(self) -> None:
        folder = self._folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker, index = folder / "oci-layout", folder / "index.json"
        if not marker.exists():
            # A mistyped path must not turn somebody's home into a registry.
            strangers = {entry.name for entry in folder.iterdir()} - _OWN_FOLDERS
            if any(not name.startswith(".") for name in strangers):
                raise MalformedArtifact(f"expected an OCI image layout or no files in {folder}")
        self._guard = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / "uploads").mkdir(mode=0o700, exist_ok=True)
        for partial in (folder / "uploads").iterdir():
            if _PARTIAL.fullmatch(partial.name):
                partial.unlink()
        (folder / "blobs" / "sha256").mkdir(mode=0o700, parents=True, exist_ok=True)
        if not marker.exists():
            self._write_file(marker, {"imageLayoutVersion": "1.0.0"})
        version = _read_object(marker).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise MalformedArtifact(f"expected imageLayoutVersion 1.x in {marker}")
        if not index.exists():
            self._write_file(index, {**self._head, "manifests": []})
        self._load_index(_read_object(index))

    def _load_index(self, document: dict[str, object]) -> None:
        entries = document.pop("manifests", None)
        if entries is None:
            entries = []  # Go writes a nil slice as null
        if not isinstance(entries, list):
            raise MalformedArtifact(f"expected a list at $.manifests of {self._folder}/index.json")
        self._head = document
        adoption = _Adoption(self._folder)
        for entry in entries:
            place = _place(entry, self._folder.name)
            manifest = None
            if place is not None:
                manifest = adoption.manifest(place.digest, place.media_type)
            if place is None or manifest is None:
                self._foreign.append(entry)  # not ours to judge, and not ours to drop
                continue
            found = self._open_repository(place.repository)
            key = place.tag if place.tag is not None else str(place.digest)
            # Two entries of one name: the last one counts, as for whoever appended it.
            if (earlier := self._entries.pop((place.repository.text, key), None)) is not None:
                self._foreign.append(earlier)
            self._entries[place.repository.text, key] = entry
            if place.tag is not None:
                found.tags[place.tag] = place.digest
            for member in adoption.family(manifest):
                found.manifests[member.digest] = member
                found.blobs.update(digest for digest in member.blobs if adoption.holds(digest))


@dataclass(frozen=True, slots=True)
class _Place:
    repository: RepositoryName
    tag: str | None
    digest: Digest
    media_type: str | None


class _Adoption:
    """Reads the manifests of a layout at start, each once, within bounds."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self._known: dict[Digest, StoredManifest | None] = {}
        self._files = {
            (algorithm, name)
            for algorithm in ("sha256", "sha512")
            if (self._blobs / algorithm).is_dir()
            for name in os.listdir(self._blobs / algorithm)
        }

    def holds(self, digest: Digest) -> bool:
        return (digest.algorithm, digest.hex) in self._files

    def manifest(self, digest: Digest, media_type: str | None) -> StoredManifest | None:
        """The manifest, or None when it is missing, broken or over the bounds."""
        if digest not in self._known:
            if len(self._known) >= ADOPT_MANIFESTS_LIMIT:
                return None
            self._known[digest] = self._read(digest, media_type)
        return self._known[digest]

    def family(self, top: StoredManifest) -> Iterable[StoredManifest]:
        """``top`` and whatever hangs below it, to a depth of 8."""
        seen, level = {top.digest: top}, [top]
        for _ in range(ADOPT_DEPTH_LIMIT):
            below: list[StoredManifest] = []
            for child in (digest for entry in level for digest in entry.children):
                if child not in seen and (manifest := self.manifest(child, None)) is not None:
                    seen[child] = manifest
                    below.append(manifest)
            level = below
        return seen.values()

    def _read(self, digest: Digest, media_type: str | None) -> StoredManifest | None:
        path = self._blobs / digest.algorithm / digest.hex
        if not self.holds(digest) or path.stat().st_size > MANIFEST_BYTES_LIMIT:
            return None
        body = path.read_bytes()
        if Digest.of(body, digest.algorithm) != digest:
            return None
        try:
            return _record(body, media_type, digest.algorithm)
        except ManifestInvalid:
            return None


def _place(entry: object, folder_name: str) -> _Place | None:
    """Where an entry of index.json belongs; None when it is no descriptor we can read."""
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
            return _Place(repository, None, digest, media_type)
    except (DigestInvalid, NameInvalid):
        return None
    name, colon, tag = annotations.get(REF_NAME, "").rpartition(":")
    try:
        repository = RepositoryName.parse(name) if colon else _folder_repository(folder_name)
        return _Place(repository, Tag.parse(tag).text, digest, media_type)
    except NameInvalid:
        # Another tool's idea of a name: its manifest is readable by digest.
        return _Place(_folder_repository(folder_name), None, digest, media_type)


def _folder_repository(folder_name: str) -> RepositoryName:
    """``My Models`` as ``my-models``: what a bare tag of a foreign layout belongs to."""
    if _NAME.fullmatch(folder_name):
        return RepositoryName(folder_name)
    return RepositoryName("-".join(re.findall(r"[a-z0-9]+", folder_name.lower())) or "model")


def _record(body: bytes, announced: str | None, algorithm: str) -> StoredManifest:
    try:
        decoded = decode(body)
    except MalformedArtifact as error:
        raise ManifestInvalid(error.message) from error
    own = decoded.media_type
    if announced is not None and not _MEDIA_TYPE.fullmatch(announced.partition(";")[0].strip()):
        raise ManifestInvalid(f"expected a media type, found {announced[:200]!r}")
    if own and announced and normalise_media_type(own) != normalise_media_type(announced):
        raise ManifestInvalid(
            f"expected the announced type {announced[:200]!r} at $.mediaType, found {own[:200]!r}"
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
    return StoredManifest(
        digest=Digest.of(body, algorithm),
        media_type=announced or own or kind,
        size=len(body),
        artifact_type=artifact_type,
        annotations=decoded.annotations if decoded.subject else {},
        subject=decoded.subject.digest if decoded.subject else None,
        blobs=tuple(dict.fromkeys(entry.digest for entry in blobs)),
        children=tuple(dict.fromkeys(entry.digest for entry in children)),
    )


def _foreign_layers(body: bytes) -> set[Digest]:
    """The layers whose bytes live elsewhere, so that a push may leave them out."""
    document = load_json(body, what="the manifest")
    layers = document.get("layers") if isinstance(document, dict) else None
    return {
        Digest.parse(layer["digest"])
        for layer in layers or []
        if layer.get("urls") or _FOREIGN_LAYER.search(str(layer.get("mediaType")))
    }


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
    previous: dict[str, object],
    pointers: Mapping[str, Digest],
) -> None:
    """A manifest that lost its last tag stays readable by digest."""
    digest = str(previous["digest"])
    if digest not in map(str, pointers.values()):
        entries.setdefault((repository, digest), _untagged(previous, repository))


def _read_object(path: Path) -> dict[str, object]:
    if path.stat().st_size > INDEX_BYTES_LIMIT:
        raise MalformedArtifact(f"expected {path} to have at most {INDEX_BYTES_LIMIT} bytes")
    document = load_json(path.read_bytes(), what=str(path))
    if not isinstance(document, dict):
        raise MalformedArtifact(f"expected a JSON object in {path}")
    return document


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _rename(source: Path, target: Path) -> None:
    """Atomic, and on disk when it returns."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    source.rename(target)
    handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run in a thread and come back only when it has ended, even when cancelled meanwhile.

    Otherwise the next request could meet a write that is still going on.
    """
    running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
