from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.errors import BadRequest, BadUpstream
from proxy.upstream.headers import VIA, for_client, for_upstream
from proxy.upstream.translation import Translation

BASE = "https://registry.example"
PLAIN = Translation(BASE)
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
    assert dict(for_client(answer, PLAIN)) == {"ETag": "e"}


UNSENDABLE = ["a\r\nX: y", "a\nb", "a\x00", "\x01", "a\x1b[2J", "a\x7f", "a\udcff", "\ud800"]


@pytest.mark.parametrize("value", UNSENDABLE)
def test_H6_for_upstream_value_no_header_may_hold_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="printable characters in the header 'user-agent'"):
        for_upstream(CIMultiDict({"User-Agent": value}))


@pytest.mark.parametrize("value", UNSENDABLE)
def test_H6_for_client_value_no_header_may_hold_is_bad_upstream(value: str) -> None:
    with pytest.raises(BadUpstream, match="printable characters"):
        for_client(CIMultiDict({"Docker-X": value}), PLAIN)


@pytest.mark.parametrize("value", UNSENDABLE)
def test_H6_unsendable_value_of_a_dropped_header_harms_nobody(value: str) -> None:
    headers = CIMultiDict({"X-Junk": value})
    assert "X-Junk" not in for_upstream(headers)
    assert "X-Junk" not in for_client(headers, PLAIN)


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
    assert for_client(CIMultiDict({name: "v"}), PLAIN)[name] == "v"


@pytest.mark.parametrize("name", NEVER_DOWN)
def test_for_client_header_that_may_not_pass_is_dropped(name: str) -> None:
    assert not for_client(CIMultiDict({name: "v"}), PLAIN)


def test_for_client_challenges_pass_byte_for_byte_in_order() -> None:
    lines = ['Bearer realm="https://auth.example/t",scope="a:b,c"', 'Basic realm="x"']
    answer = CIMultiDict(("WWW-Authenticate", line) for line in lines)
    assert for_client(answer, PLAIN).getall("WWW-Authenticate") == lines


def test_C9_for_client_link_to_another_origin_is_dropped() -> None:
    answer = CIMultiDict({"Link": '</v2/a>; rel="next", <http://evil.example/>; rel="next"'})
    assert "Link" not in for_client(answer, PLAIN)


def test_for_client_warnings_are_cut_at_4096_bytes_in_all() -> None:
    lines = ["w" * 2048, "w" * 2048, "w"]
    answer = CIMultiDict(("Warning", line) for line in lines)
    assert for_client(answer, PLAIN).getall("Warning") == lines[:2]
    answer = CIMultiDict(("Warning", line) for line in ["ä" * 2048, "w"])
    assert for_client(answer, PLAIN).getall("Warning") == ["ä" * 2048]


def test_K1_for_client_location_and_link_become_relative() -> None:
    answer = CIMultiDict(
        {
            "Location": "https://registry.example/base/v2/a/blobs/uploads/1?_state=x%3D%3D",
            "Link": '<https://registry.example/base/v2/a/tags/list?n=1&last=b>; rel="next", '
            '</base/v2/x>; rel="y"',
        }
    )
    passed = for_client(answer, Translation(f"{BASE}/base"))
    assert passed["Location"] == "/v2/a/blobs/uploads/1?_state=x%3D%3D"
    assert passed["Link"] == ('</v2/a/tags/list?n=1&last=b>; rel="next", </v2/x>; rel="y"')


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
        passed = for_client(headers, PLAIN)
    except BadUpstream:
        return
    names = {name.lower() for name in passed}
    assert all(name in DOWN or name.startswith(DOWN_PREFIXES) for name in names)
    assert all(ord(c) >= 0x20 or c == "\t" for value in passed.values() for c in value)
