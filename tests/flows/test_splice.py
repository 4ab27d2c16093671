"""Long bodies go from socket to socket inside the kernel: same bytes, same ends, no leaks."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Literal

import aiohttp
import pytest

from proxy.facade import splice
from tests.build import tar_entry, tar_of
from tests.faulty_upstream import OCI_MANIFEST, Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Client

CONTENT = os.urandom(1 << 20) * 8


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for every answer that was spliced."""
    seen: list[str] = []
    original = splice._Transfer.run

    async def counted(
        self: splice._Transfer, left: int, idle_seconds: float, write_seconds: float
    ) -> None:
        seen.append("spliced")
        await original(self, left, idle_seconds, write_seconds)

    monkeypatch.setattr(splice._Transfer, "run", counted)
    return seen


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (splice.LEAST_BYTES - 1, 0),
        (splice.LEAST_BYTES, 1),
        (splice.LEAST_BYTES + 1, 1),
        (len(CONTENT) - 3, 1),
    ],
)
async def test_bytes_are_the_upstreams_on_either_path(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str], size: int, expected: int
) -> None:
    content = CONTENT[:size]
    digest = upstream.blob(content)
    for _ in range(3):
        answer = await proxy.get(f"/v2/a/blobs/{digest}")
        assert hashlib.sha256(answer.body).hexdigest() == digest.removeprefix("sha256:")
        assert answer.headers["Content-Length"] == str(size)
    assert len(spliced) == 3 * expected


async def test_long_part_is_spliced_too(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    digest = upstream.blob(CONTENT)
    answer = await proxy.get(f"/v2/a/blobs/{digest}", Range="bytes=1000-")
    assert (answer.status, answer.body) == (206, CONTENT[1000:])
    assert spliced == ["spliced"]


async def test_what_has_no_length_or_no_body_is_not_spliced(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    digest = upstream.blob(CONTENT)
    assert (await proxy.head(f"/v2/a/blobs/{digest}")).status == 200
    lengths: tuple[Literal["chunked", "none"], ...] = ("chunked", "none")
    for length in lengths:
        upstream.faults = [Fault(length=length)]
        assert (await proxy.get(f"/v2/a/blobs/{digest}")).body == CONTENT
    assert spliced == []


async def test_length_that_is_not_passed_on_is_not_spliced(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    """A spliced body goes out bare; the answer without its length would be chunked."""
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(headers=[("Connection", "Content-Length")]))
    answer = await proxy.get(f"/v2/a/blobs/{digest}")
    assert "Content-Length" not in answer.headers
    assert answer.body == CONTENT
    assert spliced == []


async def test_write_buffer_of_the_client_connection_is_as_before(
    proxy: Client, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[asyncio.Transport] = []
    original = splice._Transfer.run

    async def noted(
        self: splice._Transfer, left: int, idle_seconds: float, write_seconds: float
    ) -> None:
        assert self._client.get_write_buffer_limits() == (0, 0)
        await original(self, left, idle_seconds, write_seconds)
        clients.append(self._client)

    monkeypatch.setattr(splice._Transfer, "run", noted)
    digest = upstream.blob(CONTENT)
    assert (await proxy.get(f"/v2/a/blobs/{digest}")).status == 200
    assert (await proxy.get("/v2/")).status == 200  # the spliced answer has ended
    (client,) = clients
    assert not client.is_closing()
    assert client.get_write_buffer_limits() == (16 * 1024, 64 * 1024)  # asyncio's own


async def test_client_connection_stays_usable(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    digest = upstream.blob(CONTENT)
    request = f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    last = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = await proxy.raw(request * 3 + last)
    assert received.count(CONTENT) == 3
    assert received.endswith(b"\r\n\r\n{}")
    assert len(spliced) == 3


async def test_bytes_behind_the_declared_length_reach_nobody(
    start_proxy: StartProxy, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    proxy = await start_proxy(upstream__connections=1)
    digest = upstream.blob(CONTENT)
    upstream.faults.append(
        Fault(times=1, extra=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" * 100)
    )
    for _ in range(3):
        answer = await proxy.get(f"/v2/a/blobs/{digest}")
        assert answer.body == CONTENT
    assert len(spliced) == 3


@pytest.mark.parametrize("at", [0, 100, 300_000, 3 << 20, len(CONTENT) - 1])
async def test_cut_upstream_cuts_the_client(
    proxy: Client, upstream: FaultyUpstream, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(cut_at=at))
    caplog.set_level("INFO", logger="proxy.access")
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"/v2/a/blobs/{digest}")
    (line,) = (record.__dict__["fields"] for record in caplog.records)
    assert "ended before its declared length" in line["reason"]
    assert line["sent"] <= at


async def test_stalled_upstream_is_cut_after_the_idle_time(
    start_proxy: StartProxy, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    proxy = await start_proxy(upstream__timeouts__idle_seconds=0.3)
    digest = upstream.blob(CONTENT)
    upstream.faults.append(Fault(stall_at=3 << 20))
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"/v2/a/blobs/{digest}")
    assert spliced == ["spliced"]


async def test_slow_reader_gets_everything(
    start_proxy: StartProxy, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    proxy = await start_proxy(listen__write_seconds=2)
    digest = upstream.blob(CONTENT)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=4096)
    writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    whole = hashlib.sha256()
    for _ in range(8):
        await asyncio.sleep(0.05)  # a pace, not a wait for something
        whole.update(await reader.readexactly(1 << 20))
    assert whole.hexdigest() == digest.removeprefix("sha256:")
    assert spliced == ["spliced"]
    writer.close()


async def test_leaving_and_stalled_readers_leave_nothing_open(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(listen__write_seconds=0.5)
    digest = upstream.blob(CONTENT * 4)
    request = f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert (await proxy.get("/v2/")).status == 200
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=4096)
        writer.write(request)
        await reader.readexactly(1000 + number * 1000)
        if number % 2:
            writer.transport.abort()
        else:
            await asyncio.sleep(0)
            writer.close()
    stalled = [await asyncio.open_connection(proxy.host, proxy.port, limit=4096) for _ in range(5)]
    for reader, writer in stalled:
        writer.write(request)
        await reader.readexactly(1000)
    async with asyncio.timeout(10):
        while upstream.open > 1:  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(0.05)
    for _, writer in stalled:
        writer.transport.abort()
    async with asyncio.timeout(5):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(0.05)
    assert (await proxy.get(f"/v2/a/blobs/{digest}")).body == CONTENT * 4


async def test_transfers_side_by_side_do_not_mix(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    digests = [upstream.blob(CONTENT[number:]) for number in range(16)]
    answers = await asyncio.gather(*(proxy.get(f"/v2/a/blobs/{digest}") for digest in digests))
    for number, answer in enumerate(answers):
        assert answer.body == CONTENT[number:]
    assert len(spliced) == 16


async def test_model_files_are_spliced_out_of_their_layers(
    proxy: Client, upstream: FaultyUpstream, spliced: list[str]
) -> None:
    packed = tar_of(tar_entry(b"w.bin", CONTENT))
    for content, suffix in ((CONTENT, "raw"), (packed, "tar")):
        upstream.manifest(
            "a",
            suffix,
            {
                "schemaVersion": 2,
                "artifactType": "application/vnd.cncf.model.manifest.v1+json",
                "layers": [
                    {
                        "mediaType": f"application/vnd.cncf.model.weight.v1.{suffix}",
                        "digest": upstream.blob(content),
                        "size": len(content),
                        "annotations": {"org.cncf.model.filepath": "w.bin"},
                    }
                ],
            },
            OCI_MANIFEST,
        )
        answer = await proxy.get(f"/cnai/a:{suffix}/files/w.bin")
        assert (answer.status, answer.body) == (200, CONTENT)
        part = await proxy.get(f"/cnai/a:{suffix}/files/w.bin", Range="bytes=5-2000004")
        assert (part.status, part.body) == (206, CONTENT[5:2000005])
    assert len(spliced) == 4
