"""Scopes of the token protocol: what a token is asked for, ``repository:team/model:pull,push``.

Source: distribution's "Token Scope Documentation".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

REPOSITORY = "repository"
# A client asks for one, or for two when it mounts a blob; far more is nobody's honest request.
SCOPES_LIMIT = 32


@dataclass(frozen=True, slots=True)
class Scope:
    """A kind of resource (``repository``, ``registry``), its name, and actions upon it."""

    kind: str
    name: str
    actions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}:{','.join(self.actions)}"


def parse_scopes(values: Iterable[str]) -> list[Scope]:
    """The scopes in ``values``, each of which may hold several behind spaces; at most 32.

    What is no scope is left out: a token without it shows soon enough.
    """
    found: list[Scope] = []
    for text in " ".join(values).split():
        kind, _, rest = text.partition(":")
        # Behind the last colon: the name may be that of another host, with a port.
        name, colon, actions = rest.rpartition(":")
        if kind and colon and name and len(found) < SCOPES_LIMIT:
            found.append(Scope(kind, name, tuple(filter(None, actions.split(",")))))
    return found


def pull_scope(repository: str) -> str:
    """The scope that reads ``repository`` and nothing more."""
    return str(Scope(REPOSITORY, repository, ("pull",)))
