"""Row H9: the upstream's certificate is checked, and what is wrong with it is said."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.flows.conftest import StartProxy


@dataclass(frozen=True)
class Authority:
    """A CA of the tests' own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def write(self, folder: Path) -> Path:
        file = folder / "ca.pem"
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return file


def make_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    return Authority(key, _sign(name, name, key, key, days=(-1, 10), authority=True))


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    subject_key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    days: tuple[int, int],
    authority: bool,
    address: str = "127.0.0.1",
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(subject_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )


@asynccontextmanager
async def https_registry(
    folder: Path,
    authority: Authority,
    *,
    days: tuple[int, int] = (-1, 5),
    address: str = "127.0.0.1",
) -> AsyncIterator[str]:
    """A registry that answers the ping over TLS, and its address."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    certificate = _sign(
        subject,
        authority.certificate.subject,
        key,
        authority.key,
        days=days,
        authority=False,
        address=address,
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)

    async def ping(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/v2/", ping)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_H9_private_authority_is_trusted_when_named(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    authority = make_authority()
    async with https_registry(tmp_path, authority) as url:
        proxy = await start_proxy(url=url, upstream__tls__ca_file=str(authority.write(tmp_path)))
        assert (await proxy.get("/v2/")).status == 200


@pytest.mark.parametrize(
    ("days", "address", "trusted", "reason"),
    [
        ((-1, 5), "127.0.0.1", False, "unable to get local issuer certificate"),
        ((-9, -2), "127.0.0.1", True, "certificate has expired"),
        ((-1, 5), "127.0.0.2", True, "IP address mismatch"),
    ],
    ids=["unknown authority", "expired", "wrong name"],
)
async def test_H9_bad_certificate_is_502_with_its_reason(
    start_proxy: StartProxy,
    tmp_path: Path,
    days: tuple[int, int],
    address: str,
    trusted: bool,
    reason: str,
) -> None:
    authority = make_authority()
    settings = {"upstream__tls__ca_file": str(authority.write(tmp_path))} if trusted else {}
    async with https_registry(tmp_path, authority, days=days, address=address) as url:
        proxy = await start_proxy(url=url, **settings)
        answer = await proxy.get("/v2/")
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert reason in answer.message
        assert (await proxy.get("/cnai/a:b")).status == 502


async def test_H9_insecure_is_per_upstream_and_explicit(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    authority = make_authority()
    async with https_registry(tmp_path, authority, address="127.0.0.9") as url:
        proxy = await start_proxy(url=url, upstream__tls__insecure=True)
        assert (await proxy.get("/v2/")).status == 200


async def test_H9_http_port_behind_https_is_502(
    start_proxy: StartProxy, unused_tcp_port: int
) -> None:
    async def plain(_: web.Request) -> web.Response:
        return web.Response(text="plain")

    app = web.Application()
    app.router.add_get("/v2/", plain)
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
