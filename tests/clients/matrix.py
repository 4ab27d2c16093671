"""What each client can do through the proxy, by the way it reaches an upstream.

The README's table is rendered from here, and ``test_matrix`` does in earnest what it says.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Registry(StrEnum):
    """What login a registry wants, each standing behind the proxy in every route."""

    PUBLIC = "public"
    HTPASSWD = "htpasswd"
    TOKEN = "token"


class Route(StrEnum):
    """What chooses the upstream."""

    SOLE = "only upstream"
    PREFIX = "`prefix`"
    HOST = "`hosts`"
    NAMESPACE = "`namespaces`"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is expected of a client on one route; for every kind of registry the same."""

    pulls: bool = False
    pushes: bool = False
    why_not: str = ""

    def __str__(self) -> str:
        does = ", ".join(
            word for word, holds in (("pull", self.pulls), ("push", self.pushes)) if holds
        )
        return "; ".join(filter(None, (does, self.why_not)))


@dataclass(frozen=True, slots=True)
class Row:
    """A client in one of its configurations, and how it is told its login."""

    client: str
    login: str
    cells: Mapping[Route, Cell]


_ALL = Cell(pulls=True, pushes=True)
_PULL = Cell(pulls=True)
_NO_NS = Cell(why_not="sends no `ns`")


def _row(
    client: str,
    login: str,
    *,
    sole: Cell = _ALL,
    prefix: Cell = _ALL,
    host: Cell = _ALL,
    namespace: Cell = _NO_NS,
) -> Row:
    cells = {
        Route.SOLE: sole,
        Route.PREFIX: prefix,
        Route.HOST: host,
        Route.NAMESPACE: namespace,
    }
    return Row(client, login, MappingProxyType(cells))


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "docker": _row("docker", "`docker login PROXY`"),
        "docker-mirror": _row(
            "docker, `registry-mirrors`",
            "Docker Hub's: the engine shows it to any mirror that asks",
            sole=_PULL,
            prefix=Cell(why_not="a mirror's address has no path"),
            host=_PULL,
        ),
        "podman": _row("podman", "`podman login PROXY`"),
        "podman-mirror": _row(
            "podman, mirror in `registries.conf`",
            "`podman login PROXY`",
            sole=_PULL,
            prefix=_PULL,
            host=_PULL,
        ),
        "skopeo": _row("skopeo", "`skopeo login PROXY`"),
        "oras": _row("oras", "`oras login PROXY`"),
        "ctr": _row("ctr", "`--user`", namespace=Cell(why_not="sends `ns` by `hosts.toml` only")),
        "ctr-mirror": _row(
            "ctr, `hosts.toml`",
            "`--user`",
            host=Cell(why_not="its `ns` chooses"),
            namespace=Cell(pulls=True, why_not="pushes carry no `ns`"),
        ),
    }
)


def table() -> str:
    """The rows as Markdown."""
    lines = [
        ("client", "its login", *Route),
        ("---",) * (2 + len(Route)),
        *((row.client, row.login, *(row.cells[route] for route in Route)) for row in ROWS.values()),
    ]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(table())
