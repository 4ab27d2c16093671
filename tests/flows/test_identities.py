"""Whose credential an upstream sees: the caller's, nobody's, or that of the settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import bcrypt
import pytest

from proxy.oci.manifest import OCI_MANIFEST
from tests.build import descriptor, file_annotations, layer_type, manifest_bytes
from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client
from tests.flows.tokens import ANNA, BERT, TokenService, basic, bearer

DIGEST = "sha256:" + "a" * 64
WEIGHTS = b"weights"
MANIFEST = "/v2/team/model/manifests/v1"
RECORD = "/cnai/team/model:v1"
FILE = f"{RECORD}/files/w.bin"
# The login of the proxy's own, and the account that the settings hold: never the same.
OWN = basic("olga", "canary-0wn")
ACCOUNT = basic("robot", "canary-r0b0t")

Start = Callable[..., Awaitable[Client]]


@pytest.fixture(scope="session")
def htpasswd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the login ``OWN``, at the least cost that there is."""
    file = tmp_path_factory.mktemp("login") / "htpasswd"
    hashed = bcrypt.hashpw(b"canary-0wn", bcrypt.gensalt(4)).decode("ascii")
    file.write_text(f"olga:{hashed}\n")
    return file


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The account's password, with the line's end that editors leave."""
    file = tmp_path / "password"
    file.write_text("canary-r0b0t\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def start_account(
    start_proxy: StartProxy, password_file: Path, htpasswd: Path, upstream: FaultyUpstream
) -> Start:
    """Starts a proxy whose settings hold ``ACCOUNT``; ``anonymous`` lets everybody use it."""

    async def start(*, anonymous: bool = False, **overrides: object) -> Client:
        settings: dict[str, object] = {
            "upstream__credentials__username": "robot",
            "upstream__credentials__password_file": password_file,
            "upstream__credentials__anonymous": anonymous,
            "upstream__tls__insecure": True,
        }
        if not anonymous:
            settings["listen__auth__htpasswd"] = htpasswd
        return await start_proxy(**settings, **overrides)

    push(upstream)
    return start


def push(upstream: FaultyUpstream, repository: str = "team/model") -> str:
    """A model of one file; the digest of that file."""
    weights = descriptor(
        layer_type("weight"), WEIGHTS, annotations=file_annotations("w.bin", len(WEIGHTS))
    )
    upstream.blob(b"{}")
    upstream.manifest(repository, "v1", manifest_bytes([weights]), OCI_MANIFEST)
    return upstream.blob(WEIGHTS)


def with_tokens(upstream: FaultyUpstream, *accounts: str | None) -> TokenService:
    """A token service on the upstream's own origin."""
    service = TokenService(upstream, *accounts)
    upstream.token_service = service
    upstream.challenge = bearer(f"{upstream.url}/token")
    return service


def credentials(upstream: FaultyUpstream, pattern: str = " /v2/") -> list[str | None]:
    """What came with each request that matches."""
    return [seen.get("Authorization") for seen in upstream.requests(pattern)]


def assert_asks_for_own_login(answer: Answer) -> None:
    """401 with the proxy's own challenge, and nothing of the upstream's."""
    assert answer.status == 401
    assert answer.headers.getall("WWW-Authenticate") == [
        'Basic realm="cnai-proxy", charset="UTF-8"'
    ]


# Anonymous ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/v2/", MANIFEST, "/v2/team/model/tags/list", RECORD, FILE])
async def test_B9_anonymous_upstream_never_sees_a_callers_credential(
    start_proxy: StartProxy, upstream: FaultyUpstream, target: str
) -> None:
    push(upstream)
    proxy = await start_proxy(upstream__credentials="anonymous")
    for sent in (ANNA, "Bearer x", "Bearer hf_x", "Digest x"):
        for method in ("GET", "HEAD"):
            answer = await proxy.send(method, target, headers=[("Authorization", sent)])
            assert answer.status in (200, 404)
    assert upstream.log
    assert set(credentials(upstream)) == {None}


async def test_anonymous_upstream_takes_writes_without_a_credential(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__credentials="anonymous")
    headers = [("Authorization", ANNA), ("Content-Type", OCI_MANIFEST)]
    answer = await proxy.send("PUT", MANIFEST, headers=headers, body=manifest_bytes([]))
    assert answer.status == 201
    assert credentials(upstream) == [None]


async def test_anonymous_tokens_are_exchanged_here(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    push(upstream)
    service = with_tokens(upstream, None)
    proxy = await start_proxy(upstream__credentials="anonymous")
    for _ in range(2):
        answer = await proxy.get(MANIFEST, Authorization=ANNA)
        assert answer.status == 200
        assert "WWW-Authenticate" not in answer.headers
        assert (await proxy.get(FILE, Authorization=BERT)).body == WEIGHTS
    assert [seen.get("Authorization") for seen in service.asked] == [None]
    assert service.queries()[0]["scope"] == ["repository:team/model:pull"]
    assert set(credentials(upstream)) == {None, "Bearer token-0-1"}


@pytest.mark.parametrize("kind", ["Basic", "Bearer"])
async def test_anonymous_refusal_is_403_without_a_challenge(
    start_proxy: StartProxy, upstream: FaultyUpstream, kind: str
) -> None:
    """No login of the caller's would help: a client that asked for one would ask for ever."""
    push(upstream)
    upstream.tokens = set()
    if kind == "Bearer":
        with_tokens(upstream)
    proxy = await start_proxy(upstream__credentials="anonymous")
    for method, target in (
        ("GET", MANIFEST),
        ("HEAD", MANIFEST),
        ("GET", "/v2/"),
        ("GET", RECORD),
        ("PUT", MANIFEST),
        ("POST", "/v2/team/model/blobs/uploads/"),
    ):
        answer = await proxy.send(method, target, headers=[("Authorization", ANNA)])
        assert answer.status == 403, target
        assert method == "HEAD" or answer.code == "DENIED"
        assert "WWW-Authenticate" not in answer.headers
    assert set(credentials(upstream)) == {None}


async def test_anonymous_upstream_behind_the_own_login(
    start_proxy: StartProxy, upstream: FaultyUpstream, htpasswd: Path
) -> None:
    push(upstream)
    proxy = await start_proxy(upstream__credentials="anonymous", listen__auth__htpasswd=htpasswd)
    for target in ("/v2/", MANIFEST, RECORD):
        assert_asks_for_own_login(await proxy.get(target))
    assert upstream.log == []
    assert (await proxy.get(MANIFEST, Authorization=OWN)).status == 200
    answer = await proxy.send(
        "PUT",
        MANIFEST,
        headers=[("Authorization", OWN), ("Content-Type", OCI_MANIFEST)],
        body=manifest_bytes([]),
    )
    assert answer.status == 201
    assert set(credentials(upstream)) == {None}


# An account of the settings ----------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "environment"])
async def test_account_reads_with_basic(
    start_account: Start,
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    htpasswd: Path,
    source: str,
) -> None:
    upstream.tokens = {ACCOUNT}
    if source == "file":
        proxy = await start_account()
    else:
        proxy = await start_proxy(
            environment={"CNAI_PROXY_UPSTREAMS__0__CREDENTIALS__PASSWORD": "canary-r0b0t"},
            upstream__credentials__username="robot",
            upstream__tls__insecure=True,
            listen__auth__htpasswd=htpasswd,
        )
    for target in ("/v2/", MANIFEST, RECORD, FILE):
        for method in ("GET", "HEAD"):
            answer = await proxy.send(method, target, headers=[("Authorization", OWN)])
            assert answer.status == 200, target
    assert set(credentials(upstream)) == {ACCOUNT}


async def test_account_reads_with_a_token(start_account: Start, upstream: FaultyUpstream) -> None:
    service = with_tokens(upstream, ACCOUNT)
    proxy = await start_account()
    digest = upstream.blob(WEIGHTS)
    for target in (MANIFEST, f"/v2/team/model/blobs/{digest}", RECORD, FILE):
        for method in ("GET", "HEAD"):
            answer = await proxy.send(method, target, headers=[("Authorization", OWN)])
            assert answer.status == 200, target
    assert [seen.get("Authorization") for seen in service.asked] == [ACCOUNT]
    assert service.queries() == [
        {"service": ["registry.example"], "scope": ["repository:team/model:pull"]}
    ]
    assert OWN not in credentials(upstream, "")


@pytest.mark.parametrize(
    ("target", "scope"),
    [
        ("/v2/_catalog?n=1", "registry:catalog:*"),
        ("/v2/team/model/tags/list", "repository:team/model:pull"),
        (f"/v2/team/model/referrers/{DIGEST}", "repository:team/model:pull"),
        ("/v2/", None),
    ],
)
async def test_B9_scope_of_the_account_is_what_was_asked_for(
    start_account: Start, upstream: FaultyUpstream, target: str, scope: str | None
) -> None:
    service = with_tokens(upstream, ACCOUNT)
    upstream.challenge = bearer(f"{upstream.url}/token", scope="repository:*:*")
    proxy = await start_account()
    await proxy.get(target, Authorization=OWN)
    assert [query.get("scope") for query in service.queries()] == [[scope] if scope else None]


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "manifests/v1"),
        ("DELETE", "manifests/v1"),
        ("DELETE", f"manifests/{DIGEST}"),
        ("DELETE", f"blobs/{DIGEST}"),
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?mount={DIGEST}&from=private/a"),
        ("PATCH", "blobs/uploads/u"),
        ("PUT", f"blobs/uploads/u?digest={DIGEST}"),
        ("DELETE", "blobs/uploads/u"),
        ("POST", "_ext/x"),
    ],
)
async def test_A12_account_writes_nothing(
    start_account: Start, upstream: FaultyUpstream, method: str, target: str, *, anonymous: bool
) -> None:
    proxy = await start_account(anonymous=anonymous)
    headers = [("Authorization", OWN)]
    answer = await proxy.send(method, f"/v2/team/model/{target}", headers=headers, body=b"x")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["Allow"] == "GET, HEAD"
    assert upstream.log == []


async def test_A12_ping_takes_no_write_with_the_account(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    proxy = await start_account(anonymous=True)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for target in ("/v2/", "/v2/_catalog", "/v2/_x"):
            assert (await proxy.send(method, target)).status == 405
    assert upstream.log == []


@pytest.mark.parametrize(
    "sent",
    [
        None,
        ANNA,
        ACCOUNT,
        basic("olga", "wrong"),
        basic("olga", ""),
        basic("", "canary-0wn"),
        "Basic",
        "Basic !!!",
        "Bearer x",
        "Bearer hf_x",
        "Bearer cnai-proxy.",
        OWN.replace("Basic ", "Digest "),
    ],
)
async def test_account_is_not_for_who_has_not_the_own_login(
    start_account: Start, upstream: FaultyUpstream, sent: str | None
) -> None:
    proxy = await start_account()
    headers = [("Authorization", sent)] if sent is not None else []
    for method, target in (
        ("GET", "/v2/"),
        ("GET", MANIFEST),
        ("HEAD", MANIFEST),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/team/model/_x"),
        ("PUT", MANIFEST),
        ("GET", RECORD),
        ("GET", FILE),
    ):
        assert_asks_for_own_login(await proxy.send(method, target, headers=headers))
    assert upstream.log == []


async def test_account_for_everybody_asks_nobody(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    upstream.tokens = {ACCOUNT}
    proxy = await start_account(anonymous=True)
    for sent in (None, ANNA, "Bearer x", basic("olga", "wrong")):
        headers = [("Authorization", sent)] if sent is not None else []
        for target in ("/v2/", MANIFEST, RECORD, FILE):
            assert (await proxy.send("GET", target, headers=headers)).status == 200
    assert set(credentials(upstream)) == {ACCOUNT}


@pytest.mark.parametrize("kind", ["Basic", "Bearer", "no login at all"])
async def test_account_the_upstream_refuses_is_403_without_a_challenge(
    start_account: Start, upstream: FaultyUpstream, kind: str
) -> None:
    upstream.tokens = set()
    if kind == "Bearer":
        with_tokens(upstream, ANNA)
    elif kind == "no login at all":
        upstream.challenge = "Negotiate"
    proxy = await start_account(anonymous=True)
    for target in ("/v2/", MANIFEST, RECORD, FILE):
        answer = await proxy.get(target)
        assert (answer.status, answer.code) == (403, "DENIED")
        assert "WWW-Authenticate" not in answer.headers
        assert "settings" in answer.message
        assert "canary" not in answer.message


async def test_L4_refused_token_of_the_account_is_renewed_once(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    service = with_tokens(upstream, ACCOUNT)
    proxy = await start_account(anonymous=True)
    assert (await proxy.get(MANIFEST)).status == 200
    service.revoke()
    assert (await proxy.get(MANIFEST)).status == 200
    assert len(service.asked) == 2
    # A registry that takes no token: one exchange more, and no loop.
    upstream.token_service = lambda _: (200, b'{"token":"worthless"}')
    service.revoke()
    upstream.log.clear()
    assert (await proxy.get(MANIFEST)).status == 403
    assert len(upstream.requests("/token")) == 1
    assert credentials(upstream) == ["Bearer token-0-2", "Bearer worthless"]


async def test_B7_200_at_once_cost_one_exchange(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    service = with_tokens(upstream, ACCOUNT)
    proxy = await start_account(anonymous=True, upstream__connections=256)
    answers = await asyncio.gather(*(proxy.get(MANIFEST) for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    assert len(service.asked) == 1
    assert len(upstream.requests("/token")) == 1


async def test_account_reads_ranges_and_revalidates(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    with_tokens(upstream, ACCOUNT)
    proxy = await start_account(anonymous=True)
    blob = f"/v2/team/model/blobs/{upstream.blob(WEIGHTS)}"
    part = await proxy.get(blob, Range="bytes=2-4")
    assert (part.status, part.body) == (206, WEIGHTS[2:5])
    assert part.headers["Content-Range"] == f"bytes 2-4/{len(WEIGHTS)}"
    head = await proxy.head(blob)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(WEIGHTS)))
    await proxy.get(MANIFEST, If_None_Match='"x"', Accept=OCI_MANIFEST)
    (asked,) = upstream.requests("GET .*manifests")
    assert (asked.get("If-None-Match"), asked.get("Accept")) == ('"x"', OCI_MANIFEST)


@pytest.mark.parametrize("status", [400, 403, 404, 410, 429, 500, 502])
async def test_account_gets_every_other_answer_as_it_is(
    start_account: Start, upstream: FaultyUpstream, status: int
) -> None:
    proxy = await start_account(anonymous=True)
    body = b'{"errors":  [{"code":"X","message":"as it is"}]}\n'
    upstream.faults.append(
        Fault(match="manifests", status=status, body=body, headers=[("Retry-After", "7")])
    )
    answer = await proxy.get(MANIFEST)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize("status", [301, 302, 307])
@pytest.mark.parametrize("login", ["Basic", "Bearer"])
async def test_B1_account_never_follows_a_redirect(
    start_account: Start,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    login: str,
    status: int,
) -> None:
    if login == "Bearer":
        with_tokens(upstream, ACCOUNT)
    else:
        upstream.tokens = {ACCOUNT}
    digest = other.blob(WEIGHTS)
    blob = f"/v2/team/model/blobs/{digest}"
    location = f"{other.url}{blob}?sig=%2F"
    proxy = await start_account(
        anonymous=True,
        upstream__redirects="follow",
        upstream__redirect_hosts=[f"127.0.0.1:{other.port}"],
    )
    upstream.challenge = upstream.challenge or 'Basic realm="x"'
    assert (await proxy.get(MANIFEST)).status == 200
    upstream.faults.append(Fault(match="/blobs/", status=status, location=location))
    for target in (blob, FILE):
        answer = await proxy.get(target)
        assert (answer.status, answer.body) == (200, WEIGHTS)
    # And back again: what another origin leads to gets nothing either.
    upstream.blob(WEIGHTS)
    upstream.faults[:] = [Fault(match=r"/blobs/[^?]*$", status=status, location=location)]
    other.faults.append(Fault(match="/blobs/", status=status, location=f"{upstream.url}{blob}?b"))
    upstream.log.clear()
    assert (await proxy.get(blob)).status == 403
    assert set(credentials(upstream, r"\?b$")) == {None}
    assert other.log
    for seen in other.log:
        assert seen.get("Authorization") is None
        assert {name.lower() for name, _ in seen.headers} <= {
            *("host", "user-agent", "accept-encoding", "range", "if-range", "accept", "via"),
            "connection",
        }


async def test_B1_redirect_is_relayed_without_the_account(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    proxy = await start_account(anonymous=True)
    location = "https://cdn.example/x?sig=%2F"
    upstream.faults.append(Fault(match="/blobs/", location=location))
    answer = await proxy.get(f"/v2/team/model/blobs/{DIGEST}")
    assert (answer.status, answer.headers["Location"]) == (307, location)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "canary" not in str(answer.headers)


async def test_B3_account_goes_to_no_foreign_realm(
    start_account: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    upstream.tokens = set()
    upstream.challenge = bearer(f"{other.url}/token")
    proxy = await start_account(anonymous=True)
    for target in ("/v2/", MANIFEST, RECORD):
        answer = await proxy.get(target)
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert "realm not allowed" in answer.message
    assert other.log == []
    assert other.open == 0


async def test_account_of_a_limited_token_service_is_429(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    upstream.tokens = set()
    upstream.challenge = bearer(f"{upstream.url}/token")
    upstream.faults.append(Fault(match="/token", status=429, headers=[("Retry-After", "9")]))
    proxy = await start_account(anonymous=True)
    answer = await proxy.get(MANIFEST)
    assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
    assert answer.headers["Retry-After"] == "9"


# Several identities at one address ---------------------------------------------------------------


@pytest.fixture
def start_mixed(start_account: Start, other: FaultyUpstream) -> Start:
    """``upstream`` is the account's and the default, ``other`` the callers', at ``hub/``."""

    async def start(**overrides: object) -> Client:
        push(other)
        return await start_account(
            upstreams__1__name="hub",
            upstreams__1__url=other.url,
            upstreams__1__prefix="hub",
            **overrides,
        )

    return start


async def test_mixed_upstreams_each_see_their_own_credential(
    start_mixed: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    upstream.tokens, other.tokens = {ACCOUNT}, {ANNA}
    proxy = await start_mixed()
    for target in (MANIFEST, RECORD, FILE):
        assert (await proxy.get(target, Authorization=OWN)).status == 200
        assert_asks_for_own_login(await proxy.get(target, Authorization=ANNA))
    for target in ("/v2/hub/team/model/manifests/v1", "/cnai/hub/team/model:v1"):
        assert (await proxy.get(target, Authorization=ANNA)).status == 200
        assert (await proxy.get(target)).status == 401
    assert set(credentials(upstream)) == {ACCOUNT}
    assert set(credentials(other)) == {ANNA, None}


async def test_B3_own_login_is_never_shown_to_an_upstream_that_takes_callers_logins(
    start_mixed: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    """Clients hold one login for an address, whatever is behind it."""
    other.tokens = set()
    other.challenge = bearer(f"{other.url}/token")
    other.token_service = lambda _: (200, b'{"token":"t"}')
    proxy = await start_mixed()
    for target in (
        *("/v2/hub/team/model/manifests/v1", "/cnai/hub/team/model:v1"),
        *("/-/token/hub?scope=repository:hub/a:pull", "/-/token?scope=repository:hub/a:pull"),
    ):
        await proxy.get(target, Authorization=OWN)
    assert other.log
    assert {seen.get("Authorization") for seen in other.log} <= {None, "Bearer t"}
    # Somebody else's login is theirs to show.
    await proxy.get("/v2/hub/team/model/manifests/v1", Authorization=ANNA)
    assert other.log[-1].get("Authorization") == ANNA


async def test_mixed_upstreams_take_writes_where_callers_log_in(
    start_mixed: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    proxy = await start_mixed()
    headers = [("Authorization", ANNA), ("Content-Type", OCI_MANIFEST)]
    target = "/v2/hub/team/model/manifests/v2"
    answer = await proxy.send("PUT", target, headers=headers, body=manifest_bytes([]))
    assert (answer.status, answer.headers["Location"]) == (201, target)
    mount = f"/v2/hub/a/b/blobs/uploads/?mount={DIGEST}&from=team/model"
    assert (await proxy.send("POST", mount, headers=headers)).status == 202
    # Row A12: what the account may read is no source for others.
    assert other.requests("POST")[0].target == "/v2/a/b/blobs/uploads/"
    assert upstream.log == []


async def test_A12_read_by_the_account_is_no_source_of_a_mount(
    start_mixed: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    proxy = await start_mixed()
    for source in ("team/model", "team%2Fmodel", "private/a"):
        target = f"/v2/hub/team/model/blobs/uploads/?mount={DIGEST}&from={source}"
        await proxy.send("POST", target, headers=[("Authorization", ANNA)])
    assert not any("mount" in seen.target or "from" in seen.target for seen in other.log)
    assert upstream.log == []


async def test_own_login_is_the_one_the_shared_ping_asks_for(
    start_mixed: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    proxy = await start_mixed()
    answer = await proxy.get("/v2/")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith(f'Bearer realm="{proxy.url}/-/token"')
    assert upstream.log == []
    assert credentials(other) in ([], [None])


async def test_account_for_everybody_wants_no_login_at_the_shared_ping(
    start_mixed: Start, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    upstream.tokens = {ACCOUNT}
    proxy = await start_mixed(anonymous=True)
    assert (await proxy.get("/v2/")).status == 200
    assert upstream.log == []
    assert credentials(other) == [None]


@pytest.mark.parametrize("rules", [["secret/**"], ["**"]])
async def test_account_is_bound_by_the_rules(
    start_account: Start, upstream: FaultyUpstream, rules: list[str]
) -> None:
    push(upstream, "secret/repo")
    proxy = await start_account(anonymous=True, upstream__deny=rules)
    for target in ("/v2/secret/repo/manifests/v1", "/v2/secret/repo/_x", "/cnai/secret/repo:v1"):
        answer = await proxy.get(target)
        assert (answer.status, answer.code) == (403, "DENIED")
    assert upstream.log == []


async def test_own_login_comes_before_the_rules(
    start_account: Start, upstream: FaultyUpstream
) -> None:
    """Who may not come in learns nothing of what the settings close."""
    proxy = await start_account(upstream__deny=["secret/**"])
    for target in ("/v2/secret/repo/manifests/v1", "/cnai/secret/repo:v1"):
        assert_asks_for_own_login(await proxy.get(target))
        assert (await proxy.get(target, Authorization=OWN)).status == 403


async def test_B5_no_login_of_either_kind_is_logged_or_counted(
    start_account: Start, upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    service = with_tokens(upstream, ACCOUNT)
    proxy = await start_account()
    answers = [
        await proxy.get(MANIFEST, Authorization=OWN),
        await proxy.get(MANIFEST, Authorization=basic("olga", "canary-wr0ng")),
    ]
    service.accounts.clear()
    service.revoke()
    answers.append(await proxy.get(MANIFEST, Authorization=OWN))
    answers.append(await proxy.get("/metrics"))
    secrets = ("canary", "token-0", OWN.split()[1], ACCOUNT.split()[1])
    text = "".join(str(vars(record)) for record in caplog.records)
    text += "".join(f"{one.headers}{one.body!r}" for one in answers)
    assert not [secret for secret in secrets if secret in text]
    assert json.loads(answers[2].body)["errors"][0]["code"] == "DENIED"
