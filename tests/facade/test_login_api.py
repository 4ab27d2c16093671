from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import bcrypt
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from proxy.facade.forwarding import Forwarding
from proxy.facade.login import Login
from proxy.facade.login_api import PATH, LoginApi
from proxy.facade.middleware import RequestTracer
from proxy.metrics import Metrics

RIGHT = f"Basic {base64.b64encode(b'alice:secret').decode()}"
WRONG = f"Basic {base64.b64encode(b'alice:wrong').decode()}"

Client = TestClient[web.Request, web.Application]


async def _catch_all(request: web.Request) -> web.Response:
    raise AssertionError(f"{request.path} reached the catch-all")


def _login() -> Login:
    return Login({"alice": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()})


@asynccontextmanager
async def _serving(login: Login | None, *, last: bool = False) -> AsyncIterator[Client]:
    forwarding = Forwarding(trusted_proxies=(), public_url=None)
    app = web.Application(middlewares=[RequestTracer(Metrics(), forwarding).handle])
    routes: list[web.RouteDef] = LoginApi(login).routes()
    catch_all = [web.get("/cnai/{rest:(?s:.*)}", _catch_all)]
    app.add_routes([*catch_all, *routes] if last else [*routes, *catch_all])
    async with TestClient(TestServer(app)) as client:
        yield client


async def _ask(
    client: Client, query: str = "", *authorizations: str, method: str = "GET"
) -> ClientResponse:
    async with client.request(
        method,
        URL(f"{PATH}{query}", encoded=True),
        headers=[("Authorization", value) for value in authorizations],
        allow_redirects=False,
    ) as response:
        await response.read()
        return response


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("has_login", [False, True])
async def test_login_page_without_a_login_asks_for_one(has_login: bool, last: bool) -> None:
    async with _serving(_login() if has_login else None, last=last) as client:
        answer = await _ask(client, "?return=/cnai/a:v1")
        body = await answer.json()
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="cnai-proxy", charset="UTF-8"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Location" not in answer.headers
    assert body["errors"][0]["code"] == "UNAUTHORIZED"


async def test_login_page_with_the_right_login_leads_back() -> None:
    async with _serving(_login()) as client:
        answer = await _ask(client, "?return=%2Fcnai%2Fa%3Av1%2Ffiles%3Fflat%3D1", RIGHT)
    assert answer.status == 303
    assert answer.headers["Location"] == "/cnai/a:v1/files?flat=1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers


async def test_login_page_with_a_wrong_login_asks_again() -> None:
    async with _serving(_login()) as client:
        answer = await _ask(client, "?return=/cnai/", WRONG)
    assert answer.status == 401
    assert "Location" not in answer.headers


@pytest.mark.parametrize("sent", [RIGHT, WRONG, "Bearer abc"])
async def test_login_page_leaves_the_judgement_to_the_upstream(sent: str) -> None:
    async with _serving(None) as client:
        answer = await _ask(client, "?return=/cnai/a:v1", sent)
    assert (answer.status, answer.headers["Location"]) == (303, "/cnai/a:v1")


async def test_login_page_with_two_logins_is_refused() -> None:
    async with _serving(_login()) as client:
        assert (await _ask(client, "", RIGHT, WRONG)).status == 400


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/", "/"),
        ("/cnai/team/model:v1/files/a%20b", "/cnai/team/model:v1/files/a%20b"),
        ("/cnai/a:v1/files/a b", "/cnai/a:v1/files/a%20b"),
        ("/cnai/a:v1/files/ü", "/cnai/a:v1/files/%C3%BC"),
        ("/cnai/a@sha256:0/files?flat=1&x=%26#top", "/cnai/a@sha256:0/files?flat=1&x=%26#top"),
        ("/cnai/?q=https://evil.example//x", "/cnai/?q=https://evil.example//x"),
        ('/"><script>', "/%22%3E%3Cscript%3E"),
        ("/cnai/..//evil.example", "/cnai/..//evil.example"),
    ],
)
async def test_login_page_leads_to_any_local_address(wanted: str, location: str) -> None:
    async with _serving(None) as client:
        answer = await _ask(client, f"?return={quote(wanted, safe='')}", RIGHT)
    assert answer.headers["Location"] == location


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "cnai/",
        "//evil.example",
        "///evil.example",
        "////evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/cnai/\\..\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/\r\nSet-Cookie: a=b",
        "/\0",
        "/a\x7f",
        "/a\x85",
        "\t//evil.example",
        " //evil.example",
        "https://evil.example/",
        "https:/evil.example",
        "https:evil.example",
        "HTTPS://evil.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "@evil.example",
        "?x",
        "#x",
    ],
)
async def test_C3_login_page_leads_to_no_other_origin(wanted: str) -> None:
    async with _serving(None) as client:
        answer = await _ask(client, f"?return={quote(wanted, safe='')}", RIGHT)
    assert (answer.status, answer.headers["Location"]) == (303, "/cnai/")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("query", ["", "?", "?return", "?return=/a&return=/b", "?back=/a"])
async def test_login_page_without_one_address_leads_home(query: str) -> None:
    async with _serving(None) as client:
        assert (await _ask(client, query, RIGHT)).headers["Location"] == "/cnai/"


@pytest.mark.parametrize("query", ["?return=/a%ff", "?return=/a%C3", "?return=/%zz%"])
async def test_login_page_with_a_damaged_address_stays_here(query: str) -> None:
    async with _serving(None) as client:
        location = (await _ask(client, query, RIGHT)).headers["Location"]
    assert location.startswith("/")
    assert not location.startswith("//")
    assert location.isascii()


async def test_login_page_can_only_be_read() -> None:
    async with _serving(_login()) as client:
        assert (await _ask(client, "", RIGHT, method="HEAD")).status == 303
        assert (await _ask(client, "", RIGHT, method="POST")).status == 405
