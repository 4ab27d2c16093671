from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.errors import BadRequest, BadUpstream
from proxy.upstream.headers import VIA, for_client, for_upstream, origin_of, relative_location

BASE = "https://registry.example"
UP = {
    *("accept", "authorization", "content-encoding", "content-length", "content-range"),
    *("content-type", "if-modified-since", "if-none-match", "if-range", "range", "user-agent"),
}
UP_OURS = {"accept-encoding", "via"}
DOWN = {
    *("accept-ranges", "content-encoding", "content-length", "content-range", "content-type"),
    *("date", "etag", "last-modified", "link", "location", "range", "retry-after", "warning"),
    "www-authenticate",
}
DOWN_PREFIXES = ("docker-", "oci-", "ratelimit-", "x-ratelimit-")
# What must stay on its side of the proxy, each with a threat behind it.
NEVER_UP = [
    *("Cookie", "Proxy-Authorization", "X-Registry-Auth", "Forwarded", "X-Forwarded-For"),
    *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Host", "TE", "Trailer", "Upgrade"),
    *("Transfer-Encoding", "Connection", "Keep-Alive", "HTTP2-Settings", "Expect", "Origin"),
    *("X-HTTP-Method-Override", "Referer", "Sec-Fetch-Site", "X-Request-Id"),
]
NEVER_DOWN = [
    *("Set-Cookie", "Alt-Svc", "Strict-Transport-Security", "Access-Control-Allow-Origin"),
    *("Clear-Site-Data", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade", "Server"),
    *("Cache-Control", "Content-Security-Policy", "X-Powered-By", "Trailer", "Via", "Refresh"),
]


@pytest.mark.parametrize("name", sorted(UP - {"accept"}))
def test_B1_for_upstream_header_that_may_follow_passes(name: str) -> None:
    assert for_upstream(CIMultiDict({name: "v"}))[name] == "v"


@pytest.mark.parametrize("name", NEVER_UP)
def test_B1_for_upstream_header_that_may_not_follow_is_dropped(name: str) -> None:
    assert set(for_upstream(CIMultiDict({name: "v"}))) == {"Accept-Encoding", "Via"}


def test_for_upstream_every_accept_line_passes_in_order() -> None:
    lines = [("Accept", "a/b"), ("User-Agent", "x"), ("accept", "c/d"), ("ACCEPT", "e/f;q=0.1")]
    assert for_upstream(CIMultiDict(lines)).getall("Accept") == ["a/b", "c/d", "e/f;q=0.1"]


def test_for_upstream_asks_for_identity_and_names_itself() -> None:
    passed = for_upstream(CIMultiDict({"Accept-Encoding": "gzip", "Via": "1.1 client"}))
    assert passed.getall("Accept-Encoding") == ["identity"]
    assert passed.getall("Via") == [VIA]


@pytest.mark.parametrize("name", ["Authorization", "Content-Length", "Content-Range", "Range"])
def test_A8_for_upstream_header_that_may_stand_once_is_refused_twice(name: str) -> None:
    with pytest.raises(BadRequest, match="once, found it twice") as caught:
        for_upstream(CIMultiDict([(name, "CANARY-1"), (name.lower(), "CANARY-2")]))
    assert "CANARY" not in caught.value.message


@pytest.mark.parametrize(
    "value",
    ["Authorization", "close, Authorization", "close,authorization ", "\tRANGE\t,x", "Accept"],
)
def test_H3_for_upstream_connection_that_names_a_passing_header_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="hop-by-hop names in Connection"):
        for_upstream(CIMultiDict({"Connection": value, "Authorization": "Bearer x"}))


def test_H3_for_upstream_every_connection_line_counts() -> None:
    lines = [("Connection", "close"), ("connection", "Authorization")]
    with pytest.raises(BadRequest):
        for_upstream(CIMultiDict(lines))


@pytest.mark.parametrize("value", ["close", "keep-alive, X-Custom", "Upgrade, HTTP2-Settings", ""])
def test_H3_for_upstream_connection_of_hop_by_hop_names_passes_none(value: str) -> None:
    passed = for_upstream(CIMultiDict({"Connection": value, "X-Custom": "1", "Range": "bytes=0-"}))
    assert dict(passed) == {"Range": "bytes=0-", "Accept-Encoding": "identity", "Via": VIA}


def test_H3_for_client_header_named_in_connection_is_dropped() -> None:
    answer = CIMultiDict({"Connection": "close, Docker-X", "Docker-X": "1", "ETag": "e"})
    assert dict(for_client(answer, base_url=BASE)) == {"ETag": "e"}


UNSENDABLE = ["a\r\nX: y", "a\nb", "a\x00", "\x01", "a\x1b[2J", "a\x7f", "a\udcff", "\ud800"]


@pytest.mark.parametrize("value", UNSENDABLE)
def test_H6_for_upstream_value_no_header_may_hold_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="printable characters in the header 'user-agent'"):
        for_upstream(CIMultiDict({"User-Agent": value}))


@pytest.mark.parametrize("value", UNSENDABLE)
def test_H6_for_client_value_no_header_may_hold_is_bad_upstream(value: str) -> None:
    with pytest.raises(BadUpstream, match="printable characters"):
        for_client(CIMultiDict({"Docker-X": value}), base_url=BASE)


@pytest.mark.parametrize("value", UNSENDABLE)
def test_H6_unsendable_value_of_a_dropped_header_harms_nobody(value: str) -> None:
    headers = CIMultiDict({"X-Junk": value})
    assert "X-Junk" not in for_upstream(headers)
    assert "X-Junk" not in for_client(headers, base_url=BASE)


@pytest.mark.parametrize("value", ["a\tb", "ä", "", "a b"])
def test_H6_value_a_header_may_hold_passes(value: str) -> None:
    assert for_upstream(CIMultiDict({"User-Agent": value}))["User-Agent"] == value


@pytest.mark.parametrize(
    "name",
    [
        *sorted(DOWN - {"link", "location"}),
        *("Docker-Content-Digest", "Docker-Distribution-Api-Version", "Docker-Upload-UUID"),
        *("OCI-Subject", "OCI-Filters-Applied", "OCI-Chunk-Min-Length", "OCI-Tag"),
        *("RateLimit-Limit", "RateLimit-Remaining", "X-RateLimit-Reset"),
    ],
)
def test_for_client_header_that_may_pass_passes(name: str) -> None:
    assert for_client(CIMultiDict({name: "v"}), base_url=BASE)[name] == "v"


@pytest.mark.parametrize("name", NEVER_DOWN)
def test_for_client_header_that_may_not_pass_is_dropped(name: str) -> None:
    assert not for_client(CIMultiDict({name: "v"}), base_url=BASE)


def test_for_client_challenges_pass_byte_for_byte_in_order() -> None:
    lines = ['Bearer realm="https://auth.example/t",scope="a:b,c"', 'Basic realm="x"']
    answer = CIMultiDict(("WWW-Authenticate", line) for line in lines)
    assert for_client(answer, base_url=BASE).getall("WWW-Authenticate") == lines


def test_for_client_warnings_are_cut_at_4096_bytes_in_all() -> None:
    lines = ["w" * 2048, "w" * 2048, "w"]
    answer = CIMultiDict(("Warning", line) for line in lines)
    assert for_client(answer, base_url=BASE).getall("Warning") == lines[:2]
    answer = CIMultiDict(("Warning", line) for line in ["ä" * 2048, "w"])
    assert for_client(answer, base_url=BASE).getall("Warning") == ["ä" * 2048]


def test_K1_for_client_location_and_link_become_relative() -> None:
    answer = CIMultiDict(
        {
            "Location": "https://registry.example/base/v2/a/blobs/uploads/1?_state=x%3D%3D",
            "Link": '<https://registry.example/base/v2/a/tags/list?n=1&last=b>; rel="next", '
            '</base/v2/x>; rel="y", <https://other.example/z>; rel="z"',
        }
    )
    passed = for_client(answer, base_url=f"{BASE}/base")
    assert passed["Location"] == "/v2/a/blobs/uploads/1?_state=x%3D%3D"
    assert passed["Link"] == (
        '</v2/a/tags/list?n=1&last=b>; rel="next", </v2/x>; rel="y", '
        '<https://other.example/z>; rel="z"'
    )


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
        ("http://registry.example:80/v2/a", BASE, "http://registry.example:80/v2/a"),
        # The base path goes, and nothing that only looks like it.
        (f"{BASE}/base/v2/a", f"{BASE}/base", "/v2/a"),
        (f"{BASE}/base/v2/a", f"{BASE}/base/", "/v2/a"),
        (f"{BASE}/based/v2/a", f"{BASE}/base", "/based/v2/a"),
        (f"{BASE}/v2/a", f"{BASE}/base", "/v2/a"),
        ("/base/v2/a?x=%3D", f"{BASE}/base", "/v2/a?x=%3D"),
        # Relative ones stay.
        ("/v2/a/blobs/uploads/1?_state=%3D%3D", BASE, "/v2/a/blobs/uploads/1?_state=%3D%3D"),
        ("uploads/1", BASE, "uploads/1"),
        ("?n=1", BASE, "?n=1"),
        ("", BASE, ""),
        # Other origins stay.
        ("https://storage.example/b?sig=%2F", BASE, "https://storage.example/b?sig=%2F"),
        ("https://registry.example:8443/v2/a", BASE, "https://registry.example:8443/v2/a"),
        ("https://registry.example.evil/v2/", BASE, "https://registry.example.evil/v2/"),
        ("https://registry.example@evil/v2/", BASE, "https://registry.example@evil/v2/"),
        ("//registry.example/v2/a", BASE, "//registry.example/v2/a"),
        ("//evil.example/v2/a", BASE, "//evil.example/v2/a"),
        ("https://registry.example:x/v2/", BASE, "https://registry.example:x/v2/"),
        ("https://registry.example:0/v2/", BASE, "https://registry.example:0/v2/"),
        ("https:///v2/", BASE, "https:///v2/"),
        ("ftp://registry.example/v2/", BASE, "ftp://registry.example/v2/"),
        # What would become another host for the client stays what it was.
        (f"{BASE}//evil.example/x", BASE, f"{BASE}//evil.example/x"),
        (f"{BASE}/\\evil.example/x", BASE, f"{BASE}/\\evil.example/x"),
        (f"{BASE}/base//evil.example/x", f"{BASE}/base", f"{BASE}/base//evil.example/x"),
        ("/base//evil.example/x", f"{BASE}/base", "/base//evil.example/x"),
    ],
)
def test_K1_relative_location_table(location: str, base_url: str, expected: str) -> None:
    assert relative_location(location, base_url=base_url) == expected


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


NAMES = st.sampled_from(
    [*UP, *DOWN, *NEVER_UP, *NEVER_DOWN, "Docker-X", "OCI-X", "X-RateLimit-X", "ACCEPT"]
)
VALUES = st.text(max_size=12) | st.sampled_from(["close", "Range", "a, b", f"{BASE}/v2/", "/x"])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8).map(CIMultiDict)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(HEADERS)
def test_B1_for_upstream_anything_ends_in_the_allow_list(headers: CIMultiDict[str]) -> None:
    try:
        passed = for_upstream(headers)
    except BadRequest:
        return
    assert {name.lower() for name in passed} <= UP | UP_OURS
    assert passed.getall("Accept", []) == headers.getall("Accept", [])
    assert all(ord(c) >= 0x20 or c == "\t" for value in passed.values() for c in value)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(HEADERS)
def test_for_client_anything_ends_in_the_allow_list(headers: CIMultiDict[str]) -> None:
    try:
        passed = for_client(headers, base_url=BASE)
    except BadUpstream:
        return
    names = {name.lower() for name in passed}
    assert all(name in DOWN or name.startswith(DOWN_PREFIXES) for name in names)
    assert all(ord(c) >= 0x20 or c == "\t" for value in passed.values() for c in value)


QUERIES = st.text(alphabet="abc=&%7E2f3D+~_.-/?:@", max_size=30)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    origin=st.sampled_from([BASE, "http://registry.example", "https://other.example", "", "//h"]),
    path=st.text(alphabet="ab/.\\@v2", max_size=12),
    query=QUERIES,
)
def test_K1_relative_location_keeps_the_query_bytes(origin: str, path: str, query: str) -> None:
    location = f"{origin}/{path}?{query}"
    found = relative_location(location, base_url=f"{BASE}/base")
    assert found.partition("?")[2] == location.partition("?")[2] == query
    assert found == location or (found.startswith("/") and found[1:2] not in ("/", "\\"))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet="htps:/[]@:0.a\\?#", max_size=30))
def test_K1_relative_location_anything_never_raises(location: str) -> None:
    relative_location(location, base_url=BASE)
    relative_location(f"https://{location}", base_url=BASE)
