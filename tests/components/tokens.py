"""A token service of the tests' own: Basic in, a signed JWT out, as docker's token protocol has it.

Source: distribution's "Token Authentication Specification" and "Token Scope Documentation".
"""

from __future__ import annotations

import base64
import datetime
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

ISSUER = "tests"
SERVICE = "registry.test"
_TOKEN_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Credential:
    """A login that a registry of ours knows."""

    username: str
    password: str

    @property
    def pair(self) -> str:
        """``username:password``, as most clients take it."""
        return f"{self.username}:{self.password}"

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return f"Basic {base64.b64encode(self.pair.encode()).decode()}"


@dataclass(frozen=True, slots=True)
class TokenService:
    """A running service: where clients ask, and the certificate its tokens are checked with."""

    realm: str
    certificate: Path


class _Signer:
    """A fresh key and its self-signed certificate, which travels in each token (``x5c``)."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def token(self, claims: Mapping[str, object]) -> str:
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = f"{_segment(header)}.{_segment(claims)}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_unpadded(signature)}"


def _segment(value: Mapping[str, object]) -> str:
    return _unpadded(json.dumps(value).encode())


def _unpadded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _access(scope: str) -> dict[str, object]:
    # Actions are behind the last colon: a repository name of another host may hold colons.
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}


@contextmanager
def token_service(folder: Path, credential: Credential) -> Iterator[TokenService]:
    """A service on a free loopback port that grants ``credential`` whatever it asks for."""
    signer = _Signer()
    certificate = folder / "token-service.pem"
    certificate.write_bytes(signer.pem())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Authorization") != credential.basic:
                refusal = {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect password"}]}
                self._answer(401, refusal)
                return
            query = parse_qs(urlsplit(self.path).query)
            now = int(time.time())
            claims: dict[str, object] = {
                "iss": ISSUER,
                "sub": credential.username,
                "aud": query.get("service", [SERVICE])[0],
                "exp": now + _TOKEN_SECONDS,
                "nbf": now - 10,
                "iat": now,
                "jti": str(time.monotonic_ns()),
                "access": [
                    _access(scope) for line in query.get("scope", ()) for scope in line.split()
                ],
            }
            token = signer.token(claims)
            self._answer(200, {"token": token, "access_token": token, "expires_in": _TOKEN_SECONDS})

        def do_POST(self) -> None:
            # containerd tries OAuth2 first and falls back on this status.
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self._answer(405, {})

        def _answer(self, status: int, document: Mapping[str, object]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield TokenService(f"http://127.0.0.1:{server.server_port}/token", certificate)
        finally:
            server.shutdown()
            thread.join()
