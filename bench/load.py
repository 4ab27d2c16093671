"""Clients: bulk transfers over raw sockets, many small requests, the time to a first byte.

Threads and ``recv_into`` keep the client cheap beside what it measures. Every answer's status and
length is checked; every wait and every loop has a bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.measure import Reading

GIB = 1 << 30
MIB = 1 << 20
_RECEIVE_BYTES = 256 * 1024
_HEAD_BYTES_LIMIT = 64 * 1024
_SECONDS_LIMIT = 120.0
_NO_HEADERS: Mapping[str, str] = {}


class LoadError(Exception):
    """A peer answered something else than the measurement needs."""


@dataclass(frozen=True, slots=True)
class Content:
    """A blob made of one random block over and over, a head before it and a tail behind it."""

    block: bytes
    blocks: int
    head: bytes = b""
    tail: bytes = b""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + len(self.block) * self.blocks + len(self.tail)

    def pieces(self) -> Iterator[bytes]:
        """The bytes in order, never copied."""
        yield self.head
        for _ in range(self.blocks):
            yield self.block
        yield self.tail

    def digest(self) -> str:
        """``sha256:…``; reads it all."""
        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(piece)
        return f"sha256:{found.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``body`` holds at most the first buffer of it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int
    first_byte_seconds: float
    """From the request's first byte out to the body's first byte in."""


class Connection:
    """One keep-alive HTTP/1.1 connection to a peer. Not for chunked answers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc
        self._socket = socket.create_connection(
            (parts.hostname or "", parts.port or 80), timeout=_SECONDS_LIMIT
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(_RECEIVE_BYTES)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: Iterable[bytes] = (),
        length: int | None = None,
        expected: int = 200,
        digest: str | None = None,
    ) -> Answer:
        """Send a request, read the answer to its end.

        ``length`` is the size of ``body``. With ``digest`` the answer's body is hashed, which
        takes longer than receiving it.

        Raises:
            LoadError: another status than ``expected``, an answer cut short, other bytes.
            OSError: the connection failed.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if length is not None:
            lines.append(f"Content-Length: {length}")
        started = time.perf_counter()
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        for piece in body:
            self._socket.sendall(piece)
        status, found, early = self._head()
        size = int(found.get("content-length", "0" if status == 204 else "-1"))
        if status != expected or size < 0:
            raise LoadError(
                f"{method} {target}: expected status {expected} and a length, found {status}, "
                f"{found.get('content-length')}: {early[:200]!r}"
            )
        return self._body(early, status, found, size, started=started, digest=digest)

    def _head(self) -> tuple[int, dict[str, str], bytes]:
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            piece = self._socket.recv(_HEAD_BYTES_LIMIT)
            received += piece
            if not piece or len(received) > _HEAD_BYTES_LIMIT + _RECEIVE_BYTES:
                raise LoadError(f"expected an answer's header, found {received[:200]!r}")
        lines = received[:end].decode("latin1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return int(lines[0].split()[1]), headers, received[end + 4 :]

    def _body(
        self,
        early: bytes,
        status: int,
        headers: Mapping[str, str],
        size: int,
        *,
        started: float,
        digest: str | None,
    ) -> Answer:
        first_at = time.perf_counter() if early else 0.0
        kept, left = early, size - len(early)
        hashed = hashlib.sha256(early) if digest else None
        view = memoryview(self._buffer)
        while left > 0:
            count = self._socket.recv_into(self._buffer, min(left, _RECEIVE_BYTES))
            if not count:
                raise LoadError(f"the answer ended {left} bytes early")
            if not first_at:
                first_at = time.perf_counter()
                kept = bytes(view[:count])
            if hashed is not None:
                hashed.update(view[:count])
            left -= count
        if hashed is not None and f"sha256:{hashed.hexdigest()}" != digest:
            raise LoadError(f"expected the bytes of {digest}, found others")
        seconds = (first_at or time.perf_counter()) - started
        return Answer(status, headers, kept, size, seconds)


def pull(
    url: str, target: str, *, size: int, streams: int = 1, digest: str | None = None
) -> Reading:
    """GET a blob of ``size`` bytes in ``streams`` at once: GiB/s of all together."""

    def one(_: int) -> Answer:
        with closing(Connection(url)) as connection:
            return connection.ask("GET", target, digest=digest)

    started = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        answers = list(pool.map(one, range(streams), timeout=_SECONDS_LIMIT))
    seconds = time.perf_counter() - started
    if any(answer.size != size for answer in answers):
        raise LoadError(f"expected {size} bytes, found {[answer.size for answer in answers]}")
    moved = size * streams / GIB
    first = statistics.median(answer.first_byte_seconds for answer in answers)
    return Reading(moved / seconds, moved, {"first_byte_ms": first * 1000})


def push(url: str, repository: str, content: Content, *, digest: str) -> Reading:
    """Push a blob in one PATCH and close it with PUT: GiB/s until the registry has it."""
    started = time.perf_counter()
    with closing(Connection(url)) as connection:
        opened = connection.ask("POST", f"/v2/{repository}/blobs/uploads/", length=0, expected=202)
        patched = connection.ask(
            "PATCH",
            _target(opened),
            headers={"Content-Type": "application/octet-stream"},
            body=content.pieces(),
            length=content.size,
            expected=202,
        )
        target = _target(patched)
        joint = "&" if "?" in target else "?"
        connection.ask("PUT", f"{target}{joint}digest={digest}", length=0, expected=201)
    seconds = time.perf_counter() - started
    return Reading(content.size / GIB / seconds, content.size / GIB)


def put_manifest(url: str, repository: str, tag: str, body: bytes, media_type: str) -> None:
    """Push a manifest."""
    with closing(Connection(url)) as connection:
        connection.ask(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            headers={"Content-Type": media_type},
            body=[body],
            length=len(body),
            expected=201,
        )


def _target(answer: Answer) -> str:
    # Peers differ in the host they name; the next request goes to the same peer in any case.
    parts = urlsplit(answer.headers["location"])
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def first_byte(
    url: str, target: str, *, headers: Mapping[str, str], expected: int, count: int
) -> Reading:
    """Median milliseconds to the first body byte of ``count`` requests, one after the other."""
    with closing(Connection(url)) as connection:
        seconds = [
            connection.ask("GET", target, headers=headers, expected=expected).first_byte_seconds
            for _ in range(count)
        ]
    return Reading(statistics.median(seconds) * 1000, count)


def requests(
    url: str, target: str, *, headers: Mapping[str, str], connections: int, seconds: int
) -> Reading:
    """GET ``target`` as often as ``connections`` keep-alive connections can, by wrk if it is there.

    The value is requests per second, the details are ``p50_ms`` and ``p99_ms``.
    """
    program = shutil.which("wrk")
    if program is not None:
        return _wrk(program, f"{url}{target}", headers, connections, seconds)
    return asyncio.run(_hammer(url, target, headers, connections, seconds))


def _wrk(
    program: str, url: str, headers: Mapping[str, str], connections: int, seconds: int
) -> Reading:
    flags = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    done = subprocess.run(
        [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *flags, url],
        capture_output=True,
        text=True,
        timeout=seconds + _SECONDS_LIMIT,
        check=True,
    )
    total = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if total is None or rate is None or "Non-2xx" in done.stdout or "Socket err" in done.stdout:
        raise LoadError(f"wrk: {done.stdout}{done.stderr}")
    details = {f"p{part}_ms": _wrk_ms(done.stdout, part) for part in (50, 99)}
    return Reading(float(rate[1]), float(total[1]), details)


def _wrk_ms(report: str, percent: int) -> float:
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", report)
    if found is None:
        raise LoadError(f"wrk: no {percent} % line in {report}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


async def _hammer(
    url: str, target: str, headers: Mapping[str, str], connections: int, seconds: int
) -> Reading:
    parts = urlsplit(url)
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join([*lines, "", ""]).encode()
    taken: list[float] = []
    started = time.perf_counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while (begun := time.perf_counter()) < started + seconds:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                if b" 200 " not in head[:16] or length is None:
                    raise LoadError(f"expected 200 and a length, found {head[:200]!r}")
                await reader.readexactly(int(length[1]))
                taken.append(time.perf_counter() - begun)
        finally:
            writer.close()

    async with asyncio.timeout(seconds + _SECONDS_LIMIT):
        await asyncio.gather(*(one() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    taken.sort()
    details = {f"p{part}_ms": taken[len(taken) * part // 100] * 1000 for part in (50, 99)}
    return Reading(len(taken) / elapsed, len(taken), details)
