"""The proxy never hammers: rate limits are kept (row R11), the dead are left alone (row L6)."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from proxy.errors import BadUpstream, UpstreamTimeout, UpstreamUnreachable
from proxy.metrics import Metrics
from proxy.upstream.bodies import RequestBody, Timeouts
from proxy.upstream.circuit import FAILURES_LIMIT, OPEN_SECONDS, Circuit
from proxy.upstream.client import Upstream
from proxy.upstream.egress import Egress
from proxy.upstream.redirects import RedirectGuard
from proxy.upstream.sessions import TlsPolicy, open_sessions
from tests.certificates import authority
from tests.faulty_upstream import Fault, FaultyUpstream, running
from tests.flows.conftest import StartProxy
from tests.flows.http import Client, listening
from tests.flows.https import server_context, serving_https

TARGET = "/v2/a/manifests/v1"
OPEN = 'cnai_proxy_upstream_circuit_open{upstream="default"}'


# Rate limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(429, "TOOMANYREQUESTS"), (503, "UNAVAILABLE")])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_R11_limited_request_is_asked_once_and_then_answered_here(
    proxy: Client, upstream: FaultyUpstream, method: str, status: int, code: str
) -> None:
    upstream.faults = [Fault(match=TARGET, status=status, headers=[("Retry-After", "30")])]
    first = await proxy.send(method, TARGET)
    assert (first.status, first.headers["Retry-After"]) == (status, "30")
    assert first.body == (b'{"errors":[{"code":"UNKNOWN"}]}' if method == "GET" else b"")
    for _ in range(30):
        answer = await proxy.send(method, TARGET)
        assert answer.status == status
        assert answer.headers["Retry-After"] in ("30", "29", "28")
        if method == "GET":
            assert answer.code == code
    assert len(upstream.requests("manifests")) == 1
    text = (await proxy.get("/metrics")).body.decode()
    assert 'cnai_proxy_upstream_spared_requests_total{upstream="default"} 30.0' in text


async def test_R11_clients_that_hammer_cost_one_request_a_second(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults = [Fault(match=TARGET, status=429)]
    loop = asyncio.get_running_loop()
    await proxy.get(TARGET)
    started = loop.time()

    async def hammer() -> None:
        while loop.time() < started + 2.5:
            assert (await proxy.get(TARGET)).headers["Retry-After"] == "1"

    # The first 429 had no Retry-After; a later one goes to its client as it came, without.
    upstream.faults = [Fault(match=TARGET, status=429, headers=[("Retry-After", "1")])]
    await asyncio.gather(*(hammer() for _ in range(4)))
    times = [seen.at for seen in upstream.requests("manifests")]
    assert 2 <= len(times) <= 4
    assert all(later - earlier > 0.95 for earlier, later in itertools.pairwise(times))


async def test_R11_others_are_not_held_back(proxy: Client, upstream: FaultyUpstream) -> None:
    upstream.faults = [Fault(match=TARGET, status=429, headers=[("Retry-After", "30")])]
    for _ in range(2):
        await proxy.get(TARGET, Authorization="Basic YW5uYTpz")
    upstream.faults = []
    upstream.manifest("a", "v1", b"{}", "application/json")
    assert (await proxy.get(TARGET, Authorization="Basic YW5uYTpz")).status == 429
    for answer in (
        await proxy.get(TARGET, Authorization="Basic YmVydDpz"),
        await proxy.get(TARGET),
        await proxy.head(TARGET, Authorization="Basic YW5uYTpz"),
        await proxy.get("/v2/", Authorization="Basic YW5uYTpz"),
    ):
        assert answer.status == 200


async def test_R11_model_pages_keep_the_limit_too(proxy: Client, upstream: FaultyUpstream) -> None:
    upstream.faults = [Fault(match=TARGET, status=429, headers=[("Retry-After", "30")])]
    for view in ("", "/files", "/readme", "/files/x", ""):
        answer = await proxy.get(f"/cnai/a:v1{view}")
        assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
        assert answer.headers["Retry-After"] in ("30", "29", "28")
    assert len(upstream.requests("manifests")) == 1


async def test_R11_writes_are_the_upstreams_to_refuse(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults = [Fault(match="uploads", status=429, headers=[("Retry-After", "30")])]
    for _ in range(3):
        answer = await proxy.send("POST", "/v2/a/blobs/uploads/")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "30")
    assert len(upstream.requests("uploads")) == 3


async def test_R11_unavailable_without_a_word_on_when_is_asked_each_time(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults = [Fault(match=TARGET, status=503)]
    for _ in range(3):
        assert (await proxy.get(TARGET)).status == 503
    assert len(upstream.requests("manifests")) == 3


# Connections that fail ---------------------------------------------------------------------------


class Counting(Circuit):
    """A circuit by a clock of the test's, that counts what it is told."""

    def __init__(self) -> None:
        self.now = 100.0
        super().__init__(lambda: self.now)
        self.failures: list[str] = []

    def failed(self, reason: str) -> bool:
        self.failures.append(reason)
        return super().failed(reason)


@asynccontextmanager
async def opened(
    url: str,
    circuit: Circuit,
    *,
    redirect_hosts: tuple[str, ...] = (),
    tls: TlsPolicy | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[Upstream]:
    """An upstream with a circuit of the test's own."""
    async with open_sessions(tls=tls or TlsPolicy(), egress=Egress("none", {})) as sessions:
        yield Upstream(
            name="default",
            base_url=url,
            follow_redirects=True,
            timeouts=timeouts or Timeouts(),
            guard=RedirectGuard(url, allowed_hosts=redirect_hosts),
            connections=64,
            sessions=sessions,
            circuit=circuit,
            metrics=Metrics(),
        )


async def ask(upstream: Upstream, method: str = "GET", target: str = "/v2/") -> int:
    async with upstream.open(method, target, headers={}, follow=True) as answer:
        return answer.status


@pytest.fixture
def circuit() -> Counting:
    return Counting()


@pytest.fixture
def dead_url() -> str:
    """An address nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"http://127.0.0.1:{found.getsockname()[1]}"


@pytest.mark.parametrize(("method", "attempts"), [("GET", 3), ("HEAD", 3), ("DELETE", 1)])
async def test_R11_reads_try_to_connect_three_times_and_writes_once(
    circuit: Counting, dead_url: str, method: str, attempts: int
) -> None:
    started = asyncio.get_running_loop().time()
    async with opened(dead_url, circuit) as upstream:
        with pytest.raises(UpstreamUnreachable, match="Connection refused"):
            await ask(upstream, method)
    assert len(circuit.failures) == attempts
    assert asyncio.get_running_loop().time() - started < 0.2 + 0.8 + 0.5


async def test_R11_write_with_a_body_tries_to_connect_once(
    circuit: Counting, dead_url: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    async with opened(dead_url, circuit) as upstream:
        with pytest.raises(UpstreamUnreachable):
            async with upstream.open(
                "PUT", "/v2/", headers={}, body=RequestBody(chunks()), follow=False
            ):
                pytest.fail("was answered")
    assert len(circuit.failures) == 1


@asynccontextmanager
async def cutting(url: str, *, times: int) -> AsyncIterator[str]:
    """The TLS server at ``url`` behind a balancer that hangs up on the first connections."""
    parts = URL(url)
    left = times

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(65536):
            writer.write(block)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        if left:
            left -= 1
            return
        back_reader, back_writer = await asyncio.open_connection(parts.host, parts.port)
        try:
            await asyncio.gather(copy(reader, back_writer), copy(back_reader, writer))
        finally:
            back_writer.close()

    async with listening(serve) as front:
        yield front.replace("http:", "https:")


async def answer_well(_: web.Request) -> web.Response:
    return web.Response()


async def test_R11_read_outlives_connections_cut_before_they_stand(
    circuit: Counting, tmp_path: Path
) -> None:
    made = authority(tmp_path)
    tls = TlsPolicy(ca_file=str(made.ca_file))
    async with (
        serving_https(answer_well, server_context(made.issue("registry"))) as url,
        cutting(url, times=2) as front,
        opened(front, circuit, tls=tls) as upstream,
    ):
        assert await ask(upstream) == 200
    assert len(circuit.failures) == 2
    assert not circuit.is_open


async def test_R11_bad_certificate_is_not_tried_again(circuit: Counting, tmp_path: Path) -> None:
    made = authority(tmp_path)
    context = server_context(made.issue("registry"))
    async with serving_https(answer_well, context) as url, opened(url, circuit) as upstream:
        with pytest.raises(BadUpstream, match="authority"):
            await ask(upstream)
    assert len(circuit.failures) == 1


# An upstream that is gone ------------------------------------------------------------------------


async def fail(upstream: Upstream, circuit: Circuit) -> None:
    for _ in range(FAILURES_LIMIT):
        if not circuit.is_open:
            with pytest.raises(UpstreamUnreachable, match="no connection to the upstream"):
                await ask(upstream)
    assert circuit.is_open


async def test_L6_dead_upstream_is_left_alone_and_the_proxy_says_degraded(
    start_proxy: StartProxy, dead_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = await start_proxy(url=dead_url)
    assert (await proxy.get("/readyz")).body == b"ready\n"
    answers = [await proxy.get("/v2/") for _ in range(FAILURES_LIMIT)]
    assert {(answer.status, answer.code) for answer in answers} == {(503, "UNAVAILABLE")}
    assert "Retry-After" not in answers[0].headers
    assert "no connection to the upstream: Connection refused" in answers[0].message
    loop = asyncio.get_running_loop()
    started = loop.time()
    for target in ("/v2/", "/v2/a/tags/list", "/cnai/a:v1"):
        answer = await proxy.get(target)
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert 1 <= int(answer.headers["Retry-After"]) <= OPEN_SECONDS
        assert "Connection refused" in answer.message
    write = await proxy.send("POST", "/v2/a/blobs/uploads/")
    assert write.status == 503
    assert loop.time() - started < 0.5
    ready = await proxy.get("/readyz")
    assert (ready.status, ready.body) == (200, b"degraded\n")
    assert (await proxy.get("/livez")).body == b"ok\n"
    assert f"{OPEN} 1.0" in (await proxy.get("/metrics")).body.decode()
    assert [r.message for r in caplog.records if "left alone" in r.message] == [
        (
            "upstream left alone for a while upstream=default "
            "reason='no connection to the upstream: Connection refused'"
        )
    ]


async def test_L6_upstream_that_comes_back_is_found_by_one_request(
    circuit: Counting, dead_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="proxy.upstream.client")
    async with opened(dead_url, circuit) as upstream:
        await fail(upstream, circuit)
        tried = len(circuit.failures)
        circuit.now += OPEN_SECONDS
        with pytest.raises(UpstreamUnreachable, match="no connection to the upstream"):
            await ask(upstream)
        with pytest.raises(UpstreamUnreachable, match="left alone"):
            await ask(upstream)
        assert len(circuit.failures) == tried + 1
        circuit.now += OPEN_SECONDS
        async with running(URL(dead_url).port or 0) as back:
            assert await ask(upstream) == 200
            assert len(back.log) == 1
    assert [r.message for r in caplog.records if r.name == "proxy.upstream.client"] == [
        (
            "upstream left alone for a while upstream=default "
            "reason='no connection to the upstream: Connection refused'"
        ),
        "upstream reached again upstream=default",
    ]


async def test_answers_never_open_the_circuit(circuit: Counting, upstream: FaultyUpstream) -> None:
    async with opened(upstream.url, circuit, timeouts=Timeouts(response_seconds=0.2)) as found:
        for status in (400, 404, 500, 502, 503, 504):
            upstream.faults = [Fault(match="/v2/", status=status)]
            for _ in range(FAILURES_LIMIT):
                assert await ask(found) == status
        upstream.faults = [Fault(match="/v2/", delay=30)]
        with pytest.raises(UpstreamTimeout):
            await ask(found)  # the first of them over a kept connection
        with pytest.raises(UpstreamTimeout):
            await ask(found)
        upstream.faults = [Fault(match="/v2/", hang_up=True)]
        with pytest.raises(BadUpstream):
            await ask(found)
    assert circuit.failures == []


async def test_L6_slow_answer_after_an_outage_holds_others_up_for_five_seconds_at_most(
    circuit: Counting, upstream: FaultyUpstream
) -> None:
    upstream.faults = [Fault(match="/v2/slow", delay=30)]
    async with opened(upstream.url, circuit) as found, asyncio.timeout(10):
        for _ in range(FAILURES_LIMIT):
            circuit.failed("refused")
        with pytest.raises(UpstreamUnreachable):
            await ask(found)
        assert upstream.log == []
        circuit.now += OPEN_SECONDS
        slow = asyncio.gather(ask(found, target="/v2/slow"))
        while not upstream.log:  # noqa: ASYNC110  # nothing to wait for
            await asyncio.sleep(0.01)
        with pytest.raises(UpstreamUnreachable):
            await ask(found)
        circuit.now += OPEN_SECONDS
        assert await ask(found) == 200
        assert not circuit.is_open
        slow.cancel()


async def test_L6_attempt_whose_client_leaves_is_followed_by_another(circuit: Counting) -> None:
    reached = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()  # says nothing: the handshake goes on for ever

    async with (
        listening(serve) as url,
        opened(url.replace("http:", "https:"), circuit) as found,
        asyncio.timeout(10),
    ):
        for _ in range(FAILURES_LIMIT):
            circuit.failed("refused")
        for _ in range(2):
            circuit.now += OPEN_SECONDS
            reached.clear()
            first = asyncio.gather(ask(found))
            await reached.wait()
            with pytest.raises(UpstreamUnreachable):
                await ask(found)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
    assert circuit.is_open


async def test_L6_try_of_a_client_that_leaves_is_brought_to_its_end(
    circuit: Counting, upstream: FaultyUpstream
) -> None:
    """Else whoever leaves most often keeps the upstream from all others."""
    upstream.faults = [Fault(match="/v2/slow", delay=30)]
    async with opened(upstream.url, circuit) as found, asyncio.timeout(10):
        for _ in range(FAILURES_LIMIT):
            circuit.failed("refused")
        circuit.now += OPEN_SECONDS
        first = asyncio.gather(ask(found, target="/v2/slow"))
        while not upstream.log:  # noqa: ASYNC110  # nothing to wait for
            await asyncio.sleep(0.01)
        first.cancel()
        while circuit.is_open:  # noqa: ASYNC110  # nothing to wait for
            await asyncio.sleep(0.01)
        assert await ask(found) == 200
    assert [seen.target for seen in upstream.log] == ["/v2/slow", "/v2/", "/v2/"]


async def test_connect_timeout_counts_once_and_is_not_tried_again(circuit: Counting) -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    timeouts = Timeouts(connect_seconds=0.2)
    async with (
        listening(serve) as url,
        opened(url.replace("http:", "https:"), circuit, timeouts=timeouts) as found,
    ):
        with pytest.raises(UpstreamUnreachable, match="within the connect timeout"):
            await ask(found)
    assert len(circuit.failures) == 1


async def test_redirect_target_that_is_gone_says_nothing_about_the_upstream(
    circuit: Counting, upstream: FaultyUpstream, dead_url: str
) -> None:
    upstream.faults = [Fault(match="/v2/a/", location=f"{dead_url}/blob")]
    hosts = (dead_url.removeprefix("http://"),)
    async with opened(upstream.url, circuit, redirect_hosts=hosts) as found:
        for _ in range(4):
            with pytest.raises(UpstreamUnreachable, match="redirect target: Connection refused"):
                await ask(found, target="/v2/a/blobs/x")
        assert await ask(found) == 200
    assert circuit.failures == []


async def test_token_service_that_is_gone_says_nothing_about_the_upstream(
    circuit: Counting, upstream: FaultyUpstream, dead_url: str
) -> None:
    async with opened(upstream.url, circuit) as found:
        for _ in range(4):
            with pytest.raises(UpstreamUnreachable, match="token service: Connection refused"):
                async with found.request("GET", f"{dead_url}/token", {}, trusted=True):
                    pytest.fail("was answered")
        assert await ask(found) == 200
    assert circuit.failures == []
