"""What docker, podman and containerd send, request by request, to upstreams behind prefixes.

The requests are those of the real clients (docker 20.10, podman 4.3, containerd 1.6), headers
included, with what differs from run to run put in. A test says every status the client sees, and
every credential the upstreams see.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlencode

import aiohttp
import pytest
import yaml

from proxy.oci.challenge import parse_challenges
from proxy.oci.digest import Digest
from proxy.oci.scope import parse_scopes
from proxy.running import serving
from proxy.settings import load
from tests.components import content
from tests.components.content import Artifact
from tests.components.tokens import Credential
from tests.faulty_upstream import Fault, FaultyUpstream, Seen
from tests.flows.http import Answer, Client, listening

ANNA = Credential("anna", "canary-s3cr3t")
WRONG = Credential("anna", "canary-wr0ng")
ARTIFACT = content.container("replayed")
CONFIG, LAYER = ARTIFACT.blobs
# Digests as the trails below write them.
_NAMES = {
    str(ARTIFACT.digest): "<manifest>",
    str(Digest.of(CONFIG)): "<config>",
    str(Digest.of(LAYER)): "<layer>",
}
_REFUSAL = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
_JSON = ("Content-Type", "application/json")
_FORM = ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")


class GuardedUpstream(FaultyUpstream):
    """A registry with a token service at ``/token``, which gives tokens for what is asked.

    Anybody may pull ``public/…``, ``account`` may do everything. ``takes_forms``: the service
    speaks OAuth 2 too and gives refresh tokens; else it answers POST with 405.
    """

    def __init__(self, *, takes_forms: bool = False, account: Credential = ANNA) -> None:
        super().__init__()
        self._takes_forms = takes_forms
        self._account = account
        self._grants: dict[str, set[tuple[str, str]]] = {}

    def _answer(
        self, seen: Seen, *, ignore_range: bool
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        path, _, query = seen.target.partition("?")
        if path == "/token":
            return self._exchange(seen, query)
        wanted = self._wanted(seen.method, path)
        authorization = seen.get("Authorization") or ""
        granted = self._grants.get(authorization.removeprefix("Bearer "))
        if granted is not None and wanted <= granted:
            return super()._answer(seen, ignore_range=ignore_range)
        challenge = f'Bearer realm="{self.url}/token",service="guarded"'
        if wanted:
            (name,) = {name for name, _ in wanted}
            actions = ",".join(sorted(action for _, action in wanted))
            challenge += f',scope="repository:{name}:{actions}"'
        if granted is not None:
            challenge += ',error="insufficient_scope"'
        return 401, [_JSON, ("WWW-Authenticate", challenge)], _REFUSAL

    @staticmethod
    def _wanted(method: str, path: str) -> set[tuple[str, str]]:
        match = re.fullmatch(r"/v2/(.+)/(?:manifests|blobs)/.*", path)
        if match is None:
            return set()
        actions = ("pull",) if method in ("GET", "HEAD") else ("pull", "push")
        return {(match[1], action) for action in actions}

    def _exchange(self, seen: Seen, query: str) -> tuple[int, list[tuple[str, str]], bytes]:
        if seen.method == "POST":
            if not self._takes_forms:
                return 405, [_JSON], b"{}"
            asked = parse_qs(seen.body.decode())
            account = (asked.get("username"), asked.get("password"))
            is_anna = account == ([self._account.username], [self._account.password])
            is_right = is_anna or asked.get("refresh_token") == ["canary-r3fr3sh"]
        else:
            asked = parse_qs(query)
            authorization = seen.get("Authorization")
            is_anna = authorization == self._account.basic
            is_right = is_anna or authorization is None
        if not is_right:
            return 401, [_JSON], _REFUSAL
        is_anna = is_anna or seen.method == "POST"
        token = f"{'anna' if is_anna else 'nobody'}-{len(self._grants)}"
        self._grants[token] = {
            (scope.name, action)
            for scope in parse_scopes(asked.get("scope", ()))
            for action in scope.actions
            if is_anna or (scope.name.startswith("public/") and action == "pull")
        }
        answer: dict[str, object] = {"token": token, "expires_in": 300}
        if self._takes_forms and asked.get("offline_token") == ["true"]:
            answer["refresh_token"] = "canary-r3fr3sh"
        return 200, [_JSON], json.dumps(answer).encode()


def trail(upstream: FaultyUpstream) -> list[str]:
    """Requests and whose credential they brought; the proxy's own questions are left out."""
    lines = (_seen(seen) for seen in upstream.log)
    return [line for line in lines if line != "GET /v2/ nobody's"]


def _seen(seen: Seen) -> str:
    authorization = seen.get("Authorization") or ""
    match authorization.partition(" ")[::2]:
        case ("Basic", _):
            whose = "anna's Basic" if authorization == ANNA.basic else "another Basic"
        case ("Bearer", token):
            whose = f"{token.partition('-')[0]}'s Bearer"
        case _:
            whose = "nobody's"
    path, _, query = seen.target.partition("?")
    if path == "/token":
        asked = parse_qs(seen.body.decode() if seen.method == "POST" else query)
        scopes = " ".join(asked.get("scope", ()))
        return f"{seen.method} /token {scopes}".rstrip() + f" {whose}"
    return f"{seen.method} {_plain(seen.target)} {whose}"


def _plain(target: str) -> str:
    """A target without what differs from run to run."""
    path, _, query = unquote(target).partition("?")
    path = re.sub(r"/uploads/session-\d+", "/uploads/<session>", path)
    pairs = [pair for pair in query.split("&") if pair and not pair.startswith(("_state=", "x="))]
    text = f"{path}?{'&'.join(pairs)}" if pairs else path
    for digest, name in _NAMES.items():
        text = text.replace(digest, name)
    return text


@dataclass
class Registries:
    """A proxy before an open registry (``hub``) and a guarded one (``vault``), by prefix."""

    client: Client
    hub: FaultyUpstream
    vault: GuardedUpstream


@asynccontextmanager
async def behind_prefixes(
    folder: Path, vault: GuardedUpstream, hub: FaultyUpstream, **hub_settings: object
) -> AsyncIterator[Registries]:
    """A proxy before ``vault`` and ``hub``, each behind a prefix of its name."""
    async with AsyncExitStack() as stack:
        for upstream in (hub, vault):
            url = await stack.enter_async_context(listening(upstream.serve_connection))
            upstream.port = int(url.rpartition(":")[2])
        entries = [
            {"name": "hub", "url": hub.url, "prefix": "hub", **hub_settings},
            {"name": "vault", "url": vault.url, "prefix": "vault"},
        ]
        file = folder / "settings.yaml"
        file.write_text(yaml.safe_dump({"listen": {"port": 0}, "upstreams": entries}))
        listener = await stack.enter_async_context(
            serving(load(file=file, environment={}, flags={}))
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )
        yield Registries(Client(session, listener.host, listener.port), hub, vault)


@pytest.fixture(params=[False, True], ids=["405 on POST", "OAuth 2"])
async def registries(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registries]:
    """The vault's token service knows GET alone, or OAuth 2 as well; the hub wants no login."""
    hub, vault = FaultyUpstream(), GuardedUpstream(takes_forms=request.param)
    _store(hub, "team/open", ARTIFACT)
    _store(vault, "public/model", ARTIFACT)
    _store(vault, "team/model", ARTIFACT)
    async with behind_prefixes(tmp_path, vault, hub) as found:
        yield found


def _store(upstream: FaultyUpstream, repository: str, artifact: Artifact) -> None:
    for blob in artifact.blobs:
        upstream.blob(blob)
    upstream.manifest(repository, "v1", artifact.manifest, artifact.media_type)


# The clients -------------------------------------------------------------------------------------


@dataclass
class Replay:
    """A client: what it sends beside the request's own headers, and the statuses it saw."""

    client: Client
    login: Credential | None = None
    headers: Sequence[tuple[str, str]] = ()
    saw: list[str] = field(default_factory=list)

    async def send(
        self,
        method: str,
        target: str,
        *headers: tuple[str, str],
        token: str | None = None,
        body: object = None,
    ) -> Answer:
        """One request; ``target`` may be an address of the proxy."""
        assert target.startswith(("/", f"{self.client.url}/")), f"led away, to {target}"
        target = target.removeprefix(self.client.url)
        bearer = [("Authorization", f"Bearer {token}")] if token else []
        gzip = [("Accept-Encoding", "gzip")] if method != "HEAD" else []
        answer = await self.client.send(
            method, target, headers=[*self.headers, *headers, *bearer, *gzip], body=body
        )
        path, _, query = target.partition("?")
        if path.startswith("/-/token"):
            scopes = " ".join(parse_qs(query).get("scope", ()))
            self.saw.append(f"{answer.status} {method} {path} {scopes}".rstrip())
        else:
            self.saw.append(f"{answer.status} {method} {_plain(target)}")
        return answer

    async def token(self, refusal: Answer, **fields: str | list[str]) -> str | None:
        """A token by GET from the realm of ``refusal``; None where it refuses."""
        realm, service = realm_of(refusal)
        login = [("Authorization", self.login.basic)] if self.login else []
        query = urlencode({**fields, "service": service}, doseq=True)
        answer = await self.send("GET", f"{realm}?{query}", *login)
        return str(answer.json["token"]) if answer.status == 200 else None


def realm_of(refusal: Answer) -> tuple[str, str]:
    """Realm and service of the only challenge of a 401."""
    assert refusal.status == 401
    (challenge,) = parse_challenges(refusal.headers.getall("WWW-Authenticate"))
    assert challenge.scheme == "bearer"
    return challenge.parameters["realm"], challenge.parameters["service"]


def scope_of(refusal: Answer) -> str:
    """Scope of the only challenge of a 401."""
    (challenge,) = parse_challenges(refusal.headers.getall("WWW-Authenticate"))
    return challenge.parameters["scope"]


_DOCKER_ACCEPTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/json",
    "application/vnd.oci.image.manifest.v1+json",
)


class DockerReplay(Replay):
    """docker 20.10: pings, asks the ping's realm for its own scope, and keeps to that token."""

    def __init__(self, client: Client, login: Credential | None = None) -> None:
        agent = "docker/20.10.24+dfsg1 go/go1.19.8 UpstreamClient(Docker-Client/28.2.2 \\(linux\\))"
        super().__init__(client, login, [("User-Agent", agent), ("Connection", "close")])
        self._refresh_token: str | None = None

    async def log_in(self) -> bool:
        """``docker login``; a refresh token is kept instead of the password."""
        assert self.login is not None
        refusal = await self.send("GET", "/v2/")
        realm, service = realm_of(refusal)
        fields = {"account": self.login.username, "client_id": "docker", "offline_token": "true"}
        query = urlencode({**fields, "service": service})
        answer = await self.send("GET", f"{realm}?{query}", ("Authorization", self.login.basic))
        if answer.status != 200:
            return False
        self._refresh_token = answer.json.get("refresh_token")
        return (await self.send("GET", "/v2/", token=answer.json["token"])).status == 200

    async def pull(self, name: str) -> None:
        """``docker pull NAME:v1``; ends where docker would."""
        accepts = [("Accept", each) for each in _DOCKER_ACCEPTS]
        token = await self._authorize(f"repository:{name}:pull")
        found = await self.send("HEAD", f"/v2/{name}/manifests/v1", *accepts, token=token)
        if found.status != 200:
            await self.send("GET", f"/v2/{name}/manifests/v1", *accepts, token=token)
            return
        digest = found.headers["Docker-Content-Digest"]
        manifest = await self.send("GET", f"/v2/{name}/manifests/{digest}", *accepts, token=token)
        assert manifest.body == ARTIFACT.manifest
        for blob in ARTIFACT.blobs:
            answer = await self.send("GET", f"/v2/{name}/blobs/{Digest.of(blob)}", token=token)
            assert answer.body == blob

    async def push(self, name: str) -> None:
        """``docker push NAME:v1``: the layer, the config, the manifest."""
        token = await self._authorize(f"repository:{name}:push,pull")
        for blob in (LAYER, CONFIG):
            digest = str(Digest.of(blob))
            started = await self.send(
                "POST", f"/v2/{name}/blobs/uploads/", ("Content-Length", "0"), token=token
            )
            sent = await self.send(
                "PATCH", started.headers["Location"], token=token, body=_chunks(blob)
            )
            end = f"{sent.headers['Location']}&digest={quote(digest, safe='')}"
            await self.send("PUT", end, ("Content-Length", "0"), token=token)
            await self.send("HEAD", f"/v2/{name}/blobs/{digest}", token=token)
        kind = ("Content-Type", ARTIFACT.media_type)
        await self.send(
            "PUT", f"/v2/{name}/manifests/v1", kind, token=token, body=ARTIFACT.manifest
        )

    async def _authorize(self, scope: str) -> str | None:
        ping = await self.send("GET", "/v2/")
        if ping.status == 200:
            return None
        if self._refresh_token is not None:
            realm, service = realm_of(ping)
            form = {
                "client_id": "docker",
                "grant_type": "refresh_token",
                "refresh_token": self._refresh_token,
                "scope": scope,
                "service": service,
            }
            answer = await self.send("POST", realm, _FORM, body=urlencode(form).encode())
            return str(answer.json.get("token") or answer.json["access_token"])
        account = {"account": self.login.username} if self.login else {}
        return await self.token(ping, **account, scope=scope)


async def _chunks(blob: bytes) -> AsyncIterator[bytes]:
    # Without a known length: Transfer-Encoding: chunked, as docker and podman send layers.
    yield blob


class PodmanReplay(Replay):
    """podman 4.3: as docker, but each header name of its own, and one more try with a new token."""

    def __init__(self, client: Client, login: Credential | None = None) -> None:
        own = [
            ("User-Agent", "containers/5.23.1 (github.com/containers/image)"),
            ("Docker-Distribution-Api-Version", "registry/2.0"),
        ]
        super().__init__(client, login, own)

    async def log_in(self) -> bool:
        """``podman login``."""
        token = await self._token(await self.send("GET", "/v2/"))
        return token is not None and (await self.send("GET", "/v2/", token=token)).status == 200

    async def pull(self, name: str) -> None:
        """``podman pull NAME:v1``."""
        accepts = [
            ("Accept", each)
            for each in (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "application/vnd.docker.distribution.manifest.v1+json",
                "application/vnd.docker.distribution.manifest.list.v2+json",
                "application/vnd.oci.image.index.v1+json",
            )
        ]
        target, scope = f"/v2/{name}/manifests/v1", f"repository:{name}:pull"
        ping = await self.send("GET", "/v2/")
        token = await self._token(ping, scope) if ping.status == 401 else None
        manifest = await self.send("GET", target, *accepts, token=token)
        if manifest.status == 401:
            # The scope of the challenge is added to its own, and both go to the ping's realm.
            token = await self._token(ping, scope, scope_of(manifest))
            manifest = await self.send("GET", target, *accepts, token=token)
        if manifest.status != 200:
            return
        assert manifest.body == ARTIFACT.manifest
        for blob in ARTIFACT.blobs:
            answer = await self.send("GET", f"/v2/{name}/blobs/{Digest.of(blob)}", token=token)
            assert answer.body == blob

    async def push(self, name: str) -> None:
        """``podman push NAME:v1``: the layer in chunks, the config whole, the manifest."""
        ping = await self.send("GET", "/v2/")
        scope = f"repository:{name}:pull,push"
        token = await self._token(ping, scope) if ping.status == 401 else None
        octets = ("Content-Type", "application/octet-stream")
        for blob, body in ((LAYER, _chunks(LAYER)), (CONFIG, CONFIG)):
            digest = str(Digest.of(blob))
            await self.send("HEAD", f"/v2/{name}/blobs/{digest}", token=token)
            started = await self.send(
                "POST", f"/v2/{name}/blobs/uploads/", ("Content-Length", "0"), token=token
            )
            sent = await self.send(
                "PATCH", started.headers["Location"], octets, token=token, body=body
            )
            end = f"{sent.headers['Location']}&digest={quote(digest, safe='')}"
            await self.send("PUT", end, octets, ("Content-Length", "0"), token=token)
        kind = ("Content-Type", ARTIFACT.media_type)
        await self.send(
            "PUT", f"/v2/{name}/manifests/v1", kind, token=token, body=ARTIFACT.manifest
        )

    async def _token(self, ping: Answer, *scopes: str) -> str | None:
        account = {"account": self.login.username} if self.login else {}
        return await self.token(ping, **account, **({"scope": [*scopes]} if scopes else {}))


class ContainerdReplay(Replay):
    """containerd 1.6: no ping; each refusal's own realm, first by POST where it has a login."""

    def __init__(self, client: Client, login: Credential | None = None) -> None:
        super().__init__(client, login, [("User-Agent", "containerd/1.6.20~ds1")])

    async def pull(self, name: str) -> None:
        """``ctr content fetch NAME:v1``."""
        resolve = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker."
        resolve += "distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json"
        resolve += ", application/vnd.oci.image.index.v1+json, */*"
        found, _ = await self._authorized("HEAD", f"/v2/{name}/manifests/v1", resolve)
        if found.status != 200:
            return
        # A fetcher knows nothing of the resolver's token.
        address = f"/v2/{name}/manifests/{found.headers['Docker-Content-Digest']}"
        manifest, token = await self._authorized("GET", address, f"{ARTIFACT.media_type}, */*")
        assert manifest.body == ARTIFACT.manifest
        for blob, kind in ((CONFIG, content.CONTAINER_CONFIG), (LAYER, content.CONTAINER_LAYER)):
            answer = await self.send(
                "GET",
                f"/v2/{name}/blobs/{Digest.of(blob)}",
                ("Accept", f"{kind}, */*"),
                token=token,
            )
            assert answer.body == blob

    async def push(self, name: str, *, source: str) -> None:
        """``ctr images push NAME:v1 SOURCE:v1`` of content that was fetched from ``source``."""
        scopes: tuple[str, ...] = (f"repository:{name}:pull,push",)
        token = None
        for blob, kind in ((CONFIG, content.CONTAINER_CONFIG), (LAYER, content.CONTAINER_LAYER)):
            digest = str(Digest.of(blob))
            _, token = await self._authorized(
                "HEAD", f"/v2/{name}/blobs/{digest}", f"{kind}, */*", *scopes, token=token
            )
            scopes = (*scopes, f"repository:{source}:pull")
            mount = f"/v2/{name}/blobs/uploads/?mount={digest}&from={source}"
            started = await self.send("POST", mount, ("Content-Length", "0"), token=token)
            if started.status == 202:
                end = f"{started.headers['Location']}&digest={quote(digest, safe='')}"
                octets = ("Content-Type", "application/octet-stream")
                await self.send("PUT", end, octets, token=token, body=blob)
        target, kind = f"/v2/{name}/manifests/v1", ARTIFACT.media_type
        await self.send("HEAD", target, ("Accept", f"{kind}, */*"), token=token)
        await self.send("PUT", target, ("Content-Type", kind), token=token, body=ARTIFACT.manifest)

    async def _authorized(
        self, method: str, target: str, accept: str, *scopes: str, token: str | None = None
    ) -> tuple[Answer, str | None]:
        headers = ("Accept", accept)
        answer = await self.send(method, target, headers, token=token)
        if answer.status != 401:
            return answer, token
        wanted = sorted({*scopes, scope_of(answer)})
        token = await self._post(answer, wanted) if self.login else None
        token = token or await self.token(answer, scope=wanted)
        return await self.send(method, target, headers, token=token), token

    async def _post(self, refusal: Answer, scopes: Sequence[str]) -> str | None:
        assert self.login is not None
        realm, service = realm_of(refusal)
        form = {
            "client_id": "containerd-client",
            "grant_type": "password",
            "password": self.login.password,
            "scope": " ".join(scopes),
            "service": service,
            "username": self.login.username,
        }
        answer = await self.send("POST", realm, _FORM, body=urlencode(form).encode())
        if answer.status == 405:
            return None
        return str(answer.json.get("token") or answer.json["access_token"])


# docker ------------------------------------------------------------------------------------------


async def test_docker_pulls_a_public_repository_without_a_login(registries: Registries) -> None:
    docker = DockerReplay(registries.client)

    await docker.pull("vault/public/model")

    assert docker.saw == [
        "401 GET /v2/",
        "200 GET /-/token repository:vault/public/model:pull",
        "200 HEAD /v2/vault/public/model/manifests/v1",
        "200 GET /v2/vault/public/model/manifests/<manifest>",
        "200 GET /v2/vault/public/model/blobs/<config>",
        "200 GET /v2/vault/public/model/blobs/<layer>",
    ]
    assert trail(registries.vault) == [
        "GET /token repository:public/model:pull nobody's",
        "HEAD /v2/public/model/manifests/v1 nobody's Bearer",
        "GET /v2/public/model/manifests/<manifest> nobody's Bearer",
        "GET /v2/public/model/blobs/<config> nobody's Bearer",
        "GET /v2/public/model/blobs/<layer> nobody's Bearer",
    ]
    assert trail(registries.hub) == []


async def test_docker_without_a_login_is_refused_a_private_repository(
    registries: Registries,
) -> None:
    docker = DockerReplay(registries.client)

    await docker.pull("vault/team/model")

    assert docker.saw == [
        "401 GET /v2/",
        "200 GET /-/token repository:vault/team/model:pull",
        "401 HEAD /v2/vault/team/model/manifests/v1",
        "401 GET /v2/vault/team/model/manifests/v1",
    ]
    assert trail(registries.vault)[1:] == [
        "HEAD /v2/team/model/manifests/v1 nobody's Bearer",
        "GET /v2/team/model/manifests/v1 nobody's Bearer",
    ]


async def test_docker_logs_in_and_pulls_a_private_repository(registries: Registries) -> None:
    docker = DockerReplay(registries.client, ANNA)

    assert await docker.log_in()
    await docker.pull("vault/team/model")

    exchange = docker.saw.pop(4)
    assert exchange in (
        "200 GET /-/token repository:vault/team/model:pull",
        "200 POST /-/token",
    )
    assert docker.saw == [
        "401 GET /v2/",
        "200 GET /-/token",
        "200 GET /v2/",
        "401 GET /v2/",
        "200 HEAD /v2/vault/team/model/manifests/v1",
        "200 GET /v2/vault/team/model/manifests/<manifest>",
        "200 GET /v2/vault/team/model/blobs/<config>",
        "200 GET /v2/vault/team/model/blobs/<layer>",
    ]
    login, exchange, *reads = [line for line in trail(registries.vault) if "/v2/ " not in line]
    assert login == "GET /token anna's Basic"
    assert exchange in (
        "GET /token repository:team/model:pull anna's Basic",
        "POST /token repository:team/model:pull nobody's",
    )
    assert reads == [
        "HEAD /v2/team/model/manifests/v1 anna's Bearer",
        "GET /v2/team/model/manifests/<manifest> anna's Bearer",
        "GET /v2/team/model/blobs/<config> anna's Bearer",
        "GET /v2/team/model/blobs/<layer> anna's Bearer",
    ]
    assert trail(registries.hub) == []


async def test_docker_login_with_a_wrong_password_fails(registries: Registries) -> None:
    docker = DockerReplay(registries.client, WRONG)

    assert not await docker.log_in()

    assert docker.saw == ["401 GET /v2/", "401 GET /-/token"]
    assert trail(registries.vault) == ["GET /token another Basic"]
    assert trail(registries.hub) == []


async def test_docker_pushes_behind_a_prefix(registries: Registries) -> None:
    docker = DockerReplay(registries.client, ANNA)

    await docker.push("vault/team/new")

    blobs = "/v2/vault/team/new/blobs"
    assert docker.saw == [
        "401 GET /v2/",
        "200 GET /-/token repository:vault/team/new:push,pull",
        f"202 POST {blobs}/uploads/",
        f"202 PATCH {blobs}/uploads/<session>",
        f"201 PUT {blobs}/uploads/<session>?digest=<layer>",
        f"200 HEAD {blobs}/<layer>",
        f"202 POST {blobs}/uploads/",
        f"202 PATCH {blobs}/uploads/<session>",
        f"201 PUT {blobs}/uploads/<session>?digest=<config>",
        f"200 HEAD {blobs}/<config>",
        "201 PUT /v2/vault/team/new/manifests/v1",
    ]
    assert trail(registries.vault) == [
        "GET /token repository:team/new:push,pull anna's Basic",
        "POST /v2/team/new/blobs/uploads/ anna's Bearer",
        "PATCH /v2/team/new/blobs/uploads/<session> anna's Bearer",
        "PUT /v2/team/new/blobs/uploads/<session>?digest=<layer> anna's Bearer",
        "HEAD /v2/team/new/blobs/<layer> anna's Bearer",
        "POST /v2/team/new/blobs/uploads/ anna's Bearer",
        "PATCH /v2/team/new/blobs/uploads/<session> anna's Bearer",
        "PUT /v2/team/new/blobs/uploads/<session>?digest=<config> anna's Bearer",
        "HEAD /v2/team/new/blobs/<config> anna's Bearer",
        "PUT /v2/team/new/manifests/v1 anna's Bearer",
    ]
    assert registries.vault.manifests["team/new", "v1"][1] == ARTIFACT.manifest


# podman ------------------------------------------------------------------------------------------


async def test_podman_pulls_a_public_repository_without_a_login(registries: Registries) -> None:
    podman = PodmanReplay(registries.client)

    await podman.pull("vault/public/model")

    assert podman.saw == [
        "401 GET /v2/",
        "200 GET /-/token repository:vault/public/model:pull",
        "200 GET /v2/vault/public/model/manifests/v1",
        "200 GET /v2/vault/public/model/blobs/<config>",
        "200 GET /v2/vault/public/model/blobs/<layer>",
    ]
    assert all("anna" not in line for line in trail(registries.vault))


async def test_podman_without_a_login_is_refused_a_private_repository(
    registries: Registries,
) -> None:
    podman = PodmanReplay(registries.client)

    await podman.pull("vault/team/model")

    scope = "repository:vault/team/model:pull"
    assert podman.saw == [
        "401 GET /v2/",
        f"200 GET /-/token {scope}",
        "401 GET /v2/vault/team/model/manifests/v1",
        f"200 GET /-/token {scope} {scope}",
        "401 GET /v2/vault/team/model/manifests/v1",
    ]


async def test_podman_logs_in_and_pulls_a_private_repository(registries: Registries) -> None:
    podman = PodmanReplay(registries.client, ANNA)

    assert await podman.log_in()
    await podman.pull("vault/team/model")

    assert podman.saw == [
        "401 GET /v2/",
        "200 GET /-/token",
        "200 GET /v2/",
        "401 GET /v2/",
        "200 GET /-/token repository:vault/team/model:pull",
        "200 GET /v2/vault/team/model/manifests/v1",
        "200 GET /v2/vault/team/model/blobs/<config>",
        "200 GET /v2/vault/team/model/blobs/<layer>",
    ]
    assert [line for line in trail(registries.vault) if "/v2/ " not in line] == [
        "GET /token anna's Basic",
        "GET /token repository:team/model:pull anna's Basic",
        "GET /v2/team/model/manifests/v1 anna's Bearer",
        "GET /v2/team/model/blobs/<config> anna's Bearer",
        "GET /v2/team/model/blobs/<layer> anna's Bearer",
    ]
    assert trail(registries.hub) == []


async def test_podman_login_with_a_wrong_password_fails(registries: Registries) -> None:
    podman = PodmanReplay(registries.client, WRONG)

    assert not await podman.log_in()

    assert podman.saw == ["401 GET /v2/", "401 GET /-/token"]


async def test_podman_pushes_behind_a_prefix(registries: Registries) -> None:
    podman = PodmanReplay(registries.client, ANNA)
    registries.vault.blobs.clear()

    await podman.push("vault/team/new")

    blobs = "/v2/vault/team/new/blobs"
    assert podman.saw == [
        "401 GET /v2/",
        "200 GET /-/token repository:vault/team/new:pull,push",
        f"404 HEAD {blobs}/<layer>",
        f"202 POST {blobs}/uploads/",
        f"202 PATCH {blobs}/uploads/<session>",
        f"201 PUT {blobs}/uploads/<session>?digest=<layer>",
        f"404 HEAD {blobs}/<config>",
        f"202 POST {blobs}/uploads/",
        f"202 PATCH {blobs}/uploads/<session>",
        f"201 PUT {blobs}/uploads/<session>?digest=<config>",
        "201 PUT /v2/vault/team/new/manifests/v1",
    ]
    exchange, *writes = trail(registries.vault)
    assert exchange == "GET /token repository:team/new:pull,push anna's Basic"
    assert all(line.endswith("anna's Bearer") for line in writes)
    assert registries.vault.manifests["team/new", "v1"][1] == ARTIFACT.manifest


# containerd --------------------------------------------------------------------------------------


async def test_containerd_pulls_a_public_repository_without_a_login(
    registries: Registries,
) -> None:
    containerd = ContainerdReplay(registries.client)

    await containerd.pull("vault/public/model")

    token = "200 GET /-/token/vault repository:vault/public/model:pull"
    assert containerd.saw == [
        "401 HEAD /v2/vault/public/model/manifests/v1",
        token,
        "200 HEAD /v2/vault/public/model/manifests/v1",
        "401 GET /v2/vault/public/model/manifests/<manifest>",
        token,
        "200 GET /v2/vault/public/model/manifests/<manifest>",
        "200 GET /v2/vault/public/model/blobs/<config>",
        "200 GET /v2/vault/public/model/blobs/<layer>",
    ]
    assert all("anna" not in line for line in trail(registries.vault))


async def test_containerd_without_a_login_is_refused_a_private_repository(
    registries: Registries,
) -> None:
    containerd = ContainerdReplay(registries.client)

    await containerd.pull("vault/team/model")

    assert containerd.saw == [
        "401 HEAD /v2/vault/team/model/manifests/v1",
        "200 GET /-/token/vault repository:vault/team/model:pull",
        "401 HEAD /v2/vault/team/model/manifests/v1",
    ]


async def test_containerd_pulls_a_private_repository(registries: Registries) -> None:
    containerd = ContainerdReplay(registries.client, ANNA)

    await containerd.pull("vault/team/model")

    exchanges = [line for line in containerd.saw if "/-/token" in line]
    fallback = [
        "405 POST /-/token/vault",
        "200 GET /-/token/vault repository:vault/team/model:pull",
    ]
    assert exchanges in (fallback * 2, ["200 POST /-/token/vault"] * 2)
    assert [line for line in containerd.saw if "/-/token" not in line] == [
        "401 HEAD /v2/vault/team/model/manifests/v1",
        "200 HEAD /v2/vault/team/model/manifests/v1",
        "401 GET /v2/vault/team/model/manifests/<manifest>",
        "200 GET /v2/vault/team/model/manifests/<manifest>",
        "200 GET /v2/vault/team/model/blobs/<config>",
        "200 GET /v2/vault/team/model/blobs/<layer>",
    ]
    reads = [line for line in trail(registries.vault) if "/token" not in line]
    assert reads == [
        "HEAD /v2/team/model/manifests/v1 nobody's",
        "HEAD /v2/team/model/manifests/v1 anna's Bearer",
        "GET /v2/team/model/manifests/<manifest> nobody's",
        "GET /v2/team/model/manifests/<manifest> anna's Bearer",
        "GET /v2/team/model/blobs/<config> anna's Bearer",
        "GET /v2/team/model/blobs/<layer> anna's Bearer",
    ]
    assert trail(registries.hub) == []


async def test_containerd_pushes_behind_a_prefix_and_mounts_in_the_upstreams_names(
    registries: Registries,
) -> None:
    containerd = ContainerdReplay(registries.client, ANNA)
    registries.vault.blobs.clear()

    await containerd.push("vault/team/new", source="vault/team/model")

    blobs = "/v2/vault/team/new/blobs"
    assert [line for line in containerd.saw if "/-/token" not in line] == [
        f"401 HEAD {blobs}/<config>",
        f"404 HEAD {blobs}/<config>",
        f"202 POST {blobs}/uploads/?mount=<config>&from=vault/team/model",
        f"201 PUT {blobs}/uploads/<session>?digest=<config>",
        f"404 HEAD {blobs}/<layer>",
        f"202 POST {blobs}/uploads/?mount=<layer>&from=vault/team/model",
        f"201 PUT {blobs}/uploads/<session>?digest=<layer>",
        "404 HEAD /v2/vault/team/new/manifests/v1",
        "201 PUT /v2/vault/team/new/manifests/v1",
    ]
    lines = trail(registries.vault)
    scopes = "repository:team/new:pull repository:team/new:pull,push"
    assert [line for line in lines if "/token" in line][-1] in (
        f"GET /token {scopes} anna's Basic",
        f"POST /token {scopes} nobody's",
    )
    uploads = "POST /v2/team/new/blobs/uploads/"
    assert [line for line in lines if line.startswith(uploads)] == [
        f"{uploads}?mount=<config>&from=team/model anna's Bearer",
        f"{uploads}?mount=<layer>&from=team/model anna's Bearer",
    ]
    assert registries.vault.manifests["team/new", "v1"][1] == ARTIFACT.manifest


# Two registries at one address -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DockerReplay, PodmanReplay, ContainerdReplay])
@pytest.mark.parametrize("login", [None, ANNA], ids=["no login", "login"])
async def test_open_registry_beside_a_guarded_one_sees_no_credential(
    registries: Registries,
    kind: type[DockerReplay | PodmanReplay | ContainerdReplay],
    login: Credential | None,
) -> None:
    replay = kind(registries.client, login)
    if login is not None and not isinstance(replay, ContainerdReplay):
        assert await replay.log_in()

    await replay.pull("vault/public/model")
    await replay.pull("hub/team/open")

    assert replay.saw[-1] == "200 GET /v2/hub/team/open/blobs/<layer>"
    assert [line for line in trail(registries.hub) if not line.endswith("nobody's")] == []


async def test_B9_token_for_one_upstream_is_not_asked_of_another(registries: Registries) -> None:
    docker = DockerReplay(registries.client, ANNA)
    ping = await docker.send("GET", "/v2/")
    scopes = ["repository:vault/team/new:pull,push", "repository:hub/team/open:pull"]

    assert await docker.token(ping, scope=scopes) is not None

    assert trail(registries.vault) == ["GET /token repository:team/new:pull,push anna's Basic"]
    assert trail(registries.hub) == []


async def test_K5_blob_of_another_upstream_is_uploaded_instead_of_mounted(
    registries: Registries,
) -> None:
    containerd = ContainerdReplay(registries.client, ANNA)

    await containerd.push("vault/team/new", source="hub/team/open")

    assert containerd.saw[-1] == "201 PUT /v2/vault/team/new/manifests/v1"
    starts = [line for line in trail(registries.vault) if line.startswith("POST /v2/")]
    assert starts == ["POST /v2/team/new/blobs/uploads/ anna's Bearer"] * 2
    assert trail(registries.hub) == []


@pytest.mark.parametrize("kind", [DockerReplay, PodmanReplay])
async def test_login_for_one_registry_never_reaches_an_anonymous_one_beside_it(
    tmp_path: Path, kind: type[DockerReplay | PodmanReplay]
) -> None:
    hub = GuardedUpstream(account=Credential("bert", "canary-0th3r"))
    vault = GuardedUpstream()
    _store(hub, "public/model", ARTIFACT)
    _store(vault, "team/model", ARTIFACT)
    async with behind_prefixes(tmp_path, vault, hub, credentials="anonymous") as found:
        replay = kind(found.client, ANNA)

        assert await replay.log_in()
        await replay.pull("vault/team/model")
        await replay.pull("hub/public/model")

    assert replay.saw[-1] == "200 GET /v2/hub/public/model/blobs/<layer>"
    assert [line for line in trail(hub) if "Basic" in line or "anna" in line] == []


@pytest.mark.parametrize("down", ["hub", "vault"])
async def test_registry_that_is_down_keeps_nobody_from_the_one_beside_it(
    tmp_path: Path, down: str
) -> None:
    hub, vault = FaultyUpstream(), GuardedUpstream()
    _store(hub, "public/model", ARTIFACT)
    _store(vault, "public/model", ARTIFACT)
    async with behind_prefixes(tmp_path, vault, hub) as found:
        broken = hub if down == "hub" else vault
        broken.faults.append(Fault(match="", status=503))
        up = "vault" if down == "hub" else "hub"
        docker = DockerReplay(found.client)

        await docker.pull(f"{up}/public/model")

    assert docker.saw[-1] == f"200 GET /v2/{up}/public/model/blobs/<layer>"
