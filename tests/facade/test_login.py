from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProxyError, Unauthorized, UpstreamUnreachable
from proxy.facade.login import AT_ONCE, QUEUE_LIMIT, REMEMBERED_LIMIT, REMEMBERED_SECONDS, Login
from proxy.tasks import spawn

PATIENCE_SECONDS = 20


def _basic(credentials: str | bytes, scheme: str = "Basic") -> str:
    sent = credentials.encode() if isinstance(credentials, str) else credentials
    return f"{scheme} {base64.b64encode(sent).decode()}"


def _hash(password: bytes) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()


@pytest.fixture(scope="module")
def users() -> dict[str, str]:
    return {
        "alice": _hash(b"wonder:land"),
        "ü": _hash("pä ß".encode()),
        "old": _hash(b"caf\xe9"),
        "empty": _hash(b""),
        "long": _hash(b"x" * 72),
    }


class Comparison:
    """Instead of bcrypt: right is the password ``right``; runs wait while ``held``."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.running = self.most = 0
        self._lock = threading.Lock()
        self._begun = threading.Semaphore(0)
        self._gate = threading.Event()
        self._gate.set()

    def __call__(self, hashed: str, password: bytes) -> bool:
        with self._lock:
            self.seen.append((hashed, password))
            self.running += 1
            self.most = max(self.most, self.running)
        self._begun.release()
        assert self._gate.wait(PATIENCE_SECONDS)
        with self._lock:
            self.running -= 1
        return password.startswith(b"right")

    @contextmanager
    def held(self) -> Iterator[None]:
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    async def begun(self, runs: int) -> None:
        for _ in range(runs):
            assert await asyncio.to_thread(self._begun.acquire, timeout=PATIENCE_SECONDS)


class Clock:
    """A clock that stands still until told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def _outcome(login: Login, authorization: str | None) -> int:
    try:
        await login.check(authorization)
    except ProxyError as error:
        return error.status
    return 200


def _asking(login: Login, *authorizations: str) -> list[asyncio.Task[int]]:
    return [spawn(_outcome(login, text), name="client") for text in authorizations]


async def _settled() -> None:
    """Let everything run that can without a thread."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "authorization",
    [
        _basic("alice:wonder:land"),
        _basic("alice:wonder:land", "BASIC"),
        _basic("alice:wonder:land", "basic"),
        _basic("alice:wonder:land", "Basic "),
        _basic("ü:pä ß"),
        _basic(b"old:caf\xe9"),
        _basic("empty:"),
        _basic(b"long:" + b"x" * 90),
    ],
)
async def test_login_right_name_and_password_pass(
    users: dict[str, str], authorization: str
) -> None:
    await Login(users).check(authorization)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Bearer abc",
        "Digest username=alice",
        "Basicx YWxpY2U6d29uZGVyOmxhbmQ=",
        _basic("alice:wonder:lan"),
        _basic("alice:wonder"),
        _basic("Alice:wonder:land"),
        _basic("alice "),
        _basic("alice:"),
        _basic("nobody:wonder:land"),
        _basic(":wonder:land"),
        _basic(":"),
        _basic(""),
        _basic("alice"),
        _basic("ü:pä ß".encode("latin-1")),
        _basic("alice:wonder:land\0"),
        _basic("alice:wonder:land\0alice"),
        _basic("alice:wonder:land\n"),
        _basic("al\x7fice:wonder:land"),
        # Not the one way to write it.
        "Basic YWxpY2U6d29uZGVyOmxhbmQ",
        "Basic YWxpY2U6d29uZGVyOmxhbmR=",
        "Basic YWxpY2U6d29uZGVyOmxhbmQ==",
        "Basic YWxpY2U6d29uZG VyOmxhbmQ=",
        "Basic YWxpY2U6d29uZGVyOmxhbmQ=\n",
        "Basic YWxpY2U6d29uZGVyOmxhbmQ=, x",
        "Basic YWxpY2U6d29uZGVyOmxhbmQ-_",
        "Basic alice:wonder:land",
        "Basic é",
        "Basic \udcff",
        "Basic\tYWxpY2U6d29uZGVyOmxhbmQ=",
    ],
)
async def test_login_anything_else_is_asked_for_basic(
    users: dict[str, str], authorization: str | None
) -> None:
    with pytest.raises(Unauthorized) as raised:
        await Login(users).check(authorization)
    assert raised.value.headers == (
        ("WWW-Authenticate", 'Basic realm="cnai-proxy", charset="UTF-8"'),
    )
    assert not any(word in raised.value.message for word in ("alice", "wonder", "YWxp"))


@given(st.text())
async def test_login_any_header_passes_nobody_unknown(text: str) -> None:
    with pytest.raises(Unauthorized):
        await Login({}).check(text)
    with pytest.raises(Unauthorized):
        await Login({}, compare=lambda _hashed, _password: True).check(f"Basic {text}")


async def test_login_right_one_is_remembered_for_60_s() -> None:
    compare, clock = Comparison(), Clock()
    login = Login({"alice": "hash"}, compare=compare, clock=clock)
    await login.check(_basic("alice:right"))
    await login.check(_basic("alice:right", "bASIC"))
    clock.now += REMEMBERED_SECONDS - 1
    await login.check(_basic("alice:right"))
    assert compare.seen == [("hash", b"right")]
    clock.now += 1
    await login.check(_basic("alice:right"))
    assert len(compare.seen) == 2


async def test_login_remembered_one_lets_nobody_else_pass() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    await login.check(_basic("alice:right"))
    others = ("alice:wrong", "alice:", "bob:right", "alic:right", "alic:e:right", "alice::right")
    for other in others:
        assert await _outcome(login, _basic(other)) == 401, other
    assert len(compare.seen) == 1 + len(others)


async def test_login_wrong_one_is_not_remembered() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    for _ in range(3):
        assert await _outcome(login, _basic("alice:wrong")) == 401
    assert len(compare.seen) == 3


async def test_login_remembers_at_most_10_000() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    for number in range(REMEMBERED_LIMIT + 1):
        await login.check(_basic(f"alice:right{number}"))
    await login.check(_basic(f"alice:right{REMEMBERED_LIMIT}"))
    assert len(compare.seen) == REMEMBERED_LIMIT + 1
    await login.check(_basic("alice:right0"))
    assert len(compare.seen) == REMEMBERED_LIMIT + 2


async def test_B5_login_keeps_no_password() -> None:
    login = Login({"alice": "hash"}, compare=Comparison())
    await login.check(_basic("alice:right-secret"))
    kept = repr(vars(login))
    assert "right-secret" not in kept
    assert _basic("alice:right-secret").partition(" ")[2] not in kept


async def test_login_unknown_name_costs_as_much_as_a_known_one() -> None:
    compare = Comparison()
    hashes = {f"user{number}": f"hash{number}" for number in range(8)}
    login = Login(hashes, compare=compare)
    names = [f"nobody{number}" for number in range(64)]
    for name in names:
        assert await _outcome(login, _basic(f"{name}:right")) == 401
    first = [hashed for hashed, _ in compare.seen]
    assert len(first) == len(names)
    # All the costs there are, and for one name always the same.
    assert len(set(first)) > 1
    assert set(first) <= set(hashes.values())
    for name in names:
        assert await _outcome(login, _basic(f"{name}:right again")) == 401
    assert [hashed for hashed, _ in compare.seen[len(names) :]] == first


async def test_login_without_users_compares_all_the_same() -> None:
    compare = Comparison()
    login = Login({}, compare=compare)
    assert await _outcome(login, _basic("alice:right")) == 401
    assert [password for _, password in compare.seen] == [b"right"]


async def test_login_same_credentials_at_once_share_one_run() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    with compare.held():
        right = _asking(login, *[_basic("alice:right")] * 20)
        wrong = _asking(login, *[_basic("alice:wrong")] * 20)
        await compare.begun(2)
    assert await asyncio.gather(*right, *wrong) == [200] * 20 + [401] * 20
    assert len(compare.seen) == 2


async def test_I1_login_hashes_two_at_once() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    with compare.held():
        asked = _asking(login, *(_basic(f"alice:right{number}") for number in range(10)))
        await compare.begun(AT_ONCE)
        await _settled()
    assert await asyncio.gather(*asked) == [200] * 10
    assert compare.most == AT_ONCE
    assert len(compare.seen) == 10


async def test_I1_login_queue_is_bounded_and_says_when_to_retry() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    await login.check(_basic("alice:right, known"))
    await compare.begun(1)
    with compare.held():
        asked = _asking(
            login, *(_basic(f"alice:wrong{number}") for number in range(AT_ONCE + QUEUE_LIMIT))
        )
        await compare.begun(AT_ONCE)
        with pytest.raises(UpstreamUnreachable) as raised:
            await login.check(_basic("alice:right"))
        assert raised.value.status == 503
        assert raised.value.headers == (("Retry-After", "5"),)
        # Who is known, or asks what is being found out, needs no place in the queue.
        await login.check(_basic("alice:right, known"))
        asked += _asking(login, _basic("alice:wrong0"), _basic("alice:wrong50"))
        await _settled()
    assert set(await asyncio.gather(*asked)) == {401}
    await login.check(_basic("alice:right"))
    assert len(compare.seen) == 1 + AT_ONCE + QUEUE_LIMIT + 1


async def test_I1_login_clients_that_leave_give_their_places_up() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    with compare.held():
        asked = _asking(
            login, *(_basic(f"alice:wrong{number}") for number in range(AT_ONCE + QUEUE_LIMIT))
        )
        await compare.begun(AT_ONCE)
        for client in asked:
            client.cancel()
        await asyncio.wait(asked)
        stays = _asking(login, _basic("alice:right"))
        await _settled()
    assert await asyncio.gather(*stays) == [200]
    assert len(compare.seen) == AT_ONCE + 1


async def test_login_one_client_that_leaves_harms_no_other() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    with compare.held():
        busy = _asking(login, _basic("alice:right1"), _basic("alice:right2"))
        await compare.begun(AT_ONCE)
        queued = _asking(login, *[_basic("alice:right3")] * 3)
        await _settled()
        queued[0].cancel()
        busy[0].cancel()
        await _settled()
        again = _asking(login, _basic("alice:right1"))
        await _settled()
    assert await asyncio.gather(*queued[1:], busy[1], *again) == [200] * 4
    assert len(compare.seen) == 3


async def test_login_asked_again_after_all_have_left_is_checked() -> None:
    compare = Comparison()
    login = Login({"alice": "hash"}, compare=compare)
    with compare.held():
        busy = _asking(login, _basic("alice:wrong1"), _basic("alice:wrong2"))
        await compare.begun(AT_ONCE)
        left = _asking(login, _basic("alice:right"))
        await _settled()
        left[0].cancel()
        again = _asking(login, _basic("alice:right"))
        await _settled()
    assert await asyncio.gather(*again, *busy) == [200, 401, 401]


async def test_login_failure_of_the_comparison_is_no_pass(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_hashed: str, _password: bytes) -> bool:
        raise RuntimeError("broken")

    login = Login({"alice": "hash"}, compare=broken)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await login.check(_basic("alice:right"))
    await _settled()
    assert "right" not in caplog.text


@pytest.mark.parametrize(
    "credentials", ["alice:right\0", "alice:right\n", "alice\t:right", "\x7f:right"]
)
async def test_login_with_control_characters_is_not_even_compared(credentials: str) -> None:
    compare = Comparison()
    login = Login({"alice": "hash", "alice\t": "hash", "\x7f": "hash"}, compare=compare)
    assert await _outcome(login, _basic(credentials)) == 401
    assert compare.seen == []
