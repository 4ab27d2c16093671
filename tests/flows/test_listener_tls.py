"""The listener over TLS: versions, certificates and their exchange, clients that misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.facade.client import ClientStalled, client_takes
from proxy.running import RunningProxy, serving
from proxy.server.certificate import CertificateFiles, load_context
from proxy.server.connection import WRITE_BUFFER_BYTES, ListenerLimits
from proxy.server.listener import CannotListen, listen
from proxy.settings import Settings, load
from tests.certificates import Authority, Issued, authority
from tests.faulty_upstream import FaultyUpstream
from tests.flows.test_operations import command

PATIENCE_SECONDS = 10
CONTENT = os.urandom(1 << 20) * 8
GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.fixture
def issued(trusted: Authority) -> Issued:
    return trusted.issue("server")


def settings_for(upstream: FaultyUpstream, issued: Issued | None, **flags: object) -> Settings:
    given: dict[str, object] = {"upstreams.0.url": upstream.url, "listen.port": 0}
    if issued is not None:
        given["listen.tls.cert_file"] = str(issued.cert_file)
        given["listen.tls.key_file"] = str(issued.key_file)
    given |= {key.replace("__", "."): value for key, value in flags.items()}
    return load(file=None, environment={}, flags=given)


def trusting(trusted: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=trusted.ca_file)


def trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def connected(
    proxy: RunningProxy, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(proxy: RunningProxy, context: ssl.SSLContext, target: str) -> tuple[int, bytes]:
    connector = aiohttp.TCPConnector(ssl=context)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(proxy.url + target) as answer,
    ):
        return answer.status, await answer.read()


async def shown_by(proxy: RunningProxy, name: str | None = None) -> int:
    """The serial number of the certificate that a new connection meets."""
    context = trusting_anybody()
    _, writer = await asyncio.open_connection(
        proxy.host, proxy.port, ssl=context, server_hostname=name or "127.0.0.1"
    )
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return hash(shown)


@contextmanager
def not_reading(
    address: tuple[str, int], receive_bytes: int | None = None
) -> Iterator[ssl.SSLSocket]:
    """A client that takes only what it is told to take; use it from a thread, handshake too."""
    plain = socket.socket()
    plain.settimeout(PATIENCE_SECONDS)
    if receive_bytes is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.connect(address)
    context = trusting_anybody()
    with closing(context.wrap_socket(plain, do_handshake_on_connect=False)) as client:
        yield client


def one_request(client: ssl.SSLSocket) -> None:
    client.do_handshake()
    client.sendall(GET % b"/v2/")
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def messages(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


async def test_pull_over_tls_gives_the_upstreams_bytes(
    upstream: FaultyUpstream, trusted: Authority, issued: Issued
) -> None:
    digest = upstream.blob(CONTENT)
    async with serving(settings_for(upstream, issued)) as proxy:
        assert proxy.url == f"https://127.0.0.1:{proxy.port}"
        status, body = await ask(proxy, trusting(trusted), f"/v2/a/blobs/{digest}")
        assert (status, hashlib.sha256(body).hexdigest()) == (200, digest.removeprefix("sha256:"))


async def test_push_over_tls_arrives(
    upstream: FaultyUpstream, trusted: Authority, issued: Issued
) -> None:
    target = "/v2/a/blobs/uploads/"
    async with (
        serving(settings_for(upstream, issued)) as proxy,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(trusted))) as session,
    ):
        async with session.post(proxy.url + target) as begun:
            location = begun.headers["Location"]
        async with session.patch(proxy.url + location, data=io.BytesIO(CONTENT)) as sent:
            assert sent.status == 202
    assert upstream.requests("PATCH ")[0].body == CONTENT


async def test_ready_line_says_https(
    upstream: FaultyUpstream, issued: Issued, trusted: Authority
) -> None:
    environment = {
        "CNAI_PROXY_LISTEN__TLS__CERT_FILE": str(issued.cert_file),
        "CNAI_PROXY_LISTEN__TLS__KEY_FILE": str(issued.key_file),
    }
    arguments = ("serve", "--upstream", upstream.url, "--port", "0")
    async with command(*arguments, **environment) as running:
        assert running.printed.startswith("cnai-proxy ready on https://127.0.0.1:")
        connector = aiohttp.TCPConnector(ssl=trusting(trusted))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"https://127.0.0.1:{running.client.port}/v2/") as answer,
        ):
            assert answer.status == 200
        # Plain HTTP, and bytes that are nothing at all.
        for sent in (GET % b"/v2/", b"\0" * 100):
            with suppress(ConnectionResetError):
                assert await running.client.raw(sent) == b""
        assert await running.stop() == 0
    failures = [line for line in running.errors if "TLS handshake failed" in line]
    assert len(failures) == 2
    assert failures[0].endswith("TLS handshake failed reason=HTTP_REQUEST\n")
    assert "Traceback" not in "".join(running.errors)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_handshake_agrees_on_http_1_1(
    upstream: FaultyUpstream, trusted: Authority, issued: Issued, version: ssl.TLSVersion
) -> None:
    context = trusting(trusted)
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        serving(settings_for(upstream, issued)) as proxy,
        connected(proxy, context) as (_, writer),
    ):
        handshake = writer.get_extra_info("ssl_object")
        assert handshake.selected_alpn_protocol() == "http/1.1"
        assert handshake.version() == version.name.replace("_", ".")


async def test_H9_old_tls_is_refused_and_said(
    upstream: FaultyUpstream, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    context = trusting_anybody()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(settings_for(upstream, issued)) as proxy:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(proxy, context):
                pass
    assert "TLS handshake failed reason=UNSUPPORTED_PROTOCOL" in messages(caplog, "INFO")


async def test_client_that_does_not_trust_is_one_line(
    upstream: FaultyUpstream, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(settings_for(upstream, issued)) as proxy:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connected(proxy, ssl.create_default_context()):
                pass
        assert (await ask(proxy, trusting_anybody(), "/v2/"))[0] == 200
    assert messages(caplog, "ERROR") == []
    assert [text for text in messages(caplog, "INFO") if "TLS" in text] in (
        [],  # TLS 1.3: the client's alert comes behind the server's end of the handshake
        ["TLS handshake failed reason=TLSV1_ALERT_UNKNOWN_CA"],
    )


@pytest.mark.parametrize("is_through", [False, True], ids=["before", "after the handshake"])
async def test_I2_silent_client_is_closed(
    upstream: FaultyUpstream, issued: Issued, is_through: bool
) -> None:
    context = trusting_anybody() if is_through else None
    settings = settings_for(upstream, issued, listen__header_seconds=0.3)
    async with serving(settings) as proxy, asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port, ssl=context)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


async def test_expired_certificate_is_served_with_a_warning(
    upstream: FaultyUpstream, trusted: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    issued = trusted.issue("server", expired=True)
    async with serving(settings_for(upstream, issued)) as proxy:
        assert (await ask(proxy, trusting_anybody(), "/v2/"))[0] == 200
        settings = settings_for(upstream, issued)
        await proxy.reload(lambda: settings)
    expected = "listen.tls.cert_file: certificate has expired; clients will refuse it"
    assert messages(caplog, "WARNING") == [expected, expected]


async def test_self_signed_certificate_is_no_warning(
    upstream: FaultyUpstream, trusted: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(settings_for(upstream, trusted.issue("own", self_signed=True))):
        pass
    assert messages(caplog, "WARNING") == []
    assert not any("TLS" in text for text in messages(caplog, "INFO"))


async def test_pair_that_does_not_fit_refuses_the_start(trusted: Authority) -> None:
    cert, key = trusted.issue("one").cert_file, trusted.issue("two").key_file
    files = CertificateFiles(str(cert), str(key))
    with pytest.raises(CannotListen, match=r"^listen\.tls: .*key values mismatch"):
        await listening_with(files)


async def test_encrypted_key_refuses_the_start_and_asks_nobody(trusted: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    issued = trusted.issue("server")
    issued.key_file.write_bytes(
        trusted.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    files = CertificateFiles(str(issued.cert_file), str(issued.key_file))
    with pytest.raises(CannotListen, match=r"^listen\.tls: "):
        await listening_with(files)


async def listening_with(files: CertificateFiles) -> None:
    @asynccontextmanager
    async def nothing() -> AsyncIterator[web.Application]:
        yield web.Application()

    async with listen(
        nothing(), host="127.0.0.1", port=0, limits=ListenerLimits(), certificate=files
    ):
        pass


async def test_L3_renewed_certificate_is_shown_from_the_next_handshake_on(
    upstream: FaultyUpstream, trusted: Authority, issued: Issued
) -> None:
    settings = settings_for(upstream, issued)
    async with serving(settings) as proxy:
        first = await shown_by(proxy)
        async with connected(proxy, trusting(trusted)) as (reader, writer):
            digest = upstream.blob(CONTENT)
            writer.write(GET % f"/v2/a/blobs/{digest}".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            trusted.issue("server")
            assert await shown_by(proxy) == first  # not before it is asked for
            assert await proxy.reload(lambda: settings) is settings
            assert {await shown_by(proxy), await shown_by(proxy, "localhost")} != {first}
            assert await shown_by(proxy) == await shown_by(proxy, "localhost") != first
            async with asyncio.timeout(PATIENCE_SECONDS):
                body = await reader.read()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert hashlib.sha256(body).hexdigest() == digest.removeprefix("sha256:")
        assert (await ask(proxy, trusting(trusted), "/v2/"))[0] == 200


async def test_L3_broken_certificate_leaves_the_one_before(
    upstream: FaultyUpstream,
    trusted: Authority,
    issued: Issued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = settings_for(upstream, issued)
    async with serving(settings) as proxy:
        first = await shown_by(proxy)
        issued.key_file.write_bytes(trusted.issue("other").key_file.read_bytes())
        assert await proxy.reload(lambda: settings) is None  # checked before it was changed
        assert await proxy.reload(lambda: settings_for(upstream, issued)) is None
        issued.key_file.unlink()
        assert await proxy.reload(lambda: settings) is None
        assert await shown_by(proxy) == first
        assert (await ask(proxy, trusting(trusted), "/v2/"))[0] == 200
    assert len(messages(caplog, "ERROR")) == 6
    assert "key values mismatch" in messages(caplog, "ERROR")[0]
    assert "listen.tls" in messages(caplog, "ERROR")[2]


async def test_L3_switching_tls_off_waits_for_the_next_start(
    upstream: FaultyUpstream, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings_for(upstream, issued)) as proxy:
        settings = settings_for(upstream, None, models__enabled=False)
        assert await proxy.reload(lambda: settings) is settings
        assert proxy.url.startswith("https://")
        assert (await ask(proxy, trusting_anybody(), "/cnai/a:v1"))[0] == 404
    (warning,) = messages(caplog, "WARNING")
    assert warning.startswith("listen.tls: the change waits for the next start")


async def test_L3_switching_tls_on_waits_for_the_next_start(
    upstream: FaultyUpstream, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings_for(upstream, None)) as proxy:
        settings = settings_for(upstream, issued)
        assert await proxy.reload(lambda: settings) is settings
        assert proxy.url.startswith("http://")
        assert (await ask(proxy, trusting_anybody(), "/v2/"))[0] == 200
    (warning,) = messages(caplog, "WARNING")
    assert warning.startswith("listen.tls: the change waits for the next start")


async def test_L3_replaced_connection_whose_client_says_no_goodbye_ends(
    upstream: FaultyUpstream, issued: Issued
) -> None:
    settings = settings_for(upstream, issued)

    async with serving(settings) as proxy:
        with not_reading((proxy.host, proxy.port)) as client:
            await asyncio.to_thread(one_request, client)
            assert upstream.open == 1
            await proxy.reload(lambda: settings)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while upstream.open:  # noqa: ASYNC110  # the other side has no event
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("asks_for_it", [True, False], ids=["Connection: close", "keep-alive"])
async def test_I2_closed_connection_whose_client_says_no_goodbye_ends(
    upstream: FaultyUpstream, issued: Issued, *, asks_for_it: bool
) -> None:
    """asyncio alone would wait for the end of TLS as long as for an answer's last bytes."""
    settings = settings_for(upstream, issued, **{"listen.keepalive_seconds": 0.1})
    last = b"Connection: close\r\n" if asks_for_it else b""
    sent = GET % b"/v2/"

    def ask_once(client: ssl.SSLSocket) -> None:
        client.do_handshake()
        client.sendall(sent.replace(b"\r\n\r\n", b"\r\n" + last + b"\r\n"))
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")

    async with serving(settings) as proxy:
        with not_reading((proxy.host, proxy.port)) as client:
            await asyncio.to_thread(ask_once, client)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while proxy.connections:  # noqa: ASYNC110  # it ends without an event
                    await asyncio.sleep(0.01)


async def test_idle_client_that_says_no_goodbye_does_not_hold_the_stop(
    upstream: FaultyUpstream, issued: Issued
) -> None:
    async with serving(settings_for(upstream, issued)) as proxy:
        with not_reading((proxy.host, proxy.port)) as client:
            await asyncio.to_thread(one_request, client)
            started = time.monotonic()
    assert time.monotonic() - started < 2


async def test_stop_waits_for_what_a_slow_client_has_not_taken(
    upstream: FaultyUpstream, issued: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    digest = upstream.blob(CONTENT)
    request = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    stopping = asyncio.Event()

    def pull(client: ssl.SSLSocket) -> bytes:
        client.do_handshake()
        client.sendall(request % f"/v2/a/blobs/{digest}".encode())
        received = b""
        # Just until the last bytes are in the proxy's buffers, which are full by then.
        while not any(record.name == "proxy.access" for record in caplog.records):
            received += client.recv(16384)
            time.sleep(0.001)
        loop.call_soon_threadsafe(stopping.set)
        time.sleep(0.3)  # the proxy would have stopped by now
        while chunk := client.recv(65536):
            received += chunk
        return received

    loop = asyncio.get_running_loop()
    with ExitStack() as clients:
        async with serving(settings_for(upstream, issued)) as proxy:
            client = clients.enter_context(
                not_reading((proxy.host, proxy.port), receive_bytes=65536)
            )
            pulling = loop.run_in_executor(None, pull, client)
            await stopping.wait()
        received = await pulling
    assert len(received.partition(b"\r\n\r\n")[2]) == len(CONTENT)
    assert received.endswith(CONTENT[-1000:])
    assert "drained requests_cut=0" in messages(caplog, "INFO")


async def test_reader_that_stalls_is_cut(upstream: FaultyUpstream, issued: Issued) -> None:
    digest = upstream.blob(CONTENT)

    def begin(client: ssl.SSLSocket) -> None:
        client.do_handshake()
        client.sendall(GET % f"/v2/a/blobs/{digest}".encode())
        client.recv(8192)

    settings = settings_for(upstream, issued, listen__write_seconds=0.5)
    async with serving(settings) as proxy:
        with not_reading((proxy.host, proxy.port), receive_bytes=8192) as client:
            await asyncio.to_thread(begin, client)
            assert upstream.open == 1
            async with asyncio.timeout(PATIENCE_SECONDS):
                while upstream.open:  # noqa: ASYNC110  # the other side has no event
                    await asyncio.sleep(0.01)


async def test_slow_reader_is_not_taken_for_one_that_stalls(issued: Issued) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        try:
            while True:
                async with client_takes(transport, 1):
                    writer.write(bytes(65536))
                    await writer.drain()
        except ConnectionError as error:
            ended.set_exception(error)
        finally:
            transport.abort()

    files = CertificateFiles(str(issued.cert_file), str(issued.key_file))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=load_context(files))
    # As little as a long line's kernel buffer next to asyncio's own.
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    address = server.sockets[0].getsockname()

    def pull(client: ssl.SSLSocket) -> None:
        client.do_handshake()
        for _ in range(20):  # 5 s, in which one write waits for most of asyncio's buffer
            client.recv(8192)
            time.sleep(0.25)  # a pace

    with closing(server), not_reading(address, receive_bytes=4096) as client:
        await asyncio.to_thread(pull, client)
        assert not ended.done()
        with pytest.raises(ClientStalled):  # now that it takes nothing any more
            await ended


async def test_L3_sighup_shows_the_renewed_certificate(
    upstream: FaultyUpstream, issued: Issued, trusted: Authority
) -> None:
    environment = {
        "CNAI_PROXY_LISTEN__TLS__CERT_FILE": str(issued.cert_file),
        "CNAI_PROXY_LISTEN__TLS__KEY_FILE": str(issued.key_file),
    }
    arguments = ("serve", "--upstream", upstream.url, "--port", "0")
    async with command(*arguments, **environment) as running:
        trusted.issue("server", hosts=["renewed.test"])
        running.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any("settings reloaded" in line for line in running.errors):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection(
            "127.0.0.1",
            running.client.port,
            ssl=trusting(trusted),
            server_hostname="renewed.test",
        )
        writer.close()
        assert await running.stop() == 0
