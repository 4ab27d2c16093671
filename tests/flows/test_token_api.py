"""``/-/token``: the token service that clients of several upstreams are sent to."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import bcrypt
import pytest

from proxy.oci.manifest import OCI_MANIFEST
from proxy.upstream import auth
from tests.build import descriptor, file_annotations, layer_type, manifest_bytes
from tests.faulty_upstream import Fault, FaultyUpstream, Seen, running
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client
from tests.flows.tokens import ANNA, BERT, TokenService, basic, bearer

WEIGHTS = b"weights"
MANIFEST = "/v2/hub/team/model/manifests/v1"
RECORD = "/cnai/hub/team/model:v1"
FORM = ("Content-Type", "application/x-www-form-urlencoded")

Start = Callable[..., Awaitable[Client]]


@pytest.fixture
def start_hub(start_proxy: StartProxy, other: FaultyUpstream) -> Start:
    """Starts a proxy before ``upstream``, the default, and ``other`` at ``hub/``."""

    async def start(**overrides: object) -> Client:
        settings: dict[str, object] = {
            "upstreams__1__name": "hub",
            "upstreams__1__url": other.url,
            "upstreams__1__prefix": "hub",
            "upstreams__1__default_namespace": "library",
            "upstreams__1__deny": ["secret/**"],
        }
        return await start_proxy(**{**settings, **overrides})

    return start


@pytest.fixture
async def hub(start_hub: Start) -> Client:
    """The proxy of ``start_hub`` without further settings."""
    return await start_hub()


@pytest.fixture
def service(other: FaultyUpstream) -> TokenService:
    """The token service of ``other``; it knows Anna, and lets everybody in as anonymous."""
    push(other)
    found = TokenService(other, ANNA, None)
    other.token_service = found
    other.challenge = bearer(f"{other.url}/token")
    return found


def push(upstream: FaultyUpstream, repository: str = "team/model") -> None:
    """A model of one file."""
    weights = descriptor(
        layer_type("weight"), WEIGHTS, annotations=file_annotations("w.bin", len(WEIGHTS))
    )
    upstream.blob(WEIGHTS)
    upstream.blob(b"{}")
    upstream.manifest(repository, "v1", manifest_bytes([weights]), OCI_MANIFEST)


async def ask(
    proxy: Client,
    *fields: tuple[str, str],
    upstream: str = "",
    authorization: str | None = None,
) -> Answer:
    """A GET for a token."""
    path = f"/-/token/{upstream}".rstrip("/")
    headers = [("Authorization", authorization)] if authorization is not None else []
    return await proxy.send("GET", f"{path}?{urlencode(fields)}", headers=headers)


async def post(proxy: Client, *fields: tuple[str, str], upstream: str = "hub") -> Answer:
    """A POST for a token, as OAuth 2 does."""
    path = f"/-/token/{upstream}".rstrip("/")
    return await proxy.send("POST", path, headers=[FORM], body=urlencode(fields).encode())


def queries(seen: list[Seen]) -> list[list[tuple[str, str]]]:
    """The queries of requests, in order and with repetitions."""
    return [parse_qsl(urlsplit(one.target).query) for one in seen]


def own_token(credential: str | None) -> str:
    """The proxy's own token for a credential."""
    text = base64.urlsafe_b64encode((credential or "").encode()).decode().rstrip("=")
    return f"cnai-proxy.{text}"


# Scopes ------------------------------------------------------------------------------------------


async def test_token_is_the_upstreams_and_opens_what_was_asked_for(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    """As docker does it: the ping, a token for the name it wrote, the manifest."""
    refused = await hub.get(MANIFEST)
    challenge = refused.headers["WWW-Authenticate"]
    assert refused.status == 401
    assert challenge == bearer(f"{hub.url}/-/token/hub", scope="repository:hub/team/model:pull")
    fields = [
        ("account", "anna"),
        ("client_id", "docker"),
        ("offline_token", "true"),
        ("scope", "repository:hub/team/model:pull"),
        ("service", "somebody else"),
        ("unknown", "x"),
    ]
    answer = await ask(hub, *fields, upstream="hub", authorization=ANNA)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (asked,) = service.asked
    assert asked.get("Authorization") == ANNA
    assert queries([asked]) == [
        [
            ("account", "anna"),
            ("client_id", "docker"),
            ("offline_token", "true"),
            ("service", "registry.example"),
            ("scope", "repository:team/model:pull"),
        ]
    ]
    token = f"Bearer {answer.json['token']}"
    assert (await hub.get(MANIFEST, Authorization=token)).status == 200
    assert (await hub.get(RECORD, Authorization=token)).status == 200


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("scopes", "asked"),
    [
        (["repository:hub/team/model:pull,push"], ["repository:team/model:pull,push"]),
        (["repository:hub/alpine:pull"], ["repository:library/alpine:pull"]),
        (["repository:hub/hub/alpine:*"], ["repository:hub/alpine:*"]),
        (["repository(plugin):hub/a/b:pull"], ["repository(plugin):a/b:pull"]),
        # A mount asks for two: both of this upstream, in one parameter or in two.
        (
            ["repository:hub/a/b:pull,push", "repository:hub/c/d:pull"],
            ["repository:a/b:pull,push", "repository:c/d:pull"],
        ),
        (
            ["repository:hub/a/b:pull,push repository:hub/c/d:pull"],
            ["repository:a/b:pull,push", "repository:c/d:pull"],
        ),
        # What the settings close: left out.
        (["repository:hub/secret/x:pull"], []),
        (["repository(plugin):hub/secret/x:pull"], []),
        (
            ["repository:hub/a/b:pull", "repository:hub/secret/x:pull"],
            ["repository:a/b:pull"],
        ),
        (["repository:hub/a/../secret/x:pull"], []),
        (["repository:hub/SECRET/x:pull"], []),
        (["repository:hub/*:pull"], []),
        (
            ["repository:hub/a/b:pull", "registry:catalog:*"],
            ["repository:a/b:pull", "registry:catalog:*"],
        ),
        (["repository:hub/a/b:pull", "junk", "a:b", "::"], ["repository:a/b:pull"]),
    ],
)
async def test_B9_scopes_are_mapped_and_others_left_out(
    hub: Client,
    upstream: FaultyUpstream,
    service: TokenService,
    scopes: list[str],
    asked: list[str],
    *,
    named: bool,
) -> None:
    answer = await ask(
        hub, *(("scope", scope) for scope in scopes), upstream="hub" if named else ""
    )
    assert answer.status == 200
    (query,) = queries(service.asked)
    assert [value for name, value in query if name == "scope"] == asked
    assert upstream.log == []


async def test_catalogue_scope_goes_on(hub: Client, service: TokenService) -> None:
    await ask(hub, ("scope", "registry:catalog:*"), upstream="hub")
    assert service.queries() == [{"service": ["registry.example"], "scope": ["registry:catalog:*"]}]


async def test_upstreams_own_endpoint_takes_the_upstreams_own_names(
    hub: Client, upstream: FaultyUpstream, service: TokenService
) -> None:
    """containerd with override_path asks so before it pushes; what is closed stays closed."""
    scopes = ["repository:team/model:pull,push", "repository:secret/x:pull", "registry:catalog:*"]
    answer = await ask(hub, *(("scope", scope) for scope in scopes), upstream="hub")
    assert answer.status == 200
    (query,) = service.queries()
    assert query["scope"] == ["repository:team/model:pull,push", "registry:catalog:*"]
    assert upstream.log == []


@pytest.mark.parametrize("source", ["repository:team/x:pull", "repository:hub/secret/x:pull"])
@pytest.mark.parametrize("first", [True, False])
async def test_B9_scope_of_another_upstream_or_a_closed_one_is_left_out(
    hub: Client, service: TokenService, source: str, *, first: bool
) -> None:
    scopes = ["repository:hub/a/b:pull,push", source]
    scopes.sort(key=lambda scope: (scope == source) is not first)
    assert (await ask(hub, *(("scope", scope) for scope in scopes))).status == 200
    (query,) = service.queries()
    assert query["scope"] == ["repository:a/b:pull,push"]


async def test_only_the_first_32_scopes_are_asked_for(hub: Client, service: TokenService) -> None:
    scopes = [("scope", f"repository:hub/a/b{at}:pull") for at in range(40)]
    await ask(hub, *scopes, upstream="hub")
    (query,) = service.queries()
    assert len(query["scope"]) == 32


async def test_mount_goes_where_it_writes(
    hub: Client, upstream: FaultyUpstream, service: TokenService
) -> None:
    """Of two repositories at two upstreams the one that is pushed to decides."""
    mine = TokenService(upstream, None)
    upstream.token_service = mine
    upstream.challenge = bearer(f"{upstream.url}/token")
    await ask(
        hub, ("scope", "repository:hub/a/b:pull"), ("scope", "repository:team/model:pull,push")
    )
    assert service.asked == []
    assert [query["scope"] for query in mine.queries()] == [["repository:team/model:pull,push"]]


async def test_default_upstream_has_the_names_of_its_clients(
    hub: Client, upstream: FaultyUpstream, service: TokenService
) -> None:
    mine = TokenService(upstream, ANNA)
    upstream.token_service = mine
    upstream.challenge = bearer(f"{upstream.url}/token")
    for at in ("", "default"):
        answer = await ask(
            hub, ("scope", "repository:team/model:pull"), upstream=at, authorization=ANNA
        )
        assert answer.status == 200
    assert [query["scope"] for query in mine.queries()] == [["repository:team/model:pull"]] * 2
    assert service.asked == []


async def test_fields_reach_the_realm_as_they_were_written(
    hub: Client, service: TokenService
) -> None:
    account = "a&b=c+d %41ü/"
    await ask(hub, ("account", account), upstream="hub")
    assert queries(service.asked) == [[("account", account), ("service", "registry.example")]]


async def test_query_of_the_realm_is_kept(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    other.challenge = f'Bearer realm="{other.url}/token?tenant=x"'
    await ask(hub, ("scope", "repository:hub/a/b:pull"), ("service", "mine"), upstream="hub")
    assert queries(service.asked) == [[("tenant", "x"), ("scope", "repository:a/b:pull")]]


async def test_base_of_two_endpoints_is_the_same_service(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    for _ in range(3):
        for at in ("", "hub"):
            answer = await ask(hub, ("scope", "repository:hub/a/b:pull"), upstream=at)
            assert answer.status == 200
    assert len(service.asked) == 6
    # What login the upstream wants is asked once.
    assert len(other.requests("/v2/$")) == 1


# Forms -------------------------------------------------------------------------------------------


async def test_form_with_a_password_goes_on_as_a_form(hub: Client, other: FaultyUpstream) -> None:
    other.tokens = set()
    other.challenge = bearer(f"{other.url}/token")
    other.token_service = lambda seen: (
        200,
        json.dumps({"access_token": "t", "refresh_token": "r", "x": seen.method}).encode(),
    )
    answer = await post(
        hub,
        ("grant_type", "password"),
        ("username", "anna"),
        ("password", "canary-s3cr3t"),
        ("service", "mine"),
        ("client_id", "docker"),
        ("access_type", "offline"),
        ("scope", "repository:hub/a/b:pull repository:hub/c:pull,push"),
        ("unknown", "x"),
    )
    assert (answer.status, answer.json) == (
        200,
        {"access_token": "t", "refresh_token": "r", "x": "POST"},
    )
    (asked,) = other.requests("/token")
    assert (asked.target, asked.get("Authorization")) == ("/token", None)
    assert asked.get("Content-Type") == FORM[1]
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["password"],
        "client_id": ["docker"],
        "access_type": ["offline"],
        "service": ["registry.example"],
        "username": ["anna"],
        "password": ["canary-s3cr3t"],
        "scope": ["repository:a/b:pull repository:library/c:pull,push"],
    }


async def test_form_with_a_refresh_token_goes_on(hub: Client, other: FaultyUpstream) -> None:
    other.tokens = set()
    other.challenge = bearer(f"{other.url}/token")
    other.token_service = lambda _: (200, b'{"access_token":"t"}')
    answer = await post(
        hub,
        ("grant_type", "refresh_token"),
        ("refresh_token", "canary-r3fr3sh"),
        ("scope", "repository:hub/a/b:pull"),
    )
    assert (answer.status, answer.json) == (200, {"access_token": "t"})
    (asked,) = other.requests("/token")
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["refresh_token"],
        "service": ["registry.example"],
        "refresh_token": ["canary-r3fr3sh"],
        "scope": ["repository:a/b:pull"],
    }


@pytest.mark.parametrize("status", [400, 401, 404, 405])
async def test_service_that_takes_no_form_says_so_itself(
    hub: Client, other: FaultyUpstream, service: TokenService, status: int
) -> None:
    """docker then comes again by GET."""
    other.faults.append(Fault(match="POST /token", status=status, body=b'{"details":"no"}'))
    answer = await post(hub, ("grant_type", "password"), ("username", "a"), ("password", "b"))
    assert (answer.status, answer.body) == (status, b'{"details":"no"}')


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([FORM], b"a=" + b"x" * 65_535, 413),
        ([FORM], b"&".join([b"a=b"] * 101), 400),
        ([FORM], b"a=\xff", 400),
        ([("Content-Type", "application/json")], b"{}", 400),
        ([], b"a=b", 400),
        ([FORM, ("Origin", "http://evil.example")], b"a=b", 403),
        ([FORM, ("Origin", "null")], b"a=b", 403),
        ([FORM, ("Sec-Fetch-Site", "cross-site")], b"a=b", 403),
    ],
)
async def test_G6_form_that_is_none_or_foreign_is_refused(
    hub: Client,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    headers: list[tuple[str, str]],
    body: bytes,
    status: int,
) -> None:
    for path in ("/-/token", "/-/token/hub"):
        answer = await hub.send("POST", path, headers=headers, body=body)
        assert answer.status == status
        assert set(answer.json["errors"][0]) == {"code", "message", "detail"}
    assert upstream.log + other.log == []


async def test_largest_form_is_read(hub: Client, service: TokenService) -> None:
    service.accounts = [None]
    answer = await hub.send("POST", "/-/token/hub", headers=[FORM], body=b"a=" + b"x" * 65_534)
    assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/-/token?" + "a=b&" * 101, 400),
        ("GET", "/-/token/nobody", 404),
        ("GET", "/-/token/nobody?scope=repository:hub/a/b:pull", 404),
        ("POST", "/-/token/nobody", 404),
        ("GET", "/-/token/", 404),
        ("GET", "/-/token/hub/x", 404),
        ("GET", "/-/", 404),
        ("PUT", "/-/token", 405),
        ("DELETE", "/-/token/hub", 405),
        ("PATCH", "/-/token/hub", 405),
    ],
)
async def test_request_for_no_token_is_refused(
    hub: Client,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    method: str,
    target: str,
    status: int,
) -> None:
    headers = [FORM] if method == "POST" else []
    answer = await hub.send(method, target, headers=headers)
    assert answer.status == status
    assert upstream.log + other.log == []


async def test_C2_scope_of_no_upstream_is_404(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__prefix="hub")
    answer = await ask(proxy, ("scope", "repository:evil.example/x:pull"))
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert upstream.log == []


async def test_slow_form_is_given_up(start_hub: Start, other: FaultyUpstream) -> None:
    proxy = await start_hub(listen__body_seconds=0.2)
    head = b"POST /-/token/hub HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(head + f"{FORM[0]}: {FORM[1]}\r\n\r\na=".encode())
    async with asyncio.timeout(5):
        assert b" 408 " in await reader.readline()
    writer.close()
    assert other.log == []


# What the realm does -----------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, ANNA])
async def test_B3_realm_that_is_not_the_upstreams_own_sees_nothing(
    hub: Client, other: FaultyUpstream, authorization: str | None
) -> None:
    other.tokens = set()
    async with running() as canary:
        other.challenge = bearer(f"{canary.url}/token")
        answer = await ask(
            hub,
            ("scope", "repository:hub/a/b:pull"),
            upstream="hub",
            authorization=authorization,
        )
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert "realm not allowed" in answer.message
        form = [("grant_type", "password"), ("username", "a"), ("password", "canary")]
        assert (await post(hub, *form)).status == 502
        assert canary.log == []
        assert canary.open == 0
    assert other.requests("token") == []


async def test_B3_realm_that_auth_hosts_names_is_asked(
    start_hub: Start, other: FaultyUpstream
) -> None:
    async with running() as auth:
        service = TokenService(other, ANNA)
        auth.token_service = service
        other.challenge = bearer(f"{auth.url}/token")
        proxy = await start_hub(upstreams__1__auth_hosts=[auth.url])
        answer = await ask(
            proxy, ("scope", "repository:hub/a/b:pull"), upstream="hub", authorization=ANNA
        )
        assert answer.status == 200
        assert [seen.get("Authorization") for seen in auth.log] == [ANNA]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
async def test_realms_refusal_is_relayed(
    hub: Client, other: FaultyUpstream, service: TokenService, status: int
) -> None:
    body = b'{"errors":  [{"code":"DENIED"}]}'
    headers = [("Retry-After", "7"), ("Set-Cookie", "a=b"), ("WWW-Authenticate", 'Basic realm="x"')]
    other.faults.append(Fault(match="/token", status=status, body=body, headers=headers))
    answer = await ask(hub, ("scope", "repository:hub/a/b:pull"), upstream="hub")
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers
    assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_B3_redirect_of_the_realm_is_not_followed_and_not_relayed(
    hub: Client, other: FaultyUpstream, service: TokenService, status: int
) -> None:
    async with running() as canary:
        location = f"{canary.url}/token"
        other.faults.append(Fault(match="/token", status=status, location=location))
        answer = await ask(hub, upstream="hub", authorization=ANNA)
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert "Location" not in answer.headers
        assert canary.open == 0


async def test_answer_of_the_realm_is_bounded(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    body = b"x" * (64 * 1024)
    other.faults.append(Fault(match="/token", times=1, status=200, body=body))
    assert (await ask(hub, upstream="hub")).body == body
    for length in (None, "chunked"):
        other.faults[:] = [Fault(match="/token", status=200, body=body + b"x", length=length)]
        answer = await ask(hub, upstream="hub")
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_G2_answer_of_the_realm_never_runs_in_a_browser(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    page = b"<script>alert(1)</script>"
    raw = b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 25\r\n\r\n" + page
    other.faults.append(Fault(match="/token", raw=raw))
    answer = await ask(hub, upstream="hub")
    assert answer.body == page
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("name", [b"Content-Type", b"Retry-After"])
async def test_header_of_the_realm_that_no_answer_may_hold_is_left_out(
    hub: Client, other: FaultyUpstream, service: TokenService, name: bytes
) -> None:
    head = b"HTTP/1.1 429 X\r\nContent-Length: 2\r\n" + name + b": a\xffb\r\n\r\n"
    other.faults.append(Fault(match="/token", raw=head + b"{}"))
    answer = await ask(hub, upstream="hub")
    assert (answer.status, answer.body) == (429, b"{}")
    assert answer.headers["Content-Type"] == "application/json"
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(
    "fault",
    [
        Fault(match="/token", raw=b"nonsense\r\n\r\n"),
        Fault(match="/token", cut_at=5),
        Fault(match="/token", hang_up=True),
    ],
)
async def test_realm_that_breaks_is_the_upstreams_fault(
    hub: Client, other: FaultyUpstream, service: TokenService, fault: Fault
) -> None:
    other.faults.append(Fault(**{**vars(fault), "seen": 0}))
    answer = await ask(hub, upstream="hub", authorization=ANNA)
    assert answer.status in (502, 503)
    assert "canary" not in answer.message


async def test_silent_realm_is_given_up(
    start_hub: Start, other: FaultyUpstream, service: TokenService
) -> None:
    proxy = await start_hub(
        upstreams__1__timeouts__idle_seconds=0.2, upstreams__1__timeouts__response_seconds=0.2
    )
    for fault in (Fault(match="/token", delay=30), Fault(match="/token", stall_at=3)):
        other.faults[:] = [fault]
        answer = await ask(proxy, upstream="hub")
        assert answer.status == 504
    other.faults.clear()
    assert (await ask(proxy, upstream="hub")).status == 200


@pytest.mark.parametrize(("status", "expected"), [(429, 429), (500, 502), (503, 503), (508, 508)])
async def test_no_token_where_nobody_knows_what_the_upstream_wants(
    hub: Client, other: FaultyUpstream, status: int, expected: int
) -> None:
    other.faults.append(Fault(match="/v2/", status=status))
    assert (await ask(hub, upstream="hub", authorization=ANNA)).status == expected
    assert all(seen.get("Authorization") is None for seen in other.log)


async def test_failed_upstream_is_asked_again_what_it_wants(
    hub: Client,
    other: FaultyUpstream,
    service: TokenService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "CHALLENGES_FAILED_SECONDS", 0.0)
    other.faults.append(Fault(match="/v2/", times=1, status=500))
    assert (await ask(hub, upstream="hub", authorization=ANNA)).status == 502
    answer = await ask(hub, upstream="hub", authorization=ANNA)
    assert (answer.status, answer.json["token"]) == (200, "token-0-1")


# Upstreams without a token service ---------------------------------------------------------------


async def test_login_at_a_basic_upstream_becomes_a_token(
    hub: Client, other: FaultyUpstream
) -> None:
    push(other)
    other.tokens = {ANNA}
    for answer in (
        await ask(hub, ("scope", "repository:hub/team/model:pull"), authorization=ANNA),
        await ask(hub, upstream="hub", authorization=ANNA),
        await ask(hub, upstream="hub", authorization=f"Bearer {own_token(ANNA)}"),
        await post(
            hub, ("grant_type", "password"), ("username", "anna"), ("password", "canary-s3cr3t")
        ),
    ):
        assert answer.status == 200
        assert answer.json["token"] == answer.json["access_token"] == own_token(ANNA)
        assert answer.json["expires_in"] >= 60
        assert answer.headers["Cache-Control"] == "no-store"
    token = f"Bearer {own_token(ANNA)}"
    other.log.clear()
    for target in (MANIFEST, RECORD, f"{RECORD}/files/w.bin"):
        assert (await hub.get(target, Authorization=token)).status == 200
    assert {seen.get("Authorization") for seen in other.log} == {ANNA}


async def test_wrong_login_at_a_basic_upstream_is_401(hub: Client, other: FaultyUpstream) -> None:
    other.tokens = {ANNA}
    for answer in (
        await ask(hub, upstream="hub", authorization=BERT),
        await ask(hub, upstream="hub", authorization="Bearer x"),
        await post(hub, ("grant_type", "password"), ("username", "anna"), ("password", "x")),
    ):
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")


async def test_anonymous_caller_gets_an_anonymous_token(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    push(other)
    for guarded in (True, False):
        other.tokens = {ANNA} if guarded else None
        answer = await ask(hub, ("scope", "repository:hub/team/model:pull"))
        assert (answer.status, answer.json["token"]) == (200, own_token(None))
        token = f"Bearer {answer.json['token']}"
        assert (await hub.get(MANIFEST, Authorization=token)).status == (401 if guarded else 200)
    assert all(seen.get("Authorization") is None for seen in other.log)


async def test_B4_secret_of_huggingface_is_no_login(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    assert (await ask(hub, upstream="hub", authorization="Bearer hf_canary")).status == 200
    assert [seen.get("Authorization") for seen in other.log] == [None, None]


async def test_login_without_a_scope_where_several_want_one_is_kept_for_later(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    """docker login: which upstream it is for shows with the first repository."""
    upstream.tokens, other.tokens = {BERT}, {ANNA}
    answer = await ask(
        hub,
        ("account", "anna"),
        ("offline_token", "true"),
        ("client_id", "docker"),
        authorization=ANNA,
    )
    assert (answer.status, answer.json["token"]) == (200, own_token(ANNA))
    assert all(seen.get("Authorization") is None for seen in upstream.log + other.log)


async def test_login_without_a_scope_goes_to_the_only_one_who_wants_it(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    other.tokens = {ANNA}
    assert (await ask(hub, authorization=ANNA)).status == 200
    assert (await ask(hub, authorization=BERT)).status == 401
    assert all(seen.get("Authorization") is None for seen in upstream.log)


async def test_login_that_is_kept_opens_a_bearer_upstream(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream, service: TokenService
) -> None:
    """The token of the first login is the credential, and the realm takes it as that."""
    answer = await ask(
        hub,
        ("scope", "repository:hub/team/model:pull"),
        authorization=f"Bearer {own_token(ANNA)}",
    )
    assert answer.status == 200
    assert [seen.get("Authorization") for seen in service.asked] == [ANNA]


@pytest.mark.parametrize("value", ["Basic a, Basic b", "Basic \xe9"])
async def test_malformed_authorization_is_400(
    hub: Client, other: FaultyUpstream, value: str
) -> None:
    lines = "".join(f"Authorization: {one}\r\n" for one in value.split(", "))
    head = f"GET /-/token/hub HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
    received = await hub.raw(head.encode())
    assert received.split(b" ")[1] == b"400"
    assert other.log == []


# The settings' own credentials -------------------------------------------------------------------


async def test_own_login_is_what_an_accounts_token_costs(
    start_hub: Start, other: FaultyUpstream, tmp_path: Path
) -> None:
    hashed = bcrypt.hashpw(b"canary-0wn", bcrypt.gensalt(4)).decode("ascii")
    (tmp_path / "htpasswd").write_text(f"olga:{hashed}\n")
    (tmp_path / "password").write_text("canary-r0b0t")
    (tmp_path / "password").chmod(0o600)
    push(other)
    own, account = basic("olga", "canary-0wn"), basic("robot", "canary-r0b0t")
    service = TokenService(other, account)
    other.token_service = service
    other.challenge = bearer(f"{other.url}/token")
    proxy = await start_hub(
        listen__auth__htpasswd=tmp_path / "htpasswd",
        upstreams__1__credentials={"username": "robot", "password_file": tmp_path / "password"},
        upstreams__1__tls__insecure=True,
    )
    for sent in (None, ANNA, account, "Bearer x"):
        for at in ("", "hub"):
            answer = await ask(
                proxy, ("scope", "repository:hub/a/b:pull"), upstream=at, authorization=sent
            )
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    form = [("grant_type", "password"), ("username", "olga"), ("password", "wrong")]
    assert (await post(proxy, *form)).status == 401
    assert service.asked == []
    form[-1] = ("password", "canary-0wn")
    for answer in (
        await post(proxy, *form),
        await ask(proxy, upstream="hub", authorization=own),
        await ask(proxy, ("scope", "repository:hub/team/model:pull"), authorization=own),
    ):
        assert (answer.status, answer.json["token"]) == (200, own_token(own))
        assert account.split()[1] not in answer.body.decode()
    # Row A12: the account's token stays here, the caller gets one of ours.
    assert service.asked == []
    token = f"Bearer {own_token(own)}"
    for target in (MANIFEST, RECORD):
        assert (await proxy.get(target, Authorization=token)).status == 200
    assert {seen.get("Authorization") for seen in service.asked} == {account}
    assert own not in {seen.get("Authorization") for seen in other.log}


@pytest.mark.parametrize("kind", ["account", "anonymous"])
async def test_upstream_for_everybody_gives_an_anonymous_token(
    start_hub: Start, other: FaultyUpstream, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "password").write_text("canary-r0b0t")
    (tmp_path / "password").chmod(0o600)
    account = {
        "username": "robot",
        "password_file": tmp_path / "password",
        "anonymous": True,
    }
    proxy = await start_hub(
        upstreams__1__credentials=account if kind == "account" else "anonymous",
        upstreams__1__tls__insecure=True,
    )
    for sent in (None, ANNA):
        answer = await ask(
            proxy, ("scope", "repository:hub/a/b:pull"), upstream="hub", authorization=sent
        )
        assert (answer.status, answer.json["token"]) == (200, own_token(None))
    assert other.log == []


async def test_tokens_are_not_served_where_the_registry_api_is_off(
    start_hub: Start, upstream: FaultyUpstream
) -> None:
    proxy = await start_hub(listen__registry_api=False)
    for target in ("/-/token", "/-/token/hub", "/v2/"):
        assert (await proxy.get(target)).status == 404
    assert upstream.log == []


async def test_B5_no_credential_is_logged_or_counted(
    hub: Client, other: FaultyUpstream, service: TokenService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await ask(hub, ("account", "canary-1"), upstream="hub", authorization=ANNA)
    await post(hub, ("grant_type", "password"), ("username", "a"), ("password", "canary-2"))
    await post(hub, ("grant_type", "refresh_token"), ("refresh_token", "canary-3"))
    other.faults.append(Fault(match="/token", raw=b"canary-4\r\n\r\n"))
    answer = await ask(hub, ("scope", "canary-5"), upstream="hub", authorization=ANNA)
    metrics = await hub.get("/metrics")
    lines = "".join(str(vars(record)) for record in caplog.records)
    found = lines + answer.body.decode() + metrics.body.decode()
    assert not [text for text in ("canary", ANNA.split()[1], "token-0") if text in found]
    assert "/-/token/<upstream>" in lines


async def test_B7_tokens_of_callers_are_never_shared(
    hub: Client, other: FaultyUpstream, service: TokenService
) -> None:
    service.accounts = [ANNA, BERT]
    callers = [ANNA, BERT, basic("eve", "x")] * 10
    answers = await asyncio.gather(
        *(ask(hub, upstream="hub", authorization=caller) for caller in callers)
    )
    for caller, answer in zip(callers, answers, strict=True):
        if caller in service.accounts:
            assert answer.json["token"].startswith(f"token-{service.accounts.index(caller)}-")
        else:
            assert answer.status == 401
