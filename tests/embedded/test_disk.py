from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from proxy.embedded.disk import Folder, in_thread
from proxy.errors import MalformedArtifact
from proxy.oci.digest import Digest

BODY = b"weights"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    opened = Folder(tmp_path)
    opened.open()
    opened.close()
    return opened


def test_close_twice_and_unopened_does_nothing(folder: Folder, tmp_path: Path) -> None:
    folder.close()
    Folder(tmp_path).close()


def test_write_blob_keeps_a_file_of_its_size_and_replaces_another(folder: Folder) -> None:
    digest = Digest.of(BODY)
    path = folder.blob_path(digest)
    folder.write_blob(digest, BODY)
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o600
    inode = path.stat().st_ino
    folder.write_blob(digest, BODY)
    assert path.stat().st_ino == inode
    path.write_bytes(BODY[:3])
    folder.write_blob(digest, BODY)
    assert path.read_bytes() == BODY


def test_blob_names_are_those_of_both_algorithms(folder: Folder) -> None:
    digests = [Digest.of(BODY), Digest.of(BODY, "sha512")]
    for digest in digests:
        folder.write_blob(digest, BODY)
    assert folder.blob_names() == {(digest.algorithm, digest.hex) for digest in digests}
    for digest in digests * 2:
        folder.remove_blob(digest)  # the second time it is gone, which is no error
    assert folder.blob_names() == set()


def test_write_that_fails_leaves_no_partial_file(folder: Folder) -> None:
    (folder.path / "index.json").unlink()
    (folder.path / "index.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        folder.write_index({"manifests": []})
    assert list((folder.path / "uploads").iterdir()) == []


def test_read_index_beyond_the_bound_is_refused(folder: Folder) -> None:
    with (folder.path / "index.json").open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    with pytest.raises(MalformedArtifact, match="at most 67108864 bytes"):
        folder.read_index()


async def test_in_thread_cancelled_comes_back_after_the_work() -> None:
    started, release, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait(10)
        ended.set()

    async def call() -> None:
        try:
            await in_thread(work)
        finally:
            assert ended.is_set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(call())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        release.set()
    assert task.cancelled()
