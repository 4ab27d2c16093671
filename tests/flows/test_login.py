"""Logins for /cnai/: Basic in, whatever the upstream wants out, and nothing to anybody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy import __version__
from proxy.content.reader import AuthorizedReader
from proxy.errors import BadUpstream, Unauthorized
from proxy.metrics import Metrics
from proxy.oci.manifest import OCI_MANIFEST
from proxy.oci.reference import RepositoryName
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.bodies import Timeouts
from proxy.upstream.client import open_upstream
from proxy.upstream.egress import Egress
from proxy.upstream.identity import Caller
from proxy.upstream.realms import RealmGuard
from proxy.upstream.sessions import TlsPolicy
from proxy.upstream.tokens import Tokens
from tests.build import descriptor, file_annotations, layer_type, manifest_bytes
from tests.faulty_upstream import Fault, FaultyUpstream, running
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client
from tests.flows.tokens import ANNA, BERT, TokenService, basic, bearer

WEIGHTS = b"weights"
FILE = "/cnai/team/model:v1/files/w.bin"


def push(upstream: FaultyUpstream, repository: str = "team/model") -> None:
    """A model of one file."""
    weights = descriptor(
        layer_type("weight"), WEIGHTS, annotations=file_annotations("w.bin", len(WEIGHTS))
    )
    upstream.blob(WEIGHTS)
    upstream.blob(b"{}")
    upstream.manifest(repository, "v1", manifest_bytes([weights]), OCI_MANIFEST)


ServiceOf = Callable[..., TokenService]


@pytest.fixture
def token_service(upstream: FaultyUpstream) -> ServiceOf:
    """Puts a token service on the upstream's own origin; called with the accounts it knows."""

    def start(*accounts: str | None) -> TokenService:
        push(upstream)
        service = TokenService(upstream, *accounts)
        upstream.token_service = service
        upstream.challenge = bearer(f"{upstream.url}/token")
        return service

    return start


def assert_asks_for_basic(answer: Answer) -> None:
    """401 that a browser can answer; never the upstream's own challenge."""
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
    (challenge,) = answer.headers.getall("WWW-Authenticate")
    assert challenge.startswith("Basic realm=")


def credentials(upstream: FaultyUpstream) -> list[str | None]:
    """What came to the registry itself, request by request."""
    return [seen.get("Authorization") for seen in upstream.requests(" /v2/")]


# Basic -------------------------------------------------------------------------------------------


async def test_basic_upstream_takes_the_callers_login(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream)
    upstream.tokens = {ANNA}
    for target in ("/cnai/team/model:v1", "/cnai/team/model:v1/files", FILE):
        assert_asks_for_basic(await proxy.get(target))
        assert_asks_for_basic(await proxy.get(target, Authorization=BERT))
        assert_asks_for_basic(await proxy.get(target, Authorization="Bearer nonsense"))
        assert (await proxy.head(target)).status == 401
        assert (await proxy.get(target, Authorization=ANNA)).status == 200
    assert (await proxy.get(FILE, Authorization=ANNA)).body == WEIGHTS


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        (None, "the registry wants a login for team/model"),
        (BERT, "the registry refuses this login for team/model"),
        ("bearer nonsense", "the registry refuses this login for team/model"),
        ("Digest x", "expected a Basic or Bearer login for team/model, found 'digest'"),
    ],
)
async def test_refusal_tells_a_wrong_login_from_none(
    proxy: Client, upstream: FaultyUpstream, authorization: str | None, text: str
) -> None:
    push(upstream)
    upstream.tokens = {ANNA}
    headers = [("Authorization", authorization)] if authorization else []
    answer = await proxy.send("GET", FILE, headers=headers)
    assert_asks_for_basic(answer)
    assert answer.message == text


async def test_every_request_is_asked_anew(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream)
    upstream.tokens = {ANNA}
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200
    upstream.tokens = set()
    assert_asks_for_basic(await proxy.get(FILE, Authorization=ANNA))


async def test_upstreams_challenge_is_relayed_on_v2_and_never_here(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream)
    upstream.tokens = set()
    upstream.challenge = bearer("https://auth.example/token")
    relayed = await proxy.get("/v2/team/model/manifests/v1")
    assert relayed.headers["WWW-Authenticate"] == upstream.challenge
    answer = await proxy.get(FILE)
    assert answer.status == 502
    assert "WWW-Authenticate" not in answer.headers


async def test_denied_is_403(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream)
    upstream.faults.append(Fault(match="manifests", status=403))
    answer = await proxy.get(FILE, Authorization=ANNA)
    assert (answer.status, answer.code) == (403, "DENIED")


@pytest.mark.parametrize(
    "lines",
    [
        [b"Authorization: " + ANNA.encode(), b"Authorization: " + BERT.encode()],
        [b"Authorization: " + ANNA.encode(), b"authorization: " + ANNA.encode()],
        [b"Authorization: Basic \xc3\xa9"],
        [b"Authorization: Basic a\x01b"],
        [b"Authorization: Basic a\x00b"],
        [b"Authorization: Basic a\tb"],
    ],
)
async def test_A8_malformed_authorization_is_400(
    proxy: Client, upstream: FaultyUpstream, lines: list[bytes]
) -> None:
    push(upstream)
    head = [f"GET {FILE} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *lines, b"", b""]
    received = await proxy.raw(b"\r\n".join(head))
    assert received.split(b" ")[1] == b"400"
    assert b"canary" not in received
    assert upstream.log == []


# Bearer ------------------------------------------------------------------------------------------


async def test_public_repository_is_read_with_an_anonymous_token(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(None)
    answer = await proxy.get(FILE)
    assert (answer.status, answer.body) == (200, WEIGHTS)
    (asked,) = service.asked
    assert asked.method == "GET"
    assert asked.get("Authorization") is None
    assert service.queries() == [
        {"service": ["registry.example"], "scope": ["repository:team/model:pull"]}
    ]
    assert credentials(upstream) == [None, "Bearer token-0-1", "Bearer token-0-1"]


async def test_login_of_the_caller_goes_to_the_realm(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    assert_asks_for_basic(await proxy.get(FILE))
    assert_asks_for_basic(await proxy.get(FILE, Authorization=BERT))
    assert (await proxy.get(FILE, Authorization=ANNA)).body == WEIGHTS
    assert [seen.get("Authorization") for seen in service.asked] == [None, BERT, ANNA]
    assert credentials(upstream)[-1] == "Bearer token-0-3"


async def test_own_requests_name_the_proxy(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    """Without a User-Agent some registries answer 403; the caller's own is not asked for."""
    service = token_service(ANNA)
    assert (await proxy.get(FILE, Authorization=ANNA, User_Agent="curl/8")).status == 200
    assert service.asked
    for seen in upstream.log:
        assert seen.get("User-Agent") == f"cnai-proxy/{__version__}"


async def test_token_is_used_again(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    for _ in range(3):
        assert (await proxy.get(FILE, Authorization=ANNA)).status == 200
    assert len(service.asked) == 1
    assert credentials(upstream) == [ANNA, *["Bearer token-0-1"] * 6]


async def test_token_is_for_one_repository(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    push(upstream, "team/other")
    for name in ("model", "other"):
        answer = await proxy.get(f"/cnai/team/{name}:v1/files/w.bin", Authorization=ANNA)
        assert answer.status == 200
    assert [query["scope"] for query in service.queries()] == [
        ["repository:team/model:pull"],
        ["repository:team/other:pull"],
    ]


async def test_refused_token_is_renewed_once(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    await proxy.get(FILE, Authorization=ANNA)
    service.revoke()
    assert (await proxy.get(FILE, Authorization=ANNA)).body == WEIGHTS
    assert len(service.asked) == 2
    service.accounts.clear()
    service.revoke()
    assert_asks_for_basic(await proxy.get(FILE, Authorization=ANNA))
    assert len(service.asked) == 3


async def test_token_the_registry_never_takes_ends_in_401(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    token_service(ANNA)
    upstream.token_service = lambda _: (200, b'{"token":"worthless"}')
    assert_asks_for_basic(await proxy.get(FILE, Authorization=ANNA))
    assert credentials(upstream) == [ANNA, "Bearer worthless"]
    assert len(upstream.requests("/token")) == 1


async def test_B7_concurrent_requests_share_one_exchange(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    for expected in (1, 2):
        answers = await asyncio.gather(*(proxy.get(FILE, Authorization=ANNA) for _ in range(64)))
        assert {(answer.status, answer.body) for answer in answers} == {(200, WEIGHTS)}
        assert len(service.asked) == expected
        service.revoke()


async def test_late_401_does_not_cost_another_exchange(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    """A request sent before the exchange and refused after it takes the token that is there."""
    service = token_service(ANNA)
    upstream.faults.append(
        Fault(
            match="manifests",
            times=1,
            delay=0.5,
            status=401,
            headers=[("WWW-Authenticate", upstream.challenge or "")],
        )
    )
    late = asyncio.gather(proxy.get(FILE, Authorization=ANNA))
    async with asyncio.timeout(5):
        while not upstream.log:  # noqa: ASYNC110  # the upstream's socket has no event to wait for
            await asyncio.sleep(0.01)
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200
    assert [answer.status for answer in await late] == [200]
    assert len(service.asked) == 1


async def test_bearer_of_the_caller_passes_as_it_is(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    upstream.tokens = {"Bearer of-the-caller"}
    answer = await proxy.get(FILE, Authorization="Bearer of-the-caller")
    assert (answer.status, answer.body) == (200, WEIGHTS)
    assert_asks_for_basic(await proxy.get(FILE, Authorization="Bearer another"))
    assert service.asked == []
    assert set(credentials(upstream)) == {"Bearer of-the-caller", "Bearer another"}


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_refusal_of_the_token_service_asks_for_basic(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf, status: int
) -> None:
    token_service()
    upstream.token_service = lambda _: (status, b"{}")
    assert_asks_for_basic(await proxy.get(FILE))
    assert_asks_for_basic(await proxy.get(FILE, Authorization=ANNA))


async def test_limits_of_the_token_service_are_told(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    token_service()
    for found, status in ((429, 429), (503, 503), (500, 502)):
        retry = [("Retry-After", "9")]
        upstream.faults = [Fault(match="GET /token", status=found, headers=retry)]
        answer = await proxy.get(FILE, Authorization=ANNA)
        assert answer.status == status
        assert answer.headers.get("Retry-After") == (None if status == 502 else "9")


# Which realms ------------------------------------------------------------------------------------


async def test_B3_realms_elsewhere_never_see_a_credential(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream)
    upstream.tokens = set()
    async with running() as canary:
        for realm in (
            f"{canary.url}/token",
            f"http://localhost:{canary.port}/token",
            f"http://localhost:{upstream.port}/token",
            f"http://[::ffff:127.0.0.1]:{upstream.port}/token",
            f"http://[::1]:{canary.port}/token",
            f"http://127.1:{upstream.port}/token",
            f"http://2130706433:{upstream.port}/token",
            f"https://127.0.0.1:{upstream.port}/token",
            f"http://127.0.0.1:{upstream.port}@127.0.0.1:{canary.port}/token",
            f"http://user:pw@127.0.0.1:{upstream.port}/token",
            f"http://127.0.0.1:{upstream.port}\\\\@127.0.0.1:{canary.port}/token",
            f"http://127.0.0.1:{upstream.port}#@127.0.0.1:{canary.port}/token",
            f"http://127.0.0.1:{upstream.port}.evil.example/token",
            f"//127.0.0.1:{upstream.port}/token",
            f"127.0.0.1:{upstream.port}/token",
            "/token",
            "file:///etc/passwd",
            f"gopher://127.0.0.1:{canary.port}/_token",
            f"ftp://127.0.0.1:{canary.port}/token",
            "http:///token",
            "http://127.0.0.1:99999/token",
            "",
        ):
            for authorization in (ANNA, None):
                upstream.challenge = bearer(realm)
                headers = [("Authorization", authorization)] if authorization else []
                answer = await proxy.send("GET", FILE, headers=headers)
                assert (answer.status, answer.code) == (502, "UNAVAILABLE"), realm
                assert "realm not allowed" in answer.message
        assert canary.log == []
        assert canary.open == 0
    assert upstream.requests("token") == []


async def test_B3_of_two_challenges_the_good_one_is_used(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    async with running() as canary:
        good, evil = bearer(f"{upstream.url}/token"), bearer(f"{canary.url}/token")
        for challenge in (f"{evil}, {good}", f"{good}, {evil}", f'Basic realm="r", {good}'):
            upstream.challenge = challenge
            service.revoke()
            assert (await proxy.get(FILE, Authorization=ANNA)).status == 200, challenge
        assert canary.log == []
    assert len(service.asked) == 3


@pytest.mark.parametrize("name", ["http://127.0.0.1:{port}", "http://127.0.0.1:{other},{url}"])
async def test_B3_auth_hosts_name_further_realms(
    start_proxy: StartProxy, upstream: FaultyUpstream, name: str
) -> None:
    push(upstream)
    async with running() as auth:
        service = TokenService(upstream, ANNA)
        auth.token_service = service
        upstream.challenge = bearer(f"{auth.url}/token")
        named = name.format(port=auth.port, other=1, url=auth.url).split(",")
        proxy = await start_proxy(upstream__auth_hosts=named)
        assert (await proxy.get(FILE, Authorization=ANNA)).body == WEIGHTS
        assert [seen.get("Authorization") for seen in service.asked] == [ANNA]
        assert [seen.target.partition("?")[0] for seen in auth.log] == ["/token"]


async def test_B3_auth_hosts_may_resolve_to_private_addresses(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    push(upstream)
    async with running() as auth:
        auth.token_service = TokenService(upstream, ANNA)
        named = f"http://localhost:{auth.port}"
        upstream.challenge = bearer(f"{named}/token")
        proxy = await start_proxy(upstream__auth_hosts=[named])
        assert (await proxy.get(FILE, Authorization=ANNA)).body == WEIGHTS


async def test_B3_auth_hosts_name_an_origin_and_not_a_host(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    push(upstream)
    upstream.tokens = set()
    async with running() as canary:
        upstream.challenge = bearer(f"{canary.url}/token")
        # A bare name means https on its own port.
        for named in ("127.0.0.1", f"127.0.0.1:{canary.port}", "http://127.0.0.1:1"):
            proxy = await start_proxy(upstream__auth_hosts=[named])
            assert (await proxy.get(FILE, Authorization=ANNA)).status == 502
        assert canary.log == []


async def test_B3_redirect_of_the_token_service_is_not_followed(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    token_service(ANNA)
    async with running() as canary:
        for status in (301, 302, 307, 308):
            location = f"{canary.url}/token"
            upstream.faults = [Fault(match="GET /token", status=status, location=location)]
            assert (await proxy.get(FILE, Authorization=ANNA)).status == 502
        assert canary.log == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"token":""}',
        b'{"token":1}',
        b'{"token":"a b"}',
        b'{"token":"a\\r\\nX: y"}',
        b'{"token":"\\u00e9"}',
        b"[" * 10_000,
        b'{"token":"t","x":"' + b"y" * 65_536 + b'"}',
    ],
    ids=lambda body: body[:20].decode(),
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_B3_garbage_of_the_token_service_is_502(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf, body: bytes, *, chunked: bool
) -> None:
    token_service(ANNA)
    upstream.token_service = lambda _: (200, body)
    if chunked:
        upstream.faults.append(Fault(match="GET /token", length="chunked"))
    answer = await proxy.get(FILE, Authorization=ANNA)
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert "canary" not in answer.message
    assert credentials(upstream) == [ANNA]


async def test_largest_answer_of_the_token_service_is_read(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    token_service(ANNA)
    token = "t" * 16_000
    upstream.tokens = {f"Bearer {token}"}
    body = json.dumps({"access_token": token}).encode()
    upstream.token_service = lambda _: (200, body + b" " * (64 * 1024 - len(body)))
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200


async def test_silent_token_service_is_504(
    start_proxy: StartProxy, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    token_service(ANNA)
    proxy = await start_proxy(
        upstream__timeouts__idle_seconds=0.3, upstream__timeouts__response_seconds=0.3
    )
    upstream.faults.append(Fault(match="GET /token", delay=30))
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 504
    upstream.faults.clear()
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200


async def test_B3_slow_token_service_is_given_up(
    upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    """Whatever the upstream's own timeouts are, an exchange has its own end."""
    token_service(ANNA)
    upstream.faults.append(Fault(match="GET /token", stall_at=5))
    async with reader_of(upstream, exchange_seconds=0.2) as reader:
        with pytest.raises(BadUpstream, match="in time"):
            await manifest_of(reader, Caller(ANNA))


# Whose token -------------------------------------------------------------------------------------


async def test_B7_callers_never_share_a_token(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA, BERT)
    for _ in range(2):
        for caller in (ANNA, BERT):
            assert (await proxy.get(FILE, Authorization=caller)).status == 200
    assert_asks_for_basic(await proxy.get(FILE))
    assert_asks_for_basic(await proxy.get(FILE, Authorization=basic("anna", "wrong")))
    # The scheme in other letters is another caller: at worst one exchange more.
    assert (await proxy.get(FILE, Authorization=ANNA.replace("Basic", "basic"))).status == 401
    seen = credentials(upstream)
    assert seen == [
        *(ANNA, "Bearer token-0-1", "Bearer token-0-1"),
        *(BERT, "Bearer token-1-2", "Bearer token-1-2"),
        *["Bearer token-0-1"] * 2,
        *["Bearer token-1-2"] * 2,
        None,
        basic("anna", "wrong"),
        ANNA.replace("Basic", "basic"),
    ]
    assert len(service.asked) == 5


async def test_B7_concurrent_callers_never_share_a_token(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA, BERT)
    others = [basic(f"user{at}", "wrong") for at in range(8)]
    callers = [ANNA, BERT, *others] * 4
    answers = await asyncio.gather(*(proxy.get(FILE, Authorization=caller) for caller in callers))
    assert [answer.status for answer in answers] == [200, 200, *[401] * 8] * 4
    assert len({seen.get("Authorization") for seen in service.asked}) == 10
    assert len(upstream.requests(" /v2/")) >= len(callers)


async def test_B7_nothing_is_on_disk(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    token_service: ServiceOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    proxy = await start_proxy()
    token_service(ANNA)
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200
    assert list(tmp_path.rglob("*")) == []


async def test_B5_neither_login_nor_token_is_logged_or_counted(
    proxy: Client,
    upstream: FaultyUpstream,
    token_service: ServiceOf,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    service = token_service(ANNA)
    await proxy.get(FILE, Authorization=ANNA)
    await proxy.get(FILE, Authorization=BERT)
    service.revoke()
    upstream.token_service = lambda _: (200, b"canary-garbage")
    answer = await proxy.get(FILE, Authorization=ANNA)
    metrics = await proxy.get("/metrics")
    secrets = ("canary", "token-0", ANNA.split()[1], BERT.split()[1])
    for secret in secrets:
        assert secret not in caplog.text
        assert secret.encode() not in metrics.body + answer.body


@pytest.mark.parametrize(
    "scope",
    [
        "repository:private/secret:pull",
        "repository:team/model:pull,push,delete",
        "repository:*:*",
        "registry:catalog:*",
        "",
        "repository:team/model:pull repository:private/secret:pull",
    ],
)
async def test_B9_scope_is_reading_this_repository(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf, scope: str
) -> None:
    service = token_service(ANNA)
    upstream.challenge = bearer(f"{upstream.url}/token", scope=scope)
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200
    assert [query["scope"] for query in service.queries()] == [["repository:team/model:pull"]]


async def test_B9_query_of_the_realm_is_kept_and_adds_no_scope_of_ours(
    proxy: Client, upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    upstream.challenge = f'Bearer realm="{upstream.url}/token?account=x"'
    assert (await proxy.get(FILE, Authorization=ANNA)).status == 200
    assert service.queries() == [{"account": ["x"], "scope": ["repository:team/model:pull"]}]


# By the clock ------------------------------------------------------------------------------------


@asynccontextmanager
async def reader_of(
    upstream: FaultyUpstream,
    *,
    exchange_seconds: float = 10,
    clock: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[AuthorizedReader]:
    """A reader of its own before ``upstream``."""
    async with open_upstream(
        name="test",
        base_url=upstream.url,
        follow_redirects=False,
        redirect_hosts=(),
        timeouts=Timeouts(),
        tls=TlsPolicy(),
        egress=Egress("none", {}),
        connections=8,
        metrics=Metrics(),
    ) as opened:
        realms = RealmGuard(opened.base_url, auth_hosts=())
        tokens = Tokens(opened, realms, exchange_seconds=exchange_seconds, clock=clock)
        yield AuthorizedReader(AuthorizedClient(opened, tokens))


async def manifest_of(reader: AuthorizedReader, caller: Caller) -> int:
    """The status of the model's manifest."""
    name = RepositoryName("team/model")
    async with reader.open("GET", name, "manifests/v1", caller=caller, headers={}) as answer:
        return answer.status


@pytest.mark.parametrize(
    ("expires_in", "usable", "used_up"),
    [(300, 239, 241), (60, 47, 49), (1, 47, 49), (None, 47, 49), (86_400, 2_879, 2_881)],
)
async def test_B7_token_is_used_for_four_fifths_of_its_life(
    upstream: FaultyUpstream,
    token_service: ServiceOf,
    expires_in: object,
    usable: float,
    used_up: float,
) -> None:
    service = token_service(ANNA)
    service.expires_in = expires_in
    now = 1000.0
    async with reader_of(upstream, clock=lambda: now) as reader:
        for later, exchanges in ((0, 1), (usable, 1), (used_up, 2)):
            now = 1000.0 + later
            assert await manifest_of(reader, Caller(ANNA)) == 200
            assert len(service.asked) == exchanges


async def test_caller_that_leaves_does_not_end_the_exchange_of_others(
    upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    upstream.faults.append(Fault(match="GET /token", delay=0.3))
    async with reader_of(upstream) as reader, asyncio.timeout(5):
        first = asyncio.gather(manifest_of(reader, Caller(ANNA)))
        while not upstream.requests("/token"):  # noqa: ASYNC110  # nothing to wait for
            await asyncio.sleep(0.01)
        second = asyncio.gather(manifest_of(reader, Caller(ANNA)))
        while len(upstream.requests("/manifests/")) < 2:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # its 401 is on its way
        first.cancel()
        (status,) = await second
        assert status == 200
        with pytest.raises(asyncio.CancelledError):
            await first
    assert len(service.asked) == 1


async def test_failed_exchange_is_told_to_all_who_wait_and_not_kept(
    upstream: FaultyUpstream, token_service: ServiceOf
) -> None:
    service = token_service(ANNA)
    async with reader_of(upstream) as reader:
        upstream.token_service = lambda _: (200, b"{}")
        found = await asyncio.gather(
            *(manifest_of(reader, Caller(ANNA)) for _ in range(4)), return_exceptions=True
        )
        assert all(isinstance(error, BadUpstream) for error in found)
        upstream.token_service = service
        assert await manifest_of(reader, Caller(ANNA)) == 200
        with pytest.raises(Unauthorized):
            await manifest_of(reader, Caller(BERT))
