"""Storage of the embedded registry: many repositories in one OCI image layout folder.

``Layout`` is the contract; ``index`` says what stands in index.json, ``adoption`` what was there at
start, ``disk`` and ``uploads`` move the bytes. Which blobs a repository may read is kept in memory:
what was uploaded or mounted there, and at start whatever its manifests refer to.

Everything that changes the layout runs under one lock and to its end, even when the request that
asked for it is cancelled: disk first, then memory, so that a failed write changes neither.
Source: image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import aiofiles

from proxy.embedded.adoption import adopt
from proxy.embedded.disk import INLINE_BYTES_LIMIT, Folder, in_thread
from proxy.embedded.index import LayoutIndex
from proxy.embedded.records import ManifestRecord, Repository, foreign_layers
from proxy.embedded.uploads import BlobReader, BlobUpload
from proxy.errors import (
    BlobUnknown,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestUnknown,
    NotFound,
    SizeInvalid,
)
from proxy.oci.digest import Digest
from proxy.oci.manifest import MANIFEST_BYTES_LIMIT
from proxy.oci.reference import RepositoryName, Tag

UPLOADS_LIMIT = 256


class Layout:
    """The repositories of one layout folder. ``await Layout.open(...)``; close with ``aclose``."""

    def __init__(
        self, folder: Folder, *, index: LayoutIndex, repositories: dict[str, Repository]
    ) -> None:
        self._folder = folder
        self._index = index
        self._repositories = repositories
        self._uploads: dict[str, BlobUpload] = {}
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, folder: Path) -> Layout:
        """The layout in ``folder``, made if there is none; unfinished uploads are removed.

        Raises:
            MalformedArtifact: the folder holds something that is no image layout of version 1.
            BlockingIOError: another process serves this folder.
            OSError: the folder cannot be read or written.
        """
        opened = Folder(folder)
        try:
            await in_thread(opened.open)
            index, repositories = await in_thread(adopt, opened)
        except BaseException:
            opened.close()
            raise
        return cls(opened, index=index, repositories=repositories)

    async def aclose(self) -> None:
        """Wait for the change under way and let the next process have the folder."""
        async with self._lock:
            self._folder.close()

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

    def find(self, repository: RepositoryName, reference: Tag | Digest) -> ManifestRecord:
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

    async def read_manifest(self, manifest: ManifestRecord) -> bytes:
        """The manifest's bytes as they were pushed.

        Raises:
            ManifestUnknown: its file is gone.
        """
        try:
            async with aiofiles.open(self._folder.blob_path(manifest.digest), "rb") as file:
                return await file.read()
        except FileNotFoundError as error:
            raise ManifestUnknown(f"the content of {manifest.digest} is gone") from error

    def referrers(self, repository: RepositoryName, subject: Digest) -> list[ManifestRecord]:
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
                return BlobReader(os.open(self._folder.blob_path(digest), os.O_RDONLY))
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
    ) -> ManifestRecord:
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
            manifest = ManifestRecord.read(body, announced=media_type, algorithm=algorithm)
        else:
            manifest = await in_thread(
                lambda: ManifestRecord.read(body, announced=media_type, algorithm=algorithm)
            )
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
        if (
            found is None
            or digest not in found.blobs
            or not self._folder.blob_path(digest).is_file()
        ):
            return False
        self._open_repository(repository).blobs.add(digest)
        return True

    async def start_upload(
        self, repository: RepositoryName, *, algorithm: str = "sha256"
    ) -> BlobUpload:
        """A new upload; beyond 256 of them the one that has waited longest is given up."""
        path = await in_thread(self._folder.create_partial)
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
        await in_thread(upload.discard)

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
        manifest: ManifestRecord,
        body: bytes,
        tags: Sequence[Tag],
    ) -> None:
        async with self._lock:
            found = self._open_repository(repository)
            missing = [digest for digest in manifest.blobs if digest not in found.blobs]
            if missing:
                # Rare enough to read the manifest again: who lists urls may leave its bytes out.
                elsewhere = await in_thread(foreign_layers, body)
                missing = [digest for digest in missing if digest not in elsewhere]
            if missing:
                raise ManifestBlobUnknown(
                    f"expected the manifest's blobs in {repository}, {len(missing)} are missing",
                    detail=[{"digest": str(digest)} for digest in missing[:100]],
                )
            index = self._index.with_manifest(repository, manifest, tags=tags, pointers=found.tags)
            await in_thread(self._folder.write_blob, manifest.digest, body)
            await self._write_index(index)
            found.manifests[manifest.digest] = manifest
            found.tags = {**found.tags, **{tag.text: manifest.digest for tag in tags}}

    async def _delete_tag(self, repository: RepositoryName, tag: Tag) -> None:
        async with self._lock:
            self.find(repository, tag)
            found = self._repositories[repository.text]
            await self._write_index(self._index.without_tag(repository, tag, pointers=found.tags))
            found.tags = {text: held for text, held in found.tags.items() if text != tag.text}

    async def _delete_manifest(self, repository: RepositoryName, digest: Digest) -> None:
        async with self._lock:
            self.find(repository, digest)
            found = self._repositories[repository.text]
            await self._write_index(
                self._index.without_manifest(repository, digest, pointers=found.tags)
            )
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
            if not await in_thread(upload.seal, expected):
                raise DigestInvalid(f"expected the bytes of {expected}, found {upload.size} others")
            async with self._lock:
                await in_thread(upload.move, self._folder.blob_path(expected))
                self._open_repository(upload.repository).blobs.add(expected)
        finally:
            await in_thread(upload.discard)

    def _open_repository(self, repository: RepositoryName) -> Repository:
        return self._repositories.setdefault(repository.text, Repository())

    async def _remove_unheld(self, digest: Digest) -> None:
        if self._index.keeps(digest):
            return
        for found in self._repositories.values():
            if digest in found.blobs or digest in found.manifests:
                return
        await in_thread(self._folder.remove_blob, digest)

    async def _write_index(self, index: LayoutIndex) -> None:
        await in_thread(lambda: self._folder.write_index(index.document()))
        self._index = index
