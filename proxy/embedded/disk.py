"""The layout's folder on disk: whose it is, and files that are written whole or not at all.

What stands here blocks; ``in_thread`` takes it off the event loop.
Source: image-spec v1.1, image-layout.md.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from proxy.errors import MalformedArtifact
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, load_json

# From this many bytes on, hashing and writing go to a thread: a hop costs about 0.2 ms.
INLINE_BYTES_LIMIT = 256 * 1024
INDEX_BYTES_LIMIT = 64 * 1024 * 1024

_PARTIAL = re.compile(r"[0-9a-f]{32}")
_OWN_FOLDERS = frozenset({"blobs", "uploads", "lost+found"})

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run in a thread and come back only when it has ended, even when cancelled meanwhile.

    Otherwise the next request could meet a write that is still going on.
    """
    running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


class Folder:
    """A layout folder: ``open`` it before anything else, ``close`` it for the next process."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._guard = -1

    def open(self) -> None:
        """Lock the folder, make what a layout needs, remove unfinished uploads.

        Raises:
            MalformedArtifact: the folder holds something that is no image layout of version 1.
            BlockingIOError: another process serves this folder.
            OSError: the folder cannot be read or written.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker, index = self.path / "oci-layout", self.path / "index.json"
        if not marker.exists():
            # A mistyped path must not turn somebody's home into a registry.
            strangers = {entry.name for entry in self.path.iterdir()} - _OWN_FOLDERS
            if any(not name.startswith(".") for name in strangers):
                raise MalformedArtifact(f"expected an OCI image layout or no files in {self.path}")
        self._guard = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (self.path / "uploads").mkdir(mode=0o700, exist_ok=True)
        for partial in (self.path / "uploads").iterdir():
            if _PARTIAL.fullmatch(partial.name):
                partial.unlink()
        (self.path / "blobs" / "sha256").mkdir(mode=0o700, parents=True, exist_ok=True)
        if not marker.exists():
            self._write_document(marker, {"imageLayoutVersion": "1.0.0"})
        version = _read_object(marker).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise MalformedArtifact(f"expected imageLayoutVersion 1.x in {marker}")
        if not index.exists():
            self.write_index({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})

    def close(self) -> None:
        """Let the next process have the folder."""
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1

    def read_index(self) -> dict[str, object]:
        """The object in index.json.

        Raises:
            MalformedArtifact: over 64 MiB, or no JSON object.
        """
        return _read_object(self.path / "index.json")

    def write_index(self, document: dict[str, object]) -> None:
        """Replace index.json."""
        self._write_document(self.path / "index.json", document)

    def blob_path(self, digest: Digest) -> Path:
        """Where the blob's file is, if it is there."""
        return self.path / "blobs" / digest.algorithm / digest.hex

    def blob_names(self) -> set[tuple[str, str]]:
        """(algorithm, hex) of every file that stands where a blob does."""
        blobs = self.path / "blobs"
        return {
            (algorithm, name)
            for algorithm in ("sha256", "sha512")
            if (blobs / algorithm).is_dir()
            for name in os.listdir(blobs / algorithm)
        }

    def write_blob(self, digest: Digest, body: bytes) -> None:
        """Store ``body`` as the blob ``digest``, unless a file of its size is there."""
        path = self.blob_path(digest)
        if not path.is_file() or path.stat().st_size != len(body):
            self._write_whole(path, body)

    def remove_blob(self, digest: Digest) -> None:
        """Remove the blob's file if it is there."""
        self.blob_path(digest).unlink(missing_ok=True)

    def create_partial(self) -> Path:
        """A new empty file for bytes on their way; readable by the owner alone."""
        path = self.path / "uploads" / uuid.uuid4().hex
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return path

    def _write_document(self, path: Path, document: object) -> None:
        self._write_whole(path, json.dumps(document, ensure_ascii=True).encode("ascii"))

    def _write_whole(self, path: Path, content: bytes) -> None:
        partial = self.create_partial()
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            move(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Rename a file: atomic, and on disk when it returns."""
    target.parent.mkdir(mode=0o700, exist_ok=True)
    source.rename(target)
    handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_object(path: Path) -> dict[str, object]:
    if path.stat().st_size > INDEX_BYTES_LIMIT:
        raise MalformedArtifact(f"expected {path} to have at most {INDEX_BYTES_LIMIT} bytes")
    document = load_json(path.read_bytes(), what=str(path))
    if not isinstance(document, dict):
        raise MalformedArtifact(f"expected a JSON object in {path}")
    return document
