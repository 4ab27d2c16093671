from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.facade.forwarding import Forwarding
from proxy.facade.middleware import RequestTracer
from proxy.facade.trace import trace_of
from proxy.metrics import Metrics

PROXY = "10.0.0.1"
CLIENT = "203.0.113.7"
PUBLIC = "https://models.example"

NOBODY = Forwarding(trusted_proxies=(), public_url=None)
BEHIND = Forwarding(trusted_proxies=("10.0.0.0/24", "fd00::/8", "192.0.2.1"), public_url=PUBLIC)


def _request(
    *headers: tuple[str, str],
    peer: str | None = CLIENT,
    own: object = ("127.0.0.1", 8080),
    scheme: str = "http",
) -> web.Request:
    transport = asyncio.Transport(extra={"sockname": own})
    mocked = make_mocked_request("GET", "/v2/", CIMultiDict(headers), transport=transport)
    if peer is None:
        return mocked
    request = mocked.clone(remote=peer, scheme=scheme)
    assert isinstance(request, web.Request)
    return request


def _forwarded_for(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        (CLIENT, CLIENT),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", CLIENT),
        ("fe80::1%eth0", "fe80::1"),
        ("/run/proxy.sock", "/run/proxy.sock"),
    ],
)
def test_client_without_forwarding_is_the_peer(peer: str, shown: str) -> None:
    assert NOBODY.client(_request(peer=peer)) == shown


def test_client_of_a_connection_that_is_gone_is_empty() -> None:
    assert NOBODY.client(_request(peer=None)) == ""


@pytest.mark.parametrize("peer", [CLIENT, "10.0.1.1", "::ffff:10.0.1.1", "fe00::1", "192.0.2.2"])
def test_C3_client_that_is_not_trusted_cannot_name_another(peer: str) -> None:
    request = _request(*_forwarded_for("6.6.6.6"), peer=peer)
    assert BEHIND.client(request) == peer.removeprefix("::ffff:")


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], PROXY),
        (["203.0.113.7"], CLIENT),
        ([" 203.0.113.7 "], CLIENT),
        # What stands before the nearest address that is not a proxy's may be invented.
        (["6.6.6.6, 203.0.113.7"], CLIENT),
        (["6.6.6.6", "203.0.113.7"], CLIENT),
        (["6.6.6.6, 203.0.113.7, 10.0.0.9"], CLIENT),
        (["203.0.113.7", "192.0.2.1", "10.0.0.9, fd00::5"], CLIENT),
        (["2001:db8::1, ::ffff:10.0.0.9"], "2001:db8::1"),
        (["::ffff:203.0.113.7"], CLIENT),
        (["203.0.113.7:4711"], CLIENT),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["[2001:DB8::1]"], "2001:db8::1"),
        # The chain breaks at what is no address: nobody says who is behind it.
        (["6.6.6.6, unknown"], PROXY),
        (["6.6.6.6, unknown, 10.0.0.9"], "10.0.0.9"),
        (["6.6.6.6,"], PROXY),
        (["6.6.6.6, 1.2.3"], PROXY),
        (["6.6.6.6, a\tb=c"], PROXY),
        # All of them proxies of ours: the farthest asked by itself.
        (["10.0.0.3, 10.0.0.9"], "10.0.0.3"),
    ],
)
def test_C3_client_behind_trusted_proxies_is_the_nearest_other(
    values: list[str], client: str
) -> None:
    assert BEHIND.client(_request(*_forwarded_for(*values), peer=PROXY)) == client


def test_client_behind_more_proxies_than_anybody_has_is_one_of_them() -> None:
    values = ["6.6.6.6", *["10.0.0.2"] * 32]
    assert BEHIND.client(_request(*_forwarded_for(", ".join(values)), peer=PROXY)) == "10.0.0.2"
    values.pop()
    assert BEHIND.client(_request(*_forwarded_for(", ".join(values)), peer=PROXY)) == "6.6.6.6"


def test_client_of_a_trusted_peer_in_mapped_form_is_believed() -> None:
    request = _request(*_forwarded_for(CLIENT), peer=f"::ffff:{PROXY}")
    assert BEHIND.client(request) == CLIENT


@given(st.lists(st.text(max_size=20), max_size=4))
def test_client_is_an_address_whatever_the_header_says(values: list[str]) -> None:
    found = BEHIND.client(_request(*_forwarded_for(*values), peer=PROXY))
    assert set(found) <= set("0123456789abcdef.:")


@pytest.mark.parametrize(
    ("sent", "host"),
    [
        ("Models.EXAMPLE", "models.example"),
        ("models.example:8443", "models.example:8443"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("my_host", "my_host"),
        ("", ""),
        ("a b", ""),
        ("a:b", ""),
        ("a:99999", ""),
        ("a:1:2", ""),
        ("[1.2.3.4]", ""),
        ("[::1", ""),
        ("[::g]", ""),
        ("[:::]", ""),
        ('a"><script>', ""),
    ],
)
def test_host_is_lower_case_with_its_port_or_nothing(sent: str, host: str) -> None:
    assert NOBODY.host(_request(("Host", sent))) == host


def test_host_missing_is_empty() -> None:
    assert NOBODY.host(_request()) == ""


def test_C3_host_forwarded_counts_from_a_trusted_peer_alone() -> None:
    headers = (("Host", "proxy.internal"), ("X-Forwarded-Host", "Hub.example:443"))
    assert BEHIND.host(_request(*headers, peer=PROXY)) == "hub.example:443"
    assert BEHIND.host(_request(*headers, peer=CLIENT)) == "proxy.internal"
    assert NOBODY.host(_request(*headers, peer=PROXY)) == "proxy.internal"


@pytest.mark.parametrize(
    ("values", "host"),
    [
        (["evil.example, hub.example"], "hub.example"),
        (["evil.example", "hub.example"], "hub.example"),
        (["evil.example, a/b"], "proxy.internal"),
        (["evil.example,"], "proxy.internal"),
        ([""], "proxy.internal"),
    ],
)
def test_C3_host_forwarded_is_the_last_value_and_junk_is_none(values: list[str], host: str) -> None:
    forwarded = (("X-Forwarded-Host", value) for value in values)
    assert BEHIND.host(_request(("Host", "proxy.internal"), *forwarded, peer=PROXY)) == host


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("192.0.2.9", "http://192.0.2.9"),
        ("[2001:db8::1]:81", "http://[2001:db8::1]:81"),
        ("[::ffff:192.0.2.9]", "http://[::ffff:192.0.2.9]"),
        ("localhost", "http://localhost"),
        ("LocalHost:8080", "http://localhost:8080"),
    ],
)
def test_base_is_the_host_asked_for_where_it_is_an_address(host: str, base: str) -> None:
    assert NOBODY.base(_request(("Host", host), own=("192.0.2.1", 1))) == base


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "evil.localhost",
        "127.0.0.1.evil.example",
        "2130706433",
        "0x7f.1",
        "127.1",
        "127.0.0.1.",
        "[1.2.3.4]",
        "[v1.evil]",
        "evil.example@127.0.0.1",
        "127.0.0.1:80@evil.example",
        "127.0.0.1:99999",
        'a"><script>',
        "",
    ],
)
def test_C3_base_never_holds_a_name_somebody_sent(host: str) -> None:
    assert NOBODY.base(_request(("Host", host))) == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "header", ["X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Forwarded-Port", "X-Host"]
)
@pytest.mark.parametrize("peer", [CLIENT, PROXY])
def test_C3_base_hears_no_forwarding_header(header: str, peer: str) -> None:
    for value in ("evil.example", "6.6.6.6", "host=evil.example;proto=https", "https", "81"):
        request = _request(("Host", "evil.example"), (header, value), peer=peer)
        assert NOBODY.base(request) == "http://127.0.0.1:8080"
        assert BEHIND.base(request) == PUBLIC


@pytest.mark.parametrize(
    ("own", "scheme", "base"),
    [
        (("192.0.2.1", 80), "http", "http://192.0.2.1"),
        (("192.0.2.1", 443), "http", "http://192.0.2.1:443"),
        (("192.0.2.1", 443), "https", "https://192.0.2.1"),
        (("192.0.2.1", 8443), "https", "https://192.0.2.1:8443"),
        (("::ffff:192.0.2.1", 8080, 0, 0), "http", "http://192.0.2.1:8080"),
        (("2001:db8::1", 8080, 0, 0), "http", "http://[2001:db8::1]:8080"),
        (("fe80::1%eth0", 80, 0, 2), "http", "http://[fe80::1]"),
        ("/run/proxy.sock", "http", "http://localhost"),
        (None, "https", "https://localhost"),
    ],
)
def test_base_for_a_name_is_the_address_the_connection_came_in_on(
    own: object, scheme: str, base: str
) -> None:
    request = _request(("Host", "models.example"), own=own, scheme=scheme)
    assert NOBODY.base(request) == base


@pytest.mark.parametrize("public_url", [PUBLIC, f"{PUBLIC}/"])
def test_base_is_the_public_url_without_a_slash_at_its_end(public_url: str) -> None:
    forwarding = Forwarding(trusted_proxies=(), public_url=public_url)
    assert forwarding.base(_request(("Host", "127.0.0.1"))) == PUBLIC


def _own(forwarding: Forwarding, origins: Iterable[str], *headers: tuple[str, str]) -> list[bool]:
    return [forwarding.is_own_origin(_request(*headers), origin) for origin in origins]


def test_G6_origin_of_the_public_url_is_own() -> None:
    own = (PUBLIC, f"{PUBLIC}:443", "HTTPS://Models.Example")
    assert _own(BEHIND, own, ("Host", "proxy.internal")) == [True] * 3


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://models.example",
        "https://models.example:8443",
        "https://models.example.evil",
        "https://models.example/",
        "https://user@models.example",
        "https://models.example@evil.example",
        "https://models.example, https://evil.example",
        "https://models.example\\",
        "models.example",
        "chrome-extension://models.example",
        "https://[models.example",
        " https://models.example",
    ],
)
def test_G6_origin_of_anybody_else_is_foreign(origin: str) -> None:
    headers = (("Host", "evil.example"), ("X-Forwarded-Host", "evil.example"))
    assert _own(BEHIND, [origin], *headers) == [False]


def test_G6_origin_of_an_address_is_own_where_it_was_asked() -> None:
    host = ("Host", "127.0.0.1:8080")
    assert _own(NOBODY, ["http://127.0.0.1:8080"], host) == [True]
    assert _own(NOBODY, ["http://127.0.0.1:8081", "https://127.0.0.1:8080"], host) == [False] * 2
    assert _own(NOBODY, ["http://localhost", "http://localhost:80"], ("Host", "localhost")) == [
        True,
        True,
    ]


def test_G6_origin_of_a_name_that_leads_here_is_foreign() -> None:
    rebound = ("Host", "evil.example:8080")
    assert _own(NOBODY, ["http://evil.example:8080"], rebound) == [False]


@pytest.mark.parametrize(
    ("trusted", "client"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.7")]
)
async def test_C3_access_line_names_the_client_and_the_upstream(
    trusted: tuple[str, ...], client: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(request: web.Request) -> web.Response:
        trace_of(request).upstream = "hub"
        return web.Response()

    forwarding = Forwarding(trusted_proxies=trusted, public_url=PUBLIC)
    app = web.Application(middlewares=[RequestTracer(Metrics(), forwarding).handle])
    app.add_routes([web.get("/", answer)])
    with caplog.at_level(logging.INFO, "proxy.access"):
        async with (
            TestClient(TestServer(app)) as asking,
            asking.get("/", headers={"X-Forwarded-For": CLIENT}),
        ):
            pass
    (fields,) = [vars(record)["fields"] for record in caplog.records if record.msg == "request"]
    assert (fields["client"], fields["upstream"]) == (client, "hub")
