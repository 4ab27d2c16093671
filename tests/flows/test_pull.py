"""Reading through /v2/: what reaches the upstream, what comes back, and what must not."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import socket
from typing import Literal

import aiohttp
import pytest

from tests.faulty_upstream import OCI_MANIFEST, Fault, FaultyUpstream, running
from tests.flows.conftest import StartProxy
from tests.flows.http import Client, listening

CONTENT = bytes(range(256)) * 4096  # 1 MiB


async def test_blob_get_streams_the_same_bytes(proxy: Client, upstream: FaultyUpstream) -> None:
    digest = upstream.blob(CONTENT)
    answer = await proxy.get(f"/v2/team/model/blobs/{digest}")
    assert answer.status == 200
    assert answer.body == CONTENT
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Content-Length"] == str(len(CONTENT))


async def test_head_is_get_without_a_body(proxy: Client, upstream: FaultyUpstream) -> None:
    digest = upstream.blob(CONTENT)
    manifest = upstream.manifest("team/model", "v1", {"schemaVersion": 2}, OCI_MANIFEST)
    for target in (
        f"/v2/team/model/blobs/{digest}",
        "/v2/team/model/manifests/v1",
        f"/v2/team/model/manifests/{manifest}",
        "/v2/team/model/manifests/gone",
    ):
        got, headed = await proxy.get(target), await proxy.head(target)
        assert headed.status == got.status
        assert headed.body == b""
        for name in ("Content-Length", "Content-Type", "Docker-Content-Digest"):
            assert headed.headers.get(name) == got.headers.get(name), name


async def test_connection_is_usable_after_head(proxy: Client, upstream: FaultyUpstream) -> None:
    digest = upstream.blob(CONTENT)
    target = f"/v2/a/blobs/{digest}".encode()
    head = b"HEAD " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    ping = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = await proxy.raw(head + ping)
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.endswith(b"{}")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), ("bytes=1048570-", 1048570, 1048575)],
)
async def test_range_is_the_upstreams_own(
    proxy: Client, upstream: FaultyUpstream, asked: str, first: int, last: int
) -> None:
    digest = upstream.blob(CONTENT)
    answer = await proxy.get(f"/v2/a/blobs/{digest}", Range=asked)
    assert answer.status == 206
    assert answer.body == CONTENT[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"


async def test_range_that_the_upstream_ignores_stays_200(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(ignore_range=True))
    answer = await proxy.get(f"/v2/a/blobs/{digest}", Range="bytes=5-9")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert "Content-Range" not in answer.headers


async def test_several_accept_lines_reach_the_upstream_in_order(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.manifest("a", "v1", {}, OCI_MANIFEST)
    accepted = [OCI_MANIFEST, "application/vnd.oci.image.index.v1+json, text/plain", "*/*"]
    await proxy.send("GET", "/v2/a/manifests/v1", headers=[("Accept", value) for value in accepted])
    assert upstream.log[-1].all("Accept") == accepted


async def test_only_listed_headers_cross(proxy: Client, upstream: FaultyUpstream) -> None:
    digest = upstream.blob(b"x")
    upstream.faults.append(
        Fault(
            headers=[
                ("Set-Cookie", "sid=tenant-a"),
                ("Alt-Svc", 'h3=":443"'),
                ("Strict-Transport-Security", "max-age=1"),
                ("Access-Control-Allow-Origin", "*"),
                ("X-RateLimit-Limit", "100"),
                ("OCI-Filters-Applied", "artifactType"),
            ]
        )
    )
    answer = await proxy.send(
        "GET",
        f"/v2/a/blobs/{digest}",
        headers=[
            ("Cookie", "sid=mine"),
            ("X-Forwarded-Host", "evil.example"),
            ("Forwarded", "host=evil.example"),
            ("X-Registry-Auth", "secret"),
            ("Authorization", "Bearer of-the-caller"),
            ("User-Agent", "docker/28"),
        ],
    )
    sent = upstream.log[-1]
    names = {name.lower() for name, _ in sent.headers}
    assert names == {"host", "authorization", "user-agent", "accept-encoding", "via"}
    assert sent.get("Authorization") == "Bearer of-the-caller"
    assert sent.get("User-Agent") == "docker/28"
    assert sent.get("Accept-Encoding") == "identity"
    assert sent.get("Host") == f"127.0.0.1:{upstream.port}"
    for name in (
        "Set-Cookie",
        "Alt-Svc",
        "Strict-Transport-Security",
        "Access-Control-Allow-Origin",
    ):
        assert name not in answer.headers
    assert answer.headers["X-RateLimit-Limit"] == "100"
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    assert answer.headers["Server"] == "cnai-proxy"


async def test_no_cookie_of_one_caller_comes_with_another(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    # By name: a cookie jar takes none from a bare address.
    proxy = await start_proxy(url=f"http://localhost:{upstream.port}")
    upstream.faults.append(Fault(match="/v2/", times=1, headers=[("Set-Cookie", "sid=a; Path=/")]))
    await proxy.get("/v2/")
    await proxy.get("/v2/")
    assert upstream.log[-1].all("Cookie") == []


async def test_encoded_body_passes_as_it_is(proxy: Client, upstream: FaultyUpstream) -> None:
    digest = upstream.blob(CONTENT)
    packed = gzip.compress(CONTENT, mtime=0)
    upstream.faults.append(Fault(body=packed, headers=[("Content-Encoding", "gzip")]))
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert answer.body == packed
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Length"] == str(len(packed))


async def test_upstream_errors_pass_unchanged(proxy: Client, upstream: FaultyUpstream) -> None:
    for status in (401, 403, 404, 429, 500, 503):
        upstream.faults = [
            Fault(
                match="/v2/",
                status=status,
                headers=[
                    ("Retry-After", "7"),
                    ("WWW-Authenticate", 'Bearer realm="https://auth.example/t",service="s"'),
                    ("WWW-Authenticate", 'Basic realm="r"'),
                ],
            )
        ]
        # Of its own each: after a 429 the same one would be spared for 7 s.
        answer = await proxy.get(f"/v2/a/manifests/v{status}")
        assert answer.status == status
        assert answer.body == b'{"errors":[{"code":"UNKNOWN"}]}'
        assert answer.headers["Retry-After"] == "7"
        assert answer.headers.getall("WWW-Authenticate") == [
            'Bearer realm="https://auth.example/t",service="s"',
            'Basic realm="r"',
        ]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_at=500_000),
        Fault(length="chunked", cut_at=500_000),
        Fault(length=len(CONTENT) + 1),
    ],
    ids=["cut", "cut chunked", "declared too long"],
)
async def test_short_upstream_body_never_ends_well(
    proxy: Client, upstream: FaultyUpstream, fault: Fault
) -> None:
    digest = upstream.blob(CONTENT)
    fault.cut_at = fault.cut_at or len(CONTENT)
    upstream.faults.append(fault)
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"/v2/a/blobs/{digest}")
    upstream.faults.clear()
    assert (await proxy.get(f"/v2/a/blobs/{digest}")).body == CONTENT


@pytest.mark.parametrize(
    "fault",
    [Fault(cut_at=500_000), Fault(length="chunked", cut_at=500_000)],
    ids=["cut", "chunked"],
)
async def test_short_upstream_body_is_a_reset_to_a_client_of_http_1_0(
    proxy: Client, upstream: FaultyUpstream, fault: Fault
) -> None:
    """Its bodies may end with the connection, so a plain close would look like the end."""
    digest = upstream.blob(CONTENT)
    upstream.faults.append(fault)
    with pytest.raises(ConnectionResetError):
        await proxy.raw(f"GET /v2/a/blobs/{digest} HTTP/1.0\r\nHost: x\r\n\r\n".encode())


async def test_small_body_that_breaks_is_a_502_of_ours(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = upstream.blob(b"x" * 1000)
    upstream.faults.append(Fault(cut_at=500))
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_silent_upstream_is_504_and_a_stalled_body_is_cut(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(
        upstream__timeouts__idle_seconds=0.3, upstream__timeouts__response_seconds=0.5
    )
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(delay=30))
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert (answer.status, answer.code) == (504, "UNAVAILABLE")
    upstream.faults = [Fault(stall_at=1000)]
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"/v2/a/blobs/{digest}")


async def test_slow_body_outlives_every_timeout(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    """No total timeout: a body that keeps coming is never cut."""
    proxy = await start_proxy(
        upstream__timeouts__idle_seconds=0.4, upstream__timeouts__response_seconds=0.4
    )
    pieces = 6

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % pieces)
        for _ in range(pieces):
            await asyncio.sleep(0.2)
            writer.write(b"x")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        proxy = await start_proxy(
            url=f"http://127.0.0.1:{port}",
            upstream__timeouts__idle_seconds=0.4,
            upstream__timeouts__response_seconds=0.4,
        )
        answer = await proxy.get("/v2/a/tags/list")
    assert answer.body == b"x" * pieces


async def test_unreachable_upstream_is_503_and_the_proxy_stays_ready(
    start_proxy: StartProxy,
) -> None:
    async with running() as gone:
        port = gone.port
    proxy = await start_proxy(url=f"http://127.0.0.1:{port}")
    answer = await proxy.get("/v2/")
    assert (answer.status, answer.code) == (503, "UNAVAILABLE")
    assert "refused" in answer.message
    assert (await proxy.get("/readyz")).status == 200


async def test_B6_client_errors_hold_no_query(start_proxy: StartProxy) -> None:
    async with running() as gone:
        port = gone.port
    proxy = await start_proxy(url=f"http://127.0.0.1:{port}")
    answer = await proxy.get("/v2/a/tags/list?token=s3cr3t&sig=s3cr3t")
    assert answer.status == 503
    assert b"s3cr3t" not in answer.body


async def test_client_that_leaves_frees_the_upstream(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = upstream.blob(CONTENT * 64)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(100_000)
    assert upstream.open == 1
    writer.transport.abort()
    async with asyncio.timeout(5):
        while upstream.open:  # noqa: ASYNC110  # the upstream's socket has no event to wait for
            await asyncio.sleep(0.01)
    assert upstream.sent < len(CONTENT) * 64


async def test_client_that_leaves_before_the_answer_frees_the_upstream(
    start_proxy: StartProxy,
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()

    async with listening(think) as url, asyncio.timeout(5):
        proxy = await start_proxy(url=url)
        _, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        writer.transport.abort()
        await left.wait()


async def slow_client(proxy: Client, digest: str) -> socket.socket:
    """A client that asked for a blob, whose kernel takes little ahead of it."""
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (proxy.host, proxy.port))
    await loop.sock_sendall(
        client, f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    return client


@pytest.mark.parametrize("length", [None, "chunked"], ids=["spliced", "chunked"])
async def test_slow_reader_is_cut_only_when_it_takes_next_to_nothing(
    start_proxy: StartProxy, upstream: FaultyUpstream, length: Literal["chunked"] | None
) -> None:
    proxy = await start_proxy(listen__write_seconds=0.4)
    digest = upstream.blob(CONTENT * 32)
    upstream.faults.append(Fault(length=length))
    loop = asyncio.get_running_loop()
    with await slow_client(proxy, digest) as client:
        started = loop.time()
        while loop.time() - started < 1.4:
            # 0.6 MB a second: too slow for the socket ever to look writable in the patience.
            await loop.sock_recv(client, 6000)
            await asyncio.sleep(0.01)
        assert upstream.open == 1
        async with asyncio.timeout(5):
            while upstream.open:
                client.recv(2)  # 80 bytes a second
                await asyncio.sleep(0.025)


async def test_I6_no_free_upstream_connection_is_503_in_time(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__connections=1, upstream__timeouts__connect_seconds=0.3)
    digest = upstream.blob(CONTENT * 64)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=1024)
    writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(100)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for target in ("/v2/", "/cnai/a:v1"):
        answer = await proxy.get(target)
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert answer.headers["Retry-After"] == "1"
        assert "all 1 connections to the upstream are in use" in answer.message
        assert "upstreams[].connections" in answer.message
    assert loop.time() - started < 2
    waiting = asyncio.gather(proxy.get("/v2/"))
    writer.transport.abort()
    (answer,) = await waiting
    assert answer.status == 200
    assert len(upstream.requests("/v2/$")) == 1


async def test_reader_that_stalls_is_cut(start_proxy: StartProxy, upstream: FaultyUpstream) -> None:
    proxy = await start_proxy(listen__write_seconds=0.3)
    digest = upstream.blob(CONTENT * 64)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=1024)
    writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(100)
    async with asyncio.timeout(10):
        while upstream.open:  # noqa: ASYNC110  # the upstream's socket has no event to wait for
            await asyncio.sleep(0.05)
    assert upstream.sent < len(CONTENT) * 64
    writer.transport.abort()


E1_SPELLINGS = [
    "/v2/a/..%2fb/blobs/x",
    "/v2/a/%2e%2e/b/manifests/v1",
    "/v2/a%2fb/manifests/v1",
    "/v2/a/../b/manifests/v1",
    "/v2/a/./b/manifests/v1",
    "/v2//a/manifests/v1",
    "/v2/a//manifests/v1",
    "/v2/a\\b/manifests/v1",
    "/v2/a%00/manifests/v1",
    "/v2/a/manifests/v1%0a",
    "/v2/%61/manifests/v1",
    "/v2/a/manifests/v1%3fx",
    "/v2/../etc/passwd",
    "/v2/..",
    "/v2/a/blobs/sha256%3A" + "0" * 64,
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_E1_unsafe_spellings_never_reach_the_upstream(
    proxy: Client, upstream: FaultyUpstream, method: str
) -> None:
    for spelling in E1_SPELLINGS:
        answer = await proxy.send(method, spelling)
        assert answer.status == 400, spelling
        if method != "HEAD":
            assert answer.code == "NAME_INVALID"
    assert upstream.log == []


async def test_E1_safe_unknown_paths_pass(proxy: Client, upstream: FaultyUpstream) -> None:
    for target in ("/v2/_oci/ext/discover", "/v2/a/unknown/thing?x=%2F", "/v2/UPPER/tags/list"):
        assert (await proxy.get(target)).status == 404
        assert upstream.log[-1].target == target


@pytest.mark.parametrize(
    "digest", ["sha256:" + "A" * 64, "sha256:" + "0" * 63, "sha512:" + "0" * 64, "sha256:zz"]
)
async def test_E2_malformed_digests_are_refused_here(
    proxy: Client, upstream: FaultyUpstream, digest: str
) -> None:
    for kind in ("blobs", "manifests", "referrers"):
        answer = await proxy.get(f"/v2/a/{kind}/{digest}")
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert upstream.log == []


async def test_E2_unknown_algorithms_are_the_upstreams_business(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    assert (await proxy.get("/v2/a/blobs/blake3:abcdef")).status == 404
    assert upstream.log[-1].target == "/v2/a/blobs/blake3:abcdef"


async def test_queries_pass_byte_for_byte(proxy: Client, upstream: FaultyUpstream) -> None:
    target = "/v2/a/tags/list?n=2&last=%76%31&x=%2B+~"
    await proxy.get(target)
    assert upstream.log[-1].target == target


async def test_link_into_the_upstream_becomes_relative(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.faults.append(
        Fault(
            match="tags",
            headers=[("Link", f'<{upstream.url}/v2/a/tags/list?n=1&last=%61>; rel="next"')],
        )
    )
    answer = await proxy.get("/v2/a/tags/list?n=1")
    assert answer.headers["Link"] == '</v2/a/tags/list?n=1&last=%61>; rel="next"'


async def test_base_path_of_the_upstream_is_added_and_taken_off(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(url=f"{upstream.url}/registry")
    location = f"{upstream.url}/registry/v2/a/blobs/uploads/x?s=%2F"
    upstream.faults.append(Fault(match="/registry/v2/", status=202, location=location))
    answer = await proxy.send("POST", "/v2/a/blobs/uploads/")
    assert upstream.log[-1].target == "/registry/v2/a/blobs/uploads/"
    assert answer.headers["Location"] == "/v2/a/blobs/uploads/x?s=%2F"


async def test_relayed_redirect_reaches_the_client_untouched(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = upstream.blob(b"x")
    signed = "https://bucket.example/x?X-Amz-Signature=a%2Fb%3D%3D&k=%7E"
    upstream.faults.append(Fault(location=signed))
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert answer.status == 307
    assert answer.headers["Location"] == signed


async def test_B1_followed_redirect_carries_no_credential(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    async with running() as store:
        proxy = await start_proxy(
            upstream__redirects="follow", upstream__redirect_hosts=[f"127.0.0.1:{store.port}"]
        )
        digest = upstream.blob(CONTENT)
        store.blob(CONTENT)
        query = "sig=a%2Fb%3D%3D&k=%7E%21%2A"
        upstream.faults.append(Fault(location=f"{store.url}/v2/x/blobs/{digest}?{query}"))
        answer = await proxy.send(
            "GET",
            f"/v2/a/blobs/{digest}",
            headers=[
                ("Authorization", "Bearer canary-s3cr3t"),
                ("Range", "bytes=0-9"),
                ("User-Agent", "ua"),
                ("Accept", "text/plain"),
            ],
        )
        assert (answer.status, answer.body) == (206, CONTENT[:10])
        assert answer.headers["Docker-Content-Digest"] == digest
        (seen,) = store.log
        assert seen.target.endswith(query)
        names = {name.lower() for name, _ in seen.headers}
        assert names == {"host", "range", "user-agent", "accept-encoding"}
        assert upstream.log[-1].get("Authorization") == "Bearer canary-s3cr3t"


async def test_B1_credential_is_not_added_again_on_the_way_back(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    async with running() as other:
        proxy = await start_proxy(
            upstream__redirects="follow", upstream__redirect_hosts=[f"127.0.0.1:{other.port}"]
        )
        digest = upstream.blob(CONTENT)
        upstream.faults.append(Fault(times=1, location=f"{other.url}/hop"))
        other.faults.append(Fault(match="/hop", location=f"{upstream.url}/v2/a/blobs/{digest}"))
        answer = await proxy.get(f"/v2/a/blobs/{digest}", Authorization="Basic czNjcjN0")
        assert answer.body == CONTENT
        assert [seen.all("Authorization") for seen in upstream.log] == [["Basic czNjcjN0"], []]


async def test_followed_redirect_to_an_unlisted_private_host_is_refused(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    async with running() as canary:
        proxy = await start_proxy(upstream__redirects="follow")
        digest = upstream.blob(CONTENT)
        for location in (
            f"{canary.url}/x",
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://2130706433/",
            "http://localhost/",
            "//evil.example/x",
            "http:evil",
            "file:///etc/passwd",
            "http://user:pw@registry.example/",
        ):
            upstream.faults = [Fault(location=location)]
            answer = await proxy.get(f"/v2/a/blobs/{digest}")
            assert (answer.status, answer.code) == (502, "UNAVAILABLE"), location
            assert "not allowed" in answer.message
        assert canary.log == []


async def test_followed_redirect_to_a_name_of_a_private_address_is_refused(
    start_proxy: StartProxy, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding: the name looks public, what it resolves to is not."""
    resolve = socket.getaddrinfo

    def rebound(host: str, port: int, *arguments: int, **named: int) -> object:
        return resolve("127.0.0.2" if host == "canary.example" else host, port, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    touched: list[str] = []

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        touched.append("touched")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    # The upstream's own port is the one that a redirect may name besides 80 and 443.
    async with listening(canary, "127.0.0.2", upstream.port):
        proxy = await start_proxy(upstream__redirects="follow")
        digest = upstream.blob(CONTENT)
        upstream.faults.append(Fault(location=f"http://canary.example:{upstream.port}/x"))
        answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert "not public" in answer.message
    assert touched == []


async def test_redirect_loops_end(start_proxy: StartProxy, upstream: FaultyUpstream) -> None:
    proxy = await start_proxy(upstream__redirects="follow")
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(location=f"/v2/a/blobs/{digest}"))
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert answer.status == 502
    assert len(upstream.log) == 6


async def test_store_that_refuses_the_signature_is_no_login(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    async with running() as store:
        proxy = await start_proxy(
            upstream__redirects="follow", upstream__redirect_hosts=["127.0.0.1"]
        )
        digest = upstream.blob(CONTENT)
        upstream.faults.append(Fault(location=f"{store.url}/v2/a/blobs/{digest}"))
        store.faults.append(Fault(match="/v2/", status=403))
        assert (await proxy.get(f"/v2/a/blobs/{digest}")).status == 502
        store.faults.clear()
        assert (await proxy.get(f"/v2/a/blobs/{digest}")).status == 404


async def test_B2_urls_of_foreign_layers_are_never_asked(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    async with running() as canary:
        proxy = await start_proxy()
        layer = upstream.blob(b"weights")
        document: dict[str, object] = {
            "schemaVersion": 2,
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "layers": [
                {
                    "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                    "digest": layer,
                    "size": 7,
                    "urls": [f"{canary.url}/layer"],
                    "annotations": {"org.cncf.model.filepath": "w.bin"},
                },
                {
                    "mediaType": "application/vnd.cncf.model.doc.v1.tar",
                    "digest": "sha256:" + "1" * 64,
                    "size": 2048,
                    "urls": [f"{canary.url}/missing"],
                },
            ],
        }
        upstream.manifest("a", "v1", document, OCI_MANIFEST)
        for target in (
            "/v2/a/manifests/v1",
            f"/v2/a/blobs/{layer}",
            "/cnai/a:v1",
            "/cnai/a:v1/files",
            "/cnai/a:v1/readme",
            "/cnai/a:v1/files/w.bin",
            "/cnai/a:v1/files/nothing",
        ):
            answer = await proxy.get(target)
            assert answer.status in (200, 404), (target, answer.body)
        assert canary.log == []


async def test_large_manifest_passes(proxy: Client, upstream: FaultyUpstream) -> None:
    body = b'{"annotations":{"x":"' + b"y" * (5 * 1024 * 1024) + b'"}}'
    pushed = await proxy.send(
        "PUT",
        "/v2/a/manifests/big",
        headers=[("Content-Type", OCI_MANIFEST)],
        body=io.BytesIO(body),
    )
    assert pushed.status == 201
    pulled = await proxy.get("/v2/a/manifests/big")
    assert hashlib.sha256(pulled.body).digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND"])
async def test_other_methods_are_refused(
    proxy: Client, upstream: FaultyUpstream, method: str
) -> None:
    received = await proxy.raw(
        f"{method} /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert received.startswith(b"HTTP/1.1 405 ")
    assert upstream.log == []
