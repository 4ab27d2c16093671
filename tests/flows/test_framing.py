"""HTTP framing on raw sockets: what must be refused before anything reaches the upstream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re

import pytest

from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Client, listening

CONTENT = bytes(range(256)) * 64


def statuses(received: bytes) -> list[int]:
    """The status of every answer in a stream of them."""
    return [int(status) for status in re.findall(rb"HTTP/\d\.\d (\d{3}) ", received)]


H1_REQUESTS = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "signed length": b"Content-Length: +4\r\n\r\nabcd",
    "hex length": b"Content-Length: 0x4\r\n\r\nabcd",
    "listed length": b"Content-Length: 4, 4\r\n\r\nabcd",
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "space before colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "folded line": b"X-A: b\r\n c: d\r\n\r\n",
    "two hosts": b"Host: y\r\n\r\n",
    "nul in header": b"X-A: \x00\r\n\r\n",
    "colon first": b": y\r\n\r\n",
}
H1_REQUESTS = {
    name: b"PUT /v2/a/manifests/v HTTP/1.1\r\nHost: x\r\n" + rest
    for name, rest in H1_REQUESTS.items()
} | {
    "bare line feed": b"GET /v2/ HTTP/1.1\nHost: x\n\n",
    "no version": b"GET /v2/\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("sent", H1_REQUESTS.values(), ids=H1_REQUESTS.keys())
async def test_H1_ambiguous_framing_is_400_and_the_connection_closes(
    proxy: Client, upstream: FaultyUpstream, sent: bytes
) -> None:
    received = await proxy.raw(sent)
    assert statuses(received) == [400], received[:200]
    assert b'{"errors":' in received
    assert not upstream.requests("^(GET|POST)")
    assert all(seen.body == b"" for seen in upstream.log)


H2_REQUESTS = {
    "http 2 in text": b"GET /v2/ HTTP/2.0\r\nHost: x\r\n\r\n",
    "http 0.9 in text": b"GET /v2/ HTTP/0.9\r\nHost: x\r\n\r\n",
    "chunked in 1.0": b"POST /v2/a/blobs/uploads/ HTTP/1.0\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "absolute form": b"GET http://evil.example/v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "host with markup": b'GET /v2/ HTTP/1.1\r\nHost: a"><script>\r\n\r\n',
    "backslash": b"GET /v2/a\\..\\b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "nul in path": b"GET /v2/a%00b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "fragment": b"GET /v2/a#b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("sent", H2_REQUESTS.values(), ids=H2_REQUESTS.keys())
async def test_H2_what_the_parser_lets_pass_is_refused_here(
    proxy: Client, upstream: FaultyUpstream, sent: bytes
) -> None:
    received = await proxy.raw(sent)  # to its end: framing in doubt closes the connection
    assert statuses(received) == [400], received[:200]
    assert b"evil.example" not in received
    assert upstream.log == []


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    "framed",
    [b"Content-Length: 5\r\n\r\nabcde", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"],
    ids=["length", "chunked"],
)
async def test_H1_body_of_a_read_stays_behind_with_its_length(
    start_proxy: StartProxy, upstream: FaultyUpstream, method: bytes, framed: bytes
) -> None:
    proxy = await start_proxy(upstream__timeouts__response_seconds=1)
    received = await proxy.raw(
        method + b" /v2/ HTTP/1.1\r\nHost: x\r\n" + framed + b"GET /v2/ HTTP/1.1\r\nHost: x\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert statuses(received) == [200, 200]
    for seen in upstream.log:
        assert seen.all("Content-Length") == seen.all("Transfer-Encoding") == []


async def test_H4_body_of_a_read_never_swallows_the_next_callers_request(
    start_proxy: StartProxy,
) -> None:
    got: list[bytes] = []

    async def answer_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers at once and only then reads the body declared, as many servers do."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            got.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            if (declared := re.search(rb"(?i)content-length: *(\d+)", head)) is not None:
                got.append(await reader.readexactly(int(declared[1])))

    async with listening(answer_first) as url:
        proxy = await start_proxy(
            url=url, upstream__connections=1, upstream__timeouts__response_seconds=1
        )
        await proxy.raw(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nConnection: close\r\n\r\n"
            + b"a" * 40
        )
        answer = await proxy.get("/v2/", Authorization="Bearer of-the-next")
    assert answer.status == 200
    assert [head.startswith(b"GET /v2/ HTTP/1.1\r\n") for head in got] == [True, True]
    assert b"Bearer of-the-next" in got[1]


async def test_H4_upgrade_with_a_body_smuggles_no_request(start_proxy: StartProxy) -> None:
    got: list[bytes] = []

    async def answer_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            got.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 202 OK\r\nContent-Length: 2\r\n\r\n{}")

    inner = b"GET /v2/inner HTTP/1.1\r\nHost: x\r\n\r\n"
    async with listening(answer_first) as url:
        proxy = await start_proxy(url=url, listen__body_seconds=1)
        await proxy.raw(
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
            b"Content-Length: %d\r\n\r\n" % len(inner) + inner
        )
    assert [head for head in got if b"inner" in head.partition(b"\r\n")[0]] == []


async def test_H3_connection_may_not_name_what_must_pass(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    received = await proxy.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n"
        b"Connection: Authorization\r\n\r\n"
    )
    assert statuses(received) == [400]
    assert upstream.log == []


async def test_H3_hop_by_hop_headers_stay_behind(proxy: Client, upstream: FaultyUpstream) -> None:
    upstream.faults.append(
        Fault(
            match="/v2/",
            headers=[("Connection", "Docker-Secret"), ("Docker-Secret", "1"), ("Upgrade", "h2c")],
        )
    )
    received = await proxy.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n"
        b"Keep-Alive: 5\r\nProxy-Authorization: Basic eDp5\r\nHTTP2-Settings: AAA\r\n\r\n"
    )
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"Docker-Secret" not in received
    assert b"Upgrade" not in received
    names = {name.lower() for name, _ in upstream.log[-1].headers}
    assert names == {"host", "accept-encoding", "via"}


H4_ANSWERS = {
    "extra bytes": Fault(
        match="/blobs/", extra=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    ),
    "length and chunked": Fault(
        match="/blobs/",
        raw=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "two lengths": Fault(
        match="/blobs/",
        raw=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    ),
    "no http": Fault(match="/blobs/", raw=b"SSH-2.0-OpenSSH_9.2\r\n"),
    "bad status": Fault(match="/blobs/", raw=b"HTTP/1.1 abc OK\r\n\r\n"),
}


@pytest.mark.parametrize("fault", H4_ANSWERS.values(), ids=H4_ANSWERS.keys())
async def test_H4_a_confused_upstream_confuses_no_later_request(
    start_proxy: StartProxy, upstream: FaultyUpstream, fault: Fault
) -> None:
    proxy = await start_proxy(upstream__connections=1)
    digest = upstream.blob(CONTENT)
    fault.seen, fault.times = 0, 1 if fault.extra else 2
    upstream.faults.append(fault)
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    if fault.extra:
        assert (answer.status, answer.body) == (200, CONTENT)
    else:
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    upstream.faults.clear()
    for _ in range(3):
        assert (await proxy.get(f"/v2/a/blobs/{digest}")).body == CONTENT


@pytest.mark.parametrize("value", ["a\x01b", "a\x7fb", "\udcff\udcfe"])
async def test_H6_unsendable_header_values_are_502_or_dropped(
    proxy: Client, upstream: FaultyUpstream, value: str
) -> None:
    upstream.faults.append(Fault(match="/v2/", headers=[("Docker-Odd", value)]))
    answer = await proxy.get("/v2/")
    assert answer.status == 502
    assert answer.code == "UNAVAILABLE"


async def test_H6_undecodable_request_headers_are_400(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    received = await proxy.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAccept: \xff\xfe\r\nConnection: close\r\n\r\n"
    )
    assert statuses(received) == [400]
    assert upstream.log == []


async def test_H7_unsatisfiable_range_is_a_whole_answer(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = upstream.blob(CONTENT)
    # docker-registry 2.8 declares the blob's length and sends another body.
    upstream.faults.append(
        Fault(
            raw=b"HTTP/1.1 416 Requested Range Not Satisfiable\r\nContent-Length: %d\r\n"
            b"Content-Range: bytes */%d\r\n\r\ninvalid range" % (len(CONTENT), len(CONTENT))
        )
    )
    answer = await proxy.get(f"/v2/a/blobs/{digest}", Range="bytes=99999999-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    assert (answer.headers["Content-Length"], answer.body) == ("0", b"")


async def test_H7_answers_without_body_keep_the_connection_in_step(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = upstream.blob(CONTENT)
    target = f"/v2/a/blobs/{digest}".encode()
    upstream.faults.append(
        Fault(match="^GET .*blobs", times=1, raw=b'HTTP/1.1 304 X\r\nETag: "x"\r\n\r\n')
    )
    received = await proxy.raw(
        b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        b"HEAD " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert statuses(received) == [304, 200, 200]
    assert received.endswith(b"\r\n\r\n{}")


async def test_H8_interim_answers_do_not_hold_a_request_for_ever(
    start_proxy: StartProxy,
) -> None:
    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            while True:
                writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(interim, "127.0.0.1", 0)
    async with server:
        proxy = await start_proxy(
            url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            upstream__timeouts__response_seconds=0.5,
        )
        answer = await proxy.get("/v2/")
    assert (answer.status, answer.code) == (504, "UNAVAILABLE")


async def test_H8_switching_protocols_unasked_is_502(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults.append(
        Fault(
            match="/v2/",
            raw=b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGARBAGE",
        )
    )
    received = await proxy.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade, close\r\n\r\n"
    )
    assert statuses(received) == [502]
    assert b"GARBAGE" not in received
    assert b'"UNAVAILABLE"' in received


async def test_H5_unknown_expectations_are_ignored(
    proxy: Client, upstream: FaultyUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="proxy.access")
    received = await proxy.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nExpect: bogus\r\nConnection: close\r\n\r\n"
    )
    assert statuses(received) == [200]
    assert upstream.log[-1].all("Expect") == []
    assert len(caplog.records) == 1


async def test_I2_silent_and_half_sent_requests_are_dropped(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(listen__header_seconds=0.5)
    count = 200
    connections = [await asyncio.open_connection(proxy.host, proxy.port) for _ in range(count)]
    for number, (_, writer) in enumerate(connections):
        if number % 2:
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert (await proxy.get("/v2/")).status == 200
    assert loop.time() - started < 0.4
    async with asyncio.timeout(5):
        for reader, writer in connections:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
    assert loop.time() - started < 3
    assert len(upstream.log) == 1


async def test_I2_an_accepted_slow_answer_is_not_dropped(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(listen__header_seconds=0.2)
    upstream.faults.append(Fault(match="/v2/", delay=0.6))
    assert (await proxy.get("/v2/")).status == 200


async def test_B5_unparsable_requests_are_not_quoted_in_the_log(
    proxy: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = b"s3cr3t" * 15_000
    received = await proxy.raw(
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + secret + b"\r\n\r\n"
    )
    assert statuses(received) == [400]
    assert b"s3cr3t" not in received
    assert "s3cr3t" not in caplog.text


async def test_headers_of_many_kilobytes_pass(proxy: Client, upstream: FaultyUpstream) -> None:
    token = "Bearer " + "t" * 50_000
    upstream.faults.append(Fault(match="/v2/", headers=[("Docker-Long", "l" * 50_000)]))
    answer = await proxy.get("/v2/", Authorization=token)
    assert upstream.log[-1].get("Authorization") == token
    assert answer.headers["Docker-Long"] == "l" * 50_000


@pytest.mark.parametrize(
    ("target", "status"), [("/cnai/a:b", 404), ("/livez", 200), ("/metrics", 200), ("/no", 417)]
)
async def test_unknown_expectations_break_no_route(
    proxy: Client, caplog: pytest.LogCaptureFixture, target: str, status: int
) -> None:
    caplog.set_level("ERROR")
    received = await proxy.raw(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nExpect: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert statuses(received) == [status]
    assert caplog.records == []


async def test_tls_on_a_plain_listener_is_said_in_so_many_words(
    proxy: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="proxy.server")
    answer = await proxy.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40))
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert "a client began TLS, but this listener speaks plain HTTP: see listen.tls" in caplog.text
