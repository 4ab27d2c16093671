from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from multidict import CIMultiDict

from proxy.errors import BadUpstream, ProxyError, TooManyRequests, UpstreamUnreachable
from proxy.oci.challenge import Challenge, parse_challenges
from proxy.tasks import spawn
from proxy.upstream.identity import ANONYMOUS, Caller
from proxy.upstream.realms import RealmGuard
from proxy.upstream.tokens import EXCHANGES_AT_ONCE, Tokens
from tests.upstream.scripted import BASE_URL, CHALLENGE, REALM, Scripted, ScriptedUpstream, turns

ANNA = Caller.account("anna", "canary-a")
BERT = Caller.account("bert", "canary-b")
SCOPE = "repository:team/model:pull"
CHALLENGES = parse_challenges([CHALLENGE])


def token(value: str, **more: object) -> Scripted:
    """An answer with a token."""
    return Scripted(body=json.dumps({"token": value, **more}).encode())


def tokens_of(
    upstream: ScriptedUpstream,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    exchange_seconds: float = 5,
) -> Tokens:
    """The tokens of ``upstream``."""
    realms = RealmGuard(BASE_URL, auth_hosts=())
    return Tokens(upstream.as_upstream(), realms, clock=clock, exchange_seconds=exchange_seconds)


async def value(tokens: Tokens, caller: Caller = ANNA, scope: str = SCOPE) -> str | None:
    """The value of the token that ``caller`` gets."""
    found = await tokens.obtain(caller, scope, CHALLENGES, refused=tokens.held(caller, scope))
    return None if found is None else found.value


@pytest.mark.parametrize(
    ("caller", "scope", "authorization", "query"),
    [
        (ANNA, SCOPE, ANNA.authorization, {"service": ["registry.example"], "scope": [SCOPE]}),
        (ANONYMOUS, SCOPE, None, {"service": ["registry.example"], "scope": [SCOPE]}),
        (ANNA, "", ANNA.authorization, {"service": ["registry.example"]}),
    ],
)
async def test_B9_exchange_asks_for_our_scope_and_no_other(
    caller: Caller, scope: str, authorization: str | None, query: dict[str, list[str]]
) -> None:
    upstream = ScriptedUpstream(token("t"))
    assert await value(tokens_of(upstream), caller, scope) == "t"
    (asked,) = upstream.asked
    address = urlsplit(asked.url)
    assert (asked.method, f"{address.scheme}://{address.netloc}{address.path}") == ("GET", REALM)
    assert (asked.authorization, parse_qs(address.query)) == (authorization, query)


async def test_B7_requests_at_once_share_one_exchange() -> None:
    gate = asyncio.Event()
    upstream = ScriptedUpstream(Scripted(body=b'{"token":"t"}', gate=gate))
    tokens = tokens_of(upstream)
    waiting = [spawn(value(tokens), name="caller") for _ in range(200)]
    await turns()
    assert len(upstream.asked) == 1
    gate.set()
    assert set(await asyncio.gather(*waiting)) == {"t"}
    assert len(upstream.asked) == 1


async def test_B7_callers_and_scopes_never_share() -> None:
    upstream = ScriptedUpstream(*(token(f"t{at}") for at in range(5)))
    tokens = tokens_of(upstream)
    keys = [(ANNA, SCOPE), (BERT, SCOPE), (ANONYMOUS, SCOPE), (ANNA, "repository:x:pull")]
    found = [await value(tokens, *key) for key in keys]
    assert found == ["t0", "t1", "t2", "t3"]
    held = [tokens.held(*key) for key in keys]
    assert [one.value for one in held if one is not None] == found
    assert tokens.held(BERT, "repository:x:pull") is None


async def test_refused_token_is_renewed_once_for_all_who_hold_it() -> None:
    upstream = ScriptedUpstream(token("old"), token("new"), token("newer"))
    tokens = tokens_of(upstream)
    old = await tokens.obtain(ANNA, SCOPE, CHALLENGES, refused=None)
    assert old is not None
    # Nobody refused it yet: there is nothing to renew.
    assert await tokens.obtain(ANNA, SCOPE, CHALLENGES, refused=None) is old
    late = [tokens.obtain(ANNA, SCOPE, CHALLENGES, refused=old) for _ in range(3)]
    found = [await one for one in late]
    assert [one.value for one in found if one is not None] == ["new"] * 3
    assert len(upstream.asked) == 2


async def test_L4_token_ends_by_the_monotonic_clock_alone() -> None:
    now = 0.0
    upstream = ScriptedUpstream(
        token("a", expires_in=100, issued_at="2000-01-01T00:00:00Z"), token("b")
    )
    tokens = tokens_of(upstream, clock=lambda: now)
    await value(tokens)
    for later, expected in ((79.9, "a"), (80.1, None)):
        now = later
        held = tokens.held(ANNA, SCOPE)
        assert (held and held.value) == expected


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_refusal_of_the_service_is_no_token_and_not_remembered(status: int) -> None:
    upstream = ScriptedUpstream(Scripted(status), token("t"))
    tokens = tokens_of(upstream)
    assert await value(tokens) is None
    assert await value(tokens) == "t"


@pytest.mark.parametrize(
    ("answer", "expected", "retry_after"),
    [
        (Scripted(429, headers=CIMultiDict({"Retry-After": "7"})), TooManyRequests, "7"),
        (
            Scripted(503, headers=CIMultiDict({"Retry-After": "a\udcffb"})),
            UpstreamUnreachable,
            None,
        ),
        (Scripted(500), BadUpstream, None),
        (
            Scripted(302, headers=CIMultiDict({"Location": "https://evil.example"})),
            BadUpstream,
            None,
        ),
        (Scripted(200, b"{}"), BadUpstream, None),
        (Scripted(200, b"x" * (64 * 1024 + 1)), BadUpstream, None),
        (UpstreamUnreachable("no connection"), UpstreamUnreachable, None),
    ],
)
async def test_failure_of_the_service_is_told_to_all_and_not_remembered(
    answer: Scripted | ProxyError, expected: type[ProxyError], retry_after: str | None
) -> None:
    upstream = ScriptedUpstream(answer, token("t"))
    tokens = tokens_of(upstream)
    found = await asyncio.gather(*(value(tokens) for _ in range(3)), return_exceptions=True)
    for error in found:
        assert isinstance(error, expected)
        assert dict(error.headers).get("Retry-After") == retry_after
    assert len(upstream.asked) == 1
    assert await value(tokens) == "t"


async def test_who_leaves_does_not_end_the_exchange_of_others() -> None:
    gate = asyncio.Event()
    upstream = ScriptedUpstream(Scripted(body=b'{"token":"t"}', gate=gate))
    tokens = tokens_of(upstream)
    first, second = (spawn(value(tokens), name="caller") for _ in range(2))
    await turns()
    first.cancel()
    gate.set()
    assert await second == "t"
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(upstream.asked) == 1


async def test_exchange_that_nobody_waits_for_is_given_up() -> None:
    upstream = ScriptedUpstream(Scripted(gate=asyncio.Event()), token("t"))
    tokens = tokens_of(upstream)
    waiting = [spawn(value(tokens), name="caller") for _ in range(3)]
    await turns()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await turns()
    assert await value(tokens) == "t"
    assert len(upstream.asked) == 2


async def test_exchanges_at_once_are_bounded() -> None:
    """A service that hangs must not cost more than these."""
    upstream = ScriptedUpstream(Scripted(gate=asyncio.Event()))
    tokens = tokens_of(upstream)
    callers = [Caller.account(f"u{at}", "canary-s3cr3t") for at in range(EXCHANGES_AT_ONCE + 5)]
    waiting = [spawn(value(tokens, caller), name="caller") for caller in callers]
    await turns()
    assert len(upstream.asked) == EXCHANGES_AT_ONCE
    tokens.close()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_B3_silent_service_is_given_up() -> None:
    upstream = ScriptedUpstream(Scripted(gate=asyncio.Event()))
    with pytest.raises(BadUpstream, match="in time"):
        await value(tokens_of(upstream, exchange_seconds=0.01))


@pytest.mark.parametrize("authorization", ["Bearer x", "Digest x", "", "BasicYTpi"])
async def test_credential_that_is_no_login_buys_nothing(authorization: str) -> None:
    upstream = ScriptedUpstream(token("t"))
    assert await value(tokens_of(upstream), Caller(authorization)) is None
    assert upstream.asked == []


async def test_without_a_bearer_challenge_there_is_nothing_to_buy() -> None:
    upstream = ScriptedUpstream(token("t"))
    tokens = tokens_of(upstream)
    for lines in ([], ['Basic realm="x"'], ["Negotiate"]):
        found = await tokens.obtain(ANNA, SCOPE, parse_challenges(lines), refused=None)
        assert found is None
    assert upstream.asked == []


@pytest.mark.parametrize("realm", ["https://evil.example/token", "http://registry.example/t", ""])
async def test_B3_realm_of_somebody_else_is_refused(realm: str) -> None:
    upstream = ScriptedUpstream(token("t"))
    tokens = tokens_of(upstream)
    evil = Challenge("bearer", {"realm": realm})
    for caller in (ANNA, ANONYMOUS):
        with pytest.raises(BadUpstream, match="realm not allowed"):
            await tokens.obtain(caller, SCOPE, [evil], refused=None)
    assert upstream.asked == []
    good = await tokens.obtain(ANNA, SCOPE, [evil, *CHALLENGES], refused=None)
    assert good is not None
    assert [asked.url.startswith(REALM) for asked in upstream.asked] == [True]


async def test_ask_hands_over_whatever_the_service_says() -> None:
    headers = CIMultiDict({"Content-Type": "text/plain", "Retry-After": "3"})
    upstream = ScriptedUpstream(Scripted(418, b"x", headers), Scripted(200, b"y"))
    tokens = tokens_of(upstream)
    answer = await tokens.ask(CHALLENGES[0], "a=b", ANNA)
    assert (answer.status, answer.body) == (418, b"x")
    assert (answer.media_type, answer.retry_after) == ("text/plain", "3")
    answer = await tokens.ask(CHALLENGES[0], "", ANONYMOUS, form=b"a=b")
    assert (answer.media_type, answer.retry_after) == ("application/json", None)
    got, posted = upstream.asked
    assert (got.method, got.url, got.authorization) == ("GET", f"{REALM}?a=b", ANNA.authorization)
    assert (posted.method, posted.url, posted.body) == ("POST", REALM, b"a=b")
    assert posted.authorization is None
    assert posted.headers["Content-Length"] == "3"


@pytest.mark.parametrize("name", ["Content-Type", "Retry-After"])
async def test_ask_leaves_out_headers_that_no_answer_may_hold(name: str) -> None:
    upstream = ScriptedUpstream(Scripted(429, headers=CIMultiDict({name: "a\udcff"})))
    answer = await tokens_of(upstream).ask(CHALLENGES[0], "", ANONYMOUS)
    assert (answer.media_type, answer.retry_after) == ("application/json", None)
