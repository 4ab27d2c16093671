"""A scripted OCI upstream over raw sockets: a test controls every byte it puts on the wire.

It serves blobs and manifests from dictionaries, takes uploads, and misbehaves as its faults say.
Everything it was asked is in ``log``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Fault:
    """What to do instead of answering well; ``match`` is searched in ``METHOD target``."""

    match: str = r"/blobs/sha256"
    times: int = 1 << 30
    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    delay: float = 0
    cut_at: int | None = None
    stall_at: int | None = None
    flip: int | None = None
    body: bytes | None = None
    extra: bytes = b""
    length: int | Literal["none", "chunked"] | None = None
    raw: bytes | None = None
    hang_up: bool = False
    answer_early: bool = False
    location: str | None = None
    ignore_range: bool = False
    seen: int = 0


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    at: float
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The only value of a header."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


class FaultyUpstream:
    """Start it with ``running``; ``tokens`` (exact Authorization values) makes it ask for one.

    ``token_service`` answers ``/token`` with a status and a body.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.faults: list[Fault] = []
        self.log: list[Seen] = []
        self.tokens: set[str] | None = None
        self.challenge: str | None = None
        self.token_service: Callable[[Seen], tuple[int, bytes]] | None = None
        self.open = 0
        self.sent = 0
        self.unfinished_bodies = 0
        self.body_started = asyncio.Event()
        self.port = 0
        self._uploads: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def blob(self, content: bytes) -> str:
        """Hold ``content``; returns its digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def manifest(
        self, repository: str, tag: str, document: dict[str, object] | bytes, media_type: str
    ) -> str:
        """Hold a manifest under its tag and its digest; returns the digest."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.manifests[repository, tag] = (media_type, body)
        self.manifests[repository, digest] = (media_type, body)
        return digest

    def requests(self, pattern: str) -> list[Seen]:
        """What came that matches ``METHOD target``."""
        return [seen for seen in self.log if re.search(pattern, f"{seen.method} {seen.target}")]

    async def serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer until the connection ends."""
        self.open += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = tuple(
            (name, value.strip())
            for name, _, value in (line.partition(":") for line in head[1:])
            if name
        )
        fault = self._fault(f"{method} {target}")
        seen = Seen(time.monotonic(), method, target, headers)
        if not fault.answer_early:
            body = await self._read_body(reader, seen)
            seen = Seen(seen.at, method, target, headers, body)
        self.log.append(seen)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.hang_up:
            return False
        if fault.raw is not None:
            writer.write(fault.raw)
            await writer.drain()
            return False
        status, answered, content = self._answer(seen, ignore_range=fault.ignore_range)
        return await self._send(writer, fault, method, status, answered, content)

    async def _read_body(self, reader: asyncio.StreamReader, seen: Seen) -> bytes:
        self.body_started.set()
        try:
            if (length := seen.get("Content-Length")) is not None:
                return await reader.readexactly(int(length))
            if (seen.get("Transfer-Encoding") or "").lower() != "chunked":
                return b""
            parts = []
            while True:
                size = int((await reader.readuntil(b"\r\n")).strip(), 16)
                parts.append(await reader.readexactly(size))
                await reader.readexactly(2)
                if size == 0:
                    return b"".join(parts)
        except asyncio.IncompleteReadError:
            self.unfinished_bodies += 1
            raise

    def _fault(self, line: str) -> Fault:
        for fault in self.faults:
            if fault.seen < fault.times and re.search(fault.match, line):
                fault.seen += 1
                return fault
        return Fault()

    def _answer(
        self, seen: Seen, *, ignore_range: bool
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        path, _, query = seen.target.partition("?")
        path = unquote(path)
        if path == "/token" and self.token_service is not None:
            status, body = self.token_service(seen)
            return status, [("Content-Type", "application/json")], body
        if self.tokens is not None and seen.get("Authorization") not in self.tokens:
            challenge = self.challenge or 'Basic realm="registry"'
            error = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
            return (
                401,
                [("Content-Type", "application/json"), ("WWW-Authenticate", challenge)],
                error,
            )
        if path in ("/v2/", "/v2"):
            return 200, [("Content-Type", "application/json")], b"{}"
        if match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", path):
            return self._upload(seen, match[1], match[2], query)
        if match := re.fullmatch(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})", path):
            if match[2] in self.blobs:
                return self._blob(seen, match[2], ignore_range=ignore_range)
        elif match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            if seen.method == "PUT":
                digest = self.manifest(
                    match[1], match[2], seen.body, seen.get("Content-Type") or ""
                )
                return (
                    201,
                    [("Location", f"{self.url}{path}"), ("Docker-Content-Digest", digest)],
                    b"",
                )
            if (found := self.manifests.get((match[1], match[2]))) is not None:
                digest = "sha256:" + hashlib.sha256(found[1]).hexdigest()
                return (
                    200,
                    [("Content-Type", found[0]), ("Docker-Content-Digest", digest)],
                    found[1],
                )
        return 404, [("Content-Type", "application/json")], b'{"errors":[{"code":"BLOB_UNKNOWN"}]}'

    def _blob(
        self, seen: Seen, digest: str, *, ignore_range: bool
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        content = self.blobs[digest]
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Docker-Content-Digest", digest),
            ("Accept-Ranges", "bytes"),
        ]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.get("Range") or "")
        if wanted is None or ignore_range:
            return 200, headers, content
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
        return 206, headers, content[first : last + 1]

    def _upload(
        self, seen: Seen, repository: str, session: str, query: str
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        state = "_state=a%2Fb%3D%3D&x=%7E"
        base = f"{self.url}/v2/{repository}/blobs/uploads/"
        if seen.method == "POST":
            session = f"session-{len(self._uploads)}"
            self._uploads[session] = b""
            location = f"{base}{session}?{state}"
            return (
                202,
                [
                    ("Location", location),
                    ("Range", "0-0"),
                    ("OCI-Chunk-Min-Length", "10"),
                    ("Docker-Upload-UUID", session),
                ],
                b"",
            )
        if session not in self._uploads:
            return 404, [], b""
        if seen.method == "GET":
            end = max(len(self._uploads[session]) - 1, 0)
            return (
                204,
                [
                    ("Location", f"{base}{session}?{state}"),
                    ("Range", f"0-{end}"),
                    ("Docker-Upload-UUID", session),
                ],
                b"",
            )
        if seen.method == "DELETE":
            del self._uploads[session]
            return 204, [], b""
        start = re.match(r"(\d+)-", seen.get("Content-Range") or "")
        if start is not None and int(start[1]) != len(self._uploads[session]):
            return 416, [("Location", f"{base}{session}?{state}"), ("Range", "0-0")], b""
        self._uploads[session] += seen.body
        if seen.method == "PATCH":
            end = len(self._uploads[session]) - 1
            return 202, [("Location", f"{base}{session}?{state}"), ("Range", f"0-{end}")], b""
        asked = re.search(r"digest=([^&]+)", query)
        content = self._uploads.pop(session)
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if asked is None or unquote(asked[1]) != digest:
            error = b'{"errors":[{"code":"DIGEST_INVALID","message":"mismatch"}]}'
            return 400, [("Content-Type", "application/json")], error
        self.blobs[digest] = content
        return (
            201,
            [
                ("Location", f"{self.url}/v2/{repository}/blobs/{digest}"),
                ("Docker-Content-Digest", digest),
            ],
            b"",
        )

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        fault: Fault,
        method: str,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
    ) -> bool:
        if fault.status is not None:
            status, body = fault.status, b'{"errors":[{"code":"UNKNOWN"}]}'
            headers = [("Content-Type", "application/json")]
        if fault.location is not None:
            status, body, headers = fault.status or 307, b"", [("Location", fault.location)]
        body = fault.body if fault.body is not None else body
        if fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 0xFF]) + body[fault.flip + 1 :]
        length = len(body) if fault.length is None else fault.length
        framing = (
            [("Transfer-Encoding", "chunked")]
            if length == "chunked"
            else []
            if length == "none" or status == 204
            else [("Content-Length", str(length))]
        )
        lines = [
            f"HTTP/1.1 {status} X",
            *(f"{k}: {v}" for k, v in [*framing, *headers, *fault.headers]),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        if method == "HEAD" or status == 204:
            await writer.drain()
            return length != "none"
        body += fault.extra
        end = min(
            len(body) if stop is None else stop for stop in (fault.cut_at, fault.stall_at, None)
        )
        for start in range(0, end, 65536):
            chunk = body[start : min(start + 65536, end)]
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if length == "chunked" else chunk)
            await writer.drain()
            self.sent += len(chunk)
        if fault.stall_at is not None:
            await asyncio.sleep(3600)
        if fault.cut_at is not None or length == "none":
            return False
        if length == "chunked":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        if fault.answer_early:
            # As Go's server does: the answer is to be read before the reset can overtake it.
            await asyncio.sleep(0.5)
        return not fault.answer_early


@asynccontextmanager
async def running(port: int = 0) -> AsyncIterator[FaultyUpstream]:
    """An upstream on a loopback port, 0 for a free one; its connections end with the context."""
    upstream = FaultyUpstream()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(upstream.serve_connection(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
