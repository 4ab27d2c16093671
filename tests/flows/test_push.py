"""Writing through /v2/: uploads pass byte for byte, once, and never end short."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.faulty_upstream import OCI_MANIFEST, Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client, listening

CONTENT = bytes(range(256)) * 4096
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
STATE = "_state=a%2Fb%3D%3D&x=%7E"


async def start_upload(proxy: Client) -> str:
    answer = await proxy.send("POST", "/v2/team/model/blobs/uploads/")
    assert answer.status == 202
    return answer.headers["Location"]


async def finish(proxy: Client, location: str, digest: str = DIGEST) -> Answer:
    return await proxy.send("PUT", f"{location}&digest={digest.replace(':', '%3A')}")


async def chunks_of(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def test_K1_every_location_is_relative_and_its_query_untouched(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    location = await start_upload(proxy)
    assert location.startswith("/v2/team/model/blobs/uploads/")
    assert location.endswith(f"?{STATE}")
    patched = await proxy.send("PATCH", location, body=io.BytesIO(CONTENT))
    assert patched.headers["Location"].endswith(f"?{STATE}")
    done = await finish(proxy, patched.headers["Location"])
    assert done.status == 201
    assert done.headers["Location"] == f"/v2/team/model/blobs/{DIGEST}"
    assert [seen.target for seen in upstream.requests("^(PATCH|PUT)")] == [
        location,
        f"{location}&digest={DIGEST.replace(':', '%3A')}",
    ]
    assert upstream.blobs[DIGEST] == CONTENT


async def test_K1_location_on_another_host_passes_unchanged(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    direct = "https://storage.example/upload?sig=a%2Fb%3D%3D"
    upstream.faults.append(Fault(match="POST", status=202, location=direct))
    answer = await proxy.send("POST", "/v2/a/blobs/uploads/")
    assert (answer.status, answer.headers["Location"]) == (202, direct)


async def test_K2_steps_of_one_upload_may_take_different_proxies(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxies = [await start_proxy(), await start_proxy()]
    location = await start_upload(proxies[0])
    half = len(CONTENT) // 2
    for number, part in enumerate((CONTENT[:half], CONTENT[half:])):
        start = number * half
        answer = await proxies[1 - number].send(
            "PATCH",
            location,
            headers=[("Content-Range", f"{start}-{start + half - 1}")],
            body=io.BytesIO(part),
        )
        assert answer.status == 202
        location = answer.headers["Location"]
    assert (await finish(proxies[1], location)).status == 201
    assert upstream.blobs[DIGEST] == CONTENT


@pytest.mark.parametrize("size", [0, 100])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE"])
async def test_K3_a_write_on_a_lost_connection_is_sent_once(
    proxy: Client, upstream: FaultyUpstream, method: str, size: int
) -> None:
    await proxy.get("/v2/")  # leaves a kept connection in the pool
    upstream.faults.append(Fault(match=f"^{method}", hang_up=True))
    # Without a body nothing but the proxy's own rule keeps the HTTP client from sending it again.
    body = io.BytesIO(b"x" * size) if size else None
    answer = await proxy.send(method, "/v2/a/blobs/uploads/s", body=body)
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert len(upstream.requests(f"^{method}")) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_K3_a_read_on_a_lost_connection_is_sent_again_once(
    proxy: Client, upstream: FaultyUpstream, method: str
) -> None:
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(times=1, hang_up=True))
    answer = await proxy.send(method, f"/v2/a/blobs/{digest}")
    assert answer.status == 200
    assert len(upstream.requests("blobs")) == 2


async def test_K4_digest_mismatch_is_the_upstreams_answer(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    location = await start_upload(proxy)
    await proxy.send("PATCH", location, body=io.BytesIO(CONTENT))
    answer = await finish(proxy, location, "sha256:" + "0" * 64)
    assert (answer.status, answer.json["errors"][0]["code"]) == (400, "DIGEST_INVALID")
    assert answer.json["errors"][0]["message"] == "mismatch"


async def test_K5_mount_passes_its_query(proxy: Client, upstream: FaultyUpstream) -> None:
    target = f"/v2/team/a/blobs/uploads/?mount={DIGEST}&from=team%2Fb"
    await proxy.send("POST", target)
    assert upstream.log[-1].target == target


async def test_K7_bodies_keep_their_framing(proxy: Client, upstream: FaultyUpstream) -> None:
    location = await start_upload(proxy)
    half = len(CONTENT) // 2
    await proxy.send("PATCH", location, body=chunks_of(CONTENT[:half]))
    assert upstream.log[-1].get("Transfer-Encoding") == "chunked"
    assert upstream.log[-1].get("Content-Length") is None
    await proxy.send(
        "PATCH",
        location,
        headers=[
            ("Content-Length", str(half)),
            ("Content-Range", f"{half}-{2 * half - 1}"),
            ("Content-Type", "application/octet-stream"),
        ],
        body=io.BytesIO(CONTENT[half:]),
    )
    sent = upstream.log[-1]
    assert sent.get("Content-Length") == str(half)
    assert sent.get("Transfer-Encoding") is None
    assert sent.get("Content-Range") == f"{half}-{2 * half - 1}"
    assert (await finish(proxy, location)).status == 201
    assert upstream.log[-1].get("Content-Length") == "0"


async def test_K7_encoded_bodies_reach_the_upstream_as_sent(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    body = gzip.compress(b'{"schemaVersion": 2 ,  "odd":true}\n')
    answer = await proxy.send(
        "PUT",
        "/v2/a/manifests/v1",
        headers=[("Content-Type", OCI_MANIFEST), ("Content-Encoding", "gzip")],
        body=body,
    )
    assert answer.status == 201
    assert upstream.log[-1].body == body
    assert upstream.log[-1].get("Content-Encoding") == "gzip"
    assert upstream.log[-1].get("Content-Type") == OCI_MANIFEST


async def test_K8_upload_status_cancel_and_out_of_order(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    started = await proxy.send("POST", "/v2/team/model/blobs/uploads/")
    location = started.headers["Location"]
    assert started.headers["OCI-Chunk-Min-Length"] == "10"
    assert started.headers["Docker-Upload-UUID"] == "session-0"
    assert started.headers["Range"] == "0-0"
    wrong = await proxy.send(
        "PATCH", location, headers=[("Content-Range", "50-59")], body=io.BytesIO(b"x" * 10)
    )
    assert wrong.status == 416
    assert (wrong.headers["Location"], wrong.headers["Range"]) == (location, "0-0")
    await proxy.send("PATCH", location, body=io.BytesIO(b"x" * 10))
    status = await proxy.get(location)
    assert (status.status, status.headers["Range"], status.body) == (204, "0-9", b"")
    assert status.headers["Location"] == location
    assert "Content-Length" not in status.headers
    cancelled = await proxy.send("DELETE", location)
    assert cancelled.status == 204
    assert (await proxy.get(location)).status == 404


async def test_K9_client_that_dies_leaves_no_short_body_behind(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    location = await start_upload(proxy)
    for framing in (b"Content-Length: 1000000", b"Transfer-Encoding: chunked"):
        upstream.body_started.clear()
        before = upstream.unfinished_bodies
        _, writer = await asyncio.open_connection(proxy.host, proxy.port)
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\n".encode() + framing + b"\r\n\r\n"
        writer.write(head + (b"a\r\n0123456789\r\n" if b"chunked" in framing else b"x" * 1000))
        await writer.drain()
        async with asyncio.timeout(5):
            await upstream.body_started.wait()
        writer.transport.abort()
        async with asyncio.timeout(5):
            while upstream.unfinished_bodies == before:  # noqa: ASYNC110  # no event to wait for
                await asyncio.sleep(0.01)
    assert upstream.requests("^PATCH") == []
    assert upstream.open <= 1


async def test_client_that_stops_sending_is_408(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(listen__body_seconds=0.3)
    location = await start_upload(proxy)
    received = await proxy.raw(
        f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode()
    )
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"UNSUPPORTED"' in received
    assert upstream.requests("^PATCH") == []


async def test_upload_may_be_slow_and_the_registry_thoughtful(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    """Neither a slow body nor a slow commit is cut by the limits that reads have."""
    proxy = await start_proxy(
        upstream__timeouts__idle_seconds=0.3,
        upstream__timeouts__response_seconds=0.3,
        upstream__timeouts__upload_response_seconds=10,
    )
    location = await start_upload(proxy)
    upstream.faults.append(Fault(match="^(PATCH|PUT)", delay=0.6))

    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, len(CONTENT), len(CONTENT) // 4):
            await asyncio.sleep(0.2)
            yield CONTENT[start : start + len(CONTENT) // 4]

    assert (await proxy.send("PATCH", location, body=slowly())).status == 202
    assert (await finish(proxy, location)).status == 201


async def test_H5_early_refusal_reaches_a_client_that_still_sends(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults.append(
        Fault(
            match="^PATCH",
            status=401,
            answer_early=True,
            headers=[("WWW-Authenticate", 'Bearer realm="x"')],
        )
    )
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(3200):
            sent += 65536
            yield bytes(65536)

    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        answer = await proxy.send("PATCH", "/v2/a/blobs/uploads/s", body=endless())
    except aiohttp.ClientConnectionError:
        pytest.fail("the refusal was lost in a reset connection")
    assert answer.status == 401
    assert answer.headers["Connection"] == "close"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="x"'
    assert loop.time() - started < 3


@pytest.mark.parametrize("late", [False, True])
async def test_H5_early_answer_may_take_its_time_with_its_body(
    start_proxy: StartProxy, late: bool
) -> None:
    """The upload goes on between the answer's headers and its body."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b'HTTP/1.1 401 X\r\nContent-Length: 2\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
        writer.write(head if late else head + b"{}")
        if late:
            await reader.readexactly(1 << 20)
            writer.write(b"{}")
        while await reader.read(65536):
            pass

    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(65536)
            await asyncio.sleep(0.002)  # a pace: each chunk moves the proxy's clock

    async with listening(answer) as url:
        proxy = await start_proxy(url=url)
        found = await proxy.send("PATCH", "/v2/a/blobs/uploads/s", body=body())
    assert (found.status, found.body) == (401, b"{}")
    assert found.headers["WWW-Authenticate"] == 'Basic realm="x"'


async def test_H5_connection_closes_as_the_early_answer_says(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults.append(Fault(match="^POST", status=401, answer_early=True))
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"\r\nConnection: close\r\n" in head
        writer.write(b"cde")  # even when the whole body came after all
        assert (await reader.read()).startswith(b'{"errors"')
    writer.close()


async def test_upstream_that_stops_reading_an_upload_is_504(start_proxy: StartProxy) -> None:
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
        await asyncio.Event().wait()

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    async with listening(stall) as url:
        proxy = await start_proxy(url=url, upstream__timeouts__idle_seconds=0.3)
        answer = await proxy.send("PATCH", "/v2/a/blobs/uploads/s", body=body())
    assert (answer.status, answer.code) == (504, "UNAVAILABLE")


async def test_expect_100_continue_is_served(proxy: Client, upstream: FaultyUpstream) -> None:
    location = await start_upload(proxy)
    received = await proxy.raw(
        f"PATCH {location} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\nabc".encode()
    )
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 ")
    assert upstream.log[-1].body == b"abc"
