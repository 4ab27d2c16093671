from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.embedded.layout import Layout
from proxy.embedded.uploads import BlobUpload
from proxy.errors import BlobUploadUnknown, DigestInvalid
from proxy.oci.digest import Digest
from tests.embedded.layouts import TEAM, blob_bytes


@pytest.mark.parametrize("known_before", [True, False])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_upload_of_large_pieces_is_hashed_with_either_algorithm(
    tmp_path: Path, algorithm: str, *, known_before: bool
) -> None:
    layout = await Layout.open(tmp_path)
    content = bytes(range(256)) * 4096
    digest = Digest.of(content, algorithm)
    upload = await layout.start_upload(TEAM, algorithm=algorithm if known_before else "sha256")
    await upload.append(content[:700_000])
    await upload.append(content[700_000:])
    await layout.commit_upload(upload, digest)
    assert await blob_bytes(layout, TEAM, digest) == content
    with pytest.raises(BlobUploadUnknown):
        await layout.commit_upload(upload, digest)
    with pytest.raises(BlobUploadUnknown):
        await upload.append(b"late")
    assert list((tmp_path / "uploads").iterdir()) == []
    await layout.aclose()


async def test_K4_upload_with_other_bytes_than_its_digest_leaves_nothing(tmp_path: Path) -> None:
    layout = await Layout.open(tmp_path)
    upload = await layout.start_upload(TEAM)
    await upload.append(b"other bytes")
    with pytest.raises(DigestInvalid):
        await layout.commit_upload(upload, Digest.of(b"these bytes"))
    assert list((tmp_path / "uploads").iterdir()) == []
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []
    await layout.aclose()


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("wrong", [(b"thr",), (b"three", b"!"), ()])
async def test_append_exactly_of_another_size_leaves_bytes_and_hash_as_they_were(
    tmp_path: Path, wrong: tuple[bytes, ...]
) -> None:
    path = tmp_path / "upload"
    path.touch()
    upload = BlobUpload(TEAM, path=path, algorithm="sha256")
    await upload.append(b"one two ")
    assert not await upload.append_exactly(pieces(*wrong), size=5)
    assert (upload.size, path.read_bytes()) == (8, b"one two ")
    assert await upload.append_exactly(pieces(b"th", b"ree"), size=5)
    assert path.read_bytes() == b"one two three"
    assert upload.seal(Digest.of(b"one two three"))
    assert not upload.seal(Digest.of(b"one two thr"))


async def test_append_to_a_removed_file_is_an_unknown_upload(tmp_path: Path) -> None:
    upload = BlobUpload(TEAM, path=tmp_path / "gone", algorithm="sha256")
    with pytest.raises(BlobUploadUnknown, match="cancelled"):
        await upload.append(b"late")
