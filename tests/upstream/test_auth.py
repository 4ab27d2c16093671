from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from multidict import CIMultiDict

from proxy.errors import (
    BadUpstream,
    LoopDetected,
    ProxyError,
    TooManyRequests,
    Unauthorized,
    UpstreamUnreachable,
)
from proxy.tasks import spawn
from proxy.upstream import auth
from proxy.upstream.auth import CHALLENGES_SECONDS, AuthorizedClient
from proxy.upstream.identity import ANONYMOUS, Caller
from proxy.upstream.realms import RealmGuard
from proxy.upstream.tokens import Tokens
from tests.upstream.scripted import BASE_URL, REALM, Scripted, ScriptedUpstream, refusal, turns

ANNA = Caller.account("anna", "canary-a")


def token(value: str) -> Scripted:
    """An answer with a token."""
    return Scripted(body=b'{"token":"%b"}' % value.encode())


def client_of(
    upstream: ScriptedUpstream, *, clock: Callable[[], float] = lambda: 0.0
) -> AuthorizedClient:
    """A client before ``upstream``."""
    realms = RealmGuard(BASE_URL, auth_hosts=())
    tokens = Tokens(upstream.as_upstream(), realms, clock=clock)
    return AuthorizedClient(upstream.as_upstream(), tokens, clock=clock)


async def ask(client: AuthorizedClient, caller: Caller = ANNA) -> int:
    """The status of an answer."""
    async with client.open(
        "GET", "/v2/x", scope="repository:x:pull", caller=caller, headers={}, follow=False
    ) as answer:
        return answer.status


# open --------------------------------------------------------------------------------------------


async def test_open_asks_with_the_credential_then_with_the_token() -> None:
    upstream = ScriptedUpstream(refusal(), token("t"), Scripted(200))
    client = client_of(upstream)
    assert await ask(client) == 200
    assert await ask(client) == 200
    assert [asked.authorization for asked in upstream.asked] == [
        *(ANNA.authorization, ANNA.authorization, "Bearer t"),
        "Bearer t",
    ]
    assert upstream.asked[1].url.startswith(REALM)


async def test_L4_open_renews_a_refused_token_once_and_no_more() -> None:
    upstream = ScriptedUpstream(refusal(), token("a"), Scripted(200))
    client = client_of(upstream)
    assert await ask(client) == 200
    upstream.answers[:] = [refusal(), token("b"), Scripted(200)]
    assert await ask(client) == 200
    assert upstream.asked[-1].authorization == "Bearer b"
    upstream.asked.clear()
    upstream.answers[:] = [refusal(), token("c"), refusal()]
    with pytest.raises(Unauthorized):
        await ask(client)
    assert len(upstream.asked) == 3


@pytest.mark.parametrize("challenge", ['Basic realm="x"', "Negotiate", ""])
async def test_open_refused_without_a_token_service_is_unauthorized(challenge: str) -> None:
    upstream = ScriptedUpstream(refusal(challenge))
    for caller in (ANNA, ANONYMOUS):
        with pytest.raises(Unauthorized):
            await ask(client_of(upstream), caller)
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("status", [200, 206, 304, 307, 403, 404, 416, 429, 500, 503])
async def test_open_hands_over_every_answer_but_401(status: int) -> None:
    assert await ask(client_of(ScriptedUpstream(Scripted(status)))) == status


async def test_open_of_an_anonymous_caller_sends_no_credential() -> None:
    upstream = ScriptedUpstream(refusal(), token("t"), Scripted(200))
    assert await ask(client_of(upstream), ANONYMOUS) == 200
    assert [asked.authorization for asked in upstream.asked] == [None, None, "Bearer t"]


# challenges --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "schemes"),
    [
        (refusal(), ["bearer"]),
        (refusal('Basic realm="x", Bearer realm="y"'), ["basic", "bearer"]),
        (Scripted(200), []),
        (Scripted(404), []),
        (Scripted(403), []),
    ],
)
async def test_challenges_are_asked_for_anonymously_and_believed_for_five_minutes(
    answer: Scripted, schemes: list[str]
) -> None:
    now = 1000.0
    upstream = ScriptedUpstream(answer)
    client = client_of(upstream, clock=lambda: now)
    for later, requests in ((0, 1), (CHALLENGES_SECONDS - 1, 1), (CHALLENGES_SECONDS, 2)):
        now = 1000.0 + later
        assert [found.scheme for found in await client.challenges()] == schemes
        assert len(upstream.asked) == requests
    assert {(asked.url, asked.authorization) for asked in upstream.asked} == {
        (f"{BASE_URL}/v2/", None)
    }


async def test_challenges_are_asked_for_once_by_all_who_want_them() -> None:
    gate = asyncio.Event()
    answer = refusal()
    answer.gate = gate
    upstream = ScriptedUpstream(answer)
    client = client_of(upstream)
    first, *others = (spawn(client.challenges(), name="caller") for _ in range(50))
    await turns()
    assert len(upstream.asked) == 1
    first.cancel()
    gate.set()
    assert {found[0].scheme for found in await asyncio.gather(*others)} == {"bearer"}
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Scripted(429, headers=CIMultiDict({"Retry-After": "7"})), TooManyRequests),
        (Scripted(503), UpstreamUnreachable),
        (Scripted(508), LoopDetected),
        (Scripted(500), BadUpstream),
        (Scripted(502), BadUpstream),
        (Scripted(504), BadUpstream),
        (UpstreamUnreachable("no connection"), UpstreamUnreachable),
    ],
)
async def test_challenges_that_cannot_be_learnt_are_asked_for_again(
    answer: Scripted | ProxyError, expected: type[ProxyError]
) -> None:
    """What a failing upstream says is no promise: believed, it would lock callers out."""
    now = 0.0
    upstream = ScriptedUpstream(answer, refusal())
    client = client_of(upstream, clock=lambda: now)
    for now in (0.0, auth.CHALLENGES_FAILED_SECONDS - 0.1):  # whoever comes next must not wait
        with pytest.raises(expected):
            await client.challenges()
        assert len(upstream.asked) == 1, now
    now = auth.CHALLENGES_FAILED_SECONDS
    assert [found.scheme for found in await client.challenges()] == ["bearer"]
    assert len(upstream.asked) == 2


async def test_challenges_once_known_outlive_a_failure() -> None:
    now = 0.0
    upstream = ScriptedUpstream(refusal(), Scripted(503), refusal('Basic realm="x"'))
    client = client_of(upstream, clock=lambda: now)
    for at, expected in ((0.0, "bearer"), (300.0, "bearer"), (310.0, "basic")):
        now = at
        assert [each.scheme for each in await client.challenges()] == [expected], at
    assert len(upstream.asked) == 3


async def test_challenges_of_a_silent_upstream_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auth, "CHALLENGES_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(auth, "CHALLENGES_FAILED_SECONDS", 0.0)
    upstream = ScriptedUpstream(Scripted(gate=asyncio.Event()), Scripted(200))
    client = client_of(upstream)
    with pytest.raises(BadUpstream, match="in time"):
        await client.challenges()
    assert await client.challenges() == []


# accepts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([Scripted(200)], True),
        ([Scripted(404)], True),
        ([Scripted(403)], False),
        ([refusal('Basic realm="x"')], False),
        ([refusal(), token("t"), Scripted(200)], True),
        ([refusal(), Scripted(401)], False),
    ],
)
async def test_accepts_is_what_the_upstream_says_to_the_login(
    answers: list[Scripted], *, expected: bool
) -> None:
    upstream = ScriptedUpstream(*answers)
    assert await client_of(upstream).accepts(ANNA) is expected
    assert upstream.asked[0].authorization == ANNA.authorization


async def test_accepts_does_not_take_a_limit_for_a_refusal() -> None:
    with pytest.raises(TooManyRequests):
        await client_of(ScriptedUpstream(Scripted(429))).accepts(ANNA)
