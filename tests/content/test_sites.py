from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from proxy.content.models import Models
from proxy.content.sites import Entry, Site, Sites
from proxy.errors import NotFound
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.client import Upstream
from proxy.upstream.names import Names, Rules


@dataclass(frozen=True)
class NamedUpstream:
    """All that a table looks at."""

    name: str


def entry(
    name: str,
    *,
    prefix: str = "",
    hosts: tuple[str, ...] = (),
    namespaces: tuple[str, ...] = (),
    is_default: bool = False,
) -> Entry:
    upstream = cast("Upstream", NamedUpstream(name))

    def site(names: Names) -> Site:
        nothing = object()
        client, models = cast("AuthorizedClient", nothing), cast("Models", nothing)
        return Site(upstream, names, Rules(), client, models)

    return Entry(
        whole=site(Names()),
        prefixed=site(Names(prefix)) if prefix else None,
        hosts=hosts,
        namespaces=namespaces,
        is_default=is_default,
    )


SITES = Sites(
    [
        entry("default", is_default=True),
        entry("hub", prefix="hub", hosts=("hub.example", "127.0.0.2"), namespaces=("docker.io",)),
        entry("deep", prefix="hub/deep"),
        entry("port", hosts=("proxy.example:8443", "[::1]"), namespaces=("ghcr.io:443",)),
    ]
)


@pytest.mark.parametrize(
    ("name", "host", "namespace", "upstream", "prefix", "by_namespace"),
    [
        ("team/model", "proxy.example", None, "default", "", False),
        ("hub/model", "proxy.example", None, "hub", "hub", False),
        ("hub/deep/model", "proxy.example", None, "deep", "hub/deep", False),
        ("hub/deeper/model", "proxy.example", None, "hub", "hub", False),
        ("hub", "proxy.example", None, "default", "", False),
        ("hubs/model", "proxy.example", None, "default", "", False),
        # By host nothing is stripped; an entry without a port is every port's.
        ("hub/model", "hub.example", None, "hub", "", False),
        ("model", "hub.example:8080", None, "hub", "", False),
        ("model", "127.0.0.2:5000", None, "hub", "", False),
        ("model", "proxy.example:8443", None, "port", "", False),
        ("model", "proxy.example:8444", None, "default", "", False),
        ("model", "[::1]:8080", None, "port", "", False),
        ("model", "[::1]", None, "port", "", False),
        # ns is asked first, and the prefix of that upstream goes with override_path.
        ("library/model", "proxy.example", "docker.io", "hub", "", True),
        ("hub/model", "proxy.example", "docker.io", "hub", "hub", True),
        ("hub/deep/model", "proxy.example", "docker.io", "hub", "hub", True),
        ("model", "hub.example", "ghcr.io:443", "port", "", True),
    ],
)
def test_select_table(
    name: str,
    host: str,
    namespace: str | None,
    upstream: str,
    prefix: str,
    *,
    by_namespace: bool,
) -> None:
    site, chosen = SITES.select(name, host=host, namespace=namespace)
    assert (site.upstream.name, site.names.prefix, chosen) == (upstream, prefix, by_namespace)


@pytest.mark.parametrize(
    "namespace", ["", "evil.example", "127.0.0.1:5000", "docker.io\0", "Docker.io", "ghcr.io"]
)
def test_C2_unknown_namespace_is_unknown(namespace: str) -> None:
    with pytest.raises(NotFound, match="no upstream for the namespace"):
        SITES.select("library/model", host="hub.example", namespace=namespace)
    with pytest.raises(NotFound, match="no upstream for the namespace"):
        SITES.sharing(host="hub.example", namespace=namespace)


def test_C2_without_a_default_an_unknown_name_or_host_is_unknown() -> None:
    sites = Sites([entry("a", prefix="a"), entry("b", hosts=("b.example",))])
    for name, host in (("c/model", "proxy.example"), ("model", "x.example"), ("a", "")):
        with pytest.raises(NotFound, match="no upstream for"):
            sites.select(name, host=host)


def test_namespace_is_not_looked_at_where_it_is_not_read() -> None:
    sites = Sites(
        [entry("only", is_default=True, namespaces=("registry.example",))], reads_namespace=False
    )
    site, chosen = sites.select("model", host="", namespace="docker.io")
    assert (site.upstream.name, chosen) == ("only", False)
    # Its own name is no guess: the answer may say that it was honoured.
    assert sites.select("model", host="", namespace="registry.example")[1]


def test_namespace_of_two_upstreams_chooses_neither() -> None:
    sites = Sites(
        [
            entry("one", prefix="one", namespaces=("docker.io",)),
            entry("two", prefix="two", namespaces=("docker.io",)),
        ]
    )
    with pytest.raises(NotFound, match=r"'docker\.io'"):
        sites.select("one/model", host="", namespace="docker.io")


def test_sharing_lists_what_only_names_tell_apart() -> None:
    def names(host: str, namespace: str | None = None) -> list[str]:
        return [site.upstream.name for site in SITES.sharing(host=host, namespace=namespace)[0]]

    assert names("proxy.example") == ["default", "hub", "deep"]
    assert names("hub.example") == ["hub"]
    assert names("proxy.example", "docker.io") == ["hub"]


def test_named_is_the_site_with_the_prefix() -> None:
    assert SITES.named("hub").names.prefix == "hub"
    assert SITES.named("default").names.prefix == ""
    with pytest.raises(NotFound):
        SITES.named("nobody")
