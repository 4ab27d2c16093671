from __future__ import annotations

import pytest

from proxy.errors import NotFound
from proxy.oci.reference import RepositoryName
from proxy.upstream.names import Names, Rules


@pytest.mark.parametrize(
    ("names", "client", "upstream"),
    [
        (Names(), "team/model", "team/model"),
        (Names("hub"), "hub/team/model", "team/model"),
        (Names("team/hub"), "team/hub/model", "model"),
        (Names("hub"), "hub/hub/model", "hub/model"),
        (Names("", "library"), "alpine", "library/alpine"),
        (Names("", "library"), "team/alpine", "team/alpine"),
        (Names("hub", "library"), "hub/alpine", "library/alpine"),
        (Names("hub", "library"), "hub/library/alpine", "library/alpine"),
    ],
)
def test_names_to_upstream(names: Names, client: str, upstream: str) -> None:
    assert names.to_upstream(RepositoryName(client)).text == upstream


@pytest.mark.parametrize("name", ["team/model", "hub", "hubs/model", "a/hub/model"])
def test_names_without_the_prefix_are_not_of_this_upstream(name: str) -> None:
    with pytest.raises(NotFound, match="begins with hub/"):
        Names("hub").to_upstream(RepositoryName(name))


def test_names_to_client_puts_the_prefix_before() -> None:
    assert Names("hub", "library").to_client("library/alpine") == "hub/library/alpine"
    assert Names().to_client("a/b") == "a/b"


@pytest.mark.parametrize(
    ("glob", "name", "permitted"),
    [
        ("library/*", "library/alpine", True),
        ("library/*", "library/a/b", False),
        ("library/*", "libraryx/a", False),
        ("team/**", "team/a/b", True),
        ("team/**", "team", False),
        ("**", "a/b/c", True),
        ("**/model", "model", True),
        ("**/model", "a/b/model", True),
        ("**/model", "a/b/xmodel", False),
        ("te*/x-*", "team/x-1", True),
        ("a.b", "axb", False),
        ("a", "a\n", False),
    ],
)
def test_rules_glob_table(glob: str, name: str, permitted: bool) -> None:
    assert Rules(allow=[glob]).permit(name) is permitted
    assert Rules(deny=[glob]).permit(name) is not permitted


def test_rules_deny_wins_over_allow() -> None:
    rules = Rules(allow=["team/**"], deny=["team/secret"])
    assert rules.permit("team/model")
    assert not rules.permit("team/secret")
    assert not rules.permit("other")


def test_rules_without_globs_are_open() -> None:
    assert Rules().are_open
    assert Rules().permit("anything")
    assert not Rules(deny=["x"]).are_open
