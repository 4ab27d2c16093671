"""Row L3: settings read anew while the proxy runs; no request that has begun is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from proxy.running import Reloads, RunningProxy, serving
from proxy.server.connection import ListenerLimits
from proxy.server.listener import Listener, listen
from proxy.settings import Settings, load
from tests import faulty_upstream
from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.test_operations import Running, command

PATIENCE_SECONDS = 10
MIB = 1024 * 1024


class Application:
    """An application that says its name, and waits where it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.closed = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[web.Application]:
        app = web.Application()
        app.router.add_get("/", self._answer)
        app.router.add_get("/late", self._answer_late)
        app.router.add_get("/halves", self._answer_in_halves)
        app.router.add_put("/", self._take)
        try:
            yield app
        finally:
            self.closed.set()

    async def _answer(self, _: web.Request) -> web.Response:
        return web.Response(text=self.name)

    async def _answer_late(self, request: web.Request) -> web.Response:
        self.reached.set()
        await self.go.wait()
        assert not self.closed.is_set()
        return await self._answer(request)

    async def _answer_in_halves(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "8"})
        await response.prepare(request)
        await response.write(b"half")
        self.reached.set()
        await self.go.wait()
        await response.write(b"half")
        return response

    async def _take(self, request: web.Request) -> web.Response:
        taken = 0
        async for chunk in request.content.iter_any():
            taken += len(chunk)
            self.reached.set()
        return web.Response(text=str(taken))


class Wire:
    """A client's connection that hides nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, line: str, headers: str = "") -> None:
        self.writer.write(f"{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())

    async def answer(self) -> tuple[str, str]:
        """The head and the body of one answer."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"(?i)content-length: (\d+)", head)
            assert length is not None, head
            return head, (await self.reader.readexactly(int(length[1]))).decode("latin1")

    async def ask(self, target: str) -> str:
        """The body of the answer to a GET."""
        self.send(f"GET {target}")
        return (await self.answer())[1]

    async def is_closed(self) -> bool:
        """Wait until the proxy ends the connection; False if it sends something before."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.reader.read(1) == b""


@asynccontextmanager
async def connected(to: Listener | RunningProxy) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(to.host, to.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def listening(
    application: Application, *, drain_seconds: float = 5, header_seconds: float = 10
) -> AsyncIterator[Listener]:
    limits = ListenerLimits(drain_seconds=drain_seconds, header_seconds=header_seconds)
    async with listen(application.open(), host="127.0.0.1", port=0, limits=limits) as listener:
        yield listener


async def replaced(listener: Listener, name: str = "new") -> Application:
    """Put another application behind the listener."""
    application = Application(name)
    await listener.replace(application.open(), limits=ListenerLimits(drain_seconds=0.3))
    return application


async def happened(event: asyncio.Event) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await event.wait()


async def refused(listener: Listener) -> None:
    """Wait until the listener takes no connection any more."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            async with connected(listener):
                await asyncio.sleep(0)


async def test_L3_new_connections_meet_the_new_application_and_idle_ones_end() -> None:
    old = Application("old")
    async with listening(old) as listener, connected(listener) as idle:
        assert await idle.ask("/") == "old"
        await replaced(listener)
        assert await idle.is_closed()
        await happened(old.closed)
        async with connected(listener) as wire:
            assert await wire.ask("/") == "new"
            assert await wire.ask("/") == "new"  # and it is kept


async def test_L3_running_request_is_answered_by_its_own_application() -> None:
    old = Application("old")
    async with listening(old) as listener, connected(listener) as wire:
        wire.send("GET /late")
        await happened(old.reached)
        await replaced(listener)
        async with connected(listener) as other:
            assert await other.ask("/") == "new"
        assert not old.closed.is_set()
        old.go.set()
        head, body = await wire.answer()
        assert body == "old"
        assert "connection: close" in head.lower()
        assert await wire.is_closed()
        await happened(old.closed)


async def test_L3_answer_that_has_begun_comes_whole_and_is_the_last() -> None:
    old = Application("old")
    async with listening(old) as listener, connected(listener) as wire:
        wire.send("GET /halves")
        await happened(old.reached)
        await replaced(listener)
        old.go.set()
        head, body = await wire.answer()
        assert body == "halfhalf"
        assert "connection" not in head.lower()  # it was not known yet
        assert await wire.is_closed()
        await happened(old.closed)


async def test_L3_body_on_its_way_in_arrives_whole() -> None:
    old = Application("old")
    async with listening(old) as listener, connected(listener) as wire:
        wire.send("PUT /", headers="Content-Length: 8\r\n")
        wire.writer.write(b"half")
        await happened(old.reached)
        await replaced(listener)
        wire.writer.write(b"half")
        head, body = await wire.answer()
        assert body == "8"
        assert "connection: close" in head.lower()


async def test_body_on_its_way_in_arrives_whole_while_the_proxy_drains() -> None:
    application = Application("only")
    async with contextlib.AsyncExitStack() as clients:
        async with listening(application) as listener:
            wire = await clients.enter_async_context(connected(listener))
            wire.send("PUT /", headers="Content-Length: 8\r\n")
            wire.writer.write(b"half")
            await happened(application.reached)

            async def finish() -> tuple[str, str]:
                await refused(listener)
                wire.writer.write(b"half")
                return await wire.answer()

            finishing = asyncio.get_running_loop().create_task(finish())
        head, body = await finishing
        assert body == "8"
        assert "connection: close" in head.lower()
        assert await wire.is_closed()


async def test_L3_connection_whose_first_request_is_on_its_way_gets_one_answer() -> None:
    old = Application("old")
    async with listening(old) as listener, connected(listener) as wire, connected(listener) as idle:
        assert await idle.ask("/") == "old"  # the other one has been accepted before this
        await replaced(listener)
        assert await idle.is_closed()
        assert await wire.ask("/") == "old"
        assert await wire.is_closed()
        await happened(old.closed)


async def test_L3_connection_that_stays_silent_does_not_hold_the_old_application() -> None:
    old = Application("old")
    async with listening(old, header_seconds=0.2) as listener, connected(listener) as wire:
        async with connected(listener) as other:
            assert await other.ask("/") == "old"
        await replaced(listener)
        assert await wire.is_closed()
        await happened(old.closed)


async def test_L3_application_that_does_not_open_changes_nothing() -> None:
    old = Application("old")

    @asynccontextmanager
    async def broken() -> AsyncIterator[web.Application]:
        raise OSError("no such file")
        yield web.Application()  # what makes it a generator

    async with listening(old) as listener, connected(listener) as wire:
        assert await wire.ask("/") == "old"
        with pytest.raises(OSError, match="no such file"):
            await listener.replace(broken(), limits=ListenerLimits())
        assert await wire.ask("/") == "old"
        assert not old.closed.is_set()


async def test_L3_drain_is_for_all_applications_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    applications = [Application("first")]
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as clients:
        async with listening(applications[0]) as listener:
            for number in range(3):
                wire = await clients.enter_async_context(connected(listener))
                wire.send("GET /late")
                await happened(applications[-1].reached)
                if number < 2:
                    applications.append(await replaced(listener, f"number {number}"))
            started = loop.time()
        assert 0.3 <= loop.time() - started < 1.5  # the newest one's drain_seconds, once
    assert all(application.closed.is_set() for application in applications)
    said = [record.getMessage() for record in caplog.records]
    assert "draining requests=3 seconds=0.3" in said
    assert "drained requests_cut=3" in said


async def test_L3_request_of_a_replaced_application_is_answered_within_the_drain() -> None:
    old, new = Application("old"), Application("new")
    async with contextlib.AsyncExitStack() as clients:
        async with listening(old) as listener:
            wire = await clients.enter_async_context(connected(listener))
            wire.send("GET /late")
            await happened(old.reached)
            limits = ListenerLimits(drain_seconds=PATIENCE_SECONDS)
            await listener.replace(new.open(), limits=limits)

            async def finish() -> None:
                await refused(listener)
                old.go.set()

            finishing = asyncio.get_running_loop().create_task(finish())
        await finishing
        assert (await wire.answer())[1] == "old"
    assert old.closed.is_set()
    assert new.closed.is_set()


# --- the proxy ---


@pytest.fixture
async def other_upstream() -> AsyncIterator[FaultyUpstream]:
    async with faulty_upstream.running() as found:
        yield found


def settings_for(upstream: FaultyUpstream, **flags: object) -> Settings:
    given = {key.replace("__", "."): value for key, value in flags.items()}
    before = {"upstreams.0.url": upstream.url, "listen.port": 0}
    return load(file=None, environment={}, flags={**before, **given})


async def counted(proxy: RunningProxy) -> str:
    async with connected(proxy) as wire:
        return await wire.ask("/metrics")


async def test_L3_reload_serves_by_the_new_settings_and_keeps_counting(
    upstream: FaultyUpstream, other_upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(settings_for(upstream)) as proxy, connected(proxy) as idle:
        await idle.ask("/v2/")
        assert 'cnai_proxy_reloads_total{result="done"} 0.0' in await counted(proxy)
        settings = settings_for(other_upstream, models__enabled=False)
        assert await proxy.reload(lambda: settings) is settings
        assert await idle.is_closed()
        async with connected(proxy) as wire:
            await wire.ask("/v2/")
            wire.send("GET /cnai/a:v1")
            assert (await wire.answer())[0].startswith("HTTP/1.1 404 ")
        text = await counted(proxy)
    assert [len(each.requests("GET /v2/")) for each in (upstream, other_upstream)] == [1, 1]
    assert 'cnai_proxy_reloads_total{result="done"} 1.0' in text
    assert 'cnai_proxy_reloads_total{result="failed"} 0.0' in text
    assert re.search(r'cnai_proxy_requests_total\{.*route="/v2/".*\} 2\.0', text), text
    assert "settings reloaded" in [record.getMessage() for record in caplog.records]


async def test_L3_faults_are_logged_counted_and_change_nothing(
    upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Settings:
        return settings_for(upstream, listen__prot=1, log__level="loud")

    async with serving(settings_for(upstream)) as proxy, connected(proxy) as idle:
        await idle.ask("/v2/")
        assert await proxy.reload(read) is None
        await idle.ask("/v2/")
        text = await counted(proxy)
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    unknown, loud, consequence = errors
    assert unknown == "reload: command line: listen.prot: unknown key; did you mean 'port'?"
    assert loud.startswith("reload: command line: log.level: expected 'debug', ")
    assert consequence == "settings not reloaded: the ones before stay in effect"
    assert 'cnai_proxy_reloads_total{result="done"} 0.0' in text
    assert 'cnai_proxy_reloads_total{result="failed"} 1.0' in text


@pytest.mark.parametrize(
    "failure", [OSError(2, "No such file or directory", "/run/ca.pem"), ValueError("a bug")]
)
async def test_L3_whatever_fails_the_proxy_goes_on(
    upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    def read() -> Settings:
        raise failure

    async with serving(settings_for(upstream)) as proxy:
        assert await proxy.reload(read) is None
        assert 'cnai_proxy_reloads_total{result="failed"} 1.0' in await counted(proxy)
    assert [record.getMessage() for record in caplog.records if record.name == "proxy.running"][
        -1
    ] == ("settings not reloaded: the ones before stay in effect")
    if isinstance(failure, OSError):
        assert "reload: /run/ca.pem: No such file or directory" in caplog.text


async def test_L3_reloads_asked_for_twice_before_they_begin_are_done_once(
    upstream: FaultyUpstream,
) -> None:
    read, done = 0, asyncio.Queue[Settings]()
    found = [settings_for(upstream, log__level="debug"), settings_for(upstream)]

    def read_next() -> Settings:
        nonlocal read
        read += 1
        return found.pop()

    reloads = Reloads(read_next, when_done=done.put_nowait)
    reloads.ask()
    reloads.ask()
    async with serving(settings_for(upstream)) as proxy:
        following = asyncio.get_running_loop().create_task(reloads.follow(proxy))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await done.get()).log.level == "info"
            assert read == 1
            reloads.ask()
            assert (await done.get()).log.level == "debug"
        following.cancel()
    assert read == 2


async def test_L3_reloads_that_fail_are_not_told_and_others_follow(
    upstream: FaultyUpstream,
) -> None:
    loop = asyncio.get_running_loop()
    begun, done = asyncio.Event(), asyncio.Queue[Settings]()
    found = [settings_for(upstream), Settings()]  # the last one comes first: it has no upstream

    def read() -> Settings:  # in a thread
        loop.call_soon_threadsafe(begun.set)
        return found.pop()

    reloads = Reloads(read, when_done=done.put_nowait)
    async with serving(settings_for(upstream)) as proxy:
        following = loop.create_task(reloads.follow(proxy))
        reloads.ask()
        await happened(begun)
        reloads.ask()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await done.get()).upstreams[0].url == upstream.url
        following.cancel()
        text = await counted(proxy)
    assert done.empty()
    assert 'cnai_proxy_reloads_total{result="failed"} 1.0' in text


@pytest.mark.parametrize("length", [None, "chunked"], ids=["spliced", "chunk by chunk"])
async def test_L3_long_pull_survives_reloads(upstream: FaultyUpstream, length: None) -> None:
    content = bytes(range(256)) * (32 * MIB // 256)
    digest = upstream.blob(content)
    upstream.faults.append(Fault(length=length))
    async with serving(settings_for(upstream)) as proxy, connected(proxy) as pull:
        pull.writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await pull.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        settings = settings_for(upstream)
        for _ in range(3):
            assert await proxy.reload(lambda: settings) is settings
        async with asyncio.timeout(PATIENCE_SECONDS):
            body = await pull.reader.read()
        assert upstream.sent == len(content)
        if length is None:
            assert body == content
        else:
            assert body.endswith(b"\r\n0\r\n\r\n")


async def test_L3_pull_through_replaced_settings_lets_go_of_its_upstream(
    upstream: FaultyUpstream, other_upstream: FaultyUpstream
) -> None:
    async with serving(settings_for(upstream)) as proxy, connected(proxy) as idle:
        await idle.ask("/v2/")
        assert upstream.open == 1  # a kept connection
        settings = settings_for(other_upstream)
        await proxy.reload(lambda: settings)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while upstream.open:  # noqa: ASYNC110  # the other side has no event
                await asyncio.sleep(0.01)


async def test_L3_two_reloads_at_once_are_done_one_after_the_other(
    upstream: FaultyUpstream, other_upstream: FaultyUpstream
) -> None:
    inside = 0

    def read(which: FaultyUpstream) -> Settings:
        nonlocal inside
        inside += 1
        assert inside == 1
        settings = settings_for(which)
        inside -= 1
        return settings

    async with serving(settings_for(upstream)) as proxy:
        done = await asyncio.gather(
            proxy.reload(lambda: read(upstream)), proxy.reload(lambda: read(other_upstream))
        )
        assert None not in done
        async with connected(proxy) as wire:
            await wire.ask("/v2/")
        assert 'cnai_proxy_reloads_total{result="done"} 2.0' in await counted(proxy)
    assert len(other_upstream.requests("GET /v2/")) == 1


async def test_L3_what_waits_for_the_next_start_is_named_and_the_rest_applied(
    upstream: FaultyUpstream, other_upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings_for(upstream)) as proxy:
        settings = settings_for(other_upstream, listen__port=1, listen__host="127.0.0.9")
        assert await proxy.reload(lambda: settings) is settings
        async with connected(proxy) as wire:
            await wire.ask("/v2/")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"listen.{key}: the change waits for the next start; the others are in effect"
        for key in ("host", "port")
    ]
    assert len(other_upstream.requests("GET /v2/")) == 1


async def test_L3_stopping_within_a_reload_drains_and_ends(upstream: FaultyUpstream) -> None:
    loop = asyncio.get_running_loop()
    async with serving(settings_for(upstream)) as proxy:
        reading = asyncio.Event()

        def read() -> Settings:
            loop.call_soon_threadsafe(reading.set)
            return settings_for(upstream)

        reload = loop.create_task(proxy.reload(read))
        await happened(reading)
        reload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reload
        async with connected(proxy) as wire:
            await wire.ask("/v2/")


# --- the process ---


async def logged(running: Running, text: str, times: int = 1) -> None:
    """Wait for a line on standard error."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while sum(text in line for line in running.errors) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_L3_sighup_reads_the_file_anew(
    tmp_path: Path, upstream: FaultyUpstream, other_upstream: FaultyUpstream
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"upstreams: [{{url: '{upstream.url}'}}]\n")
    async with command("serve", "--config", str(file), "--port", "0") as running:
        assert (await running.client.get("/v2/")).status == 200

        file.write_text("upstreams: [{ulr: x}]\n")
        running.process.send_signal(signal.SIGHUP)
        await logged(running, "settings not reloaded")
        assert any(
            f"ERROR proxy.running reload: {file}: upstreams.0.ulr: unknown key" in line
            for line in running.errors
        )
        assert (await running.client.get("/v2/")).status == 200

        file.write_text("log: {level: info}\n")
        running.process.send_signal(signal.SIGHUP)
        await logged(running, "settings not reloaded", 2)
        assert any(
            "ERROR proxy.running reload: upstreams: none is set" in e for e in running.errors
        )

        file.write_text(
            f"upstreams: [{{url: '{other_upstream.url}', name: other}}]\nlog: {{format: json}}\n"
        )
        running.process.send_signal(signal.SIGHUP)
        running.process.send_signal(signal.SIGHUP)
        await logged(running, "upstream name=other")
        assert (await running.client.get("/v2/")).status == 200
        assert running.errors[-1].startswith('{"time": ')
        metrics = (await running.client.get("/metrics")).body.decode()
        assert 'cnai_proxy_reloads_total{result="failed"} 2.0' in metrics
        assert await running.stop() == 0
    assert [len(each.requests("GET /v2/")) for each in (upstream, other_upstream)] == [2, 1]


async def test_L3_sighup_of_the_embedded_registry_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("")
    arguments = ("--config", str(file), "--embedded", str(tmp_path / "models"), "--port", "0")
    async with command("serve", *arguments) as running:
        pushed = await running.client.send(
            "PUT",
            "/v2/a/manifests/v1",
            headers=[("Content-Type", "application/vnd.oci.image.index.v1+json")],
            body=b'{"schemaVersion":2,"manifests":[]}',
        )
        assert pushed.status == 201
        file.write_text("metrics: {enabled: false}\n")
        running.process.send_signal(signal.SIGHUP)
        await logged(running, "settings reloaded")
        assert (await running.client.get("/v2/a/tags/list")).json == {"name": "a", "tags": ["v1"]}
        assert (await running.client.get("/metrics")).status == 404
        assert await running.stop() == 0


async def test_L3_sighup_of_the_demo_keeps_its_models() -> None:
    async with command("demo", "--port", "0") as running:
        running.process.send_signal(signal.SIGHUP)
        await logged(running, "settings reloaded")
        assert (await running.client.get("/v2/_catalog")).json["repositories"]
        assert await running.stop() == 0


async def test_L3_sigterm_behind_a_sighup_lets_transfers_end(upstream: FaultyUpstream) -> None:
    content = bytes(8 * MIB)
    digest = upstream.blob(content)
    async with command("serve", "--upstream", upstream.url, "--port", "0") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.client.port)
        writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        running.process.send_signal(signal.SIGHUP)
        await logged(running, "settings reloaded")
        running.process.send_signal(signal.SIGHUP)
        stopping = asyncio.get_running_loop().create_task(running.stop())
        await logged(running, "draining requests=1")
        assert len(await reader.readexactly(len(content))) == len(content)
        writer.close()
        assert await stopping == 0
    assert any("drained requests_cut=0" in line for line in running.errors)
