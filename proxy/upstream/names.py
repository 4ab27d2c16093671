"""What the repositories of one upstream are called by clients, and which of them they may name.

A client writes ``hub/alpine`` where the upstream knows ``library/alpine``: ``Names`` has both ways.
``Rules`` are the operator's globs over the upstream's own names. Pure; nothing here asks anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from proxy.errors import NotFound
from proxy.oci.reference import RepositoryName


@dataclass(frozen=True, slots=True)
class Names:
    """``prefix`` stands before every name a client writes, without slashes at its ends.

    ``default_namespace`` goes before a name of one segment on its way up (``library``).
    """

    prefix: str = ""
    default_namespace: str = ""

    def to_upstream(self, repository: RepositoryName) -> RepositoryName:
        """The upstream's name of what a client calls ``repository``.

        Raises:
            NotFound: the name does not begin with the prefix.
        """
        text = repository.text
        if self.prefix:
            if not text.startswith(f"{self.prefix}/"):
                raise NotFound(f"expected a name that begins with {self.prefix}/, found {text!r}")
            text = text[len(self.prefix) + 1 :]
        if self.default_namespace and "/" not in text:
            text = f"{self.default_namespace}/{text}"
        return repository if text == repository.text else RepositoryName(text)

    def to_client(self, name: str) -> str:
        """What clients may call the upstream's repository ``name``; any text."""
        return f"{self.prefix}/{name}" if self.prefix else name


class Rules:
    """Which repositories of an upstream the proxy opens at all; ``deny`` wins over ``allow``.

    Globs over the upstream's names: ``*`` is any text within a segment, ``**`` any segments.
    Without ``allow`` everything is allowed that is not denied.
    """

    def __init__(self, *, allow: Iterable[str] = (), deny: Iterable[str] = ()) -> None:
        self._allow = [_compile(glob) for glob in allow]
        self._deny = [_compile(glob) for glob in deny]

    @property
    def are_open(self) -> bool:
        """Whether there is nothing to check."""
        return not (self._allow or self._deny)

    def permit(self, name: str) -> bool:
        """Whether the upstream's repository ``name`` may be asked for."""
        if any(glob.fullmatch(name) for glob in self._deny):
            return False
        return not self._allow or any(glob.fullmatch(name) for glob in self._allow)


def _compile(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*)", glob)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return re.compile("".join(meaning.get(part) or re.escape(part) for part in parts))
