from __future__ import annotations

import pytest
from multidict import CIMultiDict

from proxy.content.reader import AuthorizedReader, upstream_name
from proxy.errors import (
    BadUpstream,
    Denied,
    LoopDetected,
    NotFound,
    ProxyError,
    TooManyRequests,
    Unauthorized,
    UpstreamUnreachable,
)
from proxy.oci.reference import RepositoryName
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.identity import ANONYMOUS, Caller
from proxy.upstream.names import Names, Rules
from proxy.upstream.realms import RealmGuard
from proxy.upstream.tokens import Tokens
from tests.upstream.scripted import BASE_URL, Scripted, ScriptedUpstream, refusal

ANNA = Caller.account("anna", "canary-a")
NAME = RepositoryName("team/model")


def reader_of(
    upstream: ScriptedUpstream, *, identity: Caller | None = None, names: Names | None = None
) -> AuthorizedReader:
    """A reader with everything but ``secret/**``."""
    tokens = Tokens(upstream.as_upstream(), RealmGuard(BASE_URL, auth_hosts=()))
    client = AuthorizedClient(upstream.as_upstream(), tokens)
    return AuthorizedReader(client, names=names, rules=Rules(deny=["secret/**"]), identity=identity)


async def read(
    reader: AuthorizedReader, repository: RepositoryName = NAME, caller: Caller = ANNA
) -> int:
    """The status of a manifest."""
    async with reader.open(
        "GET", repository, "manifests/v1", caller=caller, headers={"Accept": "x"}
    ) as answer:
        return answer.status


async def test_reader_asks_in_the_upstreams_names_for_reading_alone() -> None:
    upstream = ScriptedUpstream(refusal(), Scripted(body=b'{"token":"t"}'), Scripted(200))
    reader = reader_of(upstream, names=Names("hub", "library"))
    assert await read(reader, RepositoryName("hub/alpine")) == 200
    first, exchange, second = upstream.asked
    assert first.url == second.url == f"{BASE_URL}/v2/library/alpine/manifests/v1"
    assert "scope=repository%3Alibrary%2Falpine%3Apull" in exchange.url
    assert first.headers["Accept"] == "x"


@pytest.mark.parametrize("caller", [ANNA, ANONYMOUS, Caller("Bearer x")])
@pytest.mark.parametrize("identity", [ANONYMOUS, Caller.account("robot", "canary-r")])
async def test_B9_reader_with_an_identity_never_sends_the_callers(
    identity: Caller, caller: Caller
) -> None:
    upstream = ScriptedUpstream(Scripted(200))
    assert await read(reader_of(upstream, identity=identity), caller=caller) == 200
    assert [asked.authorization for asked in upstream.asked] == [identity.authorization]


@pytest.mark.parametrize(
    ("caller", "text"),
    [
        (ANONYMOUS, "wants a login for team/model"),
        (ANNA, "refuses this login for team/model"),
        (Caller("Digest x"), "found 'digest'"),
    ],
)
async def test_reader_refused_asks_for_basic(caller: Caller, text: str) -> None:
    upstream = ScriptedUpstream(refusal('Basic realm="x"'))
    with pytest.raises(Unauthorized, match=text) as refused:
        await read(reader_of(upstream), caller=caller)
    assert dict(refused.value.headers)["WWW-Authenticate"].startswith("Basic ")


async def test_reader_with_an_identity_refused_is_denied() -> None:
    upstream = ScriptedUpstream(refusal('Basic realm="x"'))
    with pytest.raises(Denied, match="settings") as refused:
        await read(reader_of(upstream, identity=ANNA))
    assert refused.value.headers == ()


async def test_reader_asks_nobody_for_what_the_settings_close() -> None:
    upstream = ScriptedUpstream(Scripted(200))
    names = Names("hub")
    with pytest.raises(Denied, match="hub/secret/x"):
        await read(reader_of(upstream, names=names), RepositoryName("hub/secret/x"))
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (403, Denied),
        (429, TooManyRequests),
        (500, BadUpstream),
        (502, BadUpstream),
        (503, UpstreamUnreachable),
        (508, LoopDetected),
    ],
)
async def test_reader_says_refusals_in_our_words(status: int, expected: type[ProxyError]) -> None:
    upstream = ScriptedUpstream(Scripted(status, headers=CIMultiDict({"Retry-After": "7"})))
    with pytest.raises(expected) as failed:
        await read(reader_of(upstream))
    is_busy = status in (429, 503)
    assert dict(failed.value.headers) == ({"Retry-After": "7"} if is_busy else {})


def test_upstream_name_is_one_of_its_own_that_the_settings_leave_open() -> None:
    names, rules = Names("hub", "library"), Rules(deny=["secret/**"])
    repository = RepositoryName("hub/alpine")
    assert upstream_name(repository, names=names, rules=rules) == "library/alpine"
    with pytest.raises(NotFound):
        upstream_name(NAME, names=names, rules=rules)
    with pytest.raises(Denied, match="hub/secret/x"):
        upstream_name(RepositoryName("hub/secret/x"), names=names, rules=rules)
