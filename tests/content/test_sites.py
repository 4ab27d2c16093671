from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import pytest

from proxy.content.models import Models
from proxy.content.sites import Entry, Site, Sites
from proxy.errors import NotFound, ProxyError, UpstreamUnreachable
from proxy.oci.challenge import Challenge
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.client import Upstream
from proxy.upstream.identity import ANONYMOUS
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
        return Site(upstream=upstream, names=names, rules=Rules(), client=client, models=models)

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
    choice = SITES.select(name, host=host, namespace=namespace)
    assert (choice.site.upstream.name, choice.site.names.prefix) == (upstream, prefix)
    assert choice.namespace == (namespace if by_namespace else None)


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
    choice = sites.select("model", host="", namespace="docker.io")
    assert (choice.site.upstream.name, choice.namespace) == ("only", None)
    # Its own name is no guess: the answer may say that it was honoured.
    named = sites.select("model", host="", namespace="registry.example")
    assert named.namespace == "registry.example"


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
        choices = SITES.sharing(host=host, namespace=namespace)
        assert {choice.namespace for choice in choices} == {namespace}
        return [choice.site.upstream.name for choice in choices]

    assert names("proxy.example") == ["default", "hub", "deep"]
    assert names("hub.example") == ["hub"]
    assert names("proxy.example", "docker.io") == ["hub"]


def test_named_is_the_site_with_the_prefix() -> None:
    assert SITES.named("hub").names.prefix == "hub"
    assert SITES.named("default").names.prefix == ""
    with pytest.raises(NotFound):
        SITES.named("nobody")


class Asked:
    """An upstream's client that was asked what login it wants."""

    def __init__(self, outcome: list[Challenge] | ProxyError) -> None:
        self._outcome = outcome

    async def challenges(self) -> list[Challenge]:
        if isinstance(self._outcome, ProxyError):
            raise self._outcome
        return self._outcome


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [([], False), ([Challenge("basic", {})], True), (UpstreamUnreachable("no connection"), True)],
)
async def test_may_want_login_where_it_is_not_known_too(
    outcome: list[Challenge] | ProxyError, *, expected: bool
) -> None:
    client = cast("AuthorizedClient", Asked(outcome))
    as_caller = replace(entry("any").whole, client=client)
    assert await as_caller.may_want_login() is expected
    for asks_login in (False, True):
        as_itself = replace(as_caller, identity=ANONYMOUS, asks_login=asks_login)
        assert await as_itself.may_want_login() is asks_login
