"""What a blob is by its first bytes, for where its media type does not say.

Source: RFC 1952 §2.3 (gzip); RFC 8878 §3.1 (zstd); POSIX.1-2017 pax, "ustar Interchange Format".
"""

from __future__ import annotations

from typing import Literal

from proxy.formats.tar import BLOCK_BYTES, is_tar_header

_GZIP = b"\x1f\x8b\x08"  # 8 is deflate, the only method there is
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f
_USTAR = b"ustar"


def sniff(prefix: bytes) -> Literal["gzip", "zstd", "tar", "raw"]:
    """What begins with ``prefix``: the blob's first 512 bytes, or all of it if it is shorter.

    Nothing but zeros is raw, though an empty tar looks so: who expects a tar knows better.
    """
    if prefix.startswith(_GZIP):
        return "gzip"
    is_skippable = prefix[1:4] == _ZSTD_SKIPPABLE and prefix[0] & 0xF0 == 0x50
    if prefix.startswith(_ZSTD) or is_skippable:
        return "zstd"
    if prefix[257:262] == _USTAR or is_tar_header(prefix[:BLOCK_BYTES]):
        return "tar"
    return "raw"
