from __future__ import annotations

import pytest

from proxy.errors import BadRequest
from proxy.facade.selection import take_namespace


@pytest.mark.parametrize(
    ("query", "namespace", "rest"),
    [
        ("", None, ""),
        ("n=1", None, "n=1"),
        ("ns=docker.io", "docker.io", ""),
        ("ns=Docker.IO", "docker.io", ""),
        ("ns=r.example%3A5000", "r.example:5000", ""),
        ("ns=", "", ""),
        # The rest stays byte for byte, empty parts too.
        ("a=%7E&ns=docker.io&b&&c=", "docker.io", "a=%7E&b&&c="),
        ("&ns=docker.io&", "docker.io", "&"),
        ("a=x=y&ns=docker.io", "docker.io", "a=x=y"),
        # Whoever reads it decoded reads the same one.
        ("n%73=docker.io", "docker.io", ""),
        ("%6E%73=docker.io&a", "docker.io", "a"),
        ("a=%7E;ns=docker.io;b", "docker.io", "a=%7E;b"),
        # Not it: other names, other cases, no value.
        ("columns=2&dns=x&NS=y", None, "columns=2&dns=x&NS=y"),
        ("ns&a", None, "ns&a"),
        ("a=ns=docker.io", None, "a=ns=docker.io"),
        ("ns=docker.io%00", "docker.io\0", ""),
    ],
)
def test_take_namespace_parts_the_query(query: str, namespace: str | None, rest: str) -> None:
    assert take_namespace(query) == (namespace, rest)


@pytest.mark.parametrize(
    "query", ["ns=a&ns=b", "ns=a&ns=a", "ns=a&x&n%73=b", "%6es=a&ns=", "ns=&ns=", "ns=a;ns=b"]
)
def test_C2_two_namespaces_are_400(query: str) -> None:
    with pytest.raises(BadRequest, match="once"):
        take_namespace(query)
