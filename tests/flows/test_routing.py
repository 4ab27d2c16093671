"""Many registries behind one address: who is asked for what, and in whose names."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest

from proxy.oci.manifest import OCI_MANIFEST
from proxy.upstream import auth
from proxy.upstream import client as upstream_client
from tests.build import descriptor, file_annotations, layer_type, manifest_bytes
from tests.faulty_upstream import Fault, FaultyUpstream, running
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client, listening
from tests.flows.tokens import ANNA, bearer

DIGEST = "sha256:" + "a" * 64
WEIGHTS = b"weights"

StartHub = Callable[..., Awaitable[Client]]


@pytest.fixture
def start_hub(start_proxy: StartProxy, other: FaultyUpstream) -> StartHub:
    """Starts a proxy before ``upstream``, the default, and ``other``: prefix, host and ``ns``."""

    async def start(**overrides: object) -> Client:
        settings: dict[str, object] = {
            "upstreams__1__name": "hub",
            "upstreams__1__url": other.url,
            "upstreams__1__prefix": "hub",
            "upstreams__1__hosts": ["hub.example", "ported.example:5000"],
            "upstreams__1__namespaces": ["docker.io"],
            "upstreams__1__default_namespace": "library",
        }
        return await start_proxy(**settings, **overrides)

    return start


@pytest.fixture
async def hub(start_hub: StartHub) -> Client:
    """The proxy of ``start_hub`` without further settings."""
    return await start_hub()


def says(
    upstream: FaultyUpstream,
    match: str,
    document: object,
    *headers: tuple[str, str],
    status: int = 200,
) -> None:
    """Let ``upstream`` answer what matches with JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    upstream.faults.append(Fault(match=match, status=status, body=body, headers=list(headers)))


def targets(upstream: FaultyUpstream) -> list[str]:
    """What it was asked, in order, as ``METHOD target``."""
    return [f"{seen.method} {seen.target}" for seen in upstream.log]


def push(upstream: FaultyUpstream, repository: str) -> str:
    """A model of one file; its digest."""
    weights = descriptor(
        layer_type("weight"), WEIGHTS, annotations=file_annotations("w.bin", len(WEIGHTS))
    )
    upstream.blob(WEIGHTS)
    upstream.blob(b"{}")
    return upstream.manifest(repository, "v1", manifest_bytes([weights]), OCI_MANIFEST)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every name that is looked up while the test runs."""
    found: list[object] = []
    loop_type = asyncio.BaseEventLoop

    async def spy(
        _: asyncio.AbstractEventLoop, host: object, *args: object, **more: object
    ) -> object:
        found.append(host)
        raise OSError("no names in this test")

    monkeypatch.setattr(loop_type, "getaddrinfo", spy)
    return found


# Who is asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "asked"),
    [
        ("/v2/team/model/manifests/v1", None, "/default/v2/team/model/manifests/v1"),
        ("/v2/hub/model/manifests/v1", None, "/hub/v2/model/manifests/v1"),
        ("/v2/hub/deep/model/manifests/v1", None, "/deep/v2/model/manifests/v1"),
        ("/v2/hub/deep/a/b/manifests/v1", None, "/deep/v2/a/b/manifests/v1"),
        # A prefix is whole segments, and something must follow it.
        ("/v2/hub/deeper/manifests/v1", None, "/hub/v2/deeper/manifests/v1"),
        ("/v2/hub/deep/manifests/v1", None, "/hub/v2/deep/manifests/v1"),
        ("/v2/hubs/model/manifests/v1", None, "/default/v2/hubs/model/manifests/v1"),
        ("/v2/hub/manifests/v1", None, "/default/v2/hub/manifests/v1"),
        ("/v2/a/hub/model/manifests/v1", None, "/default/v2/a/hub/model/manifests/v1"),
        # By host nothing is stripped.
        ("/v2/hub/model/manifests/v1", "host.example", "/host/v2/hub/model/manifests/v1"),
        ("/v2/model/manifests/v1", "HOST.example:81", "/host/v2/model/manifests/v1"),
        ("/v2/model/manifests/v1", "ported.example:5000", "/host/v2/model/manifests/v1"),
        ("/v2/model/manifests/v1", "ported.example:5001", "/default/v2/model/manifests/v1"),
        ("/v2/model/manifests/v1", "ported.example", "/default/v2/model/manifests/v1"),
        ("/v2/model/manifests/v1", "a.host.example", "/default/v2/model/manifests/v1"),
        # ns comes first, and the upstream never sees it.
        ("/v2/model/manifests/v1?ns=ghcr.io", "host.example", "/ns/v2/model/manifests/v1"),
        ("/v2/model/manifests/v1?ns=GHCR.io", None, "/ns/v2/model/manifests/v1"),
        ("/v2/hub/model/manifests/v1?ns=ghcr.io", None, "/ns/v2/hub/model/manifests/v1"),
        ("/v2/model/manifests/v1?ns=r.example%3A5000", None, "/ns/v2/model/manifests/v1"),
        ("/v2/model/manifests/v1?a=%7E&ns=ghcr.io&b", None, "/ns/v2/model/manifests/v1?a=%7E&b"),
        ("/v2/model/manifests/v1?n%73=ghcr.io&a", None, "/ns/v2/model/manifests/v1?a"),
        (
            "/v2/model/manifests/v1?columns=2&ns",
            None,
            "/default/v2/model/manifests/v1?columns=2&ns",
        ),
        # containerd's override_path writes the prefix, too.
        ("/v2/ns/model/manifests/v1?ns=ghcr.io", None, "/ns/v2/model/manifests/v1"),
        ("/v2/ns/model/manifests/v1", None, "/ns/v2/model/manifests/v1"),
        # Every upstream's own name is one.
        ("/v2/model/manifests/v1?ns={own}", None, "/default/v2/model/manifests/v1"),
        # What the specification does not know goes by its first segments.
        ("/v2/hub/x/_y", None, "/hub/v2/x/_y"),
        ("/v2/hub/X", None, "/hub/v2/X"),
        ("/v2/X", None, "/default/v2/X"),
    ],
)
async def test_routing_table(
    start_proxy: StartProxy, upstream: FaultyUpstream, target: str, host: str | None, asked: str
) -> None:
    async with AsyncExitStack() as stack:
        names = ("hub", "deep", "host", "ns")
        found = {name: await stack.enter_async_context(running()) for name in names}
        settings: dict[str, object] = {}
        for at, (name, registry) in enumerate(found.items(), start=1):
            settings[f"upstreams__{at}__name"] = name
            settings[f"upstreams__{at}__url"] = f"{registry.url}/{name}"
        proxy = await start_proxy(
            f"{upstream.url}/default",
            **settings,
            upstreams__1__prefix="hub",
            upstreams__2__prefix="hub/deep",
            upstreams__3__hosts=["host.example", "ported.example:5000"],
            upstreams__4__prefix="ns",
            upstreams__4__namespaces=["ghcr.io", "r.example:5000"],
        )
        headers = [("Host", host)] if host is not None else []
        target = target.format(own=f"127.0.0.1:{upstream.port}")
        answer = await proxy.send("GET", target, headers=headers)
        assert answer.status == 404
        seen = [line for one in (upstream, *found.values()) for line in targets(one)]
        assert seen == [f"GET {asked}"]
        by_namespace = re.search(r"[?&]n(s|%73)=", target) is not None
        assert ("OCI-Namespace" in answer.headers) is by_namespace


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("ns={canary}", 404, "NAME_UNKNOWN"),
        ("ns=evil.example", 404, "NAME_UNKNOWN"),
        ("ns=docker.io%00", 404, "NAME_UNKNOWN"),
        ("ns=docker.io.", 404, "NAME_UNKNOWN"),
        ("ns=docker.io:443", 404, "NAME_UNKNOWN"),
        ("ns=docker.io%2F..", 404, "NAME_UNKNOWN"),
        ("ns=user@docker.io", 404, "NAME_UNKNOWN"),
        ("ns=http://docker.io", 404, "NAME_UNKNOWN"),
        ("ns=", 404, "NAME_UNKNOWN"),
        ("ns=%FF", 404, "NAME_UNKNOWN"),
        ("n%73=evil.example", 404, "NAME_UNKNOWN"),
        ("ns=docker.io&ns=docker.io", 400, "UNSUPPORTED"),
        ("ns=docker.io&x=1&n%73=evil.example", 400, "UNSUPPORTED"),
        ("ns=docker.io&%6Es=evil.example", 400, "UNSUPPORTED"),
    ],
)
async def test_C2_namespace_of_a_client_chooses_nobody_else(
    hub: Client,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    lookups: list[object],
    query: str,
    status: int,
    code: str,
) -> None:
    async with running() as canary:
        query = query.format(canary=f"127.0.0.1:{canary.port}")
        for path in ("/v2/", "/v2/_catalog", "/v2/team/model/manifests/v1", "/v2/team/x/_y"):
            answer = await hub.get(f"{path}?{query}")
            assert (answer.status, answer.code) == (status, code), path
            assert "OCI-Namespace" not in answer.headers
        answer = await hub.get(f"/cnai/team/model:v1?{query}")
        assert (answer.status, answer.code) == (status, code)
        assert canary.open == 0
        assert upstream.log + other.log + canary.log == []
        assert lookups == []


async def test_C2_only_names_of_the_settings_are_looked_up(
    start_proxy: StartProxy, lookups: list[object]
) -> None:
    """The other side of the tests around: a look-up would show there."""
    proxy = await start_proxy("http://registry.invalid", upstream__namespaces=["docker.io"])
    assert (await proxy.get("/v2/?ns=docker.io")).status == 503
    assert set(lookups) == {"registry.invalid"}


async def test_C2_without_a_default_an_unknown_name_is_404(
    start_proxy: StartProxy, upstream: FaultyUpstream, lookups: list[object]
) -> None:
    proxy = await start_proxy(upstream__prefix="hub", upstream__hosts=["hub.example"])
    for path in ("/v2/team/model/manifests/v1", "/v2/hub/tags/list", "/v2/x", "/cnai/a/b:v1"):
        for host in ("evil.example", f"127.0.0.1:{proxy.port}", "hub.example.evil.example"):
            answer = await proxy.get(path, Host=host)
            assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
            assert "evil" not in answer.message
    assert upstream.log == []
    assert lookups == []


async def test_namespace_before_a_single_upstream_is_not_looked_at(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, "team/model")
    answer = await proxy.get("/v2/team/model/manifests/v1?ns=evil.example")
    assert answer.status == 200
    assert "OCI-Namespace" not in answer.headers


async def test_namespace_is_answered_and_taken_out(hub: Client, other: FaultyUpstream) -> None:
    push(other, "library/model")
    answer = await hub.get("/v2/model/manifests/v1?ns=Docker.io")
    assert (answer.status, answer.headers["OCI-Namespace"]) == (200, "docker.io")
    head = await hub.head("/v2/library/model/manifests/v1?ns=docker.io")
    assert (head.status, head.headers["OCI-Namespace"]) == (200, "docker.io")
    missing = await hub.get("/v2/library/model/manifests/none?ns=docker.io")
    assert (missing.status, missing.headers["OCI-Namespace"]) == (404, "docker.io")
    assert (await hub.get("/v2/?ns=docker.io")).headers["OCI-Namespace"] == "docker.io"
    assert targets(other) == [
        "GET /v2/library/model/manifests/v1",
        "HEAD /v2/library/model/manifests/v1",
        "GET /v2/library/model/manifests/none",
        "GET /v2/",
    ]


@pytest.mark.parametrize(
    ("address", "host", "asked"),
    [
        ("hub/model:v1", None, "library/model"),
        ("hub/team/model:v1", None, "team/model"),
        ("model:v1", "hub.example", "library/model"),
        ("hub/model:v1", "hub.example", "hub/model"),
        ("model:v1?ns=docker.io", None, "library/model"),
        ("hub/model:v1?ns=docker.io", None, "library/model"),
    ],
)
async def test_routing_holds_for_models_alike(
    hub: Client,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    address: str,
    host: str | None,
    asked: str,
) -> None:
    push(other, asked)
    headers = [("Host", host)] if host is not None else []
    reference, _, query = address.partition("?")
    for view in ("", "/files", "/files/w.bin"):
        answer = await hub.send("GET", f"/cnai/{reference}{view}?{query}", headers=headers)
        assert answer.status == 200
        assert asked.encode() not in answer.body or asked in reference
        assert (answer.body == WEIGHTS) is ("w.bin" in view)
    missing = await hub.send("GET", f"/cnai/{reference}/files/no?{query}", headers=headers)
    unknown = await hub.send(
        "GET", f"/cnai/{reference.replace('v1', 'v2')}?{query}", headers=headers
    )
    for refused in (missing, unknown):
        assert refused.status == 404
        assert asked.encode() not in refused.body or asked in reference
    assert upstream.log == []
    assert {
        line.split("/v2/")[1].split("/manifests")[0].split("/blobs")[0] for line in targets(other)
    } == {asked}


# In whose names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "asked"),
    [
        ("GET", "hub/model/manifests/v1", "library/model/manifests/v1"),
        ("GET", "hub/model/manifests/v1?a=%7Eb&c", "library/model/manifests/v1?a=%7Eb&c"),
        ("HEAD", f"hub/team/model/manifests/{DIGEST}", f"team/model/manifests/{DIGEST}"),
        ("PUT", "hub/model/manifests/v1", "library/model/manifests/v1"),
        ("DELETE", "hub/model/manifests/v1", "library/model/manifests/v1"),
        ("GET", f"hub/model/blobs/{DIGEST}", f"library/model/blobs/{DIGEST}"),
        ("HEAD", f"hub/model/blobs/{DIGEST}", f"library/model/blobs/{DIGEST}"),
        ("DELETE", f"hub/model/blobs/{DIGEST}", f"library/model/blobs/{DIGEST}"),
        ("GET", "hub/model/blobs/sha3:x", "library/model/blobs/sha3:x"),
        ("POST", "hub/model/blobs/uploads/", "library/model/blobs/uploads/"),
        ("PATCH", "hub/model/blobs/uploads/u?_s=%3D", "library/model/blobs/uploads/u?_s=%3D"),
        (
            "PUT",
            f"hub/model/blobs/uploads/u?digest={DIGEST}",
            f"library/model/blobs/uploads/u?digest={DIGEST}",
        ),
        ("GET", "hub/model/blobs/uploads/u", "library/model/blobs/uploads/u"),
        ("DELETE", "hub/model/blobs/uploads/u", "library/model/blobs/uploads/u"),
        ("GET", "hub/model/tags/list?n=1&last=b", "library/model/tags/list?n=1&last=b"),
        (
            "GET",
            f"hub/model/referrers/{DIGEST}?artifactType=x",
            f"library/model/referrers/{DIGEST}?artifactType=x",
        ),
        # The rightmost verb counts, and only the first segment is the prefix.
        ("GET", "hub/hub/blobs/x/manifests/v1", "hub/blobs/x/manifests/v1"),
        ("GET", "hub/hub/tags/list", "library/hub/tags/list"),
        ("GET", "hub/team/_ext/x?y=%2F", "team/_ext/x?y=%2F"),
    ],
)
async def test_prefix_is_taken_out_for_every_endpoint(
    hub: Client,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    method: str,
    target: str,
    asked: str,
) -> None:
    await hub.send(method, f"/v2/{target}")
    assert targets(other) == [f"{method} /v2/{asked}"]
    assert upstream.log == []


@pytest.mark.parametrize(
    ("name", "inner", "query"),
    [
        ("hub/model", "library/model", ""),
        ("hub/team/model", "team/model", ""),
        ("team/model", "team/model", "ns=docker.io"),
        ("model", "library/model", "ns=docker.io"),
        ("hub/model", "library/model", "ns=docker.io"),
    ],
)
async def test_K1_push_goes_round_by_the_addresses_that_are_answered(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    name: str,
    inner: str,
    query: str,
) -> None:
    proxy = await start_proxy(
        upstreams__1__name="hub",
        upstreams__1__url=other.url,
        upstreams__1__prefix="hub",
        upstreams__1__namespaces=["docker.io"],
        upstreams__1__default_namespace="library",
    )
    digest = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()

    def asked(address: str) -> str:
        return f"{address}{'&' if '?' in address else '?'}{query}" if query else address

    started = await proxy.send("POST", asked(f"/v2/{name}/blobs/uploads/"))
    assert started.status == 202
    location = started.headers["Location"]
    expected = f"/v2/{name}/blobs/uploads/session-0?_state=a%2Fb%3D%3D&x=%7E"
    assert location == asked(expected)
    chunk = await proxy.send("PATCH", location, body=WEIGHTS)
    assert (chunk.status, chunk.headers["Location"]) == (202, location)
    status = await proxy.get(chunk.headers["Location"])
    assert (status.status, status.headers["Location"]) == (204, location)
    done = await proxy.send("PUT", f"{status.headers['Location']}&digest={quote(digest)}")
    assert (done.status, done.headers["Location"]) == (201, asked(f"/v2/{name}/blobs/{digest}"))
    assert (await proxy.get(done.headers["Location"])).body == WEIGHTS
    manifest = manifest_bytes([])
    pushed = await proxy.send(
        "PUT",
        asked(f"/v2/{name}/manifests/v1"),
        headers=[("Content-Type", OCI_MANIFEST)],
        body=manifest,
    )
    assert (pushed.status, pushed.headers["Location"]) == (201, asked(f"/v2/{name}/manifests/v1"))
    assert (await proxy.get(pushed.headers["Location"])).body == manifest
    assert upstream.log == []
    assert all(seen.target.startswith(f"/v2/{inner}/") for seen in other.log)
    assert not any("ns=" in seen.target for seen in other.log)
    assert other.log[1].target == f"/v2/{inner}/blobs/uploads/session-0?_state=a%2Fb%3D%3D&x=%7E"


async def walk(proxy: Client, target: str) -> list[Answer]:
    """All pages, by the ``Link`` of each; every link is an absolute path."""
    pages = [await proxy.get(target)]
    while (link := pages[-1].headers.get("Link")) is not None:
        assert len(pages) < 10, "the pages lead in a circle"
        found = re.fullmatch(r'<(/v2/[^>]*)>; rel="next"', link)
        assert found is not None, link
        pages.append(await proxy.get(found[1]))
    assert {page.status for page in pages} == {200}
    return pages


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    ("name", "inner", "query"),
    [
        ("hub/model", "library/model", ""),
        ("hub/team/model", "team/model", ""),
        ("team/model", "team/model", "&ns=docker.io"),
        ("model", "library/model", "&ns=docker.io"),
    ],
)
async def test_listings_are_followed_to_their_end(
    hub: Client,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    name: str,
    inner: str,
    query: str,
    *,
    absolute: bool,
) -> None:
    base = other.url if absolute else ""
    for view, entries in (("tags/list", "tags"), (f"referrers/{DIGEST}", "manifests")):
        path = f"/v2/{inner}/{view}"
        pages = {f"{path}?n=1": "a", f"{path}?n=1&last=a": "b", f"{path}?n=1&last=b": "c"}
        for target, last in pages.items():
            link = [("Link", f'<{base}{path}?n=1&last={last}>; rel="next"')]
            document: dict[str, object] = {"name": inner, entries: [last]}
            says(other, rf"^GET {re.escape(target)}$", document, *(link if last != "c" else []))
        found = await walk(hub, f"/v2/{name}/{view}?n=1{query}")
        assert [page.json[entries] for page in found] == [["a"], ["b"], ["c"]]
        if view == "tags/list":
            assert {page.json["name"] for page in found} == {name}
    assert upstream.log == []
    assert not any("ns=" in seen.target for seen in other.log)


async def test_catalogue_of_a_prefix_is_followed_to_its_end(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(
        f"{upstream.url}/base", upstream__prefix="hub", upstream__deny=["secret/**"]
    )
    names = ["library/a", "secret/b", "team/c"]
    for at, name in enumerate(names):
        last = f"&last={quote(names[at - 1], safe='')}" if at else ""
        link = ("Link", f'</base/v2/_catalog?n=1&last={quote(name, safe="")}>; rel="next"')
        says(
            upstream,
            rf"^GET /base/v2/_catalog\?n=1{re.escape(last.replace('%2F', '/'))}$",
            {"repositories": [name]},
            *([link] if at < 2 else []),
        )
    found = await walk(proxy, "/v2/_catalog?n=1")
    listed = [name for page in found for name in page.json["repositories"]]
    assert listed == ["hub/library/a", "hub/team/c"]


async def test_catalogue_belongs_to_the_default(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    body = b'{"repositories":  ["library/a"]}'
    says(upstream, "_catalog", body)
    says(other, "_catalog", body)
    assert (await hub.get("/v2/_catalog?n=5")).body == body
    assert (await hub.get("/v2/_catalog", Host="hub.example")).body == body
    assert (await hub.get("/v2/_catalog?n=2&ns=docker.io")).body == body
    assert targets(upstream) == ["GET /v2/_catalog?n=5"]
    assert targets(other) == ["GET /v2/_catalog", "GET /v2/_catalog?n=2"]


async def test_catalogue_of_several_without_a_default_is_404(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    proxy = await start_proxy(
        upstream__prefix="a",
        upstreams__1__name="b",
        upstreams__1__url=other.url,
        upstreams__1__prefix="b",
    )
    answer = await proxy.get("/v2/_catalog")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert upstream.log + other.log == []


@pytest.mark.parametrize("target", ["/v2/hub/_catalog", "/v2/hub/_catalog?n=1", "/v2/hub/"])
async def test_prefix_is_no_registry_of_its_own(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream, target: str
) -> None:
    """Its links would lead to the default's catalogue."""
    answer = await hub.get(target)
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert upstream.log + other.log == []


async def test_default_namespace_is_the_upstreams_business_alone(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__default_namespace="library", upstream__deny=["library/x"])
    push(upstream, "library/alpine")
    assert (await proxy.get("/v2/alpine/manifests/v1")).status == 200
    assert (await proxy.get("/v2/library/alpine/manifests/v1")).status == 200
    record = await proxy.get("/cnai/alpine:v1")
    assert record.status == 200
    assert b"library" not in record.body
    started = await proxy.send("POST", "/v2/alpine/blobs/uploads/")
    location = started.headers["Location"]
    assert location == "/v2/alpine/blobs/uploads/session-0?_state=a%2Fb%3D%3D&x=%7E"
    digest = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()
    done = await proxy.send("PUT", f"{location}&digest={digest}", body=WEIGHTS)
    assert (done.status, done.headers["Location"]) == (201, f"/v2/alpine/blobs/{digest}")
    says(upstream, "tags/list", {"name": "library/alpine", "tags": ["v1"]})
    assert (await proxy.get("/v2/alpine/tags/list")).json["name"] == "alpine"
    assert (await proxy.get("/v2/library/alpine/tags/list")).json["name"] == "library/alpine"
    missing = {"code": "NAME_UNKNOWN", "message": "m", "detail": {"name": "library/no"}}
    says(upstream, "/library/no/", {"errors": [missing]}, status=404)
    answer = await proxy.get("/v2/no/manifests/v1")
    assert answer.json["errors"][0]["detail"] == {"name": "no"}
    for target in ("/v2/x/manifests/v1", "/v2/library/x/manifests/v1", "/cnai/x:v1"):
        answer = await proxy.get(target)
        assert (answer.status, answer.code) == (403, "DENIED")
    assert "library" not in answer.message
    await proxy.send("POST", f"/v2/alpine/blobs/uploads/?mount={DIGEST}&from=b")
    assert upstream.log[-1].target == (
        f"/v2/library/alpine/blobs/uploads/?mount={DIGEST}&from=library/b"
    )
    await proxy.get("/v2/team/model/manifests/v1")
    assert upstream.log[-1].target == "/v2/team/model/manifests/v1"


async def test_head_of_a_renamed_answer_has_no_body(hub: Client, other: FaultyUpstream) -> None:
    says(other, "tags/list", {"name": "library/model", "tags": []})
    for target, status in (("hub/model/tags/list", 200), ("hub/model/manifests/none", 404)):
        answer = await hub.head(f"/v2/{target}")
        assert (answer.status, answer.body) == (status, b"")
        # The connection is good for the next one.
        assert (await hub.get(f"/v2/{target}")).status == status


@pytest.mark.parametrize("body", [b"nope", b"[]", b"[" * 100_000])
async def test_listing_that_is_none_is_the_upstreams_fault(
    hub: Client, other: FaultyUpstream, body: bytes
) -> None:
    says(other, "tags/list", body)
    answer = await hub.get("/v2/hub/model/tags/list")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    assert (await hub.get("/v2/model/tags/list", Host="hub.example")).status == 502
    # In the same names nothing is read.
    assert (await hub.get("/v2/a/b/tags/list", Host="hub.example")).body == body


async def test_errors_carry_the_clients_name(hub: Client, other: FaultyUpstream) -> None:
    entry = {"code": "NAME_UNKNOWN", "message": "m", "detail": {"name": "library/model"}}
    says(other, "tags/list", {"errors": [entry]}, status=404)
    answer = await hub.get("/v2/hub/model/tags/list")
    assert (answer.status, answer.json["errors"][0]["detail"]) == (404, {"name": "hub/model"})
    assert answer.headers["Content-Length"] == str(len(answer.body))
    access = [{"Type": "repository", "Name": "library/model", "Action": "pull"}]
    says(other, "manifests", {"errors": [{"code": "UNAUTHORIZED", "detail": access}]}, status=401)
    answer = await hub.get("/v2/hub/model/manifests/v1")
    assert answer.json["errors"][0]["detail"][0]["Name"] == "hub/model"
    plain = await hub.get("/v2/model/manifests/v1", Host="hub.example")
    assert plain.json["errors"][0]["detail"][0]["Name"] == "model"


async def test_K2_what_leads_elsewhere_is_not_renamed(hub: Client, other: FaultyUpstream) -> None:
    location = "https://cdn.example/v2/library/model/x?sig=%2F%3D"
    other.faults.append(Fault(match="/blobs/", location=location))
    answer = await hub.get(f"/v2/hub/model/blobs/{DIGEST}")
    assert (answer.status, answer.headers["Location"]) == (307, location)


@pytest.mark.parametrize(
    "target",
    [
        "/v2/",
        "/v2",
        "/v2/?x=%7E",
        "/v2/_catalog?n=1&last=a%2Fb",
        "/v2/team/model/manifests/v1?x=%7E&&=;",
        "/v2/team/model/tags/list?last=%61",
        f"/v2/team/model/referrers/{DIGEST}?artifactType=a%2Fb",
        "/v2/team/model/blobs/uploads/u?_state=%3D%3d",
        "/v2/team/_ext/x.y?z",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_without_a_prefix_everything_is_byte_for_byte(
    proxy: Client, upstream: FaultyUpstream, method: str, target: str
) -> None:
    headers = [
        ("Content-Type", "application/json"),
        ("Link", '</v2/team/model/tags/list?n=1&last=%61>; rel="next"'),
        ("Docker-Content-Digest", DIGEST),
        ("WWW-Authenticate", 'Bearer  realm="https://auth.example/t" ,scope="a:b:c"'),
    ]
    body = b'{"name":  "team/model", "repositories": ["x" ],"errors":[ ]}\n'
    upstream.faults.append(Fault(status=403, match="", body=body, headers=headers))
    answer = await proxy.send(method, target)
    assert targets(upstream) == [f"{method} {target}"]
    assert (answer.status, answer.body) == (403, body)
    for name, value in headers:
        assert answer.headers.getall(name)[-1] == value


@pytest.mark.parametrize(
    "location",
    ["/base/v2/team/model/blobs/uploads/u?x=%2F", "{url}/base/v2/team/model/blobs/uploads/u?x=%2F"],
)
async def test_base_path_of_the_upstream_is_its_own_business(
    start_proxy: StartProxy, upstream: FaultyUpstream, location: str
) -> None:
    for prefix in (None, "hub"):
        proxy = await start_proxy(f"{upstream.url}/base", upstream__prefix=prefix)
        name = "team/model" if prefix is None else "hub/team/model"
        where = ("Location", location.format(url=upstream.url))
        upstream.faults = [Fault(match="POST", status=202, headers=[where])]
        upstream.log.clear()
        answer = await proxy.send("POST", f"/v2/{name}/blobs/uploads/")
        assert answer.headers["Location"] == f"/v2/{name}/blobs/uploads/u?x=%2F"
        assert targets(upstream) == ["POST /base/v2/team/model/blobs/uploads/"]


# What the settings close -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["prefix", "host", "ns"])
@pytest.mark.parametrize(
    "rules", [{"deny": ["secret/**"]}, {"allow": ["library/*", "team/**"]}, {"deny": ["**/repo"]}]
)
async def test_denied_repository_is_403_everywhere(
    start_hub: StartHub,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    rules: dict[str, list[str]],
    where: str,
) -> None:
    settings = {f"upstreams__1__{key}": value for key, value in rules.items()}
    proxy = await start_hub(**settings)
    push(other, "secret/repo")
    push(other, "team/model")
    name = "hub/secret/repo" if where == "prefix" else "secret/repo"
    headers = [("Host", "hub.example")] if where == "host" else []
    ns = "ns=docker.io" if where == "ns" else ""
    for method, target in (
        ("GET", "manifests/v1"),
        ("HEAD", f"manifests/{DIGEST}"),
        ("PUT", "manifests/v1"),
        ("DELETE", "manifests/v1"),
        ("GET", f"blobs/{DIGEST}"),
        ("HEAD", f"blobs/{DIGEST}"),
        ("GET", "blobs/sha3:x"),
        ("DELETE", f"blobs/{DIGEST}"),
        ("GET", "tags/list"),
        ("GET", f"referrers/{DIGEST}"),
        ("POST", "blobs/uploads/"),
        ("PATCH", "blobs/uploads/u"),
        ("PUT", f"blobs/uploads/u?digest={DIGEST}"),
        ("GET", "blobs/uploads/u"),
        ("DELETE", "blobs/uploads/u"),
        # Not of the specification: with rules there are none.
        ("GET", "manifests/.x"),
        ("GET", "_ext"),
        ("GET", "blobs"),
    ):
        query = f"{'&' if '?' in target else '?'}{ns}" if ns else ""
        answer = await proxy.send(method, f"/v2/{name}/{target}{query}", headers=headers)
        assert answer.status == 403, target
        assert method == "HEAD" or answer.code == "DENIED"
        assert "WWW-Authenticate" not in answer.headers
    for view in ("", "/files", "/files/w.bin", "/readme"):
        answer = await proxy.send("GET", f"/cnai/{name}:v1{view}?{ns}", headers=headers)
        assert (answer.status, answer.code) == (403, "DENIED")
        assert name in answer.message
    assert upstream.log + other.log == []
    allowed = "hub/team/model" if where == "prefix" else "team/model"
    answer = await proxy.send("GET", f"/v2/{allowed}/manifests/v1?{ns}", headers=headers)
    assert answer.status == 200


async def test_A10_catalogue_shows_no_denied_name(
    start_hub: StartHub, other: FaultyUpstream
) -> None:
    proxy = await start_hub(upstreams__1__deny=["secret/**"])
    says(other, "_catalog", {"repositories": ["a", "secret/repo", "team/model"], "x": 1})
    answer = await proxy.get("/v2/_catalog", Host="hub.example")
    assert answer.json == {"repositories": ["a", "team/model"], "x": 1}
    assert answer.headers["Content-Length"] == str(len(answer.body))
    head = await proxy.head("/v2/_catalog", Host="hub.example")
    assert (head.status, head.body) == (200, b"")


# Mounts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        # The same upstream: in its own names, all else as it was.
        ("mount={d}&from=hub/team/b", "mount={d}&from=team/b"),
        ("from=hub/team/b&mount={d}&x=%7E", "from=team/b&mount={d}&x=%7E"),
        ("mount={d}&from=hub%2Fteam%2Fb", "mount={d}&from=team/b"),
        ("mount={d}&from=hub/b", "mount={d}&from=library/b"),
        ("mount={d}&fro%6d=hub/team/b", "mount={d}&from=team/b"),
        # Another upstream, or what may not be read: an upload instead.
        ("mount={d}&from=team/b", ""),
        ("mount={d}&from=team/b&x=1", "x=1"),
        ("mount={d}&from=hub/secret/b", ""),
        ("mount={d}&from=hub%2Fsecret%2Fb", ""),
        ("mount={d}&fro%6d=hub/secret/b", ""),
        ("mount={d}&%66rom=secret/b", ""),
        ("mount={d};from=secret/b", ""),
        ("x=1;from=secret/b&mount={d}", "x=1"),
        # Junk.
        ("mount={d}&from=", ""),
        ("mount={d}&from", ""),
        ("mount={d}&from=hub/../secret/b", ""),
        ("mount={d}&from=hub/Team/b", ""),
        ("mount={d}&from=hub/team/b%00", ""),
        ("mount={d}&from=hub/team/b&from=hub/team/b", ""),
        ("mount={d}&from=hub/team/b&fro%6d=hub/secret/b", ""),
        ("m%6Funt={d}&from=hub/secret/b", ""),
        # No source: nothing to say.
        ("mount={d}", "mount={d}"),
        ("digest={d}&x=from=1", "digest={d}&x=from=1"),
    ],
)
async def test_K5_mount_by_prefix(
    start_hub: StartHub, upstream: FaultyUpstream, other: FaultyUpstream, query: str, asked: str
) -> None:
    proxy = await start_hub(upstreams__1__deny=["secret/**"])
    query, asked = query.format(d=DIGEST), asked.format(d=DIGEST)
    answer = await proxy.send("POST", f"/v2/hub/team/a/blobs/uploads/?{query}")
    assert answer.status == 202
    target = "/v2/team/a/blobs/uploads/"
    assert targets(other) == [f"POST {target}?{asked}" if asked else f"POST {target}"]
    assert upstream.log == []


@pytest.mark.parametrize(
    ("name", "host", "query", "asked"),
    [
        # By host and by ns names are as they are.
        ("team/a", "hub.example", "mount={d}&from=team%2Fb", "mount={d}&from=team%2Fb"),
        ("team/a", "hub.example", "mount={d}&from=b", "mount={d}&from=library/b"),
        ("team/a", "hub.example", "mount={d}&from=hub/b", "mount={d}&from=hub/b"),
        ("team/a", "hub.example", "mount={d}&from=secret/b", ""),
        ("team/a", None, "mount={d}&from=team/b&ns=docker.io", "mount={d}&from=team/b"),
        ("team/a", None, "ns=docker.io&mount={d}&from=secret/b", ""),
        ("hub/team/a", None, "ns=docker.io&mount={d}&from=hub/team/b", "mount={d}&from=team/b"),
    ],
)
async def test_K5_mount_by_host_and_namespace(
    start_hub: StartHub,
    upstream: FaultyUpstream,
    other: FaultyUpstream,
    name: str,
    host: str | None,
    query: str,
    asked: str,
) -> None:
    proxy = await start_hub(upstreams__1__deny=["secret/**"])
    query, asked = query.format(d=DIGEST), asked.format(d=DIGEST)
    headers = [("Host", host)] if host is not None else []
    answer = await proxy.send("POST", f"/v2/{name}/blobs/uploads/?{query}", headers=headers)
    assert answer.status == 202
    target = "/v2/team/a/blobs/uploads/"
    assert targets(other) == [f"POST {target}?{asked}" if asked else f"POST {target}"]
    assert upstream.log == []


async def test_K5_mount_into_the_default_is_of_the_default_alone(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    for source, asked in (
        ("team/b", f"?mount={DIGEST}&from=team/b"),
        ("team%2Fb", f"?mount={DIGEST}&from=team%2Fb"),
        ("hub/team/b", ""),
        ("hub", f"?mount={DIGEST}&from=hub"),
    ):
        upstream.log.clear()
        await hub.send("POST", f"/v2/team/a/blobs/uploads/?mount={DIGEST}&from={source}")
        assert targets(upstream) == [f"POST /v2/team/a/blobs/uploads/{asked}"]
    assert other.log == []


async def test_K5_mounted_blob_is_answered_in_the_clients_name(
    hub: Client, other: FaultyUpstream
) -> None:
    where = ("Location", f"{other.url}/v2/library/a/blobs/{DIGEST}")
    other.faults.append(Fault(match="mount=", status=201, headers=[where]))
    answer = await hub.send("POST", f"/v2/hub/a/blobs/uploads/?mount={DIGEST}&from=hub/library/b")
    assert (answer.status, answer.headers["Location"]) == (201, f"/v2/hub/a/blobs/{DIGEST}")
    assert targets(other) == [f"POST /v2/library/a/blobs/uploads/?mount={DIGEST}&from=library/b"]


# /v2/ itself -------------------------------------------------------------------------------------

REALM = re.compile(r'Bearer realm="http://127\.0\.0\.1:(\d+)/-/token",service="cnai-proxy"')


def assert_wants_login(proxy: Client, answer: Answer) -> None:
    """401 that leads to the proxy's own realm."""
    assert answer.status == 401
    found = REALM.fullmatch(answer.headers["WWW-Authenticate"])
    assert found is not None, answer.headers["WWW-Authenticate"]
    assert int(found[1]) == proxy.port
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500])
async def test_A15_ping_before_one_upstream_is_its_own_word(
    proxy: Client, upstream: FaultyUpstream, status: int
) -> None:
    challenge = bearer("https://auth.example/token")
    headers = [("WWW-Authenticate", challenge), ("Docker-Distribution-Api-Version", "registry/2.0")]
    upstream.faults.append(Fault(match="", status=status, body=b'{ "x":1}', headers=headers))
    for method in ("GET", "HEAD"):
        upstream.log.clear()
        answer = await proxy.send(method, "/v2/", headers=[("Authorization", ANNA)])
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (status, challenge)
        assert answer.body == (b'{ "x":1}' if method == "GET" else b"")
        assert [seen.get("Authorization") for seen in upstream.log] == [ANNA]


async def test_A15_ping_before_one_prefixed_upstream_leads_to_our_realm(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__prefix="hub", upstream__name="hub")
    assert (await proxy.get("/v2/")).body == b"{}"
    upstream.tokens = {ANNA}
    upstream.challenge = bearer("https://auth.example/token", scope="repository:team/x:pull")
    answer = await proxy.get("/v2/")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == (
        f'Bearer realm="{proxy.url}/-/token/hub",service="registry.example",'
        'scope="repository:hub/team/x:pull"'
    )
    assert (await proxy.get("/v2/", Authorization=ANNA)).status == 200


async def test_ping_of_several_is_200_where_nobody_wants_a_login(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    for _ in range(3):
        for method in ("GET", "HEAD"):
            answer = await hub.send(method, "/v2/")
            assert (answer.status, answer.body) == (200, b"{}" if method == "GET" else b"")
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
            assert answer.headers["Cache-Control"] == "private, no-cache"
    # It is asked once, and believed.
    assert targets(upstream) + targets(other) == ["GET /v2/", "GET /v2/"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", ["Basic", "Bearer"])
async def test_A15_ping_of_several_asks_for_a_login_where_one_does(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream, kind: str, which: int
) -> None:
    guarded = (upstream, other)[which]
    guarded.tokens = set()
    guarded.challenge = 'Basic realm="x"' if kind == "Basic" else bearer("https://a.example/t")
    for method in ("GET", "HEAD"):
        assert_wants_login(hub, await hub.send(method, "/v2/"))
        answer = await hub.send(method, "/v2/", headers=[("Authorization", ANNA)])
        assert answer.status == 200
    assert all(seen.get("Authorization") is None for seen in upstream.log + other.log)


async def test_ping_of_several_takes_no_write(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = await hub.send(method, "/v2/")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert upstream.log + other.log == []


@pytest.mark.parametrize("fault", [Fault(match="", hang_up=True), Fault(match="", status=500)])
async def test_A15_ping_of_several_offers_a_login_where_one_is_out_of_order(
    hub: Client,
    other: FaultyUpstream,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    """A login that is offered harms nobody; a missing one would lock callers out for minutes."""
    monkeypatch.setattr(upstream_client, "_RETRY_WITHIN_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(auth, "CHALLENGES_FAILED_SECONDS", 0.0)
    other.faults.append(fault)
    assert_wants_login(hub, await hub.get("/v2/"))
    other.faults.clear()
    assert (await hub.get("/v2/")).status == 200


async def test_A15_ping_of_several_is_not_held_up_by_a_dead_one(
    start_proxy: StartProxy,
    upstream: FaultyUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_client, "_RETRY_WITHIN_SECONDS", (0.0, 0.0))
    dead = socket.create_server(("127.0.0.1", 0))
    port = dead.getsockname()[1]
    dead.close()
    proxy = await start_proxy(
        upstreams__1__name="dead",
        upstreams__1__url=f"http://127.0.0.1:{port}",
        upstreams__1__prefix="dead",
    )
    async with asyncio.timeout(3):
        assert_wants_login(proxy, await proxy.get("/v2/"))
        assert (await proxy.get("/v2/", Authorization=ANNA)).status == 200


async def test_A15_ping_of_several_does_not_wait_for_a_silent_one_when_it_knows(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    upstream.tokens = set()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as url:
        proxy = await start_proxy(
            upstreams__1__name="silent", upstreams__1__url=url, upstreams__1__prefix="silent"
        )
        async with asyncio.timeout(3):
            assert_wants_login(proxy, await proxy.get("/v2/"))


async def test_A15_ping_by_host_and_namespace_is_that_upstreams_word(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    other.tokens = set()
    other.challenge = bearer("https://auth.example/token")
    # docker would ask the upstream's own service for "alpine" where "library/alpine" is meant.
    ours = other.challenge.replace("https://auth.example/token", f"{hub.url}/-/token/hub")
    for target, host, challenge in (
        ("/v2/", "hub.example", ours),
        ("/v2/?ns=docker.io", f"x:{hub.port}", other.challenge),
    ):
        answer = await hub.send("GET", target, headers=[("Host", host)])
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, challenge)
    assert targets(other) == ["GET /v2/", "GET /v2/"]
    assert upstream.log == []


async def test_ping_where_nobody_is_is_404(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__hosts=["hub.example"], upstream__default=False)
    answer = await proxy.get("/v2/")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert (await proxy.get("/v2/", Host="hub.example")).status == 200


async def test_C3_own_realm_never_repeats_a_name_that_a_client_sends(
    hub: Client, upstream: FaultyUpstream
) -> None:
    upstream.tokens = set()
    for name, value in (
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "evil.example"),
        ("Forwarded", "host=evil.example"),
    ):
        answer = await hub.send("GET", "/v2/", headers=[(name, value)])
        assert_wants_login(hub, answer)
        assert b"evil" not in answer.body


async def test_C3_realm_is_at_the_public_url(
    start_hub: StartHub, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    proxy = await start_hub(listen__public_url="https://registry.example:8443")
    upstream.tokens = other.tokens = set()
    other.challenge = bearer("https://auth.example/token")
    answer = await proxy.get("/v2/")
    assert 'realm="https://registry.example:8443/-/token"' in answer.headers["WWW-Authenticate"]
    answer = await proxy.get("/v2/hub/team/model/manifests/v1")
    realm = 'realm="https://registry.example:8443/-/token/hub"'
    assert realm in answer.headers["WWW-Authenticate"]


async def test_B4_secret_of_huggingface_goes_to_no_registry(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    push(upstream, "team/model")
    push(other, "team/model")
    for target in (
        "/v2/team/model/manifests/v1",
        "/v2/hub/team/model/manifests/v1",
        "/cnai/team/model:v1",
        "/cnai/hub/team/model:v1/files/w.bin",
    ):
        assert (await hub.get(target, Authorization="Bearer hf_canary")).status == 200
    assert (
        await hub.get("/v2/", Authorization="Bearer hf_canary", Host="hub.example")
    ).status == 200
    assert all(seen.get("Authorization") is None for seen in upstream.log + other.log)


async def test_credential_of_a_caller_goes_to_the_chosen_upstream_alone(
    hub: Client, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    own = "Bearer cnai-proxy." + base64.urlsafe_b64encode(ANNA.encode()).decode().rstrip("=")
    for sent, expected in ((ANNA, ANNA), ("Bearer x", "Bearer x"), (own, ANNA)):
        other.log.clear()
        await hub.get("/v2/hub/team/model/manifests/v1", Authorization=sent)
        assert [seen.get("Authorization") for seen in other.log] == [expected]
    assert upstream.log == []
