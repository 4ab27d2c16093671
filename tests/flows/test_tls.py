"""Row H9: certificates are checked, what is wrong with them is said, and ours is shown to few."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from proxy.metrics import Metrics
from proxy.upstream.bodies import Timeouts
from proxy.upstream.client import Upstream, open_upstream
from proxy.upstream.egress import Egress
from proxy.upstream.sessions import TlsPolicy
from tests.certificates import Authority, Issued, authority
from tests.flows.conftest import StartProxy
from tests.flows.https import client_of, server_context, serving_https


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The authority that the registries of these tests have their certificates from."""
    return authority(tmp_path)


async def answer_well(_: web.Request) -> web.Response:
    return web.json_response({})


# Theirs ------------------------------------------------------------------------------------------


async def test_H9_private_authority_is_trusted_when_named(
    start_proxy: StartProxy, ca: Authority
) -> None:
    async with serving_https(answer_well, server_context(ca.issue("registry"))) as url:
        proxy = await start_proxy(url=url, upstream__tls__ca_file=str(ca.ca_file))
        assert (await proxy.get("/v2/")).status == 200


def _self_signed(ca: Authority) -> Issued:
    return ca.issue("registry", self_signed=True)


def _expired(ca: Authority) -> Issued:
    return ca.issue("registry", expired=True)


def _other_address(ca: Authority) -> Issued:
    return ca.issue("registry", hosts=["127.0.0.2", "registry.example"])


@pytest.mark.parametrize(
    ("make", "trusted", "reason"),
    [
        (lambda ca: ca.issue("registry"), False, "an authority that is not known here"),
        (_self_signed, False, "self-signed; if it is the right one, name it in"),
        (_self_signed, True, "self-signed; if it is the right one, name it in"),
        (_expired, True, "has expired"),
        (_other_address, True, "is for another host name"),
    ],
    ids=["unknown authority", "self-signed", "self-signed beside ca_file", "expired", "wrong name"],
)
async def test_H9_bad_certificate_is_502_with_its_reason(
    start_proxy: StartProxy, ca: Authority, make: object, trusted: bool, reason: str
) -> None:
    assert callable(make)
    settings = {"upstream__tls__ca_file": str(ca.ca_file)} if trusted else {}
    async with serving_https(answer_well, server_context(make(ca))) as url:
        proxy = await start_proxy(url=url, **settings)
        for target in ("/v2/", "/cnai/a:b"):
            answer = await proxy.get(target)
            assert (answer.status, answer.code) == (502, "UNAVAILABLE")
            assert answer.message.startswith("TLS to the upstream failed: its certificate ")
            assert reason in answer.message
            assert "127.0.0.1" not in answer.message


async def test_H9_wrong_name_is_not_shown(start_proxy: StartProxy, ca: Authority) -> None:
    issued = ca.issue("registry", hosts=["registry.example"])
    async with serving_https(answer_well, server_context(issued)) as url:
        address = url.replace("127.0.0.1", "localhost")
        proxy = await start_proxy(url=address, upstream__tls__ca_file=str(ca.ca_file))
        answer = await proxy.get("/v2/")
        assert answer.status == 502
        assert "is for another host name than the one in its address" in answer.message
        assert "localhost" not in answer.message


async def test_H9_self_signed_certificate_is_trusted_when_named(
    start_proxy: StartProxy, ca: Authority
) -> None:
    issued = _self_signed(ca)
    async with serving_https(answer_well, server_context(issued)) as url:
        proxy = await start_proxy(url=url, upstream__tls__ca_file=str(issued.cert_file))
        assert (await proxy.get("/v2/")).status == 200


async def test_H9_insecure_is_per_upstream_and_explicit(
    start_proxy: StartProxy, ca: Authority
) -> None:
    async with serving_https(answer_well, server_context(_other_address(ca))) as url:
        proxy = await start_proxy(url=url, upstream__tls__insecure=True)
        assert (await proxy.get("/v2/")).status == 200


async def test_H9_http_port_behind_https_is_502(
    start_proxy: StartProxy, unused_tcp_port: int
) -> None:
    app = web.Application()
    app.router.add_get("/v2/", answer_well)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        proxy = await start_proxy(url=f"https://127.0.0.1:{unused_tcp_port}")
        answer = await proxy.get("/v2/")
    finally:
        await runner.cleanup()
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert "TLS" in answer.message
    assert "is its address http:// instead of https://?" in answer.message


@contextmanager
def accepting(context: ssl.SSLContext) -> Iterator[str]:
    """A TLS server on a thread, and its address: unlike asyncio's it says why it hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.settimeout(5)
                with connection:
                    _one(connection)

    def _one(connection: socket.socket) -> None:
        secure = context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        try:
            secure.do_handshake()
            secure.recv(65536)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        except ssl.SSLError:
            # What the client sends meanwhile is read, else a reset could overtake the alert.
            raw = socket.socket(fileno=secure.detach())
            with raw, contextlib.suppress(OSError):
                raw.settimeout(5)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
        finally:
            secure.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listener.close()


async def test_H9_tls_before_1_2_is_refused(start_proxy: StartProxy, ca: Authority) -> None:
    context = server_context(ca.issue("registry"))
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    # The point is a server that can do no better; setting it is deprecated, and rightly so.
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with accepting(context) as url:
        for settings in ({"ca_file": str(ca.ca_file)}, {"insecure": True}):
            flags = {f"upstream__tls__{key}": value for key, value in settings.items()}
            proxy = await start_proxy(url=url, **flags)
            answer = await proxy.get("/v2/")
            assert answer.status == 502
            assert "no TLS version from 1.2 on" in answer.message


# Ours --------------------------------------------------------------------------------------------


def shown(issued: Issued, ca: Authority) -> dict[str, object]:
    """The settings of an upstream that is shown a client certificate."""
    return {
        "upstream__tls__ca_file": str(ca.ca_file),
        "upstream__tls__client_cert_file": str(issued.cert_file),
        "upstream__tls__client_key_file": str(issued.key_file),
    }


async def test_H9_upstream_sees_the_client_certificate(
    start_proxy: StartProxy, ca: Authority
) -> None:
    seen = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(client_of(request))
        return web.json_response({})

    context = server_context(ca.issue("registry"), clients=ca.ca_file)
    async with serving_https(handle, context) as url:
        proxy = await start_proxy(url=url, **shown(ca.issue("us"), ca))
        assert (await proxy.get("/v2/")).status == 200
        assert (await proxy.send("POST", "/v2/a/blobs/uploads/")).status == 200
    assert seen == ["us", "us"]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_H9_server_that_wants_a_client_certificate_is_502_that_says_so(
    start_proxy: StartProxy, ca: Authority, version: str
) -> None:
    context = server_context(ca.issue("registry"), clients=ca.ca_file)
    context.maximum_version = ssl.TLSVersion[version]
    with accepting(context) as url:
        without = await start_proxy(url=url, upstream__tls__ca_file=str(ca.ca_file))
        for answer in (await without.get("/v2/"), await without.send("DELETE", "/v2/a/tags/x")):
            assert (answer.status, answer.code) == (502, "UNAVAILABLE")
            assert "it wants a client certificate" in answer.message
            assert "upstreams[].tls.client_cert_file" in answer.message
        with_one = await start_proxy(url=url, **shown(ca.issue("us"), ca))
        assert (await with_one.get("/v2/")).status == 200


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("fault", ["foreign", "expired"])
async def test_H9_client_certificate_that_is_refused_is_502_that_says_so(
    start_proxy: StartProxy, ca: Authority, version: str, fault: str
) -> None:
    issuer = ca if fault == "expired" else authority(ca.folder, name="another-authority")
    issued = issuer.issue("us", expired=fault == "expired")
    context = server_context(ca.issue("registry"), clients=ca.ca_file)
    context.maximum_version = ssl.TLSVersion[version]
    with accepting(context) as url:
        proxy = await start_proxy(url=url, **shown(issued, ca))
        answer = await proxy.get("/v2/")
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert "does not accept the client certificate" in answer.message


@asynccontextmanager
async def opened(
    url: str, ca: Authority, issued: Issued, *, redirect_hosts: tuple[str, ...] = ()
) -> AsyncIterator[Upstream]:
    async with open_upstream(
        name="default",
        base_url=url,
        follow_redirects=True,
        redirect_hosts=redirect_hosts,
        timeouts=Timeouts(),
        tls=TlsPolicy(
            ca_file=str(ca.ca_file),
            client_cert_file=str(issued.cert_file),
            client_key_file=str(issued.key_file),
        ),
        egress=Egress("none", {}),
        connections=8,
        metrics=Metrics(),
    ) as found:
        yield found


class Hosts:
    """A registry and a store, both with certificates of ``ca``; each asks for a client's.

    ``seen`` is who asked for what, as the certificate says.
    """

    def __init__(self, ca: Authority) -> None:
        self._context = server_context(ca.issue("server"), clients=ca.ca_file, required=False)
        self.seen: list[tuple[str, str | None]] = []
        self.redirects: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, client_of(request)))
        if (target := self.redirects.get(request.path)) is not None:
            return web.Response(status=307, headers={"Location": target})
        return web.json_response({})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[str, str]]:
        async with (
            serving_https(self.handle, self._context) as registry,
            serving_https(self.handle, self._context) as store,
        ):
            yield registry, store


async def test_H9_redirect_target_does_not_see_the_client_certificate(ca: Authority) -> None:
    hosts = Hosts(ca)
    async with hosts.running() as (registry, store):
        hosts.redirects["/v2/a/blobs/x"] = f"{store}/blob"
        async with (
            opened(registry, ca, ca.issue("us"), redirect_hosts=("127.0.0.1",)) as upstream,
            upstream.open("GET", "/v2/a/blobs/x", headers={}, follow=True) as answer,
        ):
            assert answer.status == 200
    assert hosts.seen == [("/v2/a/blobs/x", "us"), ("/blob", None)]


async def test_H9_client_certificate_stays_on_the_upstreams_own_redirects(ca: Authority) -> None:
    hosts = Hosts(ca)
    async with hosts.running() as (registry, _):
        hosts.redirects["/v2/a/blobs/x"] = "/v2/a/blobs/y"
        async with (
            opened(registry, ca, ca.issue("us")) as upstream,
            upstream.open("GET", "/v2/a/blobs/x", headers={}, follow=True) as answer,
        ):
            assert answer.status == 200
    assert hosts.seen == [("/v2/a/blobs/x", "us"), ("/v2/a/blobs/y", "us")]


async def test_H9_redirect_back_cannot_borrow_the_client_certificate(ca: Authority) -> None:
    hosts = Hosts(ca)
    async with hosts.running() as (registry, store):
        hosts.redirects["/v2/a/blobs/x"] = f"{store}/blob"
        hosts.redirects["/blob"] = f"{registry}/v2/secret/blobs/y"
        async with (
            opened(registry, ca, ca.issue("us"), redirect_hosts=("127.0.0.1",)) as upstream,
            upstream.open("GET", "/v2/a/blobs/x", headers={}, follow=True) as answer,
        ):
            assert answer.status == 200
    assert hosts.seen[1:] == [("/blob", None), ("/v2/secret/blobs/y", None)]


async def test_H9_token_service_sees_the_client_certificate(ca: Authority) -> None:
    hosts = Hosts(ca)
    async with (
        hosts.running() as (registry, service),
        opened(registry, ca, ca.issue("us")) as upstream,
        upstream.request("GET", f"{service}/token", {}, trusted=True) as answer,
    ):
        assert answer.status == 200
    assert hosts.seen == [("/token", "us")]


def test_H9_ca_file_alone_is_trusted_by_the_upstream_and_more_by_redirects(ca: Authority) -> None:
    policy = TlsPolicy(ca_file=str(ca.ca_file))
    own, foreign = policy.own_context(), policy.foreign_context()
    assert len(own.get_ca_certs()) == 1
    assert own.get_ca_certs()[0] in foreign.get_ca_certs()
    for context in (own, foreign):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
