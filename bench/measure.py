"""What a process cost, and what a handful of samples can say.

Costs are read from /proc, so this is for Linux. A verdict has three states: with few samples on a
shared machine a threshold inside the range of the samples is neither met nor missed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# The kernel counts a process' time in ticks; two equal readings this far apart mean it is idle.
_IDLE_SECONDS = 0.05
_IDLE_TRIES = 40

Verdict = Literal["met", "missed", "noise", "absent"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sample did: its value in the scenario's unit, and the work to spread CPU over.

    ``work`` is GiB moved or requests answered, as the scenario says.
    """

    value: float
    work: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading and what the peer spent on it; None where the peer is no process of its own."""

    reading: Reading
    cpu_seconds: float | None
    peak_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def at_least(self, threshold: float) -> Verdict:
        """Whether all samples reach ``threshold``, none does, or some do."""
        if self.low >= threshold:
            return "met"
        return "missed" if self.high < threshold else "noise"

    def at_most(self, threshold: float) -> Verdict:
        """Whether all samples stay within ``threshold``, none does, or some do."""
        if self.high <= threshold:
            return "met"
        return "missed" if self.low > threshold else "noise"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Ours by theirs, round by round: what slows a whole round slows both."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=True) if other > 0]
    return Spread.of(pairs) if pairs else None


def process_tree(pid: int) -> list[int]:
    """``pid`` and its descendants that are alive."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def _children(pid: int) -> Iterator[int]:
    # A process forks from any of its threads.
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, listing.read_text().split())
        except OSError:
            continue


def cpu_seconds(pid: int) -> float:
    """User and system time of the process tree so far; 10 ms is the usual resolution."""
    ticks = 0
    for member in process_tree(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text()
        except OSError:
            continue
        # The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def cpu_seconds_when_idle(pid: int) -> float:
    """``cpu_seconds`` once the tree has come to rest, or after two seconds if it does not."""
    spent = cpu_seconds(pid)
    for _ in range(_IDLE_TRIES):
        time.sleep(_IDLE_SECONDS)
        before, spent = spent, cpu_seconds(pid)
        if spent == before:
            break
    return spent


def reset_peak_rss(pid: int) -> None:
    """Let the peak of every process in the tree start again at its present size."""
    for member in process_tree(pid):
        # Source: proc(5), /proc/pid/clear_refs, value 5.
        Path(f"/proc/{member}/clear_refs").write_text("5")


def peak_rss_bytes(pid: int) -> int:
    """The peaks of the process tree, added up: an upper bound, as they need not coincide."""
    return sum(_status_bytes(member, "VmHWM") for member in process_tree(pid))


def rss_bytes(pid: int) -> int:
    """Resident memory of the process tree now."""
    return sum(_status_bytes(member, "VmRSS") for member in process_tree(pid))


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def open_files(pid: int) -> int:
    """How many descriptors the process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def sample(pid: int | None, measured: Callable[[], Reading]) -> Sample:
    """Run ``measured`` once and read what it cost the process tree of ``pid``."""
    if pid is None:
        return Sample(measured(), None, None)
    reset_peak_rss(pid)
    before = cpu_seconds_when_idle(pid)
    reading = measured()
    peak = peak_rss_bytes(pid)
    return Sample(reading, cpu_seconds_when_idle(pid) - before, peak)


def machine() -> dict[str, object]:
    """What a reader of the figures has to know about where they come from."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    model = next((line for line in first.splitlines() if line.startswith("model name")), "")
    return {
        "cores": os.cpu_count(),
        "processor": model.partition(":")[2].strip(),
        "kernel": os.uname().release,
        "load": os.getloadavg()[0],
        "stolen_seconds": _stolen_seconds(),
    }


def _stolen_seconds() -> float:
    # Source: proc(5), /proc/stat: the eighth figure is time the hypervisor gave to others.
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / _TICKS_PER_SECOND
