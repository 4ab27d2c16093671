"""Repository names, tags and references, as people and clients write them.

Source: distribution-spec v1.1, "Pulling manifests": the two regular expressions for ``<name>`` and
``<reference>``; lengths from the same section (name with host ≤ 255, tag ≤ 128).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.errors import NameInvalid
from proxy.oci.digest import Digest

NAME_LIMIT = 255
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"

_NAME = re.compile(NAME)
_TAG = re.compile(TAG)


@dataclass(frozen=True, slots=True)
class RepositoryName:
    """A repository's ``<name>``, at most 255 characters."""

    text: str

    @classmethod
    def parse(cls, text: str) -> RepositoryName:
        """Read a name.

        Raises:
            NameInvalid: outside the grammar or longer than 255 characters.
        """
        if len(text) > NAME_LIMIT or not _NAME.fullmatch(text):
            raise NameInvalid(
                f"expected a repository name such as team/model in lower case, at most "
                f"{NAME_LIMIT} characters, found {text[:300]!r}"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag, at most 128 characters."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read a tag.

        Raises:
            NameInvalid: outside the grammar or longer than 128 characters.
        """
        if not _TAG.fullmatch(text):
            raise NameInvalid(
                f"expected a tag of at most 128 letters, digits, '.', '_' or '-', "
                f"found {text[:200]!r}"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Reference:
    """``name:tag``, ``name@digest`` or both; with both the digest decides, the tag is a label."""

    repository: RepositoryName
    tag: Tag | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference as people write it.

        Raises:
            NameInvalid: name or tag outside the grammar, or neither tag nor digest given.
            DigestInvalid: a digest outside the grammar.
        """
        rest, at, digest_text = text.partition("@")
        name, colon, tag_text = rest.partition(":")
        if not at and not colon:
            raise NameInvalid(
                f"expected <name>:<tag> or <name>@<digest>, found {text[:300]!r} with neither"
            )
        return cls(
            repository=RepositoryName.parse(name),
            tag=Tag.parse(tag_text) if colon else None,
            digest=Digest.parse(digest_text) if at else None,
        )

    @property
    def target(self) -> Tag | Digest:
        """What the registry is asked for: the digest where there is one, else the tag."""
        target = self.digest or self.tag
        if target is None:
            raise NameInvalid(f"{self.repository} has neither tag nor digest")
        return target

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"
