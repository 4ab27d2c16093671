from __future__ import annotations

import pytest

from proxy.errors import UpstreamUnreachable
from proxy.upstream.circuit import FAILURES_LIMIT, OPEN_SECONDS, Circuit


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fail(circuit: Circuit, times: int = FAILURES_LIMIT) -> list[bool]:
    opened = []
    for _ in range(times):
        circuit.begin()
        opened.append(circuit.failed("refused"))
    return opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(clock)


def test_circuit_opens_with_the_last_of_many_failures(circuit: Circuit) -> None:
    opened = fail(circuit)
    assert opened == [False] * (FAILURES_LIMIT - 1) + [True]
    assert circuit.is_open


def test_circuit_counts_failures_in_a_row_only(circuit: Circuit) -> None:
    fail(circuit, FAILURES_LIMIT - 1)
    circuit.begin()
    assert not circuit.connected()
    fail(circuit, FAILURES_LIMIT - 1)
    assert not circuit.is_open
    circuit.check()


def test_circuit_counts_no_attempt_that_ends_without_a_word(circuit: Circuit) -> None:
    for _ in range(3 * FAILURES_LIMIT):
        circuit.begin()
    assert not circuit.is_open


@pytest.mark.parametrize(("later", "told"), [(0, "5"), (0.1, "5"), (3.2, "2"), (4.9, "1")])
def test_open_circuit_refuses_at_once_and_says_when_to_come_back(
    circuit: Circuit, clock: Clock, later: float, told: str
) -> None:
    fail(circuit)
    clock.now += later
    for ask in (circuit.check, circuit.begin):
        with pytest.raises(UpstreamUnreachable) as found:
            ask()
        assert found.value.headers == (("Retry-After", told),)
        assert "refused" in found.value.message


def test_half_open_circuit_lets_one_through_every_five_seconds(
    circuit: Circuit, clock: Clock
) -> None:
    fail(circuit)
    for _ in range(3):
        clock.now += OPEN_SECONDS
        circuit.check()
        circuit.begin()
        # Whatever becomes of it, nothing or a long wait: the next has its own turn.
        with pytest.raises(UpstreamUnreachable) as found:
            circuit.begin()
        assert found.value.headers == (("Retry-After", "5"),)
    assert circuit.is_open


def test_circuit_closes_with_an_answer(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.now += OPEN_SECONDS
    circuit.begin()
    assert circuit.connected()
    assert not circuit.is_open
    circuit.begin()
    assert not circuit.connected()
    fail(circuit, FAILURES_LIMIT - 1)
    assert not circuit.is_open


def test_failed_probe_leaves_the_upstream_alone_again(circuit: Circuit, clock: Clock) -> None:
    fail(circuit)
    clock.now += OPEN_SECONDS
    circuit.begin()
    circuit.failed("no route")
    assert circuit.is_open
    with pytest.raises(UpstreamUnreachable, match="no route"):
        circuit.check()
    clock.now += OPEN_SECONDS
    circuit.check()


def test_failure_of_before_does_not_open_it_twice(circuit: Circuit) -> None:
    circuit.begin()
    fail(circuit)
    assert circuit.failed("refused") is False
    assert circuit.is_open
