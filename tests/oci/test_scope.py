from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.oci.scope import SCOPES_LIMIT, Scope, parse_scopes, pull_scope


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([""], []),
        (["repository:a/b:pull,push"], [Scope("repository", "a/b", ("pull", "push"))]),
        (
            ["repository:a:pull repository:b:pull", "registry:catalog:*"],
            [
                Scope("repository", "a", ("pull",)),
                Scope("repository", "b", ("pull",)),
                Scope("registry", "catalog", ("*",)),
            ],
        ),
        (["repository:host:5000/a:pull"], [Scope("repository", "host:5000/a", ("pull",))]),
        (["repository(plugin):a:pull"], [Scope("repository(plugin)", "a", ("pull",))]),
        (["repository:a:"], [Scope("repository", "a", ())]),
        (["repository:a:,pull,,"], [Scope("repository", "a", ("pull",))]),
        (["repository", "repository:a", ":a:pull", "repository::pull", ":", "::"], []),
    ],
)
def test_parse_scopes_table(values: list[str], expected: list[Scope]) -> None:
    assert parse_scopes(values) == expected


def test_parse_scopes_many_are_cut_at_the_limit() -> None:
    assert len(parse_scopes(["repository:a:pull " * 40])) == SCOPES_LIMIT


def test_pull_scope_reads_and_nothing_more() -> None:
    assert pull_scope("team/model") == "repository:team/model:pull"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab:,/ *", max_size=30), max_size=4))
def test_parse_scopes_anything_reads_back_what_it_writes(values: list[str]) -> None:
    found = parse_scopes(values)
    assert parse_scopes(str(scope) for scope in found) == found
