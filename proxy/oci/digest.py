"""Digests of content: the grammar, and the only place that hashes content.

Source: image-spec v1.1, descriptor.md, "Digests" and "Registered Algorithms".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from proxy.errors import DigestInvalid

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_GENERAL = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+")
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Digest:
    """``algorithm:hex`` with a registered algorithm: sha256 or sha512."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read a digest.

        Raises:
            DigestInvalid: another grammar, an algorithm that is not registered, a wrong length.
        """
        algorithm, _, encoded = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None or len(encoded) != length or not _HEX.fullmatch(encoded):
            raise DigestInvalid(
                f"expected sha256:<64 hex> or sha512:<128 hex> in lower case, found {text[:160]!r}"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``content``."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    @property
    def short(self) -> str:
        """The first 12 hex digits, for log lines and synthetic names."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def is_unregistered(text: str) -> bool:
    """Whether ``text`` follows the general grammar under an algorithm we do not know.

    A registry may know it: such a request goes upstream as it is.
    """
    return bool(_GENERAL.fullmatch(text)) and text.partition(":")[0] not in _HEX_LENGTH


class Hasher:
    """Hashes content as it comes, piece by piece."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)

    def update(self, chunk: bytes) -> None:
        """Add the next bytes of the content."""
        self._hash.update(chunk)

    def digest(self) -> Digest:
        """The digest of all bytes so far; more may follow."""
        return Digest(self.algorithm, self._hash.hexdigest())

    def copy(self) -> Hasher:
        """Another hasher that goes on from here, for content that may have to be taken back."""
        other = Hasher(self.algorithm)
        other._hash = self._hash.copy()
        return other
