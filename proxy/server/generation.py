"""One application, and the connections that came in while it was the newest.

A reload puts a new generation behind the same listening socket. The one before answers the
requests it has begun, however long they take; its resources are let go with its last connection.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from aiohttp import web

from proxy.server.connection import Connection, ListenerLimits, announce_end

# What a handler gets to clean up once its connection is cut.
CUT_SECONDS = 2.0


class Generation:
    """An open application with its connections; whoever opens it closes it."""

    def __init__(self, server: web.Server, limits: ListenerLimits, resources: AsyncExitStack):
        self.limits = limits
        self.connections: set[Connection] = set()
        self._server = server
        self._resources = resources
        self._is_retired = False
        self._unused = asyncio.Event()

    @classmethod
    async def open(
        cls, app: AbstractAsyncContextManager[web.Application], limits: ListenerLimits
    ) -> Generation:
        """Enter ``app`` and get it ready for connections; what entering raises is raised."""
        async with AsyncExitStack() as stack:
            application = await stack.enter_async_context(app)
            application.on_response_prepare.append(announce_end)
            # A client that leaves frees its upstream connection at once, in tests too. Work that
            # must outlive its client is a task of its own.
            runner = web.AppRunner(
                application,
                handler_cancellation=True,
                shutdown_timeout=CUT_SECONDS,
                access_log=None,
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            if runner.server is None:
                raise RuntimeError("the runner has no server after its set-up")
            return cls(runner.server, limits, stack.pop_all())

    def admit(self, transport: asyncio.Transport) -> None:
        """Take over a connection that has just come in."""
        connection = Connection(self._server, self.limits, when_gone=self._forget)
        self.connections.add(connection)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def retire(self) -> None:
        """Let each connection end with the request it is answering; idle ones end now."""
        self._is_retired = True
        for connection in tuple(self.connections):
            connection.finish()
        self._look_whether_unused()

    async def unused(self) -> None:
        """Wait until it is retired and its last connection has gone, or it is given up."""
        await self._unused.wait()

    def give_up(self) -> None:
        """Wait for no connection any more."""
        self._unused.set()

    async def aclose(self) -> None:
        """Let go of the application, cutting what is still connected."""
        try:
            await self._resources.aclose()
        finally:
            for connection in tuple(self.connections):
                connection.drop()

    def _forget(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self._look_whether_unused()

    def _look_whether_unused(self) -> None:
        if self._is_retired and not self.connections:
            self._unused.set()
