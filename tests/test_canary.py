"""Row B5: one secret as every kind of credential, then the search for it in all that is written.

The proxy is a process of its own, logs all it can, and meets upstreams that repeat what they were
sent, fail in every way, and are reloaded away.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import bcrypt
import pytest
import yaml

from proxy.__main__ import main
from tests import faulty_upstream
from tests.build import descriptor, file_annotations, layer_type, manifest_bytes
from tests.canary import CANARY, hits, hits_below, watching
from tests.components.programs import logged, running, wait_until
from tests.faulty_upstream import OCI_MANIFEST, Fault, FaultyUpstream, Seen
from tests.flows.http import Answer, Client, listening
from tests.flows.tokens import basic, bearer

USER = "reader"
LOGIN = basic(USER, CANARY)
DIGEST = "sha256:" + "1" * 64
QUERY = urlencode(
    dict.fromkeys(
        (
            "token", "access_token", "refresh_token", "sig", "signature", "password", "code",
            "_state", "state", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token",
            "X-Goog-Signature", "key",
        ),
        CANARY,
    )
)  # fmt: skip
# What a caller sends with each request: a credential the proxy knows, and some it does not.
SENT = (
    [("Authorization", LOGIN)],
    [("Authorization", f"Bearer {CANARY}")],
    [("Authorization", f"Custom {CANARY}"), ("Cookie", f"sid={CANARY}")],
    [("X-Registry-Auth", CANARY), ("Proxy-Authorization", LOGIN), ("Cookie", f"a={CANARY}; b=c")],
)
PASSWORD_VARIABLE = "CNAI_PROXY_UPSTREAMS__2__CREDENTIALS__PASSWORD"


@dataclass
class World:
    """The upstreams of one run by name, and what came of the secret there."""

    registries: dict[str, FaultyUpstream]
    addresses: dict[str, str]
    token_answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[Seen] = field(default_factory=list)
    egress: list[bytes] = field(default_factory=list)

    def give_token(self, seen: Seen) -> tuple[int, bytes]:
        """What ``token_answers`` says first, else a token that is the secret."""
        self.asked.append(seen)
        if self.token_answers:
            return self.token_answers.pop(0)
        return 200, json.dumps({"token": CANARY, "refresh_token": CANARY}).encode()

    async def serve_without_tls(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer a TLS handshake in plain text."""
        await reader.read(1)
        writer.write(f"HTTP/1.1 400 {CANARY}\r\nX: {CANARY}\r\n\r\n".encode())

    async def serve_as_http_proxy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Want another login than the one that came, and repeat that."""
        self.egress.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            f"HTTP/1.1 407 {CANARY}\r\nProxy-Authenticate: Basic realm={CANARY}\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Registries with and without logins, one of no TLS, and an HTTP proxy, each repeating."""
    found = World({}, {})
    async with AsyncExitStack() as stack:
        for name in ("default", "file", "variable", "token", "dead"):
            registry = await stack.enter_async_context(faulty_upstream.running())
            found.registries[name], found.addresses[name] = registry, registry.url
            registry.blob(b"weights")
            registry.blob(b"{}")
            layer = descriptor(
                layer_type("weight"), b"weights", annotations=file_annotations("w.bin")
            )
            registry.manifest("a", "v1", manifest_bytes([layer]), OCI_MANIFEST)
            if name != "default":
                registry.token_service = found.give_token
                registry.tokens = {f"Bearer {CANARY}"}
                registry.challenge = bearer(f"{registry.url}/token")
        tls = await stack.enter_async_context(listening(found.serve_without_tls))
        egress = await stack.enter_async_context(listening(found.serve_as_http_proxy))
        async with faulty_upstream.running() as gone:
            found.addresses["dead"] = gone.url
        found.addresses |= {
            "tls": tls.replace("http:", "https:"),
            "dns": "http://no-such-host.invalid",
            "egress": "http://registry.invalid",
            "tunnel": "https://tunnel.invalid",
            "http proxy": egress.replace("://", f"://{USER}:{CANARY}@"),
        }
        yield found


NAMES = ("default", "file", "variable", "token", "dead", "dns", "tls", "egress", "tunnel")


def settings_of(world: World, folder: Path, style: str) -> dict[str, object]:
    """Settings with the secret in every file that may hold one, and the variable beside them."""
    (folder / "password").write_text(f"{CANARY}\n")
    hashed = bcrypt.hashpw(CANARY.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    upstreams: dict[str, dict[str, object]] = {
        name: {
            "name": name,
            "url": world.addresses[name],
            "prefix": name,
            "redirects": "follow",
            "timeouts": {"connect_seconds": 1.0},
        }
        for name in NAMES
    }
    del upstreams["default"]["prefix"]
    upstreams["dns"]["proxy"] = "none"
    # A password, and no TLS.
    upstreams["file"] |= {
        "tls": {"insecure": True},
        "credentials": {"username": USER, "password_file": str(folder / "password")},
    }
    upstreams["variable"] |= {
        "tls": {"insecure": True},
        "credentials": {"username": USER, "anonymous": True},
    }
    return {
        "listen": {"port": 0, "auth": {"htpasswd": str(folder / "htpasswd")}},
        "upstreams": list(upstreams.values()),
        "log": {"level": "debug", "format": style},
    }


def environment_of(world: World, folder: Path) -> dict[str, str]:
    """The secret in the environment, where an account's and the HTTP proxy's password may stand."""
    (folder / "home").mkdir()
    address = world.addresses["http proxy"]
    return {
        PASSWORD_VARIABLE: CANARY,
        **dict.fromkeys(("http_proxy", "https_proxy"), address),
        **dict.fromkeys(("no_proxy", "all_proxy"), ""),
        **dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(folder / "home")),
    }


@dataclass
class Drive:
    """Asks the proxy, and collects what of its answers holds the secret."""

    client: Client
    found: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    async def send(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        *,
        body: bytes | None = None,
        relayed: bool = False,
    ) -> Answer:
        """One request; ``relayed``: the answer is the upstream's own, or the caller's token."""
        answer = await self.client.send(method, target, headers=headers, body=body)
        self.statuses[answer.status] += 1
        if not relayed:
            text = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
            place = f"{method} {target.partition('?')[0]} {answer.status}"
            self.found += [f"{place}: {line}" for line in hits(text.encode() + answer.body)]
        return answer

    async def raw(self, text: str) -> None:
        """Bytes that are no good request."""
        received = await self.client.raw(text.encode("latin-1"))
        assert received.startswith(b"HTTP/1."), text[:100]
        self.statuses[int(received.split(b" ", 2)[1])] += 1
        self.found += [f"{text[:40]!r}: {line}" for line in hits(received)]


async def every_route(drive: Drive) -> None:
    """Every upstream by every kind of request with every kind of credential."""

    async def ask(name: str) -> None:
        prefix = "" if name == "default" else f"{name}/"
        for headers in SENT:
            for method, target in (
                ("GET", f"/v2/{prefix}a/manifests/v1?{QUERY}"),
                ("HEAD", f"/v2/{prefix}a/blobs/{DIGEST}?{QUERY}"),
                ("GET", f"/v2/{prefix}a/tags/list?{QUERY}"),
                ("POST", f"/v2/{prefix}a/blobs/uploads/?{QUERY}"),
                ("PUT", f"/v2/{prefix}a/blobs/uploads/x?{QUERY}"),
                ("GET", f"/cnai/{prefix}a:v1?{QUERY}"),
                ("GET", f"/cnai/{prefix}a:v1/files/w.bin?{QUERY}"),
                ("GET", f"/cnai/{prefix}a:v1/files/nothing?{QUERY}"),
            ):
                await drive.send(method, target, headers)

    async def ask_ours() -> None:
        for headers in SENT:
            for method in ("GET", "PUT"):
                for target in ("/v2/", "/v2/_catalog", "/v2/a/%2e", "/nowhere", "/livez", "/cnai"):
                    await drive.send(method, f"{target}?{QUERY}", headers)
            await drive.send("GET", f"/cnai/-/login?return=/x?{QUERY}", headers[1:])
            await drive.send("GET", f"/-/token/nobody?{QUERY}", headers)

    await asyncio.gather(ask_ours(), *(ask(name) for name in NAMES))


async def wrong_logins(drive: Drive) -> None:
    """Logins of the proxy's own that are not right, or none at all."""
    for authorization in (
        basic("nobody", CANARY),
        basic(USER, f"{CANARY}!"),
        f"{basic(USER, CANARY)}!",
        f"Basic {CANARY}",
        f"Basic {USER}:{CANARY}",
        f"Digest username={USER}, response={CANARY}",
        CANARY,
    ):
        for target in ("/v2/file/a/manifests/v1", "/cnai/file/a:v1", "/-/token/file"):
            answer = await drive.send("GET", target, [("Authorization", authorization)])
            assert answer.status == 401


async def bad_requests(drive: Drive) -> None:
    """What no handler sees, or only its first lines."""
    end = "Host: x\r\nConnection: close\r\n\r\n"
    chunked = f"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{end}"
    for text in (
        f"GET /v2/ HTTP/1.1\r\nAuthorization: Bearer {CANARY * 10_000}\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\nX-Token: {CANARY * 10_000}\r\n{end}",
        f"GET /v2/?token={CANARY * 2_000} HTTP/1.1\r\n{end}",
        f"GET http://{USER}:{CANARY}@x/v2/ HTTP/1.1\r\n{end}",
        f"GET /v2/?token={CANARY} HTTP/9.9\r\n{end}",
        f"GET /v2/?token={CANARY}\x01 HTTP/1.1\r\n{end}",
        f"GET /v2/?token={CANARY} {CANARY} HTTP/1.1\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\nAuthorization: Bearer {CANARY}\x01\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\nAuthorization: Bearer {CANARY}\xe9\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\nAuthorization: {CANARY}\r\nAuthorization: {CANARY}\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\nAuthorization : Bearer {CANARY}\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\n Bearer {CANARY}\r\n{end}",
        f"GET /v2/ HTTP/1.1\r\nHost: {USER}:{CANARY}@x\r\nConnection: close\r\n\r\n",
        f"POST /v2/ HTTP/1.1\r\nContent-Length: {CANARY}\r\n{end}",
        f"{chunked}{CANARY}\r\n",
        f"{CANARY} {CANARY} {CANARY}\r\n\r\n",
        f"{CANARY}\r\n\r\n",
    ):
        await drive.raw(text)


async def repeating_upstream(drive: Drive, upstream: FaultyUpstream) -> None:
    """Failures of an upstream that puts the secret into all it says."""
    headers = [
        ("Warning", f'199 - "{CANARY}"'),
        ("X-Echo", CANARY),
        ("Set-Cookie", f"sid={CANARY}"),
    ]
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": CANARY}]}).encode()
    realm = f"http://127.0.0.1:1/?token={CANARY}"
    for fault in (
        *(Fault(match="", status=s, body=body, headers=headers) for s in (400, 404, 416, 500, 503)),
        Fault(match="", status=403, body=body, headers=headers),
        *(
            Fault(match="", status=401, body=body, headers=[("WWW-Authenticate", challenge)])
            for challenge in (f'Basic realm="{CANARY}"', bearer(realm), f"Custom {CANARY}")
        ),
        Fault(match="", raw=f"HTTP/1.1 abc {CANARY}\r\n\r\n".encode()),
        Fault(match="", raw=f"{CANARY}\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\nSet-Cookie: {CANARY}\x00\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\nETag: {CANARY}\x01\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\nETag: {CANARY * 9999}\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\nContent-Length: {CANARY}\r\n\r\n".encode()),
        Fault(match="", location=f"http://{USER}:{CANARY}@store.example/"),
        Fault(match="", location=f"http://127.0.0.1:1/?X-Amz-Signature={CANARY}"),
        Fault(match="", location=f"http://no-such-host.invalid/?sig={CANARY}"),
        Fault(match="", location=f"/v2/again?sig={CANARY}"),
        Fault(match="", hang_up=True),
    ):
        upstream.faults = [fault]
        is_answer = fault.status is not None
        # A redirect of anything but content is relayed as it is.
        for target in (f"/cnai/a:v1?{QUERY}", f"/cnai/a:v1/files/w.bin?{QUERY}"):
            await drive.send("GET", target, SENT[0])
        target = f"/v2/a/manifests/v1?{QUERY}"
        await drive.send("GET", target, SENT[1], relayed=is_answer)
        target = f"/v2/a/tags/list?{QUERY}"
        await drive.send("GET", target, SENT[1], relayed=is_answer or fault.location is not None)
    upstream.faults = []


async def token_exchanges(drive: Drive, world: World) -> None:
    """The token endpoints, and token services that repeat what they were sent."""
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    scope = "scope=repository%3Atoken%2Fa%3Apull&service=x"
    for target in ("/-/token", "/-/token/token"):
        for secrets in (
            f"grant_type=password&username={USER}&password={CANARY}",
            f"grant_type=refresh_token&refresh_token={CANARY}",
        ):
            body = f"{secrets}&{scope}".encode()
            await drive.send("POST", target, form, body=body, relayed=True)
            await drive.send("POST", target, body=body)  # without its type
            long = body + b"&x=" + b"y" * 70_000
            await drive.send("POST", target, form, body=long)
            await drive.send("POST", target, form, body=f"{CANARY}\xff".encode("latin-1"))
        for headers in SENT:
            await drive.send("GET", f"{target}?{scope}&{QUERY}", headers, relayed=True)
    error = json.dumps({"errors": [{"message": CANARY}], "token": [CANARY]}).encode()
    for status, body in (
        *((status, error) for status in (200, 302, 400, 401, 403, 404, 429, 500, 503)),
        (200, CANARY.encode()),
        (200, json.dumps({"token": f"{CANARY} {CANARY}"}).encode()),
        (200, CANARY.encode() * 6_000),
    ):
        for headers in ([("Authorization", basic(f"{USER}-{status}-{len(body)}", CANARY))],):
            world.token_answers = [(status, body)]
            await drive.send("GET", "/cnai/token/a:v1", headers)
            world.token_answers = [(status, body)]
            relayed = len(body) < 64 * 1024
            await drive.send("GET", f"/-/token?{scope}", headers, relayed=relayed)
    world.token_answers = []


BROKEN = (
    f"upstreams: [{CANARY}",
    f"upstreams: [{{url: 'https://{USER}:{CANARY}@registry.example'}}]",
    f"upstreams: [{{url: 'https://registry.example/?sig={CANARY}'}}]",
    f"upstreams: [{{url: 'http://a', proxy: 'http://{USER}:{CANARY}@b:1'}}]",
    f"upstreams: [{{url: 'http://a', credentials: {{username: a, password: {CANARY}}}}}]",
    f"upstreams: [{{url: 'http://a', credentials: '{USER}:{CANARY}'}}]",
    f"upstreams: [{{url: 'http://a', credentials: {{username: a, password: *{CANARY}}}}}]",
    f"upstreams: [{{url: 'http://a', credentials: {{username: a, password: !{CANARY} x}}}}]",
    "upstreams: [{url: 'http://a', credentials: {username: a, password_file: FOLDER/lines}}]",
    "listen: {auth: {htpasswd: FOLDER/lines}}\nupstreams: [{url: 'http://a'}]",
    "listen: {tls: {cert_file: FOLDER/lines, key_file: FOLDER/lines}}",
    f"password: {CANARY}: {CANARY}",
)


def broken_settings(folder: Path) -> list[str]:
    """Settings that are refused, each with the secret in it or in a file it names."""
    (folder / "lines").write_text(f"{USER}:{CANARY}\n\n{CANARY}\n")
    return [text.replace("FOLDER", str(folder)) for text in BROKEN]


def reload_badly(process: subprocess.Popen[bytes], config: Path, log: Path) -> None:
    """SIGHUP with one broken file after the other, at last with the good one."""

    def reload(text: str, *, wanted: str) -> None:
        before = log.read_text(errors="replace").count(wanted)
        config.write_text(text)
        process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: log.read_text(errors="replace").count(wanted) > before,
            what=lambda: f"{wanted!r} after a reload with {text[:100]!r}",
        )

    good = config.read_text()
    for text in broken_settings(config.parent):
        reload(text, wanted="settings not reloaded")
    reload(good, wanted="settings reloaded")


@pytest.mark.parametrize("style", ["json", "text"])
async def test_B5_secret_is_nowhere_in_what_the_proxy_writes(tmp_path: Path, style: str) -> None:
    config, log = tmp_path / "settings.yaml", tmp_path / "proxy.log"
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(world())
        config.write_text(yaml.safe_dump(settings_of(around, tmp_path, style), sort_keys=False))
        process = stack.enter_context(
            running(
                [sys.executable, "-m", "proxy", "serve", "--config", config],
                log=log,
                ready=lambda: logged(log, "(ready on)") is not None,
                env=environment_of(around, tmp_path),
            )
        )
        port = int(logged(log, r"ready on http://127\.0\.0\.1:(\d+)") or 0)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )
        drive = Drive(Client(session, "127.0.0.1", port))
        await every_route(drive)
        await wrong_logins(drive)
        await bad_requests(drive)
        await repeating_upstream(drive, around.registries["default"])
        await token_exchanges(drive, around)
        await session.close()
        reload_badly(process, config, log)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await Drive(Client(session, "127.0.0.1", port)).send("GET", "/v2/a/tags/list")
        drive.client = Client(session, "127.0.0.1", port)
        metrics = await drive.send("GET", "/metrics")
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert drive.found == []
    assert hits(words) == []
    assert hits_below(tmp_path) == []
    assert list((tmp_path / "home").iterdir()) == []
    # And the secret was there to be found: it went where it belongs, and much was written.
    seen = {name: repr(registry.log) for name, registry in around.registries.items()}
    assert f"Bearer {CANARY}" in seen["default"]
    assert LOGIN in seen["file"]
    assert LOGIN in seen["variable"]
    assert LOGIN in {asked.get("Authorization") for asked in around.asked}
    assert {CANARY.encode() in asked.body for asked in around.asked} == {True, False}
    assert any(f"Proxy-Authorization: {LOGIN}".encode() in head for head in around.egress)
    assert any(head.startswith(b"CONNECT tunnel.invalid") for head in around.egress)
    assert {200, 400, 401, 403, 404, 405, 413, 502, 503} <= set(drive.statuses)
    assert b'reloads_total{result="failed"} %d.0' % len(BROKEN) in metrics.body
    text = log.read_text()
    assert text.count("proxy.access") > 300
    assert "malformed request" in text
    assert "DEBUG" in text
    if style == "json":
        assert all(json.loads(line) for line in text.splitlines() if line.startswith("{"))


def test_B5_check_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "settings.yaml"
    addresses = {name: f"http://{name}.example" for name in NAMES}
    settings = settings_of(World({}, addresses), tmp_path, "text")
    monkeypatch.setenv(PASSWORD_VARIABLE, CANARY)
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["check", "--config", str(config)]) == 0
    shown = capsys.readouterr()
    assert hits(shown.out + shown.err) == []
    assert "password: '********'" in shown.out
    monkeypatch.delenv(PASSWORD_VARIABLE)
    for text in broken_settings(tmp_path):
        config.write_text(text)
        assert main(["check", "--config", str(config)]) == 2
        shown = capsys.readouterr()
        assert hits(shown.out + shown.err) == [], text
        assert shown.err.startswith(str(config)), text


@pytest.mark.parametrize("before", ["", "a", "ab", "abc", f"{USER}:"])
@pytest.mark.parametrize("after", ["", "x", "xy"])
def test_B5_the_search_sees_through_base64(before: str, after: str) -> None:
    text = f"{before}{CANARY}{after}".encode()
    for spelled in (text, base64.b64encode(text), base64.urlsafe_b64encode(text).rstrip(b"=")):
        assert len(hits(b"one line\nx " + spelled + b"\nanother")) == 1
    assert hits(base64.b64encode(text.lower().replace(b"canary", b"parrot"))) == []


def test_B5_the_search_hears_every_logger_of_a_proxy() -> None:
    secret = "parrot-s3cr3t"  # the other one may be listened for around this test
    fields = {"fields": {"reason": f"login {secret}"}}
    with watching(secrets=[secret]) as found:
        logging.getLogger("proxy.access").warning("request", extra=fields)
        logging.getLogger("aiohttp.server").error("wrong: %s", secret)
        logging.getLogger("proxy").error("Authorization: Bearer %s", secret)  # never written so
        logging.getLogger("elsewhere").error(secret)
    assert [line.partition(":")[0] for line in found] == ["proxy.access", "aiohttp.server"]
