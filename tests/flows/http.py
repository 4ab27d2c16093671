"""HTTP for tests: a client that sends targets as they are written, and raw sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

# No answer of a test takes longer; what hangs fails here and not in the run's own limit.
PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an OCI error body."""
        (error,) = self.json["errors"]
        assert set(error) == {"code", "message", "detail"}
        return str(error["code"])

    @property
    def message(self) -> str:
        """The message of an OCI error body."""
        return str(self.json["errors"][0]["message"])


@dataclass(frozen=True)
class Client:
    """Talks to one proxy."""

    session: aiohttp.ClientSession
    host: str
    port: int

    @property
    def url(self) -> str:
        """The proxy's address."""
        return f"http://{self.host}:{self.port}"

    async def send(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: Any = None,
    ) -> Answer:
        """One request; ``target`` goes out byte for byte, redirects come back as they are."""
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            self.session.request(
                method,
                URL(self.url + target, encoded=True),
                headers=CIMultiDict(headers),
                data=body,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            ) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    async def get(self, target: str, **headers: str) -> Answer:
        """A GET; keyword ``If_None_Match`` is the header ``If-None-Match``."""
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await self.send("GET", target, headers=pairs)

    async def head(self, target: str, **headers: str) -> Answer:
        """A HEAD, as ``get``."""
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await self.send("HEAD", target, headers=pairs)

    async def raw(self, sent: bytes) -> bytes:
        """Send bytes on a connection of their own and read until the proxy closes it."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(sent)
            await writer.drain()
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await reader.read()
        finally:
            writer.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """An upstream that does ``serve`` with every connection, and its address.

    A connection that breaks ends its ``serve`` quietly; all of them end with the context.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, host, port)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
