"""Threats walked through real sockets: what a caller, an upstream or a page may not bring about."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import ssl
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import bcrypt
import pytest

from proxy import __main__ as command_line
from proxy.app import open_app
from proxy.metrics import Metrics
from proxy.model.additions import ADDITIONS
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from proxy.running import embedded_registry
from proxy.settings import load
from proxy.upstream import client as upstream_client
from tests.build import descriptor, descriptor_json, file_annotations, layer_type
from tests.certificates import Authority, authority
from tests.faulty_upstream import Fault, FaultyUpstream, Seen
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client, listening
from tests.flows.tokens import basic

WEIGHTS = b"weights"
README = b"# Tiny\n"
OTHER_DIGEST = "sha256:" + "1" * 64
ANNA, BERT = "Bearer canary-anna", "Bearer canary-bert"
EVIL = "evil.example"
READS, WRITES = ("GET", "HEAD"), ("POST", "PUT", "PATCH", "DELETE")


def push(
    upstream: FaultyUpstream,
    repository: str = "team/model",
    *,
    readme: bytes = README,
    urls: Sequence[str] = (),
) -> str:
    """A model of three files, each layer with ``urls``; returns its digest."""
    layers = []
    for token, path, content in (
        ("weight", "w.bin", WEIGHTS),
        ("doc", "README.md", readme),
        ("doc", "LICENSE", b"free"),
    ):
        upstream.blob(content)
        layer = descriptor(layer_type(token), content, annotations=file_annotations(path))
        layers.append({**descriptor_json(layer), **({"urls": list(urls)} if urls else {})})
    upstream.blob(b"{}")
    config = descriptor("application/vnd.cncf.model.config.v1+json", b"{}")
    document: dict[str, object] = {
        "schemaVersion": 2,
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": descriptor_json(config),
        "layers": layers,
    }
    return upstream.manifest(repository, "v1", document, OCI_MANIFEST)


def model_targets(reference: str) -> list[str]:
    """Every view of a model below ``/cnai/``; the last one is of no file."""
    views = ("", "/files", "/files?flat=1", "/files/w.bin", "/files/README.md")
    documents = [f"/{name}" for name in ADDITIONS]
    return [f"/cnai/{reference}{view}" for view in (*views, *documents, "/files/nothing")]


def sha256(content: bytes) -> str:
    """A digest as addresses have it."""
    return str(descriptor("a/b", content).digest)


def comparable(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer without what differs between any two: its id and its date."""
    varying = ("x-request-id", "date")
    headers = [(k.lower(), v) for k, v in answer.headers.items() if k.lower() not in varying]
    return answer.status, sorted(headers), answer.body


def wire_lines(*lines: str) -> bytes:
    """A request without a body, as it goes out."""
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


class Canary:
    """A listener that nobody may connect to."""

    def __init__(self) -> None:
        self.url = ""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.read(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    """One that listens; at the end nobody may have come."""
    found = Canary()
    async with listening(found.serve) as url:
        found.url = url
        yield found
    assert found.connections == 0


@dataclass(frozen=True)
class Network:
    """What this process looked up and connected to."""

    names: dict[str, list[list[str]]]
    looked_up: list[str]
    connected: list[tuple[str, int]]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """No name resolves but those put into ``names``, no address but loopback can be reached.

    Of the answers listed for a name each look-up takes the next one, the last for good.
    """
    found = Network({}, [], [])
    resolve, connect = socket.getaddrinfo, BaseSelectorEventLoop.sock_connect

    def look_up(host: str, *arguments: int, **named: int) -> object:
        if re.fullmatch(r"[\d.]+|[0-9a-f:.]*:[0-9a-f:.]*", host):
            return resolve(host, *arguments, **named)
        found.looked_up.append(host)
        if host not in found.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        answers = found.names[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for each in addresses for entry in resolve(each, *arguments, **named)]

    async def reach(
        loop: BaseSelectorEventLoop, sock: socket.socket, address: tuple[str, int]
    ) -> None:
        found.connected.append(address[:2])
        if not address[0].startswith(("127.", "::1")):
            raise OSError(101, "unreachable in tests")
        await connect(loop, sock, address)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", reach)
    monkeypatch.setattr(upstream_client, "_RETRY_WITHIN_SECONDS", (0.0, 0.0))
    return found


# A: who may read what ----------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", ["401", "403"])
async def test_A9_denied_caller_cannot_tell_what_others_have_pulled(
    proxy: Client, upstream: FaultyUpstream, refusal: str
) -> None:
    pulled, model = sha256(WEIGHTS), push(upstream)
    never_pulled = upstream.blob(b"never pulled")
    upstream.challenge = 'Bearer realm="https://auth.example/token",service="x"'
    upstream.tokens = {ANNA}
    for target in (f"/v2/team/model/blobs/{pulled}", f"/v2/team/model/manifests/{model}"):
        assert (await proxy.get(target, Authorization=ANNA)).status == 200
    if refusal == "403":
        upstream.tokens = None
        upstream.faults.append(Fault(match="/v2/", status=403))
    for method in READS:
        answers = [
            await proxy.send(method, f"/v2/team/model/{rest}", headers=[("Authorization", BERT)])
            for rest in (
                *(f"blobs/{digest}" for digest in (pulled, never_pulled, OTHER_DIGEST)),
                *(f"manifests/{reference}" for reference in ("v1", "v2", model, OTHER_DIGEST)),
            )
        ]
        assert answers[0].status == int(refusal)
        for answer in answers[1:]:
            assert comparable(answer) == comparable(answers[0])
        assert pulled.encode() not in answers[0].body


async def test_A9_denied_caller_learns_nothing_of_a_models_files(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = push(upstream)
    upstream.tokens = {ANNA}
    targets = [*model_targets("team/model:v1"), *model_targets(f"team/model@{digest}")]
    for target in targets:
        answer = await proxy.get(target, Authorization=ANNA)
        assert answer.status == (404 if target.endswith("nothing") else 200)
    upstream.tokens = set()
    for authorization in ({"Authorization": BERT}, {}):
        answers = [
            await proxy.get(target, **authorization)
            for target in (*targets, "/cnai/team/model:v2", "/cnai/team/model:v2/files/w.bin")
        ]
        assert answers[0].status == 401
        assert all(comparable(answer) == comparable(answers[0]) for answer in answers)


@pytest.mark.parametrize(
    "settings",
    [
        {"upstream__deny": ["secret/**"]},
        {"upstream__allow": ["team/**"]},
        {"upstream__prefix": "hub", "upstream__default": False},
    ],
    ids=["deny", "allow", "no route"],
)
async def test_A9_what_the_settings_close_is_refused_unasked(
    start_proxy: StartProxy, upstream: FaultyUpstream, settings: dict[str, object]
) -> None:
    pushed = push(upstream, "secret/model")
    proxy = await start_proxy(**settings)
    for there, missing in (
        ("/v2/secret/model/manifests/v1", "/v2/secret/model/manifests/v2"),
        (f"/v2/secret/model/manifests/{pushed}", f"/v2/secret/model/manifests/{OTHER_DIGEST}"),
        (f"/v2/secret/model/blobs/{sha256(WEIGHTS)}", f"/v2/secret/model/blobs/{OTHER_DIGEST}"),
        ("/cnai/secret/model:v1", "/cnai/secret/model:v2"),
        ("/cnai/secret/model:v1/files/w.bin", "/cnai/secret/model:v1/files/nothing"),
    ):
        first, second = await proxy.get(there), await proxy.get(missing)
        assert first.status in (403, 404)
        assert comparable(first) == comparable(second)
    assert upstream.log == []


async def test_A9_nothing_is_asked_before_the_proxys_own_login(
    start_proxy: StartProxy, upstream: FaultyUpstream, tmp_path: Path
) -> None:
    push(upstream)
    users = tmp_path / "htpasswd"
    hashed = bcrypt.hashpw(b"canary-s3cr3t", bcrypt.gensalt(4)).decode()
    users.write_text(f"anna:{hashed}\n")
    account = {**ACCOUNT, "anonymous": False}
    proxy = await start_proxy(
        **{**AS_ACCOUNT, "upstream__credentials": account, "listen__auth__htpasswd": str(users)}
    )
    for login in ({}, {"Authorization": basic("anna", "wrong")}, {"Authorization": BERT}):
        answers = [
            comparable(await proxy.get(target, **login))
            for target in (
                "/v2/team/model/manifests/v1",
                "/v2/team/model/manifests/v2",
                f"/v2/team/model/blobs/{BLOB}",
                "/v2/nobody/tags/list",
                "/v2/_catalog",
                "/v2/",
                "/cnai/team/model:v1",
                "/cnai/nobody:v1/files/x",
            )
        ]
        assert answers[0][0] == 401
        assert {repr(answer) for answer in answers} == {repr(answers[0])}
    assert upstream.log == []
    right = {"Authorization": basic("anna", "canary-s3cr3t")}
    assert (await proxy.get("/cnai/team/model:v1", **right)).status == 200


async def test_A10_no_repository_of_anybody_is_in_metrics_or_health(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    digest = push(upstream, "secret/repo")
    proxy = await start_proxy(upstream__deny=["secret/closed"])
    for method in (*READS, "PUT"):
        for target in (
            "/v2/secret/repo/manifests/v1",
            f"/v2/secret/repo/manifests/{digest}",
            f"/v2/secret/repo/blobs/{sha256(WEIGHTS)}",
            "/v2/secret/repo/tags/list",
            f"/v2/secret/repo/referrers/{digest}",
            "/v2/secret/repo/blobs/uploads/secret",
            "/v2/secret/closed/manifests/v1",
            "/v2/_catalog?last=secret/repo",
            "/v2/secret",
            "/-/token?scope=repository:secret/repo:pull",
            "/-/token/secret",
            "/secret",
            *model_targets("secret/repo:v1"),
        ):
            await proxy.send(method, target)
    pushed = await proxy.send("POST", "/v2/secret/repo/blobs/uploads/?mount=x&from=secret/a")
    assert pushed.status == 202
    metrics = (await proxy.get("/metrics")).body.decode()
    assert "secret" not in metrics
    assert (await proxy.get("/readyz")).body + (await proxy.get("/livez")).body == b"ready\nok\n"
    labels: dict[str, set[str]] = {}
    for name, value in re.findall(r'(\w+)="([^"]*)"', metrics):
        labels.setdefault(name, set()).add(value)
    del labels["le"]
    assert labels["upstream"] == {"default"}
    assert labels["origin"] == {"proxy", "upstream"}
    assert labels["status"] <= {"2xx", "3xx", "4xx", "5xx", "499", "502", "503", "504"}
    assert labels["result"] == {"done", "failed"}
    assert set(labels) == {"upstream", "origin", "status", "result", "route"}
    assert labels["route"] == {
        "other", "/-/token", "/-/token/<upstream>", "/cnai/<ref>", "/cnai/<ref>/files",
        "/cnai/<ref>/files/<path>", *(f"/cnai/<ref>/{name}" for name in ADDITIONS),
        "/v2/<name>/blobs/<digest>", "/v2/<name>/blobs/uploads/<session>",
        "/v2/<name>/manifests/<reference>", "/v2/<name>/referrers/<digest>",
        "/v2/<name>/tags/list", "/v2/<other>", "/v2/_catalog",
    }  # fmt: skip


async def test_A10_catalogue_is_what_the_upstream_gives_this_caller(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    upstream.tokens = {ANNA}
    body = b'{"repositories":["secret/repo"]}'
    upstream.faults.append(Fault(match="_catalog", times=1, status=200, body=body))
    assert (await proxy.get("/v2/_catalog", Authorization=ANNA)).body == body
    assert (await proxy.get("/v2/_catalog", Authorization=BERT)).status == 401
    assert (await proxy.get("/v2/_catalog")).status == 401
    assert [seen.all("Authorization") for seen in upstream.log] == [[ANNA], [BERT], []]


VARY = "Authorization, Accept, Range"
KEPT = ("private, max-age=31536000, immutable", VARY)
ASKED = ("private, no-cache", VARY)
NEVER = ("no-store", None)
MODEL, BLOB = "{model}", sha256(WEIGHTS)
# Every GET route of the application → a request for it, further headers, its status, its caching.
CACHING: dict[str, list[tuple[str, dict[str, str], int, tuple[str, str | None]]]] = {
    "/livez": [("/livez", {}, 200, NEVER)],
    "/readyz": [("/readyz", {}, 200, NEVER)],
    "/metrics": [("/metrics", {}, 200, NEVER)],
    "/v2": [("/v2", {}, 200, ASKED)],
    "/v2/{rest}": [
        ("/v2/", {}, 200, ASKED),
        ("/v2/_catalog", {}, 200, ASKED),
        ("/v2/team/model/manifests/v1", {}, 200, ASKED),
        ("/v2/team/model/manifests/v2", {}, 404, NEVER),
        (f"/v2/team/model/manifests/{MODEL}", {}, 200, KEPT),
        (f"/v2/team/model/manifests/{OTHER_DIGEST}", {}, 404, NEVER),
        (f"/v2/team/model/blobs/{BLOB}", {}, 200, KEPT),
        (f"/v2/team/model/blobs/{BLOB}", {"Range": "bytes=0-1"}, 206, KEPT),
        (f"/v2/moved/blobs/{BLOB}", {}, 307, NEVER),
        (f"/v2/short/blobs/{BLOB}", {"Range": "bytes=99-"}, 416, NEVER),
        (f"/v2/closed/blobs/{BLOB}", {}, 401, NEVER),
        ("/v2/team/model/blobs/sha256:1", {}, 400, NEVER),
        ("/v2/team/model/tags/list", {}, 200, ASKED),
        (f"/v2/team/model/referrers/{OTHER_DIGEST}", {}, 200, ASKED),
        ("/v2/team/model/blobs/uploads/none", {}, 404, NEVER),
        ("/v2/team/%2e", {}, 400, NEVER),
    ],
    "/cnai": [("/cnai", {}, 404, NEVER)],
    "/cnai/{rest}": [
        ("/cnai/team/model:v1", {}, 200, ASKED),
        (f"/cnai/team/model@{MODEL}", {}, 200, ASKED),
        ("/cnai/team/model:v1/files", {}, 200, ASKED),
        ("/cnai/team/model:v1/files/w.bin", {}, 200, ASKED),
        ("/cnai/team/model:v1/files/w.bin", {"Range": "bytes=0-1"}, 206, ASKED),
        ("/cnai/team/model:v1/files/w.bin", {"Range": "bytes=99-"}, 416, NEVER),
        ("/cnai/team/model:v1/readme", {}, 200, ASKED),
        (f"/cnai/team/model@{MODEL}/files/w.bin", {}, 200, KEPT),
        (f"/cnai/team/model@{MODEL}/files/w.bin", {"If-None-Match": "*"}, 304, KEPT),
        (f"/cnai/team/model@{MODEL}/license", {}, 200, KEPT),
        (f"/cnai/team/model@{MODEL}/nothing", {}, 404, NEVER),
        ("/cnai/closed:v1", {}, 401, NEVER),
    ],
    "/cnai/-/login": [
        ("/cnai/-/login", {}, 401, NEVER),
        ("/cnai/-/login", {"Authorization": "Basic YTpi"}, 303, NEVER),
    ],
    "/-/token": [("/-/token", {}, 200, NEVER)],
    "/-/token/{upstream}": [
        ("/-/token/default", {}, 200, NEVER),
        ("/-/token/nobody", {}, 404, NEVER),
    ],
}


async def test_A14_every_read_route_has_its_row() -> None:
    settings = load(file=None, environment={}, flags={"upstreams.0.url": "http://registry.example"})
    async with open_app(settings, Metrics()) as app:
        routes = {
            route.resource.canonical
            for route in app.router.routes()
            if route.resource is not None and route.method in ("GET", "*")
        }
    assert routes == set(CACHING)


async def test_A14_every_answer_says_what_a_cache_may_keep(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = push(upstream)
    shared = [
        ("Cache-Control", "public, s-maxage=999"),
        ("CDN-Cache-Control", "public"),
        ("Surrogate-Control", "max-age=999"),
        ("Expires", "Fri, 31 Dec 2100 23:59:59 GMT"),
        ("Age", "7"),
        ("Vary", "Cookie"),
        ("Pragma", "cache"),
    ]
    upstream.faults = [
        Fault(match="_catalog", status=200, body=b'{"repositories":[]}', headers=shared),
        Fault(match="tags/list", status=200, body=b'{"tags":[]}', headers=shared),
        Fault(match="referrers", status=200, body=b'{"manifests":[]}', headers=shared),
        Fault(match="/moved/", location="https://store.example/x?sig=1", headers=shared),
        Fault(match="/closed/", status=401, headers=shared),
        Fault(match="/short/", status=416, headers=shared),
        Fault(match="", headers=shared),
    ]
    for rows in CACHING.values():
        for target, headers, status, (control, vary) in rows:
            target = target.replace(MODEL, digest)
            for method in READS:
                answer = await proxy.send(method, target, headers=headers.items())
                if answer.status == 405:
                    assert method == "HEAD"
                    control, vary = NEVER
                else:
                    assert answer.status == status, target
                place = f"{method} {target} {headers}"
                assert answer.headers.getall("Cache-Control", []) == [control], place
                assert answer.headers.getall("Vary", []) == ([vary] if vary else []), place
                assert not {"Age", "Expires", "Pragma", "Surrogate-Control"} & set(answer.headers)
                assert "CDN-Cache-Control" not in answer.headers
    for target in ("/nowhere", "/v2/%2e", "/v2/../x"):
        assert (await proxy.get(target)).headers["Cache-Control"] == "no-store"


async def test_A14_our_own_answer_to_the_ping_is_not_for_shared_caches(
    start_proxy: StartProxy, other: FaultyUpstream
) -> None:
    proxy = await two_upstreams(start_proxy, other)
    open_to_all = await proxy.get("/v2/")
    assert (open_to_all.status, open_to_all.headers["Cache-Control"]) == (200, ASKED[0])
    assert open_to_all.headers["Vary"] == VARY
    other.tokens = set()
    closed = await two_upstreams(start_proxy, other)
    assert (await closed.get("/v2/")).headers["Cache-Control"] == "no-store"


async def two_upstreams(
    start_proxy: StartProxy, second: FaultyUpstream, **settings: object
) -> Client:
    """A proxy that has ``second`` at the prefix ``hub`` beside the default upstream."""
    return await start_proxy(
        upstreams__1__name="second",
        upstreams__1__url=second.url,
        upstreams__1__prefix="hub",
        upstream__default=True,
        **settings,
    )


async def test_A15_ping_is_the_upstreams_own_word(proxy: Client, upstream: FaultyUpstream) -> None:
    upstream.tokens = {ANNA}
    upstream.challenge = 'Bearer realm="https://auth.example/token",service="x",scope="a:b:c"'
    for authorization, status in ((None, 401), (BERT, 401), (ANNA, 200)):
        headers = [("Authorization", authorization)] if authorization else []
        answer = await proxy.send("GET", "/v2/", headers=headers)
        assert answer.status == status
        assert upstream.log[-1].all("Authorization") == [value for _, value in headers]
        if status == 401:
            assert answer.headers.getall("WWW-Authenticate") == [upstream.challenge]
            assert answer.json["errors"][0]["message"] == "authentication required"


async def test_A15_ping_is_never_200_where_someone_is_asked_to_log_in(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    other.tokens = {ANNA}
    proxy = await two_upstreams(start_proxy, other)
    for method in READS:
        refused = await proxy.send(method, "/v2/")
        assert refused.status == 401
        (challenge,) = refused.headers.getall("WWW-Authenticate")
        assert challenge == f'Bearer realm="{proxy.url}/-/token",service="cnai-proxy"'


async def test_A15_ping_offers_a_login_where_an_upstream_does_not_say(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    other.faults.append(Fault(match="/v2/", hang_up=True))
    proxy = await two_upstreams(start_proxy, other)
    assert (await proxy.get("/v2/")).status == 401
    assert (await proxy.get("/v2/", Authorization=ANNA)).status == 200


# B: credentials going astray ---------------------------------------------------------------------


def token_service(upstream: FaultyUpstream, token: str = "canary-token") -> list[Seen]:
    """Make ``upstream`` ask for tokens and give one to anybody; returns who asks for it."""
    asked: list[Seen] = []

    def give(seen: Seen) -> tuple[int, bytes]:
        asked.append(seen)
        return 200, json.dumps({"token": token, "expires_in": 300}).encode()

    upstream.token_service = give
    upstream.tokens = {f"Bearer {token}"}
    upstream.challenge = f'Bearer realm="{upstream.url}/token",service="registry.example"'
    return asked


ACCOUNT = {"username": "reader", "password": "canary-s3cr3t", "anonymous": True}
AS_ACCOUNT: dict[str, object] = {
    "upstream__credentials": ACCOUNT,
    "upstream__tls__insecure": True,  # a password, and no TLS
}
HARMLESS = {"host", "range", "if-range", "user-agent", "accept-encoding"}


@pytest.mark.parametrize("wants", ["basic", "token"])
@pytest.mark.parametrize("route", ["v2 as caller", "v2 as account", "cnai as caller"])
async def test_B1_credential_stays_at_the_upstreams_origin(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    route: str,
    wants: str,
) -> None:
    """The chain upstream → other → upstream: neither hop after the first has a credential."""
    push(upstream)
    login = basic("reader", "canary-s3cr3t")
    shown = login if wants == "basic" else "Bearer canary-token"
    if wants == "basic":
        upstream.tokens = {login}
    else:
        token_service(upstream)
    # A client of /v2/ does the exchange itself, one of /cnai/ leaves it to the proxy.
    client = {"v2 as caller": shown, "v2 as account": None, "cnai as caller": login}[route]
    sent = {"Authorization": client} if client is not None else {}
    blob = f"/v2/team/model/blobs/{BLOB}"
    upstream.faults = [
        Fault(match="X-Amz", status=200, body=WEIGHTS),  # a signed address is open to all
        Fault(match=f"GET {blob}", location=f"{other.url}/hop"),
    ]
    other.faults = [Fault(match="/hop", location=f"{upstream.url}{blob}?X-Amz-Signature=1")]
    proxy = await start_proxy(
        upstream__redirects="follow",
        upstream__redirect_hosts=[f"127.0.0.1:{other.port}"],
        **(AS_ACCOUNT if client is None else {}),
    )
    # Whatever has to be bought or learnt is at hand by now.
    first = "/cnai/team/model:v1" if "cnai" in route else "/v2/team/model/manifests/v1"
    assert (await proxy.get(first, **sent)).status == 200
    target = "/cnai/team/model:v1/files/w.bin" if "cnai" in route else blob
    answer = await proxy.get(target, X_Registry_Auth="canary", Cookie="sid=canary", **sent)
    assert (answer.status, answer.body) == (200, WEIGHTS)
    asked, returned = upstream.requests(f"GET {blob}")
    assert asked.get("Authorization") == shown
    assert "X-Amz-Signature" in returned.target
    assert len(other.log) == 1
    for seen in (*other.log, returned):
        assert {name.lower() for name, _ in seen.headers} <= HARMLESS
        assert "canary" not in repr(seen)


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://127.0.0.2:{port}/x",
        "http://localhost:{port}/x",
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1:{other}/x",
    ],
    ids=["address", "name", "scheme", "port"],
)
async def test_B1_another_host_port_or_scheme_is_another_origin(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream, elsewhere: str
) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nweights")

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(listening(listen, "127.0.0.2", upstream.port))
        location = elsewhere.format(port=upstream.port, other=other.port)
        upstream.faults.append(Fault(match="/blobs/", times=1, location=location))
        proxy = await start_proxy(
            upstream__redirects="follow",
            upstream__redirect_hosts=["127.0.0.1", "127.0.0.2", "localhost"],
            upstream__timeouts__connect_seconds=0.3,  # of a TLS handshake with plain HTTP
        )
        await proxy.get(f"/v2/a/blobs/{BLOB}", Authorization=ANNA)
    first, *rest = upstream.log
    assert first.get("Authorization") == ANNA
    for seen in (*rest, *other.log):
        assert {name.lower() for name, _ in seen.headers} <= HARMLESS
    assert b"canary" not in b"".join(heard)
    assert b"authorization" not in b"".join(heard).lower()
    assert len(rest) + len(other.log) + len(heard) == (0 if "https" in elsewhere else 1)


@asynccontextmanager
async def https(
    issuer: Authority, name: str
) -> AsyncIterator[tuple[str, FaultyUpstream, list[bool]]]:
    """An upstream over TLS that asks for a certificate: address, script, who showed one."""
    issued = issuer.issue(name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=issuer.ca_file)
    context.load_cert_chain(issued.cert_file, issued.key_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    script, shown = FaultyUpstream(), list[bool]()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        shown.append(bool(writer.get_extra_info("peercert")))
        try:
            await script.serve_connection(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield f"https://127.0.0.1:{script.port}", script, shown
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_B1_client_certificate_is_shown_to_the_upstream_alone(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    issuer = authority(tmp_path)
    own = issuer.issue("proxy")
    async with (
        https(issuer, "registry") as (url, registry, shown),
        https(issuer, "store") as (store_url, store, shown_to_store),
    ):
        proxy = await start_proxy(
            url=url,
            upstream__redirects="follow",
            upstream__redirect_hosts=[f"127.0.0.1:{store.port}"],
            upstream__tls__ca_file=str(issuer.ca_file),
            upstream__tls__client_cert_file=str(own.cert_file),
            upstream__tls__client_key_file=str(own.key_file),
        )
        registry.blob(WEIGHTS)
        registry.faults = [Fault(match="/blobs/", times=1, location=f"{store_url}/hop")]
        store.faults = [Fault(match="/hop", location=f"{url}/v2/a/blobs/{BLOB}?back")]
        answer = await proxy.get(f"/v2/a/blobs/{BLOB}", Authorization=ANNA)
        assert (answer.status, answer.body) == (200, WEIGHTS)
        # The way back to the registry was the store's choice: another connection, nothing shown.
        assert (shown, shown_to_store) == ([True, False], [False])
        assert [seen.all("Authorization") for seen in (*registry.log, *store.log)] == [
            [ANNA],
            [],
            [],
        ]


async def test_B2_urls_of_layers_are_neither_asked_nor_shown(
    start_proxy: StartProxy, upstream: FaultyUpstream, canary: Canary, network: Network
) -> None:
    digest = push(upstream, urls=[f"{canary.url}/layer", "http://canary.example/layer"])
    proxy = await start_proxy()
    for target in (*model_targets("team/model:v1"), *model_targets(f"team/model@{digest}")):
        answer = await proxy.get(target)
        assert answer.status == (404 if target.endswith("nothing") else 200)
        for header in answer.headers.values():
            assert "canary" not in header
        assert b"canary" not in answer.body
        assert canary.url.encode() not in answer.body
    for target in (f"/v2/team/model/manifests/{digest}", f"/v2/team/model/blobs/{BLOB}"):
        assert (await proxy.get(target)).status == 200
    assert network.looked_up == []


HUB_TOKEN = "hf_c4naryAbcDefGhi"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer ", "Token", ""])
async def test_B4_secret_of_huggingface_reaches_no_registry(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
) -> None:
    caplog.set_level("DEBUG")
    push(upstream)
    push(other)
    asked = token_service(other)
    proxy = await two_upstreams(start_proxy, other)
    authorization = f"{scheme} {HUB_TOKEN}".lstrip()
    for method, target in (
        ("GET", "/v2/"),
        ("GET", "/v2/team/model/manifests/v1"),
        ("HEAD", f"/v2/team/model/blobs/{BLOB}"),
        ("POST", "/v2/team/model/blobs/uploads/"),
        ("GET", "/v2/_catalog"),
        ("GET", "/v2/hub/team/model/manifests/v1"),
        ("GET", "/cnai/team/model:v1/files/w.bin"),
        ("GET", "/cnai/hub/team/model:v1/files/w.bin"),
        ("GET", "/-/token?scope=repository:hub/team/model:pull"),
        ("GET", "/-/token/second?scope=repository:hub/team/model:pull"),
        ("GET", "/-/token/default"),
    ):
        answer = await proxy.send(method, target, headers=[("Authorization", authorization)])
        assert answer.status < 500, (target, answer.body)
        assert HUB_TOKEN.encode() not in answer.body
    assert len(asked) >= 3
    assert upstream.log
    assert HUB_TOKEN not in repr([*upstream.log, *other.log, *asked])
    assert all(seen.get("Authorization") is None for seen in (*upstream.log, *asked))
    assert HUB_TOKEN not in caplog.text


SECRET = "canary-s3cr3t"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(match="", hang_up=True),
        Fault(match="", raw=f"HTTP/1.1 abc {SECRET}\r\n\r\n".encode()),
        Fault(match="", raw=f"{SECRET} is not HTTP\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\nETag: {SECRET}\x01\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\n{SECRET}\x00: x\r\n\r\n".encode()),
        Fault(match="", raw=f"HTTP/1.1 200 OK\r\nETag: {SECRET * 9999}\r\n\r\n".encode()),
        Fault(match="", raw=b"HTTP/1.1 200 OK\r\nContent-Length: " + SECRET.encode() + b"\r\n\r\n"),
        Fault(match="", location=f"http://user:{SECRET}@store.example/"),
        Fault(match="", location=f"http://store.example/?sig={SECRET}"),
        Fault(match="", location=f"http://127.0.0.1:9/?sig={SECRET}"),
        Fault(match="", location=f"ftp://store.example/?sig={SECRET}"),
        Fault(match="", location=f"/v2/loop?sig={SECRET}"),
        Fault(match="", length=999, cut_at=1, body=SECRET.encode()),
        Fault(match="/cnai|/v2/", status=500, body=f'{{"errors":"{SECRET}"}}'.encode()),
        Fault(match="", status=401, headers=[("WWW-Authenticate", f'Bearer realm="{SECRET}"')]),
        Fault(match="", status=429, headers=[("X-Echo", SECRET), ("Warning", f"199 - {SECRET}")]),
    ],
)
async def test_B6_no_failure_repeats_an_address_or_what_the_upstream_said(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    network: Network,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
) -> None:
    caplog.set_level("DEBUG")
    upstream.faults.append(fault)
    proxy = await start_proxy(upstream__redirects="follow", log__level="debug")
    query = f"token={SECRET}&sig={SECRET}&X-Amz-Signature={SECRET}&_state={SECRET}"
    own = [
        await proxy.get(f"/cnai/a:v1?{query}", Authorization=basic("u", SECRET)),
        await proxy.get(f"/cnai/a:v1/files/w.bin?{query}"),
    ]
    if fault.status is None:  # else it is the upstream's own answer, and relayed
        own += [
            await proxy.get(f"/v2/a/manifests/v1?{query}", Authorization=f"Bearer {SECRET}"),
            await proxy.get(f"/v2/a/blobs/{OTHER_DIGEST}?{query}"),
        ]
    for answer in own:
        assert answer.status >= 400
        assert SECRET.encode() not in answer.body
        assert SECRET not in repr(answer.headers)
        assert str(upstream.port).encode() not in answer.body
    assert SECRET not in caplog.text
    if fault.status is None:  # words of ours count as ours, whatever had come before
        lines = [record for record in caplog.records if record.name == "proxy.access"]
        assert {line.__dict__["fields"]["origin"] for line in lines} == {"proxy"}
    assert SECRET.encode() not in (await proxy.get("/metrics")).body


async def test_B6_failures_before_any_answer_repeat_no_address(
    start_proxy: StartProxy, upstream: FaultyUpstream, network: Network
) -> None:
    with socket.socket() as held:  # bound, not listening: nobody else gets the port meanwhile
        held.bind(("127.0.0.1", 0))
        for url, status in (
            (f"http://127.0.0.1:{held.getsockname()[1]}", 503),
            ("http://no-such-host.example:5000", 503),
            (upstream.url.replace("http:", "https:"), 503),
        ):
            proxy = await start_proxy(url=url, upstream__timeouts__connect_seconds=0.3)
            for target in ("/v2/a/tags/list", "/cnai/a:v1/files"):
                answer = await proxy.get(
                    f"{target}?token={SECRET}", Authorization=basic("u", SECRET)
                )
                assert answer.status == status
                place = url.partition("//")[2].encode()
                assert place not in answer.body
                assert SECRET.encode() not in answer.body


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= _options(command)
    return found


def test_B8_command_line_has_no_place_for_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert _options(command_line._parser()) == {
        "-h", "--help", "--version", "--config", "--upstream", "--embedded", "--host", "--port",
        "--log-format",
    }  # fmt: skip
    for flag in ("--password", "--username", "--token", "--credentials", "--secret", "-p"):
        for command in ("serve", "check", "demo"):
            with pytest.raises(SystemExit) as exited:
                command_line.main([command, flag, "x"])
            assert exited.value.code == 2
    capsys.readouterr()
    # An address with a login in it is the other way to put one there; and it is not repeated.
    assert command_line.main(["serve", "--upstream", f"https://user:{SECRET}@up.example"]) == 2
    assert SECRET not in capsys.readouterr().err


async def test_B9_account_is_shown_for_no_more_than_the_request_needs(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    digest = push(upstream)
    asked = token_service(upstream)
    upstream.challenge = (
        f'Bearer realm="{upstream.url}/token",service="registry.example",'
        'scope="repository:private/secret:pull,push,delete repository:*:* registry:catalog:*"'
    )
    proxy = await start_proxy(**AS_ACCOUNT)
    for target, scopes in (
        ("/v2/", []),
        ("/v2/team/model/manifests/v1", ["repository:team/model:pull"]),
        (f"/v2/team/model/blobs/{BLOB}", []),  # that token is held
        (f"/v2/team/model/manifests/{digest}", []),
        ("/v2/other/tags/list", ["repository:other:pull"]),
        ("/v2/_catalog", ["registry:catalog:*"]),
        ("/cnai/third/model:v1", ["repository:third/model:pull"]),
    ):
        asked.clear()
        await proxy.get(target)
        queries = [parse_qs(urlsplit(seen.target).query) for seen in asked]
        found = [scope for query in queries for scope in query.get("scope", [])]
        assert found == scopes, target
        assert all(query.get("service") == ["registry.example"] for query in queries)
        assert all(seen.method == "GET" for seen in asked)


# C: the proxy as a weapon ------------------------------------------------------------------------


# ``{port}`` is the port of the upstream, which a target may name as it may 80 and 443. Canaries
# listen on it at 127.0.0.2 and ::1.
TARGETS = [
    "http://127.0.0.2:{port}/x",
    "http://127.0.0.2:{port}",
    "http://[::1]:{port}/x",
    "http://[::ffff:127.0.0.2]:{port}/x",
    "http://[::ffff:7f00:2]:{port}/x",
    "http://[64:ff9b::7f00:2]:{port}/x",
    "http://[2002:7f00:2::]:{port}/x",
    "http://[::]:{port}/x",
    "http://0:{port}/x",
    "http://0.0.0.0:{port}/x",
    "http://127.2:{port}/x",
    "http://2130706434:{port}/x",
    "http://0x7f000002:{port}/x",
    "http://0x7f.0.0.2:{port}/x",
    "http://0177.0.0.2:{port}/x",
    "http://127.0.0.2.:{port}/x",
    "http://localhost:{port}/x",
    "http://LocalHost.:{port}/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/x",
    "http://172.16.0.1/x",
    "http://192.168.0.1/x",
    "http://100.64.0.1/x",
    "http://224.0.0.1/x",
    "http://255.255.255.255/x",
    "http://[fe80::1]/x",
    "http://[fd00::1]/x",
    "http://[fec0::1]/x",
    "http://[::1%25lo]:{port}/x",
    "http://private.example:{port}/x",
    "http://mixed.example:{port}/x",
    "http://six.example:{port}/x",
    "http://public.example:6379/x",
    "http://public.example:22/x",
    "http://user:pw@public.example/x",
    "http://public.example@127.0.0.2:{port}/x",
    "http://127.0.0.1:{port}@127.0.0.2:{port}/x",
    "http://127.0.0.1:{port}#@127.0.0.2:{port}/x",
    "http://127.0.0.1:{port}\\@127.0.0.2:{port}/x",
    "//127.0.0.2:{port}/x",
    "/\\127.0.0.2:{port}/x",
    "\\\\127.0.0.2:{port}/x",
    "http:127.0.0.2:{port}/x",
    "http:evil",
    "http:///127.0.0.2:{port}/x",
    "http:\\\\127.0.0.2:{port}/x",
    "x",
    "?x",
    "",
    "file:///etc/passwd",
    "gopher://127.0.0.2:{port}/_x",
    "ftp://127.0.0.2:{port}/x",
    "unix:///var/run/docker.sock",
    "javascript:alert(1)",
    "http://127.0.0.2:99999/x",
    "http://127.0.0.2:0/x",
]
NAMES = {
    "private.example": [["127.0.0.2"]],
    "mixed.example": [["8.8.8.8", "127.0.0.2"]],
    "six.example": [["::1"]],
    "public.example": [["8.8.8.8"]],
    "evil": [["127.0.0.2"]],
}


@asynccontextmanager
async def canaries(port: int) -> AsyncIterator[Canary]:
    """One listener on ``port`` of the other addresses of this machine."""
    found = Canary()
    async with AsyncExitStack() as stack:
        for address in ("127.0.0.2", "::1") if socket.has_ipv6 else ("127.0.0.2",):
            await stack.enter_async_context(listening(found.serve, address, port))
        yield found


@pytest.mark.parametrize("route", ["v2", "cnai"])
async def test_C1_redirect_leads_into_no_network_of_ours(
    start_proxy: StartProxy, upstream: FaultyUpstream, network: Network, route: str
) -> None:
    push(upstream)
    network.names.update(NAMES)
    proxy = await start_proxy(upstream__redirects="follow")
    target = {
        "v2": f"/v2/team/model/blobs/{BLOB}",
        "cnai": "/cnai/team/model:v1/files/w.bin",
    }[route]
    async with canaries(upstream.port) as canary:
        for location in TARGETS:
            upstream.faults = [Fault(match="/blobs/", location=location.format(port=upstream.port))]
            answer = await proxy.get(target, Range="bytes=0-1")
            assert (answer.status, answer.code) == (502, "UNAVAILABLE"), location
            assert "127" not in answer.message
        assert canary.connections == 0
    assert set(network.connected) == {("127.0.0.1", upstream.port), ("127.0.0.1", proxy.port)}
    assert set(network.looked_up) == {"private.example", "mixed.example", "six.example"}


async def test_C1_every_hop_is_looked_at(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream, network: Network
) -> None:
    proxy = await start_proxy(
        upstream__redirects="follow", upstream__redirect_hosts=[f"127.0.0.1:{other.port}"]
    )
    upstream.faults = [Fault(match="/blobs/", location=f"{other.url}/1")]
    async with canaries(other.port) as canary:
        for location in (f"http://127.0.0.2:{other.port}/x", "http://localhost/x", "//127.0.0.2/"):
            other.faults = [Fault(match="/1", location="/2"), Fault(match="/2", location=location)]
            answer = await proxy.get(f"/v2/a/blobs/{BLOB}")
            assert (answer.status, answer.code) == (502, "UNAVAILABLE")
        assert canary.connections == 0
    assert network.looked_up == []


async def test_C1_name_that_changes_its_address_is_not_followed_inside(
    start_proxy: StartProxy, upstream: FaultyUpstream, network: Network
) -> None:
    network.names["flip.example"] = [["8.8.8.8"], ["127.0.0.2"]]
    upstream.faults = [Fault(match="/blobs/", location=f"http://flip.example:{upstream.port}/x")]
    proxy = await start_proxy(upstream__redirects="follow")
    async with canaries(upstream.port) as canary:
        for _ in range(3):
            answer = await proxy.get(f"/v2/a/blobs/{BLOB}")
            assert (answer.status, answer.code) in ((502, "UNAVAILABLE"), (503, "UNAVAILABLE"))
        assert canary.connections == 0
    assert "127.0.0.2" not in {address for address, _ in network.connected}


REALMS = [
    "http://127.0.0.2:{port}/token",
    "http://127.0.0.1:{other}/token",
    "http://127.0.0.1/token",
    "https://127.0.0.1:{port}/token",
    "http://localhost:{port}/token",
    "http://[::1]:{port}/token",
    "http://[::ffff:127.0.0.1]:{port}/token",
    "http://[::ffff:7f00:1]:{port}/token",
    "http://127.1:{port}/token",
    "http://2130706433:{port}/token",
    "http://0x7f000001:{port}/token",
    "http://0177.0.0.1:{port}/token",
    "http://127.0.0.1.:{port}/token",
    "http://user:pw@127.0.0.1:{port}/token",
    "http://@127.0.0.1:{port}/token",
    "http://127.0.0.1:{port}@127.0.0.2:{port}/token",
    "http://127.0.0.1:{port}\\@127.0.0.2:{port}/token",
    "http://127.0.0.1:{port}#@127.0.0.2:{port}/token",
    "http://127.0.0.1:{port}.evil.example/token",
    "http://127.0.0.1.evil.example:{port}/token",
    "http://evil.example/?http://127.0.0.1:{port}/token",
    "https://evil.example/token",
    "https://auth.docker.io/token",
    "//127.0.0.1:{port}/token",
    "/token",
    "token",
    "",
    "http:127.0.0.1:{port}/token",
    "http:///127.0.0.1:{port}/token",
    "http://127.0.0.1:99999/token",
    "http://127.0.0.1:0/token",
    " http://127.0.0.1:{port}/token",
    "http://127.0.0.1:{port}/token and more",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/token",
    "ftp://127.0.0.1:{port}/token",
    "javascript:alert(1)",
    "http://169.254.169.254/token",
]


@pytest.mark.parametrize("route", ["cnai", "account"])
async def test_C1_realm_leads_nowhere_but_to_the_upstream(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    network: Network,
    route: str,
) -> None:
    push(upstream)
    token_service(upstream)
    network.names.update({"evil.example": [["127.0.0.2"]], "localhost": [["127.0.0.1"]]})
    proxy = await start_proxy(**(AS_ACCOUNT if route == "account" else {}))
    target = "/v2/team/model/manifests/v1" if route == "account" else "/cnai/team/model:v1"
    async with canaries(upstream.port) as canary:
        for realm in REALMS:
            written = realm.format(port=upstream.port, other=other.port).replace("\\", "\\\\")
            upstream.challenge = f'Bearer realm="{written}",service="x"'
            for login in ({"Authorization": basic("anna", SECRET)}, {}):
                answer = await proxy.get(target, **login)
                assert (answer.status, answer.code) == (502, "UNAVAILABLE"), realm
                assert "realm not allowed" in answer.message
        assert canary.connections == 0
    assert (other.log, upstream.requests("token"), network.looked_up) == ([], [], [])
    assert set(network.connected) == {("127.0.0.1", upstream.port), ("127.0.0.1", proxy.port)}


FORGED = [
    f"X-Forwarded-Host: {EVIL}",
    f"X-Forwarded-Server: {EVIL}",
    f"X-Forwarded-Proto: {EVIL}",
    f"X-Forwarded-Prefix: //{EVIL}",
    f"X-Forwarded-For: {EVIL}",
    f"Forwarded: for={EVIL};host={EVIL};proto=https",
    f"X-Host: {EVIL}",
    f"X-Original-Host: {EVIL}",
    f"X-Original-URL: //{EVIL}/",
    f"X-Rewrite-URL: //{EVIL}/",
    f"X-HTTP-Host-Override: {EVIL}",
    f"Referer: https://{EVIL}/",
]
ADDRESS = re.compile(rb'(?im)^location: (\S+)|<([^>]+)>; rel|realm="(http[^"]+)')
ADDRESSED = [
    ("GET", "/v2/"),
    ("GET", "/v2"),
    ("POST", "/v2/team/model/blobs/uploads/"),
    ("POST", "/v2/hub/team/model/blobs/uploads/"),
    ("GET", "/v2/team/model/tags/list?n=1"),
    ("GET", "/v2/hub/team/model/tags/list?n=1"),
    ("GET", "/v2/_catalog"),
    ("GET", "/v2/team/model/manifests/v1"),
    ("GET", "/v2/hub/team/model/manifests/v1"),
    ("GET", "/v2/team/%2e"),
    ("PROPFIND", "/v2/"),
    ("GET", "/cnai"),
    ("GET", "/cnai/team/model:v1"),
    ("GET", "/cnai/team/model:v1/files"),
    ("GET", "/cnai/hub/team/model:v1/files/w.bin"),
    ("GET", "/cnai/team/model:v1/nothing"),
    ("GET", "/cnai/-/login"),
    ("GET", "/-/token"),
    ("GET", "/-/token?scope=repository:hub/team/model:pull"),
    ("GET", "/-/token/second"),
    ("GET", "/-/token/nobody"),
    ("GET", "/livez"),
    ("PUT", "/livez"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize("host", ["own", "forged", "none"])
@pytest.mark.parametrize("trusts", [False, True])
async def test_C3_no_byte_of_an_answer_is_a_forged_host(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    host: str,
    trusts: bool,
) -> None:
    link = '</v2/team/model/tags/list?last=a&n=1>; rel="next"'
    for registry in (upstream, other):
        push(registry)
        registry.faults = [Fault(match="tags/list", status=200, body=b"{}")]
        registry.faults[0].headers.append(("Link", link))
    # One whose uploads are tried without a login, and whose reads ask for one.
    other.faults.append(Fault(match="POST"))
    token_service(other)
    other.challenge = f'Bearer realm="{other.url}/token",scope="repository:team/model:pull"'
    trusting = {
        "listen__trusted_proxies": ["127.0.0.1"],
        "listen__public_url": "https://models.example",
    }
    proxy = await two_upstreams(start_proxy, other, **(trusting if trusts else {}))
    lines = {
        "own": [f"Host: {proxy.host}:{proxy.port}"],
        "forged": [f"Host: {EVIL}"],
        "none": [],
    }[host]
    version = "HTTP/1.0" if host == "none" else "HTTP/1.1"
    addresses: set[str] = set()
    for method, target in ADDRESSED:
        received = await proxy.raw(wire_lines(f"{method} {target} {version}", *lines, *FORGED))
        assert received.startswith(b"HTTP/1."), target
        assert b"evil" not in received.lower(), target
        addresses.update(b"".join(found).decode() for found in ADDRESS.findall(received))
    base = "https://models.example" if trusts else f"http://{proxy.host}:{proxy.port}"
    tokens = {f"{base}/-/token", f"{base}/-/token/second"}
    absolute = {found for found in addresses if not found.startswith("/v2/")}
    assert absolute == tokens
    assert {path.partition("?")[0] for path in addresses - absolute} >= {
        "/v2/team/model/tags/list",
        "/v2/hub/team/model/tags/list",
    }
    hosts = {upstream.url: upstream.log, other.url: other.log}
    for url, log in hosts.items():
        assert log
        assert {seen.get("Host") for seen in log} == {url.removeprefix("http://")}
        assert EVIL not in repr(log)


async def test_C3_forged_host_chooses_no_upstream(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    push(other)
    proxy = await start_proxy(
        upstreams__1__name="inner",
        upstreams__1__url=other.url,
        upstreams__1__hosts=["inner.example"],
    )
    for forged in (
        ["Host: x", "X-Forwarded-Host: inner.example"],
        ["Host: x", "Forwarded: host=inner.example"],
        ["Host: x", "X-Original-Host: inner.example"],
        ["Host: inner.example.x"],
        ["Host: x.inner.example"],
    ):
        for target in ("/v2/team/model/manifests/v1", "/cnai/team/model:v1", "/v2/"):
            await proxy.raw(wire_lines(f"GET {target} HTTP/1.1", *forged))
    assert other.log == []
    request = wire_lines("GET /v2/team/model/manifests/v1 HTTP/1.1", "Host: Inner.Example:99")
    assert (await proxy.raw(request)).startswith(b"HTTP/1.1 200")


NO_HOSTS = [
    ['Host: a"><script>alert(1)</script>'],
    ["Host: a/../b"],
    ["Host: a b"],
    ["Host: a@b"],
    ["Host: a,b"],
    ["Host: a?b"],
    ["Host: a#b"],
    ["Host: a\\b"],
    ["Host: a%2eb"],
    ["Host: a;b"],
    ["Host: a\xe9"],
    ["Host: "],
    ["Host: a", "Host: b"],
    ["Host: a", "Host: a"],
]


@pytest.mark.parametrize("target", ["/v2/", "/cnai/a:v1", "/-/token", "/livez", "/nowhere"])
async def test_C3_host_that_is_none_is_400(
    proxy: Client, upstream: FaultyUpstream, target: str
) -> None:
    for lines in NO_HOSTS:
        received = await proxy.raw(wire_lines(f"GET {target} HTTP/1.1", *lines))
        assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), lines
        assert b"script" not in received
    assert upstream.log == []


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT", "OPTIONS"])
async def test_C3_other_forms_of_a_target_reach_nobody(
    proxy: Client, upstream: FaultyUpstream, method: str
) -> None:
    for target in (
        f"http://{EVIL}/v2/",
        f"https://{EVIL}/v2/",
        f"http://{EVIL}/cnai/a:v1",
        f"{proxy.url}/v2/",
        f"http:{EVIL}/v2/",
        f"//{EVIL}/v2/",
        f"{EVIL}:443",
        "*",
        "v2/",
    ):
        received = await proxy.raw(wire_lines(f"{method} {target} HTTP/1.1", "Host: x"))
        status = int(received.split(b" ", 2)[1])
        is_path = target.startswith("//") or (target == "*" and method == "OPTIONS")
        assert status in ((400, 404, 405) if is_path else (400, 405)), target
        if method in ("GET", "POST") and not is_path:
            assert status == 400, target
        assert b"evil" not in received
    assert upstream.log == []


@pytest.mark.parametrize("path", ["team/model/tags/list", "_catalog", "team/model/referrers/{}"])
async def test_C9_pages_are_asked_for_one_by_one_and_never_elsewhere(
    proxy: Client, upstream: FaultyUpstream, canary: Canary, network: Network, path: str
) -> None:
    path = f"/v2/{path.format(OTHER_DIGEST)}"
    for link, relayed in (
        (f'<{canary.url}{path}?last=x>; rel="next"', None),
        (f"<http://{EVIL}{path}>; rel=next", None),
        (f"<//{EVIL}{path}>; rel=next", None),
        (f"<{upstream.url}.{EVIL}{path}>; rel=next", None),
        (f"<{path}>; rel=prev, <http://{EVIL}/>; rel=next", None),
        (f"<{upstream.url}{path}?last=x>; rel=next", f"<{path}?last=x>; rel=next"),
        (f"<{path}?last=x&n=1>; rel=next", f"<{path}?last=x&n=1>; rel=next"),
    ):
        body = b'{"repositories":["a"],"tags":["a"],"manifests":[]}'
        upstream.faults = [Fault(match=re.escape(path), status=200, body=body)]
        upstream.faults[0].headers.append(("Link", link))
        upstream.log.clear()
        answer = await proxy.get(f"{path}?n=1000000000")
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers.getall("Link", []) == ([relayed] if relayed else [])
        assert [seen.target for seen in upstream.log] == [f"{path}?n=1000000000"]
    assert network.looked_up == []


async def test_C10_nothing_that_a_document_names_is_fetched(
    start_proxy: StartProxy, upstream: FaultyUpstream, canary: Canary, network: Network
) -> None:
    readme = "\n".join(
        f"# Model\n![logo]({url}/a.png) [x]({url}/b) <img src='{url}/c' srcset='{url}/d 2x'>\n"
        f"<link rel=stylesheet href={url}/e><script src={url}/f></script><{url}/g>\n[r]: {url}/h"
        for url in (canary.url, "http://canary.example")
    ).encode()
    digest = push(upstream, readme=readme)
    proxy = await start_proxy()
    for target in (*model_targets("team/model:v1"), *model_targets(f"team/model@{digest}")):
        for method in READS:
            answer = await proxy.send(method, target)
            assert answer.status == (404 if target.endswith("nothing") else 200)
    shown = await proxy.get("/cnai/team/model:v1/readme")
    assert shown.body == readme
    assert "sandbox" in shown.headers["Content-Security-Policy"]
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
    assert network.looked_up == []
    assert set(network.connected) == {("127.0.0.1", upstream.port), ("127.0.0.1", proxy.port)}


# G: pages in a browser ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [
        {"Origin": f"https://{EVIL}"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:{port}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_G6_page_of_another_origin_writes_nothing(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    page: dict[str, str],
) -> None:
    proxy = await two_upstreams(start_proxy, other)
    headers = [(name, value.format(port=proxy.port)) for name, value in page.items()]
    headers.append(("Authorization", basic("anna", SECRET)))
    for method in WRITES:
        for target in (
            "/v2/a/blobs/uploads/",
            f"/v2/a/blobs/uploads/?mount={OTHER_DIGEST}&from=b",
            "/v2/hub/a/blobs/uploads/x?_state=1",
            "/v2/a/manifests/v1",
            f"/v2/hub/a/manifests/{OTHER_DIGEST}",
            f"/v2/a/blobs/{OTHER_DIGEST}",
            "/v2/a/tags/list",
            "/v2/anything/else",
            "/v2/",
        ):
            answer = await proxy.send(method, target, headers=headers, body=b"x=y")
            assert (answer.status, answer.code) == (403, "DENIED"), (method, target)
    form = [*headers, ("Content-Type", "application/x-www-form-urlencoded")]
    for target in ("/-/token", "/-/token/second"):
        answer = await proxy.send("POST", target, headers=form, body=b"grant_type=password")
        assert (answer.status, answer.code) == (403, "DENIED")
    assert (upstream.log, other.log) == ([], [])
    # Reading is the browser's business: no answer lets the other page see it.
    answer = await proxy.send("GET", "/v2/a/tags/list", headers=headers)
    assert len(upstream.log) == 1
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_G6_pages_of_the_proxy_and_clients_write(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    for headers in (
        [],
        [("Origin", proxy.url)],
        [("Origin", proxy.url), ("Sec-Fetch-Site", "same-origin")],
        [("Sec-Fetch-Site", "none")],
    ):
        answer = await proxy.send("POST", "/v2/a/blobs/uploads/", headers=headers)
        assert answer.status == 202
    # What a page may send without asking anybody first changes no method.
    sent = [("X-HTTP-Method-Override", "DELETE"), ("X-HTTP-Method", "PUT")]
    await proxy.send("GET", "/v2/a/manifests/v1?_method=DELETE", headers=sent)
    assert upstream.log[-1].method == "GET"
    assert not {name for name, _ in upstream.log[-1].headers if "method" in name.lower()}
    preflight = await proxy.send(
        "OPTIONS",
        "/v2/a/manifests/v1",
        headers=[("Origin", f"https://{EVIL}"), ("Access-Control-Request-Method", "PUT")],
    )
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.lower().startswith("access-control-")]


# K: pushes ---------------------------------------------------------------------------------------


async def test_K6_what_was_pushed_is_read_at_once_through_every_proxy(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    async with embedded_registry(tmp_path / "registry") as (url, _):
        proxies = [await start_proxy(url=url), await start_proxy(url=url)]

        async def read(number: int) -> Answer:
            method = READS[number // 2 % 2]
            target = f"/v2/a/manifests/v1?{number}"
            return await proxies[number % 2].send(method, target, headers=[("Accept", OCI_INDEX)])

        for version in range(4):
            body = json.dumps(
                {"schemaVersion": 2, "manifests": [], "annotations": {"version": str(version)}}
            ).encode()
            pushed = await proxies[version % 2].send(
                "PUT", "/v2/a/manifests/v1", headers=[("Content-Type", OCI_INDEX)], body=body
            )
            assert pushed.status == 201
            answers = await asyncio.gather(*(read(number) for number in range(100)))
            digests = {answer.headers["Docker-Content-Digest"] for answer in answers}
            assert digests == {sha256(body)}
            assert {answer.body for answer in answers} == {body, b""}
        deleted = await proxies[0].send("DELETE", "/v2/a/manifests/v1")
        assert deleted.status == 202
        gone = await asyncio.gather(*(read(number) for number in range(100)))
        assert {answer.status for answer in gone} == {404}


async def test_K10_readonly_proxy_passes_no_write_of_any_kind(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    push(upstream)
    asked = token_service(other)
    proxy = await two_upstreams(start_proxy, other, listen__readonly=True)
    names = ("", "_catalog", "what/ever", *(
        f"{prefix}team/model/{rest}"
        for prefix in ("", "hub/")
        for rest in (
            "manifests/v1",
            f"manifests/{OTHER_DIGEST}",
            "manifests/blake3:abc",
            f"blobs/{OTHER_DIGEST}",
            "blobs/uploads/",
            f"blobs/uploads/?digest={OTHER_DIGEST}",
            f"blobs/uploads/?mount={OTHER_DIGEST}&from=b",
            "blobs/uploads/session-0",
            "blobs/uploads/session-0?_state=a%2Fb&digest=" + OTHER_DIGEST,
            "tags/list",
            "tags/v1",
            f"referrers/{OTHER_DIGEST}",
            "manifests/v1?ns=registry.example",
        )
    ))  # fmt: skip
    for method in (*WRITES, "OPTIONS", "TRACE", "PROPFIND", "MKCOL"):
        for name in names:
            answer = await proxy.send(method, f"/v2/{name}", headers=[("Authorization", ANNA)])
            assert (answer.status, answer.code) == (405, "UNSUPPORTED"), (method, name)
            if method in WRITES:
                assert answer.headers["Allow"] == "GET, HEAD"
    # The models and the other routes were never for writing.
    for method in WRITES:
        for target in ("/cnai/team/model:v1", "/cnai/team/model:v1/files/w.bin", "/livez", "/v2x"):
            assert (await proxy.send(method, target)).status in (404, 405)
    assert (upstream.log, other.log) == ([], [])
    # A token is no write, nor is reading.
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    body = b"grant_type=password&username=a&password=b&service=x&scope=repository:hub/a:pull"
    for target in ("/-/token", "/-/token/second"):
        assert (await proxy.send("POST", target, headers=form, body=body)).status == 200
    assert [seen.method for seen in asked] == ["POST", "POST"]
    for method in READS:
        assert (await proxy.send(method, "/v2/team/model/manifests/v1")).status == 200
        assert (await proxy.send(method, "/cnai/team/model:v1/files/w.bin")).status == 200


# L: operation ------------------------------------------------------------------------------------

REPOSITORIES = 10_000


async def test_L7_repositories_make_no_new_series(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    """2,000 of the repositories reach the upstream, the others are closed by the settings."""
    proxy = await start_proxy(upstream__deny=["closed/**"])
    kinds = (
        "/v2/{}/manifests/v{}",
        "/v2/{}/tags/list?n={}",
        "/cnai/{}:v{}",
        "/cnai/{}:v1/files/{}.bin",
    )

    async def ask(start: int, end: int) -> None:
        # One connection, all its requests at once: the fastest way to ask that much.
        lines = []
        for number in range(start, end):
            name = f"{'open' if number % 5 == 0 else 'closed'}/model-{number}"
            target = kinds[number // 5 % 4].format(name, number)
            method = READS[number // 20 % 2]
            lines.append(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n")
        lines.append("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = await proxy.raw("".join(lines).encode())
        assert received.count(b"HTTP/1.1 40") == end - start

    def series(text: bytes) -> set[str]:
        return {line.rpartition(" ")[0] for line in text.decode().splitlines() if line[0] != "#"}

    await ask(0, 40)
    before = series((await proxy.get("/metrics")).body)
    await proxy.get("/metrics")  # and its own series
    before |= series((await proxy.get("/metrics")).body)
    step = REPOSITORIES // 20
    await asyncio.gather(*(ask(start, start + step) for start in range(0, REPOSITORIES, step)))
    after = (await proxy.get("/metrics")).body
    assert series(after) == before
    assert len(before) < 200
    assert b"model-" not in after
    assert len(upstream.log) >= REPOSITORIES / 5
