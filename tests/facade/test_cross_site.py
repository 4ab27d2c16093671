from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.errors import Denied
from proxy.facade.cross_site import refuse_foreign_write
from proxy.facade.forwarding import Forwarding

OWN = "https://models.example"
FORWARDING = Forwarding(trusted_proxies=(), public_url=OWN)
WRITES = ("POST", "PUT", "PATCH", "DELETE")


def _request(method: str, *headers: tuple[str, str]) -> web.Request:
    return make_mocked_request(
        method, "/v2/a/blobs/uploads/", CIMultiDict(headers), transport=asyncio.Transport()
    )


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        [("Origin", "https://evil.example")],
        [("Origin", "null")],
        [("Origin", "")],
        [("Origin", "http://models.example")],
        [("Origin", OWN), ("Origin", "https://evil.example")],
        [("Origin", "https://evil.example"), ("Host", "evil.example")],
        [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", " Cross-Site ")],
        [("Origin", OWN), ("Sec-Fetch-Site", "cross-site")],
    ],
)
def test_G6_write_of_another_page_is_denied(method: str, headers: list[tuple[str, str]]) -> None:
    with pytest.raises(Denied) as raised:
        refuse_foreign_write(_request(method, *headers), FORWARDING)
    assert (raised.value.status, raised.value.code) == (403, "DENIED")
    assert "evil" not in raised.value.message


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Origin", OWN)],
        [("Origin", OWN), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none")],
        [("Referer", "https://evil.example/page")],
    ],
)
def test_G6_write_of_a_client_or_an_own_page_passes(
    method: str, headers: list[tuple[str, str]]
) -> None:
    refuse_foreign_write(_request(method, *headers), FORWARDING)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_G6_read_of_another_page_passes(method: str) -> None:
    headers = (("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site"))
    refuse_foreign_write(_request(method, *headers), FORWARDING)
