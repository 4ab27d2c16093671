"""Archives and compressed blobs as the producers' own writers make them."""

from __future__ import annotations

import gzip
import io
import tarfile  # noqa: TID251 - it writes here, and reads back only what it wrote
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import zstandard

from tests.build import pax_record, tar_of

# 2026-01-01T00:00:00Z: whole seconds, so that Go's writer needs no PAX record for it.
MODIFIED_SECONDS = 1_767_225_600


def go_tar(
    files: Mapping[str, bytes],
    *,
    directories: Sequence[str] = (),
    slash: bool = True,
    modified_seconds: int = MODIFIED_SECONDS,
    owner: int = 0,
) -> bytes:
    """What Go's archive/tar writes: ustar where a name fits, else PAX; 1,024 zeros at the end.

    With ``directories`` everything comes in the order of a walk. ``slash``: whether a directory's
    name ends in one.
    """
    names = [*files]
    if directories:
        names = sorted((*names, *directories), key=lambda name: name.split("/"))
    parts = []
    for name in names:
        content = files.get(name)
        if content is None:
            written = f"{name}/" if slash else name
            parts.append(_go_header(written, 0, b"5", modified_seconds, owner))
        else:
            parts.append(_go_header(name, len(content), b"0", modified_seconds, owner))
            parts.append(content + bytes(-len(content) % 512))
    return tar_of(*parts)


def python_tar(files: Mapping[str, bytes], *, directories: Sequence[str]) -> bytes:
    """What ``TarFile.add`` of Python writes for a folder of root's, in the order of a walk."""
    target = io.BytesIO()
    with tarfile.TarFile(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted((*files, *directories), key=lambda name: name.split("/")):
            content = files.get(name)
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.mode = 0o755 if content is None else 0o644
            entry.mtime = MODIFIED_SECONDS
            entry.uname = entry.gname = "root"
            entry.size = len(content or b"")
            archive.addfile(entry, io.BytesIO(content or b""))
    return target.getvalue()


def gnu_tar(files: Mapping[str, bytes]) -> bytes:
    """GNU's format, filled up to a record of 10,240 bytes as GNU tar and Python do."""
    target = io.BytesIO()
    with tarfile.TarFile(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mtime = MODIFIED_SECONDS
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def parents(paths: Iterable[str]) -> list[str]:
    """The directories above ``paths``, each before what it holds."""
    found: dict[str, None] = {}
    for path in paths:
        pieces = path.split("/")[:-1]
        for count in range(1, len(pieces) + 1):
            found["/".join(pieces[:count])] = None
    return list(found)


def gzipped(plain: bytes) -> bytes:
    """One member without name and time, as Go writes it."""
    return gzip.compress(plain, 6, mtime=0)


def zstandarded(plain: bytes) -> bytes:
    """One frame with a checksum and without a size, as a streaming writer in Go makes it."""
    return zstandard.ZstdCompressor(
        level=3, write_checksum=True, write_content_size=False
    ).compress(plain)


COMPRESS: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {"": bytes, "gzip": gzipped, "zstd": zstandarded}
)


def compressed(plain: bytes, packing: str) -> bytes:
    """``plain`` as the packing's second half says: ``tar+gzip``, ``raw+zstd``, ``tar``."""
    return COMPRESS[packing.partition("+")[2]](plain)


def _go_header(name: str, size: int, flag: bytes, modified_seconds: int, owner: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o755 if flag == b"5" else 0o644
    entry.mtime = modified_seconds
    entry.uid = entry.gid = owner
    try:
        if name.isascii():
            return _as_go(entry.tobuf(tarfile.USTAR_FORMAT), flag)
    except ValueError:
        pass  # longer than name and prefix together, or nowhere to part them
    base = name.rstrip("/")
    folder, _, last = base.rpartition("/")
    extension = tarfile.TarInfo(_ascii(f"{folder}/PaxHeaders.0/{last}".lstrip("/"))[:100])
    records = pax_record("path", name)
    extension.size = len(records)
    extension.mode = 0
    entry.name = _ascii(name)[:100]
    return (
        _as_go(extension.tobuf(tarfile.USTAR_FORMAT), b"x")
        + records
        + bytes(-len(records) % 512)
        + _as_go(entry.tobuf(tarfile.USTAR_FORMAT), flag)
    )


def _ascii(text: str) -> str:
    return text.encode("ascii", "ignore").decode()


def _as_go(header: bytes, flag: bytes) -> bytes:
    """Go writes device numbers for every member, and adds no slash to a directory."""
    block = bytearray(header)
    block[156:157] = flag
    block[329:345] = b"0000000\0" * 2
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
