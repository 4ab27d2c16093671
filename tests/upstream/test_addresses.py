from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstream.addresses import local_address, origin_of

BASE = "https://registry.example"


@pytest.mark.parametrize(
    ("location", "base_url", "expected"),
    [
        # Same origin, absolute: relative, the query byte for byte.
        (f"{BASE}/v2/a?_state=ab%3D%3D&x=%7E%2f", BASE, "/v2/a?_state=ab%3D%3D&x=%7E%2f"),
        ("HTTPS://Registry.Example/v2/a", BASE, "/v2/a"),
        ("https://registry.example:443/v2/a", BASE, "/v2/a"),
        ("https://registry.example/v2/a", f"{BASE}:443", "/v2/a"),
        ("http://registry.example:80/v2/a", "http://registry.example", "/v2/a"),
        ("http://registry.example:5000/v2/a", "http://registry.example:5000", "/v2/a"),
        ("http://[::1]:5000/v2/a", "http://[::1]:5000", "/v2/a"),
        (BASE, BASE, "/"),
        (f"{BASE}?x=%20", BASE, "/?x=%20"),
        ("https://user:pw@registry.example/v2/a", BASE, "/v2/a"),
        # http and https of the same host, as a registry behind a TLS front writes itself.
        ("http://registry.example/v2/a", BASE, "/v2/a"),
        ("http://registry.example:8443/v2/a", f"{BASE}:8443", "/v2/a"),
        ("http://registry.example:80/v2/a", BASE, None),
        # The base path goes, and nothing that only looks like it.
        (f"{BASE}/base/v2/a", f"{BASE}/base", "/v2/a"),
        (f"{BASE}/base/v2/a", f"{BASE}/base/", "/v2/a"),
        (f"{BASE}/based/v2/a", f"{BASE}/base", "/based/v2/a"),
        (f"{BASE}/v2/a", f"{BASE}/base", "/v2/a"),
        ("/base/v2/a?x=%3D", f"{BASE}/base", "/v2/a?x=%3D"),
        # Relative ones stay.
        ("/v2/a/blobs/uploads/1?_state=%3D%3D", BASE, "/v2/a/blobs/uploads/1?_state=%3D%3D"),
        ("uploads/1", BASE, None),
        ("?n=1", BASE, None),
        ("", BASE, None),
        # Other origins stay.
        ("https://storage.example/b?sig=%2F", BASE, None),
        ("https://registry.example:8443/v2/a", BASE, None),
        ("https://registry.example.evil/v2/", BASE, None),
        ("https://registry.example@evil/v2/", BASE, None),
        ("//registry.example/v2/a", BASE, None),
        ("//evil.example/v2/a", BASE, None),
        ("https://registry.example:x/v2/", BASE, None),
        ("https://registry.example:0/v2/", BASE, None),
        ("https:///v2/", BASE, None),
        ("ftp://registry.example/v2/", BASE, None),
        # What would become another host for the client stays what it was.
        (f"{BASE}//evil.example/x", BASE, None),
        (f"{BASE}/\\evil.example/x", BASE, None),
        (f"{BASE}/base//evil.example/x", f"{BASE}/base", None),
        ("/base//evil.example/x", f"{BASE}/base", None),
    ],
)
def test_K1_local_address_table(location: str, base_url: str, expected: str | None) -> None:
    assert local_address(location, base_url=base_url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://A.example", ("http", "a.example", 80)),
        ("HTTPS://a.example/x", ("https", "a.example", 443)),
        ("https://u:p@a.example:8443/x", ("https", "a.example", 8443)),
        ("http://[::1]:5000", ("http", "::1", 5000)),
    ],
)
def test_origin_of_is_comparable(url: str, expected: tuple[str, str, int]) -> None:
    assert origin_of(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.example", "//a.example", "ftp://a.example", "file:///x", "http://", "https:a"),
        *("http://a:x", "http://a:65536", "http://a:0", "http://[::1", "http://[a]/"),
    ],
)
def test_origin_of_other_than_an_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        origin_of(url)


QUERIES = st.text(alphabet="abc=&%7E2f3D+~_.-/?:@", max_size=30)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    origin=st.sampled_from([BASE, "http://registry.example", "https://other.example", "", "//h"]),
    path=st.text(alphabet="ab/.\\@v2", max_size=12),
    query=QUERIES,
)
def test_K1_local_address_keeps_the_query_bytes(origin: str, path: str, query: str) -> None:
    location = f"{origin}/{path}?{query}"
    found = local_address(location, base_url=f"{BASE}/base")
    if found is not None:
        assert found.partition("?")[2] == query
        assert found.startswith("/")
        assert found[1:2] not in ("/", "\\")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="htps:/[]@:0.a\\?#", max_size=30))
def test_K1_local_address_anything_never_raises(location: str) -> None:
    local_address(location, base_url=BASE)
    local_address(f"https://{location}", base_url=BASE)
