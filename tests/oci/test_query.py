from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.oci.query import Query

TEXTS = st.text(alphabet="a&;=%73ns+", max_size=20)


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        ("", []),
        ("a=1", []),
        ("ns=x", ["x"]),
        ("ns=", [""]),
        ("ns", []),
        ("ns=x=y", ["x=y"]),
        ("ns=a%2Fb&ns=c", ["a/b", "c"]),
        ("a;ns=x;b", ["x"]),
        ("n%73=x&%6E%73=y", ["x", "y"]),
        ("NS=x&dns=y&a=ns=z&+ns=z", []),
    ],
)
def test_values_of_a_name_in_any_spelling(raw: str, values: list[str]) -> None:
    assert Query.parse(raw).values("ns") == values


@pytest.mark.parametrize(
    ("raw", "expected"), [("a&ns", True), ("n%73=", True), ("", False), ("a=ns", False)]
)
def test_contains_a_name_with_or_without_a_value(raw: str, *, expected: bool) -> None:
    assert ("ns" in Query.parse(raw)) is expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ""),
        ("ns=x", ""),
        ("ns=x&a", "a"),
        ("a=%7E&ns=x;b&&c=", "a=%7E;b&&c="),
        ("&ns=x&", "&"),
        ("a;n%73=x", "a"),
        ("a&ns&from=x&fro%6d", "a"),
    ],
)
def test_without_leaves_the_rest_byte_for_byte(raw: str, expected: str) -> None:
    assert str(Query.parse(raw).without("ns", "from")) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("", ""),
        ("a=%7e", "a=%7e"),
        ("fro%6d=x;a=%7e", "from=b/c%26;a=%7e"),
        ("a&from&from=x", "a&from=b/c%26&from=b/c%26"),
    ],
)
def test_replacing_writes_the_value_where_the_name_stands(raw: str, expected: str) -> None:
    assert str(Query.parse(raw).replacing("from", "b/c&")) == expected


@settings(derandomize=True, max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_anything_is_read_and_written_back(raw: str, value: str) -> None:
    query = Query.parse(raw)
    assert str(query) == raw
    assert "ns" not in Query.parse(str(query.without("ns")))
    replaced = Query.parse(str(query.replacing("ns", value)))
    assert set(replaced.values("ns")) <= {value}
    assert str(replaced.without("ns")) == str(query.without("ns"))
