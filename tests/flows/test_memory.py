"""The proxy as a process: what it holds while gigabytes pass, and what it leaves behind."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.measure import open_files, peak_rss_bytes, reset_peak_rss, rss_bytes
from tests.components.programs import logged, running, wait_until
from tests.faulty_upstream import Fault
from tests.faulty_upstream import running as faulty_upstream

MIB = 1 << 20
GIB = 1 << 30
BLOCK = bytes(MIB)
BLOB = "/v2/model/blobs/sha256:" + "0" * 64
UPLOAD = "/v2/model/blobs/uploads/1"


@dataclass(frozen=True, slots=True)
class Process:
    """A running proxy."""

    url: str
    pid: int
    scratch: Path

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port)


@contextmanager
def proxy(folder: Path, upstream: str, **settings: str) -> Iterator[Process]:
    """``python -m proxy serve`` with settings such as ``LISTEN__WRITE_SECONDS="1"``."""
    scratch, log = folder / "scratch", folder / "proxy.log"
    scratch.mkdir()
    chosen = {"UPSTREAMS__0__URL": upstream, "LOG__LEVEL": "error", **settings}
    env = {f"CNAI_PROXY_{name}": value for name, value in chosen.items()}

    def address() -> str | None:
        return logged(log, r"ready on (\S+)")

    argv = [sys.executable, "-m", "proxy", "serve", "--port", "0"]
    with running(
        argv,
        log=log,
        ready=lambda: address() is not None,
        env={**env, "TMPDIR": str(scratch)},
    ) as process:
        yield Process(address() or "", process.pid, scratch)


@dataclass
class Bytes:
    """An upstream whose one blob is zeros, and that takes any upload."""

    blob_bytes: int
    url: str = ""
    received: int = 0
    open: int = 0
    most_open: int = 0

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._take(reader, head)
                if head.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.blob_bytes)
                    for _ in range(self.blob_bytes // MIB):
                        writer.write(BLOCK)
                        await writer.drain()
                else:
                    writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, head: bytes) -> None:
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        left = int(length[1]) if length else 0
        while left:
            piece = await reader.read(min(left, MIB))
            if not piece:
                raise ConnectionError("the upload ended early")
            self.received += len(piece)
            left -= len(piece)


@asynccontextmanager
async def bytes_upstream(blob_bytes: int) -> AsyncIterator[Bytes]:
    upstream = Bytes(blob_bytes)
    server = await asyncio.start_server(upstream.serve_connection, "127.0.0.1", 0, limit=MIB)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()


def head(method: str, target: str, headers: Mapping[str, object] | None = None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def body_size(reader: asyncio.StreamReader) -> int:
    """Read an answer to its end; how many bytes its body has."""
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 20"), answer
    length = re.search(rb"(?i)content-length: *(\d+)", answer)
    left = size = int(length[1]) if length else 0
    while left:
        piece = await reader.read(min(left, MIB))
        assert piece, f"the answer ended {left} bytes early"
        left -= len(piece)
    return size


async def until_closed(reader: asyncio.StreamReader) -> int:
    """Read what still comes; how many bytes it was."""
    size = 0
    with suppress(ConnectionError):
        while piece := await reader.read(MIB):
            size += len(piece)
    return size


async def eventually(condition: object, what: str) -> None:
    """``wait_until`` beside a running loop."""
    assert callable(condition)
    await asyncio.to_thread(wait_until, condition, what=lambda: what)


@pytest.mark.slow
async def test_K7_push_of_two_gibibytes_holds_no_body(tmp_path: Path) -> None:
    async with bytes_upstream(0) as upstream:
        with proxy(tmp_path, upstream.url) as process:
            reader, writer = await process.connect()
            writer.write(head("PATCH", UPLOAD, {"Content-Length": MIB}) + BLOCK)
            await body_size(reader)
            before = rss_bytes(process.pid)
            reset_peak_rss(process.pid)
            writer.write(head("PATCH", UPLOAD, {"Content-Length": 2 * GIB}))
            for _ in range(2 * GIB // MIB):
                writer.write(BLOCK)
                await writer.drain()
            await body_size(reader)
            grown = peak_rss_bytes(process.pid) - before
            writer.close()
    assert upstream.received == 2 * GIB + MIB
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB"


@pytest.mark.slow
async def test_K7_pull_of_two_gibibytes_holds_no_body(tmp_path: Path) -> None:
    async with bytes_upstream(2 * GIB) as upstream:
        with proxy(tmp_path, upstream.url) as process:
            reader, writer = await process.connect()
            writer.write(head("PATCH", UPLOAD, {"Content-Length": MIB}) + BLOCK)
            await body_size(reader)
            before = rss_bytes(process.pid)
            reset_peak_rss(process.pid)
            writer.write(head("GET", BLOB))
            size = await body_size(reader)
            grown = peak_rss_bytes(process.pid) - before
            writer.close()
    assert size == 2 * GIB
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB"


@pytest.mark.slow
async def test_I1_two_hundred_stalled_readers_cost_little_and_are_cut(tmp_path: Path) -> None:
    async with bytes_upstream(GIB) as upstream:
        with proxy(
            tmp_path,
            upstream.url,
            UPSTREAMS__0__CONNECTIONS="256",
            LISTEN__WRITE_SECONDS="3",
        ) as process:
            stalled = [await process.connect() for _ in range(200)]
            for _, writer in stalled:
                # The stream's own buffer is filled and then left: nothing more is read.
                writer.write(head("GET", BLOB))
            await eventually(lambda: upstream.most_open == 200, "200 transfers to have begun")
            await eventually(lambda: upstream.open == 0, "all transfers to be cut")
            peak = peak_rss_bytes(process.pid)
            sizes = [await until_closed(reader) for reader, _ in stalled]
            for _, writer in stalled:
                writer.close()
    assert max(sizes) < GIB
    assert peak < 300 * MIB, f"{peak / MIB:.0f} MiB"


# Each becomes a repository of its own whose blob does this.
FAULTS: Mapping[str, Fault] = {
    "good": Fault(),
    "cut": Fault(cut_at=100_000),
    "cut-at-once": Fault(cut_at=0),
    "cut-chunked": Fault(cut_at=100_000, length="chunked"),
    "garbage": Fault(raw=b"\x16\x03\x01 no HTTP at all\r\n\r\n"),
    "hang-up": Fault(hang_up=True),
    "late": Fault(delay=3600),
    "stall": Fault(stall_at=100_000),
    "error": Fault(status=500),
    "denied": Fault(status=401, headers=[("WWW-Authenticate", 'Basic realm="x"')]),
    "long": Fault(extra=b"more than was declared"),
}


async def faulty_request(process: Process, kind: str, digest: str) -> None:
    """One request of ``kind``; a client of the kinds ``leave-…`` is the fault itself."""
    reader, writer = await process.connect()
    try:
        if kind == "leave-upload":
            writer.write(head("PATCH", UPLOAD, {"Content-Length": GIB}) + bytes(100_000))
            await writer.drain()
        elif kind == "leave-download":
            writer.write(head("GET", f"/v2/good/blobs/{digest}"))
            await reader.readuntil(b"\r\n\r\n")
        else:
            writer.write(head("GET", f"/v2/{kind}/blobs/{digest}", {"Connection": "close"}))
            await until_closed(reader)
    finally:
        writer.transport.abort()


async def test_I3_thousand_faulty_requests_leave_nothing_behind(tmp_path: Path) -> None:
    kinds = [*FAULTS, "leave-upload", "leave-download"]
    asked = [kinds[number % len(kinds)] for number in range(1_000)]
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(faulty_upstream())
        digest = upstream.blob(bytes(MIB))
        upstream.faults += [Fault(delay=3600, match="PATCH")]
        for kind, fault in FAULTS.items():
            fault.match = f"/v2/{kind}/"
            upstream.faults.append(fault)
        with proxy(
            tmp_path,
            upstream.url,
            UPSTREAMS__0__TIMEOUTS__IDLE_SECONDS="0.2",
            UPSTREAMS__0__TIMEOUTS__RESPONSE_SECONDS="0.2",
            LISTEN__WRITE_SECONDS="0.2",
            LISTEN__BODY_SECONDS="0.2",
        ) as process:
            before = open_files(process.pid)
            gate = asyncio.Semaphore(50)

            async def one(kind: str) -> None:
                async with gate:
                    await faulty_request(process, kind, digest)

            await asyncio.gather(*(one(kind) for kind in asked))
            seen = len(upstream.log)
            # Connections the proxy keeps for later end with the upstream.
            await stack.aclose()
            await eventually(
                lambda: open_files(process.pid) == before,
                f"the proxy to hold {before} descriptors again",
            )
            reader, writer = await process.connect()
            writer.write(head("GET", "/metrics", {"Connection": "close"}))
            counted = await reader.read()
            writer.close()
            left = list(process.scratch.iterdir())
    written = (tmp_path / "proxy.log").read_text().splitlines()
    assert seen > 800
    assert re.search(rb"^cnai_proxy_requests_in_flight 1\.0$", counted, re.MULTILINE), counted
    assert left == []
    # Nothing but the line that it is ready: no failure of the proxy's own, no task's lost error.
    assert len(written) == 1, "\n".join(written)
