"""Through an HTTP proxy: what goes to it, what goes through it, and what is said when it fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from yarl import URL

from tests.certificates import authority
from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, listening
from tests.flows.https import client_of, server_context, serving_https

LOGIN = "Basic YW5uYTpzM2NyM3Q="  # anna:s3cr3t
# Names that only the HTTP proxy can resolve.
REGISTRY, STORE = "registry.invalid", "store.invalid"


@dataclass
class HttpProxy:
    """A proxy for absolute-form requests and CONNECT; ``ports`` says where a host is.

    ``refusal`` is the status line it gives to everything, ``login`` what it wants in
    ``Proxy-Authorization``. ``heads`` is what it read: request line and headers.
    """

    ports: dict[str, int] = field(default_factory=dict)
    login: str | None = None
    refusal: str | None = None
    is_silent: bool = False
    heads: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def lines(self) -> list[str]:
        """The request lines."""
        return [head.partition("\r\n")[0] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; only the first request on it is looked at."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        if self.is_silent:
            await reader.read()
        refusal = self.refusal
        if self.login is not None and f"Proxy-Authorization: {self.login}\r\n" not in head:
            refusal = "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=p"
        url = URL(f"//{target}" if method == "CONNECT" else target, encoded=True)
        if refusal is not None or url.host not in self.ports:
            status = refusal or "502 Bad Gateway"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            return
        back_reader, back = await asyncio.open_connection("127.0.0.1", self.ports[url.host])
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                kept = [li for li in head.split("\r\n")[1:-2] if not li.startswith("Proxy-")]
                lines = [f"{method} {path} HTTP/1.1", *kept, "", ""]
                back.write("\r\n".join(lines).encode("latin1"))
            sending = asyncio.gather(_copy(reader, back))
            if method != "CONNECT":
                first = await back_reader.readline()
                writer.write(first + b"Connection: close\r\n")
            await asyncio.gather(sending, _copy(back_reader, writer))
        finally:
            back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(65536):
        writer.write(block)
        await writer.drain()
    writer.close()


@pytest.fixture
async def between(upstream: FaultyUpstream) -> AsyncIterator[HttpProxy]:
    """A proxy that knows the upstream as ``REGISTRY`` and ``STORE``."""
    proxy = HttpProxy(dict.fromkeys((REGISTRY, STORE), upstream.port))
    async with listening(proxy.serve) as url:
        proxy.url = url
        yield proxy


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def secure_registry(folder: Path, between: HttpProxy) -> AsyncIterator[dict[str, object]]:
    """A registry over TLS as ``REGISTRY``, and the settings of an upstream that may see it."""
    made = authority(folder)

    async def handle(request: web.Request) -> web.Response:
        assert "Proxy-Authorization" not in request.headers
        return web.json_response({"client": client_of(request)})

    issued = made.issue("registry", hosts=[REGISTRY])
    context = server_context(issued, clients=made.ca_file, required=False)
    client = made.issue("us")
    async with serving_https(handle, context) as url:
        between.ports[REGISTRY] = URL(url).port or 0
        yield {
            "url": f"https://{REGISTRY}",
            "upstream__tls__ca_file": str(made.ca_file),
            "upstream__tls__client_cert_file": str(client.cert_file),
            "upstream__tls__client_key_file": str(client.key_file),
        }


async def test_requests_go_through_the_proxy_of_the_settings_byte_for_byte(
    start_proxy: StartProxy, upstream: FaultyUpstream, between: HttpProxy
) -> None:
    proxy = await start_proxy(url=f"http://{REGISTRY}", upstream__proxy=between.url)
    digest = upstream.blob(bytes(3_000_000))
    answer = await proxy.get(f"/v2/a/blobs/{digest}", Range="bytes=5-2000000")
    assert (answer.status, len(answer.body)) == (206, 1_999_996)
    started = await proxy.send("POST", "/v2/a/blobs/uploads/")
    assert started.status == 202
    target = "/v2/a/blobs/uploads/session-0?_state=a%2Fb%3D%3D&x=%7E"
    patched = await proxy.send("PATCH", target, body=b"x" * 100_000)
    assert patched.status == 202
    assert between.lines == [
        f"GET http://{REGISTRY}/v2/a/blobs/{digest} HTTP/1.1",
        f"POST http://{REGISTRY}/v2/a/blobs/uploads/ HTTP/1.1",
        f"PATCH http://{REGISTRY}{target} HTTP/1.1",
    ]
    assert [seen.get("Host") for seen in upstream.log] == [REGISTRY] * 3
    assert upstream.log[-1].target == target


async def test_H9_tls_goes_through_the_proxy_to_the_upstream_itself(
    start_proxy: StartProxy, between: HttpProxy, tmp_path: Path
) -> None:
    async with secure_registry(tmp_path, between) as settings:
        proxy = await start_proxy(upstream__proxy=between.url, **settings)
        for _ in range(3):
            answer = await proxy.get("/v2/")
            assert (answer.status, answer.json) == (200, {"client": "us"})
    assert between.lines == [f"CONNECT {REGISTRY}:443 HTTP/1.1"]
    assert "Authorization" not in between.heads[0]


async def test_H9_certificate_is_checked_through_the_proxy(
    start_proxy: StartProxy, between: HttpProxy, tmp_path: Path
) -> None:
    async with secure_registry(tmp_path, between):
        proxy = await start_proxy(url=f"https://{REGISTRY}", upstream__proxy=between.url)
        answer = await proxy.get("/v2/")
    assert answer.status == 502
    assert "its certificate comes from an authority that is not known here" in answer.message


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_B5_login_of_the_environments_proxy_reaches_it_alone(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    between: HttpProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    caplog.set_level("DEBUG")
    between.login = LOGIN
    monkeypatch.setenv(name, between.url.replace("//", "//anna:s3cr3t@"))
    proxy = await start_proxy(url=f"http://{REGISTRY}")
    assert (await proxy.get("/v2/", Authorization="Basic YmVydDpz")).status == 200
    (seen,) = upstream.log
    assert seen.get("Authorization") == "Basic YmVydDpz"
    assert seen.get("Proxy-Authorization") is None
    text = (await proxy.get("/metrics")).body.decode() + caplog.text
    assert "s3cr3t" not in text
    assert "YW5uYTpzM2NyM3Q" not in text


async def test_B5_login_of_the_environments_proxy_stays_out_of_the_tunnel(
    start_proxy: StartProxy,
    between: HttpProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    between.login = LOGIN
    monkeypatch.setenv("HTTPS_PROXY", between.url.replace("//", "//anna:s3cr3t@"))
    async with secure_registry(tmp_path, between) as settings:
        proxy = await start_proxy(**settings)
        answer = await proxy.get("/v2/", Authorization="Basic YmVydDpz")
    assert answer.status == 200
    assert "YmVydDpz" not in between.heads[0]


async def test_environments_proxy_is_not_for_loopback_or_where_it_is_switched_off(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    between: HttpProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", between.url)
    proxy = await start_proxy()
    assert (await proxy.get("/v2/")).status == 200
    address = upstream.url.replace("127.0.0.1", "localhost")
    proxy = await start_proxy(url=address, upstream__proxy="none")
    assert (await proxy.get("/v2/")).status == 200
    monkeypatch.setenv("NO_PROXY", f"127.0.0.0/8,{REGISTRY}")
    proxy = await start_proxy(url=f"http://{REGISTRY}")
    answer = await proxy.get("/v2/")
    assert answer.status == 503
    assert "the upstream's host name" in answer.message
    assert between.heads == []


async def test_B5_netrc_is_never_read(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    between: HttpProxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login anna password s3cr3t\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", between.url)
    proxy = await start_proxy(url=f"http://{REGISTRY}")
    assert (await proxy.get("/v2/")).status == 200
    assert "uthorization" not in between.heads[0]
    assert upstream.log[0].get("Authorization") is None


# Redirects ---------------------------------------------------------------------------------------


async def test_C1_redirect_targets_are_resolved_by_the_proxy(
    start_proxy: StartProxy, upstream: FaultyUpstream, between: HttpProxy
) -> None:
    digest = upstream.blob(b"content")
    target = f"http://{STORE}/v2/store/blobs/{digest}"
    upstream.faults = [Fault(match="/v2/a/", location=target)]
    proxy = await start_proxy(
        url=f"http://{REGISTRY}", upstream__proxy=between.url, upstream__redirects="follow"
    )
    answer = await proxy.get(f"/v2/a/blobs/{digest}", Authorization="Basic YmVydDpz")
    assert (answer.status, answer.body) == (200, b"content")
    assert between.lines[1] == f"GET {target} HTTP/1.1"
    assert upstream.log[1].get("Authorization") is None


@pytest.mark.parametrize(
    "location",
    ["http://10.0.0.1/x", "http://169.254.169.254/x", "http://localhost/x", "http://[::1]/x"],
)
async def test_C1_redirects_to_private_literals_are_refused_before_the_proxy(
    start_proxy: StartProxy, upstream: FaultyUpstream, between: HttpProxy, location: str
) -> None:
    upstream.faults = [Fault(match="/v2/a/", location=location)]
    proxy = await start_proxy(
        url=f"http://{REGISTRY}", upstream__proxy=between.url, upstream__redirects="follow"
    )
    answer = await proxy.get(f"/v2/a/blobs/sha256:{'0' * 64}")
    assert answer.status == 502
    assert "redirect target not allowed" in answer.message
    assert len(between.heads) == 1


# Failures ----------------------------------------------------------------------------------------


async def ping(start_proxy: StartProxy, scheme: str, **settings: object) -> Answer:
    """The answer to a ping when the proxy is the environment's, with a login in its address."""
    proxy = await start_proxy(url=f"{scheme}://{REGISTRY}", **settings)
    answer = await proxy.get("/v2/")
    assert answer.code == "UNAVAILABLE"
    assert "HTTP proxy" in answer.message
    for secret in ("s3cr3t", "anna", "127.0.0.1", REGISTRY):
        assert secret not in answer.message
    return answer


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_B6_proxy_that_is_gone_is_503_that_says_it_is_the_proxy(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    monkeypatch.setenv("ALL_PROXY", f"http://anna:s3cr3t@127.0.0.1:{port}")
    answer = await ping(start_proxy, scheme)
    assert answer.status == 503
    assert answer.message == "no connection to the HTTP proxy: Connection refused"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_proxy_whose_name_does_not_resolve_is_503_that_says_so(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://anna:s3cr3t@proxy.invalid:3128")
    answer = await ping(start_proxy, scheme)
    assert answer.status == 503
    assert answer.message.startswith("the HTTP proxy's host name ")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_B6_proxy_that_wants_another_login_is_502_and_no_client_is_asked_for_it(
    start_proxy: StartProxy, between: HttpProxy, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    between.login = "Basic another"
    monkeypatch.setenv("ALL_PROXY", between.url.replace("//", "//anna:s3cr3t@"))
    answer = await ping(start_proxy, scheme)
    assert answer.status == 502
    assert answer.message.startswith("the HTTP proxy before the upstream wants a login; ")
    assert "Proxy-Authenticate" not in answer.headers


@pytest.mark.parametrize(
    ("refusal", "status", "text"),
    [
        ("403 Forbidden", 502, "the HTTP proxy refuses to connect to the upstream: it says 403"),
        ("503 Busy", 503, "the HTTP proxy has no connection to the upstream: it says 503"),
    ],
)
async def test_proxy_that_opens_no_tunnel_says_why(
    start_proxy: StartProxy,
    between: HttpProxy,
    monkeypatch: pytest.MonkeyPatch,
    refusal: str,
    status: int,
    text: str,
) -> None:
    between.refusal = refusal
    monkeypatch.setenv("ALL_PROXY", between.url)
    answer = await ping(start_proxy, "https")
    assert answer.status == status
    assert answer.message.startswith(text)


async def test_proxy_that_says_nothing_is_503_within_the_connect_timeout(
    start_proxy: StartProxy, between: HttpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    between.is_silent = True
    monkeypatch.setenv("ALL_PROXY", between.url)
    answer = await ping(start_proxy, "https", upstream__timeouts__connect_seconds=0.3)
    assert answer.status == 503
    assert "through the HTTP proxy within the connect timeout" in answer.message


@pytest.mark.parametrize("address", ["socks5://anna:s3cr3t@proxy.invalid", "https://anna:s3cr3t@p"])
async def test_B6_proxy_of_another_kind_is_502_and_nothing_is_sent(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    answer = await ping(start_proxy, "https")
    assert answer.status == 502
    assert "expected http://HOST:PORT" in answer.message
