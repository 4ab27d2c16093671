from __future__ import annotations

import json

import pytest

from proxy.errors import BadUpstream
from proxy.upstream.names import Names, Rules
from proxy.upstream.translation import Translation, upstream_query

BASE = "https://registry.example"
REALM = "https://proxy.example/-/token/hub"
PLAIN = Translation(BASE)
HUB = Translation(
    BASE,
    names=Names("hub", "library"),
    client="hub/alpine",
    upstream="library/alpine",
    realm=lambda: REALM,
)
NAMESPACE = Translation(BASE, client="a/b", upstream="a/b", namespace="mirror.example:5000")


@pytest.mark.parametrize(
    ("translation", "location", "expected"),
    [
        (PLAIN, f"{BASE}/v2/a/blobs/uploads/1?_state=%3D", "/v2/a/blobs/uploads/1?_state=%3D"),
        (PLAIN, "/v2/a/blobs/uploads/1", "/v2/a/blobs/uploads/1"),
        (PLAIN, "uploads/1", "uploads/1"),
        (PLAIN, "https://storage.example/x?sig=%2F", "https://storage.example/x?sig=%2F"),
        # Beside the API on the same host: only the registry itself can answer there.
        (PLAIN, f"{BASE}/artifacts-uploads/1?x=%3D", f"{BASE}/artifacts-uploads/1?x=%3D"),
        (PLAIN, "/artifacts-downloads/1?x=%3D", f"{BASE}/artifacts-downloads/1?x=%3D"),
        (Translation(f"{BASE}/base"), "/artifacts/1", f"{BASE}/artifacts/1"),
        (Translation(f"{BASE}/base"), "/base/v2/a/x", "/v2/a/x"),
        # The repository asked for gets its own name back, another one the prefix.
        (HUB, "/v2/library/alpine/blobs/uploads/1?_s=%3D", "/v2/hub/alpine/blobs/uploads/1?_s=%3D"),
        (HUB, f"{BASE}/v2/library/alpine/manifests/v1", "/v2/hub/alpine/manifests/v1"),
        (HUB, "/v2/library/other/manifests/v1", "/v2/hub/library/other/manifests/v1"),
        (HUB, "/v2/library/alpine2/manifests/v1", "/v2/hub/library/alpine2/manifests/v1"),
        (HUB, "/v2/", "/v2/"),
        (HUB, "/v2/_catalog?n=1&last=team%2Fx", "/v2/_catalog?n=1&last=hub/team/x"),
        (HUB, "/v2/_catalog?n=%31;l%61st=x", "/v2/_catalog?n=%31;last=hub/x"),
        (NAMESPACE, "/v2/a/b/tags/list?n=1", "/v2/a/b/tags/list?n=1&ns=mirror.example:5000"),
        (NAMESPACE, "/v2/a/b/x", "/v2/a/b/x?ns=mirror.example:5000"),
        (NAMESPACE, "https://cdn.example/x", "https://cdn.example/x"),
        (NAMESPACE, "//cdn.example/x", "//cdn.example/x"),
        (NAMESPACE, "uploads/1?x=%2F", "uploads/1?x=%2F&ns=mirror.example:5000"),
        (NAMESPACE, "?n=1&last=b", "?n=1&last=b&ns=mirror.example:5000"),
    ],
)
def test_K1_location_is_in_the_clients_form(
    translation: Translation, location: str, expected: str
) -> None:
    assert translation.location(location) == expected


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/", "//evil.example/", "/\\evil.example", "javascript:x", f"{BASE}/x"],
)
def test_C9_link_to_another_origin_is_left_out(target: str) -> None:
    assert PLAIN.link(f'</v2/a>; rel="next", <{target}>; rel="next"') is None


def test_link_targets_are_in_the_clients_form() -> None:
    line = f'<{BASE}/v2/library/alpine/tags/list?n=1&last=b>; rel="next"'
    assert HUB.link(line) == '</v2/hub/alpine/tags/list?n=1&last=b>; rel="next"'
    assert PLAIN.link("no target") == "no target"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            'Bearer realm="https://auth.example/t",scope="repository:library/alpine:pull",error="x"',
            f'Bearer realm="{REALM}",scope="repository:hub/alpine:pull",error="x"',
        ),
        (
            'Bearer realm="https://auth.example/t",scope="registry:catalog:* repository:x/y:push"',
            f'Bearer realm="{REALM}",scope="registry:catalog:* repository:hub/x/y:push"',
        ),
        ('bearer realm="https://auth.example/t"', f'Bearer realm="{REALM}"'),
        (
            'Basic realm="r", Bearer realm="https://auth.example/t"',
            f'Basic realm="r", Bearer realm="{REALM}"',
        ),
        ('Basic realm="r",  charset=UTF-8', 'Basic realm="r",  charset=UTF-8'),
        ("", ""),
    ],
)
def test_challenge_of_a_prefixed_upstream_leads_to_our_realm(line: str, expected: str) -> None:
    assert HUB.challenge(line) == expected


def test_challenge_without_a_prefix_passes_byte_for_byte() -> None:
    line = 'Bearer  realm="https://auth.example/t" , scope="a:b:c"'
    assert PLAIN.challenge(line) == line


def test_tag_list_has_the_clients_name_and_whatever_else_it_had() -> None:
    body = b'{"name": "library/alpine", "tags": ["v1", "\\u00e4"], "x": 1}'
    expected = {"name": "hub/alpine", "tags": ["v1", "ä"], "x": 1}
    assert json.loads(HUB.tags(body)) == expected
    assert json.loads(HUB.tags(b'{"tags": null}')) == {"tags": None}


@pytest.mark.parametrize("body", [b"", b"[]", b"nope", b"\xff", b"[" * 100_000])
def test_list_that_is_none_is_the_upstreams_fault(body: bytes) -> None:
    with pytest.raises(BadUpstream, match="tag list"):
        HUB.tags(body)
    with pytest.raises(BadUpstream, match="catalogue"):
        HUB.catalog(body, Rules())


def test_A10_catalogue_leaves_out_what_the_settings_close() -> None:
    body = b'{"repositories": ["team/a", "secret/b", 3, "library/alpine"]}'
    found = json.loads(HUB.catalog(body, Rules(deny=["secret/**"])))
    assert found == {"repositories": ["hub/team/a", "hub/alpine"]}
    assert json.loads(HUB.catalog(b'{"x": 1}', Rules())) == {"x": 1}


def test_error_details_carry_the_clients_name() -> None:
    errors = [
        {"code": "NAME_UNKNOWN", "message": "m", "detail": {"name": "library/alpine", "x": 1}},
        {
            "code": "UNAUTHORIZED",
            "detail": [{"Type": "repository", "Name": "library/alpine", "Action": "pull"}, "y"],
        },
        {"code": "DENIED", "detail": "library/alpine"},
        "junk",
    ]
    found = json.loads(HUB.errors(json.dumps({"errors": errors}).encode()))["errors"]
    assert found[0]["detail"] == {"name": "hub/alpine", "x": 1}
    assert found[1]["detail"] == [
        {"Type": "repository", "Name": "hub/alpine", "Action": "pull"},
        "y",
    ]
    assert found[2:] == errors[2:]


@pytest.mark.parametrize(
    "body", [b"", b"plain", b"[]", b'{"errors": 1}', b'{"errors":  [ {"code": "X"} ]}', b"\xff"]
)
def test_error_body_without_the_name_stays_byte_for_byte(body: bytes) -> None:
    assert HUB.errors(body) == body


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("n=1&last=hub%2Fteam%2Fx", "n=1&last=team/x"),
        ("last=team/x", "last=team/x"),
        ("l%61st=hub/x;n=%31", "last=x;n=%31"),
        ("n=1", "n=1"),
        ("", ""),
        ("blast=hub/x", "blast=hub/x"),
    ],
)
def test_catalogue_query_is_in_the_upstreams_form(query: str, expected: str) -> None:
    assert upstream_query(query, Names("hub")) == expected
    assert upstream_query(query, Names()) == query


def test_renames_only_where_the_names_differ() -> None:
    assert not PLAIN.renames
    assert not NAMESPACE.renames
    assert HUB.renames
    assert Translation(BASE, client="alpine", upstream="library/alpine").renames
