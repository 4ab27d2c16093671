"""Scans: who moves them on, who waits, and what is known when somebody leaves."""

from __future__ import annotations

import asyncio
import gzip
import random
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from proxy.content import scans
from proxy.content.blobs import BlobPart
from proxy.content.scans import HeaderScan, StreamScan, Turn, batches, in_thread
from proxy.errors import BadUpstream, MalformedArtifact
from proxy.formats.progress import START
from proxy.oci.byterange import ByteRange
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor
from proxy.tasks import spawn
from tests.build import tar_archive, tar_entry, tar_header, tar_of

MIB = 1024 * 1024


class Memory:
    """A blob in memory; ``asked`` are the ranges read, ``gate`` holds chunks until it is set."""

    def __init__(self, content: bytes, *, chunk: int = 64 * 1024) -> None:
        self.content = content
        self.asked: list[ByteRange] = []
        self.given = 0
        self.gate: asyncio.Event | None = None
        self.fault: Exception | None = None
        self._chunk = chunk

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor("a/b", Digest.of(self.content), len(self.content), {})

    @asynccontextmanager
    async def open(self, byte_range: ByteRange) -> AsyncIterator[BlobPart]:
        assert 0 <= byte_range.first <= byte_range.last < len(self.content)
        self.asked.append(byte_range)
        yield BlobPart(self._chunks(byte_range), None, 0)

    async def _chunks(self, byte_range: ByteRange) -> AsyncIterator[bytes]:
        for start in range(byte_range.first, byte_range.last + 1, self._chunk):
            if self.gate is not None:
                await self.gate.wait()
            if self.fault is not None:
                raise self.fault
            piece = self.content[start : min(start + self._chunk, byte_range.last + 1)]
            self.given += len(piece)
            yield piece


def never() -> bool:
    return False


async def stepped(scan: StreamScan, source: Memory) -> None:
    await scan.until(never, source=source)


def compressed(**files: bytes) -> bytes:
    return gzip.compress(tar_archive(files), 1)


def noise(count: int) -> bytes:
    return random.Random(3).randbytes(count)


# Headers -----------------------------------------------------------------------------------------


async def test_header_scan_jumps_over_contents() -> None:
    big = bytes(4 * MIB)
    source = Memory(tar_of(tar_entry(b"a", big), tar_entry(b"b", b"2"), tar_entry(b"c", big)))
    scan = HeaderScan(size=len(source.content))
    await scan.until(never, source=source)
    assert [member.name for member in scan.members] == ["a", "b", "c"]
    assert scan.finished
    assert scan.failure is None
    assert source.given < 256 * 1024


async def test_header_scan_reads_close_members_in_few_requests() -> None:
    source = Memory(tar_archive({f"{number:05}": b"x" * 700 for number in range(20_000)}))
    scan = HeaderScan(size=len(source.content))
    await scan.until(never, source=source)
    assert len(scan.members) == 20_000
    assert len(source.asked) < 12
    assert source.given < 1.01 * len(source.content)


async def test_header_scan_leaves_a_wide_window_at_a_far_jump() -> None:
    small = [tar_entry(b"%d" % number, b"x" * 700) for number in range(2_000)]
    source = Memory(tar_of(*small, tar_entry(b"big", bytes(8 * MIB)), tar_entry(b"end", b"")))
    scan = HeaderScan(size=len(source.content))
    await scan.until(never, source=source)
    assert scan.members[-1].name == "end"
    assert source.given < 3.5 * MIB


async def test_header_scan_begins_with_the_head_it_was_given() -> None:
    source = Memory(tar_of(tar_entry(b"a", b"1")))
    scan = HeaderScan(size=len(source.content))
    scan.take_head(source.content[:4096])
    assert [member.name for member in scan.members] == ["a"]
    await scan.until(lambda: bool(scan.members), source=source)
    assert source.asked == []


async def test_header_scan_keeps_what_came_before_a_fault() -> None:
    source = Memory(tar_entry(b"a", b"1") + tar_header(b"b")[:300])
    scan = HeaderScan(size=len(source.content))
    await scan.until(never, source=source)
    assert [member.name for member in scan.members] == ["a"]
    assert isinstance(scan.failure, MalformedArtifact)
    asked = len(source.asked)
    await scan.until(never, source=source)  # it is finished, nothing is read again
    assert len(source.asked) == asked


async def test_header_scan_of_an_archive_without_an_end() -> None:
    scan = HeaderScan(size=len(content := tar_entry(b"a", b"1")))
    await scan.until(never, source=Memory(content))
    assert (len(scan.members), scan.failure) == (1, None)
    # A long name that belongs to nothing.
    content = tar_header(b"x", flag=b"L", size=4) + b"name".ljust(512, b"\0")
    scan = HeaderScan(size=len(content))
    await scan.until(never, source=Memory(content))
    assert isinstance(scan.failure, MalformedArtifact)


async def test_header_scan_is_walked_by_one_for_all_who_wait() -> None:
    source = Memory(tar_archive({f"{number:05}": b"x" * 700 for number in range(3_000)}))
    source.gate = asyncio.Event()
    scan = HeaderScan(size=len(source.content))
    waiting = [
        spawn(scan.until(lambda: len(scan.members) > 10, source=source), name="early"),
        spawn(scan.until(never, source=source), name="all"),
    ]
    await asyncio.sleep(0)
    source.gate.set()
    await asyncio.gather(*waiting)
    assert len(scan.members) == 3_000
    assert source.given < 1.2 * len(source.content)


async def test_header_scan_source_that_fails_is_asked_again_by_the_next() -> None:
    source = Memory(tar_archive({"a": b"1"}))
    source.fault = BadUpstream("broken")
    scan = HeaderScan(size=len(source.content))
    with pytest.raises(BadUpstream):
        await scan.until(never, source=source)
    assert scan.failure is None
    source.fault = None
    await scan.until(never, source=source)
    assert len(scan.members) == 1


# Streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("collects", [True, False])
async def test_stream_scan_learns_members_size_and_digest(collects: bool) -> None:
    source = Memory(compressed(a=noise(9 * MIB), b=b"2"))
    scan = StreamScan("gzip", is_tar=True, collects=collects)
    await stepped(scan, source)
    assert [member.name for member in scan.members] == ["a", "b"]
    assert scan.finished
    assert scan.members_known
    assert scan.verified
    assert scan.plain_size == len(gzip.decompress(source.content))  # noqa: TID251 - the test made it
    assert scan.nearest(0) == START
    assert (scan.nearest(9 * MIB).plain_position > 4 * MIB) is collects
    assert source.given == len(source.content)
    assert scan.cost < 600_000


async def test_stream_scan_of_other_bytes_than_the_digest_is_a_fault() -> None:
    class Lying(Memory):
        @property
        def descriptor(self) -> Descriptor:
            return Descriptor("a/b", Digest.of(b"other"), len(self.content), {})

    scan = StreamScan("gzip", is_tar=True, collects=False)
    with pytest.raises(MalformedArtifact, match="expected the content of"):
        await scan.until(never, source=Lying(compressed(a=b"1")))
    assert (scan.finished, scan.verified, scan.plain_size) == (True, False, None)
    assert isinstance(scan.failure, MalformedArtifact)


async def test_stream_scan_stops_when_satisfied_and_goes_on_from_there() -> None:
    source = Memory(compressed(a=b"1", b=noise(6 * MIB), c=b"3"))
    scan = StreamScan("gzip", is_tar=True, collects=True)
    await scan.until(lambda: bool(scan.members), source=source)
    assert source.given <= 2 * scans.BATCH_BYTES
    given = source.given
    await stepped(scan, source)
    assert [member.name for member in scan.members] == ["a", "b", "c"]
    assert source.given - given <= len(source.content)
    assert source.given < len(source.content) + 2 * scans.BATCH_BYTES


async def test_stream_scan_leads_with_the_bytes_asked_for() -> None:
    plain = noise(5 * MIB)
    source = Memory(gzip.compress(plain, 1))
    scan = StreamScan("gzip", is_tar=False, collects=True)
    token = scan.may_lead(1_000_000)
    assert token is not None
    assert scan.may_lead(2_000_000) is None
    async with aclosing(scan.lead(token, source=source, keep_from=1_000_000)) as pieces:
        found = b"".join([piece async for piece in pieces])
    assert found == plain[1_000_000:]
    assert scan.plain_size == len(plain)
    assert scan.may_lead(0) is None


async def test_stream_scan_lead_that_is_left_gives_the_turn_back() -> None:
    source = Memory(gzip.compress(noise(5 * MIB), 1))
    scan = StreamScan("gzip", is_tar=False, collects=True)
    token = scan.may_lead(0)
    assert token is not None
    async with aclosing(scan.lead(token, source=source, keep_from=0)) as pieces:
        await anext(pieces)
    assert 0 < scan.plain_position < 5 * MIB
    await stepped(scan, source)
    assert scan.plain_size == 5 * MIB


async def test_stream_scan_is_taken_from_a_leader_whose_client_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scans, "PATIENCE_SECONDS", 0.01)
    plain = noise(5 * MIB)
    source = Memory(gzip.compress(plain, 1))
    scan = StreamScan("gzip", is_tar=False, collects=True)
    token = scan.may_lead(0)
    assert token is not None
    async with aclosing(scan.lead(token, source=source, keep_from=0)) as pieces:
        first = await anext(pieces)
        await stepped(scan, source)
        assert scan.plain_size == 5 * MIB
        # The leader sees that the turn is gone; it has what it had.
        assert [piece async for piece in pieces] == []
    assert first == plain[: len(first)]


async def test_stream_scan_fault_is_kept_with_what_came_before() -> None:
    blob = compressed(a=b"1", b=noise(2 * MIB))
    source = Memory(blob[:MIB])
    scan = StreamScan("gzip", is_tar=True, collects=True)
    with pytest.raises(MalformedArtifact):
        await stepped(scan, source)
    assert scan.finished
    assert scan.failure is not None
    assert scan.plain_size is None
    assert [member.name for member in scan.members][:1] == ["a"]
    await stepped(scan, source)  # nothing is left to do
    assert len(source.asked) == 1


async def test_F4_stream_scan_member_beyond_the_end_is_not_listed() -> None:
    source = Memory(gzip.compress(tar_entry(b"a", b"1") + tar_header(b"b", size=1 << 40) + b"x"))
    scan = StreamScan("gzip", is_tar=True, collects=False)
    await stepped(scan, source)
    assert [member.name for member in scan.members] == ["a"]
    assert isinstance(scan.tar_failure, MalformedArtifact)
    assert scan.failure is None


async def test_stream_scan_archive_that_breaks_is_still_decoded() -> None:
    source = Memory(gzip.compress(tar_entry(b"a", b"1") + b"no header".ljust(2_000, b"!")))
    scan = StreamScan("gzip", is_tar=True, collects=False)
    await stepped(scan, source)
    assert [member.name for member in scan.members] == ["a"]
    assert isinstance(scan.tar_failure, MalformedArtifact)
    assert scan.plain_size == 3_024


async def test_stream_scan_cancelled_in_a_thread_stays_usable() -> None:
    source = Memory(compressed(a=noise(8 * MIB), b=b"2"))
    for _ in range(8):
        scan = StreamScan("gzip", is_tar=True, collects=True)
        task = spawn(stepped(scan, source), name="leaving")
        await asyncio.sleep(0.003)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stepped(scan, source)
        assert [member.name for member in scan.members] == ["a", "b"]
        assert scan.verified


async def test_stream_scan_waits_until_another_has_come_so_far() -> None:
    source = Memory(gzip.compress(noise(3 * MIB), 1))
    source.gate = asyncio.Event()
    scan = StreamScan("gzip", is_tar=False, collects=True)
    working = spawn(stepped(scan, source), name="working")
    await asyncio.sleep(0)
    waiting = spawn(scan.wait_for(1), name="waiting")
    await asyncio.sleep(0)
    assert not waiting.done()
    source.gate.set()
    await waiting
    assert scan.plain_position > 0
    await working
    await scan.wait_for(1 << 40)  # finished: nobody waits


# Parts -------------------------------------------------------------------------------------------


async def test_turn_is_one_at_a_time_and_waiting_ends() -> None:
    turn = Turn()
    token = turn.take()
    assert token is not None
    assert turn.take() is None
    turn.rest()
    assert turn.take() is None  # not stuck yet
    assert turn.resume(token)
    turn.give_back(object())  # somebody else's
    assert turn.take() is None
    waiting = spawn(turn.wait(), name="waiting")
    await asyncio.sleep(0)
    turn.give_back(token)
    await waiting
    assert turn.take() is not None
    assert not turn.resume(token)


async def test_turn_wait_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "PATIENCE_SECONDS", 0.001)
    await Turn().wait()


async def test_in_thread_cancelled_ends_after_the_work() -> None:
    begun, ended = threading.Event(), threading.Event()
    go_on = threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(5)
        ended.set()

    task = spawn(in_thread(work), name="work")
    while not begun.is_set():  # noqa: ASYNC110 - the event is a thread's
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_in_thread_runs_meanwhile_and_raises() -> None:
    seen: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_thread(fail, meanwhile=lambda: seen.append(1))
    assert seen == [1]


async def test_batches_join_small_chunks() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield bytes(100 * 1024)

    assert [len(batch) async for batch in batches(chunks())] == [1100 * 1024, 100 * 1024]
