from __future__ import annotations

import pytest

from proxy.errors import ProxyError, TooManyRequests, UpstreamUnreachable
from proxy.upstream.pauses import LONGEST_SECONDS, PAUSES_LIMIT, Pauses

TARGET = "/v2/a/manifests/v1"
ANNA = {"Authorization": "Basic YW5uYTpz", "User-Agent": "docker"}
# Sun, 06 Nov 1994 08:49:37 GMT
UNIX = 784_111_777.0


class Clock:
    """Seconds that a test moves on; ``wall`` is Unix time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return UNIX + self.now - 100


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses(clock: Clock) -> Pauses:
    return Pauses(clock=clock, wall_clock=clock.wall)


def note(pauses: Pauses, status: int, retry_after: str | None = None, target: str = TARGET) -> None:
    pauses.note("GET", target, ANNA, status=status, retry_after=retry_after)


def told(pauses: Pauses, target: str = TARGET) -> str | None:
    """What ``Retry-After`` says; None when the request may go to the upstream."""
    try:
        pauses.check("GET", target, ANNA)
    except ProxyError as error:
        ((name, value),) = error.headers
        assert name == "Retry-After"
        return value
    return None


def seconds_of(pauses: Pauses, clock: Clock) -> float:
    """How long the pause that holds now lasts."""
    started = clock.now
    while told(pauses) is not None:
        clock.now += 0.125
        assert clock.now < started + 1000
    return clock.now - started


def test_R11_nothing_is_held_back_before_the_upstream_asks_for_it(pauses: Pauses) -> None:
    for status in (200, 206, 304, 307, 401, 403, 404, 500, 502, 503, 504):
        note(pauses, status)
        assert told(pauses) is None


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, "7", 7),
        (429, None, 1),
        (429, "0", 1),
        (429, "soon", 1),
        (429, "-3", 1),
        (429, "61", LONGEST_SECONDS),
        (429, "9" * 400, LONGEST_SECONDS),
        (429, "\u0663", 1),
        (429, "Sun, 06 Nov 1994 08:49:49 GMT", 12),
        (429, "Sunday, 06-Nov-94 08:49:49 GMT", 12),
        (429, "Sun Nov  6 08:49:49 1994", 12),
        (429, "Sun, 06 Nov 1994 08:49:00 GMT", 1),
        (429, "Sun, 06 Nov 2094 08:49:00 GMT", LONGEST_SECONDS),
        (429, "Sun, 99 Nov 1994 08:49:00 GMT", 1),
        (503, "7", 7),
        (503, "0", 1),
        (503, "Sun, 06 Nov 1994 08:49:49 GMT", 12),
        (503, None, 0),
        (503, "soon", 0),
        (500, "7", 0),
        (200, "7", 0),
    ],
)
def test_R11_pause_lasts_as_long_as_the_upstream_says_within_bounds(
    pauses: Pauses, clock: Clock, status: int, retry_after: str | None, seconds: float
) -> None:
    note(pauses, status, retry_after)
    assert seconds_of(pauses, clock) == seconds


@pytest.mark.parametrize(("status", "kind"), [(429, TooManyRequests), (503, UpstreamUnreachable)])
def test_R11_pause_has_the_upstreams_status(
    pauses: Pauses, status: int, kind: type[ProxyError]
) -> None:
    note(pauses, status, "7")
    with pytest.raises(kind) as found:
        pauses.check("GET", TARGET, ANNA)
    assert found.value.status == status
    assert "7 s" in found.value.message


def test_R11_rest_of_the_time_is_told_even_beyond_our_own_patience(
    pauses: Pauses, clock: Clock
) -> None:
    note(pauses, 429, "3600")
    for later, rest in ((0, "3600"), (0.5, "3600"), (1, "3599"), (59.5, "3541")):
        clock.now = 100 + later
        assert told(pauses) == rest
    clock.now = 100 + LONGEST_SECONDS
    assert told(pauses) is None


def test_R11_only_the_same_request_of_the_same_caller_is_held_back(pauses: Pauses) -> None:
    note(pauses, 429, "7")
    for method, target, headers in (
        ("HEAD", TARGET, ANNA),
        ("GET", f"{TARGET}x", ANNA),
        ("GET", TARGET, {}),
        ("GET", TARGET, {**ANNA, "Authorization": "Basic YmVydDpz"}),
        # What the upstream has against one program must not hold for others of the same login.
        ("GET", TARGET, {**ANNA, "User-Agent": "evil"}),
    ):
        pauses.check(method, target, headers)
    with pytest.raises(TooManyRequests):
        pauses.check("GET", TARGET, ANNA)


def test_R11_after_a_pause_one_asks_and_the_others_wait_for_what_it_learns(
    pauses: Pauses, clock: Clock
) -> None:
    note(pauses, 429, "7")
    clock.now += 7
    assert told(pauses) is None
    assert [told(pauses) for _ in range(20)] == ["1"] * 20
    note(pauses, 429, "5")
    assert told(pauses) == "5"
    clock.now += 5
    assert told(pauses) is None
    note(pauses, 200)
    assert [told(pauses) for _ in range(20)] == [None] * 20


def test_R11_after_a_pause_one_a_second_asks_while_no_answer_comes(
    pauses: Pauses, clock: Clock
) -> None:
    note(pauses, 429)
    asked = 0
    for _ in range(80):
        clock.now += 0.125
        asked += sum(told(pauses) is None for _ in range(5))
    assert asked == 10


def test_pause_long_over_is_forgotten(pauses: Pauses, clock: Clock) -> None:
    note(pauses, 429)
    clock.now += 2 + LONGEST_SECONDS
    assert [told(pauses) for _ in range(3)] == [None] * 3


def test_pauses_are_bounded(pauses: Pauses) -> None:
    for number in range(PAUSES_LIMIT + 1):
        note(pauses, 429, "7", target=f"/v2/a/manifests/{number}")
    assert told(pauses, "/v2/a/manifests/0") is None
    assert told(pauses, "/v2/a/manifests/1") == "7"
    assert told(pauses, f"/v2/a/manifests/{PAUSES_LIMIT}") == "7"


def test_B6_pauses_hold_no_credential(pauses: Pauses) -> None:
    note(pauses, 429, "7")
    with pytest.raises(TooManyRequests) as found:
        pauses.check("GET", TARGET, ANNA)
    assert "YW5uYTpz" not in found.value.message
    assert "YW5uYTpz" not in repr(vars(pauses))
