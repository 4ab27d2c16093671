"""A token service of the tests' own: Basic in, a signed JWT out, as docker's token protocol has it.

It grants by repository: everybody may pull ``public/…``, its one account may do everything. What
it was asked is kept without the secrets.
Source: distribution's "Token Authentication Specification", "Token Scope Documentation" and
"OAuth2 Token Authentication".
"""

from __future__ import annotations

import base64
import datetime
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from proxy.oci.scope import REPOSITORY, Scope, parse_scopes

ISSUER = "tests"
SERVICE = "registry.test"
# What anybody may pull; the rest is for the account alone.
PUBLIC = "public/"
_TOKEN_SECONDS = 300
_SECRET_FIELDS = frozenset({"password", "refresh_token"})


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
class Exchange:
    """One request to the service: its query or form without the secrets, and what it came to."""

    method: str
    asked: Mapping[str, Sequence[str]]
    had_authorization: bool
    status: int

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, one by one."""
        return tuple(scope for line in self.asked.get("scope", ()) for scope in line.split())


@dataclass(frozen=True, slots=True)
class TokenService:
    """A running service: where clients ask, and the certificate its tokens are checked with."""

    realm: str
    certificate: Path
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """As the proxy's ``auth_hosts`` name it."""
        return self.realm.removesuffix("/token")

    def asked_for(self, repository: str) -> list[Exchange]:
        """The exchanges that named ``repository`` in a scope."""
        return [
            exchange
            for exchange in self.exchanges
            if any(scope.name == repository for scope in parse_scopes(exchange.scopes))
        ]


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


def granted(scope: Scope, *, is_account: bool) -> tuple[str, ...]:
    """The actions that a caller gets of those it asks for."""
    if is_account:
        return scope.actions
    if scope.kind == REPOSITORY and scope.name.startswith(PUBLIC):
        return tuple(action for action in scope.actions if action == "pull")
    return ()


class _Desk:
    """Who may have which token; knows nothing of HTTP."""

    def __init__(self, signer: _Signer, credential: Credential, *, speaks_oauth2: bool) -> None:
        self._signer = signer
        self._credential = credential
        self._refresh_token = secrets.token_urlsafe()
        self.speaks_oauth2 = speaks_oauth2

    def by_query(
        self, query: Mapping[str, Sequence[str]], authorization: str | None
    ) -> tuple[int, Mapping[str, object]]:
        if authorization not in (None, self._credential.basic):
            return _REFUSAL
        is_account = authorization is not None
        answer = self._answer(query, is_account=is_account)
        wants_refresh = query.get("offline_token") == ["true"]
        if self.speaks_oauth2 and is_account and wants_refresh:
            answer["refresh_token"] = self._refresh_token
        return 200, answer

    def by_form(self, form: Mapping[str, Sequence[str]]) -> tuple[int, Mapping[str, object]]:
        match form.get("grant_type"):
            case ["password"]:
                account = (form.get("username"), form.get("password"))
                is_right = account == ([self._credential.username], [self._credential.password])
            case ["refresh_token"]:
                is_right = form.get("refresh_token") == [self._refresh_token]
            case _:
                return 400, {"error": "unsupported_grant_type"}
        if not is_right:
            return _REFUSAL
        answer = self._answer(form, is_account=True)
        # RFC 6749 has one name for a token, docker's older protocol another.
        del answer["token"]
        if form.get("access_type") == ["offline"]:
            answer["refresh_token"] = self._refresh_token
        return 200, answer

    def _answer(self, asked: Mapping[str, Sequence[str]], *, is_account: bool) -> dict[str, object]:
        now = int(time.time())
        access = [
            {"type": scope.kind, "name": scope.name, "actions": list(actions)}
            for scope in parse_scopes(asked.get("scope", ()))
            if (actions := granted(scope, is_account=is_account))
        ]
        claims: dict[str, object] = {
            "iss": ISSUER,
            "sub": self._credential.username if is_account else "",
            "aud": asked.get("service", [SERVICE])[0],
            "exp": now + _TOKEN_SECONDS,
            "nbf": now - 10,
            "iat": now,
            "jti": str(time.monotonic_ns()),
            "access": access,
        }
        token = self._signer.token(claims)
        return {"token": token, "access_token": token, "expires_in": _TOKEN_SECONDS}


_REFUSAL = (401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect password"}]})


@contextmanager
def token_service(
    folder: Path, credential: Credential, *, speaks_oauth2: bool = False
) -> Iterator[TokenService]:
    """A service on a free loopback port that grants ``credential`` whatever it asks for.

    ``speaks_oauth2``: it also takes POST, and gives refresh tokens to who asks for one. Without
    it POST is answered 405, on which clients fall back to GET.
    """
    signer = _Signer()
    desk = _Desk(signer, credential, speaks_oauth2=speaks_oauth2)
    certificate = folder / "token-service.pem"
    certificate.write_bytes(signer.pem())
    exchanges: list[Exchange] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self._answer(query, *desk.by_query(query, self.headers.get("Authorization")))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            form = parse_qs(body.decode())
            self._answer(form, *(desk.by_form(form) if desk.speaks_oauth2 else (405, {})))

        def _answer(
            self,
            asked: Mapping[str, Sequence[str]],
            status: int,
            document: Mapping[str, object],
        ) -> None:
            told = {name: tuple(values) for name, values in asked.items()}
            told = {name: values for name, values in told.items() if name not in _SECRET_FIELDS}
            has_login = self.headers.get("Authorization") is not None
            exchanges.append(Exchange(self.command, told, has_login, status))
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
            realm = f"http://127.0.0.1:{server.server_port}/token"
            yield TokenService(realm, certificate, exchanges)
        finally:
            server.shutdown()
            thread.join()
