from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from proxy.content.models import Models
from proxy.content.sites import Choice, Entry, Site, Sites
from proxy.facade.mounts import mount_query
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.client import Upstream
from proxy.upstream.names import Names, Rules


@dataclass(frozen=True)
class NamedUpstream:
    """All that a table looks at."""

    name: str


def site(upstream: str, names: Names) -> Site:
    """A site of ``upstream`` that closes ``secret/**``."""
    nothing = object()
    return Site(
        upstream=cast("Upstream", UPSTREAMS[upstream]),
        names=names,
        rules=Rules(deny=["secret/**"]),
        client=cast("AuthorizedClient", nothing),
        models=cast("Models", nothing),
    )


UPSTREAMS = {name: NamedUpstream(name) for name in ("default", "hub")}
DEFAULT = Entry(whole=site("default", Names()), is_default=True)
HUB = Entry(
    whole=site("hub", Names(default_namespace="library")),
    prefixed=site("hub", Names("hub", "library")),
    namespaces=("docker.io",),
)
SITES = Sites([DEFAULT, HUB])


def mounted(name: str, query: str, namespace: str | None = None) -> str:
    """The query of an upload's start in the repository ``name``."""
    choice: Choice = SITES.select(name, host="", namespace=namespace)
    return mount_query(query, choice, sites=SITES, host="")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ""),
        ("mount=d", "mount=d"),
        ("mount=d&x=from=1", "mount=d&x=from=1"),
        ("mount=d&from=hub/team/b&x=%7E", "mount=d&from=team/b&x=%7E"),
        ("mount=d;fro%6d=hub%2Fteam%2Fb", "mount=d;from=team/b"),
        ("mount=d&from=hub/b", "mount=d&from=library/b"),
    ],
)
def test_K5_source_of_a_mount_is_in_the_upstreams_form(query: str, expected: str) -> None:
    assert mounted("hub/team/a", query) == expected


@pytest.mark.parametrize(
    "source",
    ["team/b", "hub/secret/b", "", "hub/../b", "hub/Team/b", "hub/b&from=hub/b", "hub/b;fro%6d=x"],
)
def test_K5_source_that_is_not_to_be_read_here_is_left_out(source: str) -> None:
    assert mounted("hub/team/a", f"x=1;from={source}&m%6Funt=d&y") == "x=1&y"
    assert mounted("hub/team/a", "mount=d&from") == ""


def test_K5_source_in_the_same_form_stays_byte_for_byte() -> None:
    assert mounted("team/a", "mount=d;fro%6d=team%2Fb") == "mount=d;fro%6d=team%2Fb"
    assert mounted("team/a", "mount=d&from=secret/b") == ""


def test_K5_source_belongs_to_the_namespace_that_chose() -> None:
    assert mounted("team/a", "mount=d&from=b", "docker.io") == "mount=d&from=library/b"
    assert mounted("team/a", "mount=d&from=hub/b", "docker.io") == "mount=d&from=library/b"
