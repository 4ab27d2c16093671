"""The cases of the distribution-spec's conformance suite and ours, told once, run twice.

Each case is a script of requests. It runs against the registry and, in another repository, through
the proxy; what both answered has to be the same but for the improvements in ``_differences``. The
embedded registry also has to answer as the specification says. A case never fails by itself: it
notes what is wrong in ``faults``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote, urljoin

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor
from tests import build
from tests.components.content import CONTAINER_CONFIG, CONTAINER_LAYER
from tests.components.registries import Proxied, Server

# Source: distribution-spec v1.1, "Error Codes".
CODES = frozenset(
    {
        *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID"),
        *("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID"),
        *("NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED"),
        "TOOMANYREQUESTS",
    }
)
# One header line for each type, as skopeo, podman and docker send them.
ACCEPT = (("Accept", OCI_MANIFEST), ("Accept", OCI_INDEX))
OCTETS = (("Content-Type", "application/octet-stream"),)
BLOB_BYTES = 2048
CHUNK_BYTES = 800
# A longer body names no repository and no session: it is content.
TEXT_BYTES = 64 * 1024
# Headers that speak of one connection or one answer, not of the content; and two of Go's file
# server and docker-registry's that no registry client reads, which the proxy's allow-list drops.
_PASSING = frozenset(
    {
        *("connection", "date", "keep-alive", "server", "transfer-encoding", "x-request-id"),
        *("cache-control", "vary", "x-content-type-options"),
    }
)
_SESSION = re.compile(r"/blobs/uploads/[^?\s\"]+(\?[^\s\"]*)?")
_UUID = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])"
)

Headers = Sequence[tuple[str, str]]


class Stopped(Exception):
    """The case cannot go on; the fault is noted."""


@dataclass(frozen=True, slots=True)
class Step:
    """A request and its answer, without what differs between two runs of the same case."""

    request: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a case goes on with."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def location(self) -> str:
        """Where to go next."""
        if "Location" not in self.headers:
            raise Stopped
        return self.headers["Location"]


@dataclass(slots=True)
class Client:
    """Asks one server below one prefix of repositories and writes down what it hears."""

    session: aiohttp.ClientSession
    url: str
    prefix: str
    steps: list[Step] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def repository(self) -> str:
        """The repository most cases need."""
        return f"{self.prefix}/one"

    @property
    def other(self) -> str:
        """Where mounts come from."""
        return f"{self.prefix}/two"

    def check(self, holds: bool, fault: str) -> None:
        """Note ``fault`` unless ``holds``."""
        if not holds:
            self.faults.append(fault)

    async def ask(
        self,
        method: str,
        target: str,
        *,
        expect: Collection[int],
        headers: Headers = (),
        body: bytes | AsyncIterator[bytes] | None = None,
    ) -> Answer:
        """Send a request; a status beyond ``expect`` is a fault."""
        url = urljoin(self.url, target)
        request = f"{method} {self._neutral(url)}"
        self.check(url.startswith(f"{self.url}/"), f"{request}: leads away from the server")
        # aiohttp warns of large bodies that are plain bytes.
        content = io.BytesIO(body) if isinstance(body, bytes) and body else body
        async with self.session.request(
            method, url, headers=CIMultiDict(headers), data=content, allow_redirects=False
        ) as response:
            try:
                found = await response.read()
            except aiohttp.ClientPayloadError:
                found = b""
                self.faults.append(f"{request}: the body ends before its length")
            answer = Answer(response.status, response.headers, found)
        kept = tuple(
            sorted(
                (name.lower(), self._neutral(value))
                for name, value in answer.headers.items()
                if name.lower() not in _PASSING
            )
        )
        if len(found) > TEXT_BYTES:
            text = str(Digest.of(found))
        else:
            text = self._neutral(found.decode("utf-8", "backslashreplace"))
        self.steps.append(Step(request, answer.status, kept, text))
        self.check(answer.status in expect, f"{request}: {answer.status}, expected {expect}")
        if answer.status >= 400 and method != "HEAD" and answer.status != 416:
            self.check(_is_error(found), f"{request}: no error body of the specification")
        return answer

    def _neutral(self, text: str) -> str:
        text = text.replace(self.url, "").replace(self.prefix, "<prefix>")
        text = text.replace(quote(self.prefix, safe=""), "<prefix>")
        return _UUID.sub("<id>", _SESSION.sub("/blobs/uploads/<session>", text))


def _is_error(body: bytes) -> bool:
    try:
        errors = json.loads(body)["errors"]
        return bool(errors) and all(entry["code"] in CODES for entry in errors)
    except (ValueError, KeyError, TypeError):
        return False


def _differences(direct: Client, proxied: Client) -> list[str]:
    """What the proxy changed, but for what it improves and its documentation names."""
    found = []
    for mine, theirs in zip(proxied.steps, direct.steps, strict=False):
        if mine == theirs:
            continue
        # Its own 416: docker-registry 2.8 declares the blob's length there and sends no body.
        same = mine.request == theirs.request and mine.status == theirs.status
        if (
            same
            and mine.status == 416
            and not mine.body
            and ("content-length", "0") in mine.headers
        ):
            continue
        # A malformed digest is refused before the upstream, some of which answer 404 or 500.
        if mine.status == 400 and "DIGEST_INVALID" in mine.body and "baddigest" in mine.request:
            continue
        found.append(f"direct  {theirs}\nproxied {mine}")
    if len(direct.steps) != len(proxied.steps):
        found.append(f"{len(direct.steps)} steps direct, {len(proxied.steps)} through the proxy")
    return found


# Content ----------------------------------------------------------------------------------------


def blob_of(client: Client, algorithm: str, size: int = BLOB_BYTES) -> bytes:
    """Bytes that no other case uses."""
    seed = f"{client.prefix.partition('/')[2]} {algorithm}".encode()
    return hashlib.shake_256(seed).digest(size)


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest to push, and what has to be there first."""

    body: bytes
    media_type: str = OCI_MANIFEST
    blobs: tuple[bytes, ...] = ()
    tag: str | None = None
    subject: Descriptor | None = None
    algorithm: str = "sha256"
    accepted: frozenset[int] = frozenset({201})

    @property
    def digest(self) -> Digest:
        """By which it is pushed."""
        return Digest.of(self.body, self.algorithm)

    def descriptor(self) -> Descriptor:
        """As an index or a subject names it."""
        return build.descriptor(self.media_type, self.body)


def manifest_of(
    layers: Sequence[bytes],
    *,
    tag: str | None,
    config: bytes = b"{}",
    layer_type: str = CONTAINER_LAYER,
    extra: Mapping[str, object] | None = None,
    subject: Descriptor | None = None,
    pushed: bool = True,
    algorithm: str = "sha256",
    accepted: Collection[int] = (201,),
) -> Stored:
    """A manifest over ``layers``; ``extra`` members are added to it."""
    document: dict[str, object] = json.loads(
        build.manifest_bytes(
            [build.descriptor(layer_type, layer) for layer in layers],
            config=build.descriptor(CONTAINER_CONFIG, config),
        )
    )
    if algorithm != "sha256":
        document["layers"] = [
            {
                "mediaType": layer_type,
                "digest": str(Digest.of(layer, algorithm)),
                "size": len(layer),
            }
            for layer in layers
        ]
    if subject is not None:
        document["subject"] = build.descriptor_json(subject)
    document |= extra or {}
    return Stored(
        body=json.dumps(document).encode(),
        blobs=(config, *layers) if pushed else (config,),
        tag=tag,
        subject=subject,
        algorithm=algorithm,
        accepted=frozenset(accepted),
    )


def index_of(
    children: Sequence[Stored],
    *,
    tag: str | None,
    extra: Mapping[str, object] | None = None,
    subject: Descriptor | None = None,
) -> Stored:
    """An index over ``children``."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [build.descriptor_json(child.descriptor()) for child in children],
    }
    if subject is not None:
        document["subject"] = build.descriptor_json(subject)
    document |= extra or {}
    return Stored(json.dumps(document).encode(), OCI_INDEX, tag=tag, subject=subject)


def _image(_: Client) -> list[Stored]:
    return [manifest_of([b"layer one", b"layer two"], tag="image")]


def _image_uncompressed(_: Client) -> list[Stored]:
    plain = "application/vnd.oci.image.layer.v1.tar"
    return [manifest_of([build.tar_archive({"a": b"a"})], layer_type=plain, tag="uncompressed")]


def _large_manifest(_: Client) -> list[Stored]:
    annotations = {f"org.example.{number:03}": "x" * 10_000 for number in range(390)}
    return [manifest_of([b"layer"], tag="large", extra={"annotations": annotations})]


def _index(_: Client) -> list[Stored]:
    children = [manifest_of([b"amd64"], tag=None), manifest_of([b"arm64"], tag=None)]
    return [*children, index_of(children, tag="index")]


def _nested_index(client: Client) -> list[Stored]:
    *children, inner = _index(client)
    return [*children, inner, index_of([inner], tag="nested")]


def _empty_index(_: Client) -> list[Stored]:
    return [index_of([], tag="empty")]


def _artifact(_: Client) -> list[Stored]:
    kind = {"artifactType": "application/vnd.example.artifact"}
    return [manifest_of([b"content"], tag="artifact", extra=kind)]


def _artifact_index(client: Client) -> list[Stored]:
    (child,) = _artifact(client)
    kind = {"artifactType": "application/vnd.example.index"}
    return [child, index_of([child], tag="artifact-index", extra=kind)]


def _artifact_without_layers(_: Client) -> list[Stored]:
    kind = {"artifactType": "application/vnd.example.empty"}
    return [manifest_of([b"{}"], tag="empty", extra=kind)]


def _artifacts_with_subject(_: Client) -> list[Stored]:
    subject = manifest_of([b"the subject"], tag="subject")
    referrers = [
        manifest_of(
            [b"referrer"],
            tag=None,
            subject=subject.descriptor(),
            extra={
                "artifactType": f"application/vnd.example.{kind}",
                "annotations": {"org.example.kind": kind},
            },
        )
        for kind in ("signature", "sbom")
    ]
    return [subject, *referrers]


def _index_with_subject(client: Client) -> list[Stored]:
    subject, child, _ = _artifacts_with_subject(client)
    kind = {"artifactType": "application/vnd.example.index"}
    return [subject, child, index_of([child], tag=None, subject=subject.descriptor(), extra=kind)]


def _missing_subject(_: Client) -> list[Stored]:
    subject = manifest_of([b"never pushed"], tag=None).descriptor()
    kind = {"artifactType": "application/vnd.example.signature"}
    return [manifest_of([b"referrer"], tag="referrer", subject=subject, extra=kind)]


def _data_field(_: Client) -> list[Stored]:
    config = {**build.descriptor_json(build.descriptor(CONTAINER_CONFIG, b"{}")), "data": "e30="}
    return [manifest_of([b"layer"], tag="data", extra={"config": config})]


def _non_distributable(_: Client) -> list[Stored]:
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    layer = {
        **build.descriptor_json(build.descriptor(kind, b"elsewhere")),
        # A port nobody listens on: whoever fetched it would fail.
        "urls": ["http://127.0.0.1:1/layer"],
    }
    return [manifest_of([], tag="elsewhere", extra={"layers": [layer]})]


def _custom_fields(_: Client) -> list[Stored]:
    extra = {"org.example.custom": {"of": ["any", 1, None]}}
    return [manifest_of([b"layer"], config=b'{"custom": true}', tag="custom", extra=extra)]


def _no_layers(_: Client) -> list[Stored]:
    return [manifest_of([], tag="none")]


def _sparse(_: Client) -> list[Stored]:
    # Refusing what names unpushed content is allowed to a registry.
    return [manifest_of([b"unpushed"], tag="sparse", pushed=False, accepted=(201, 400, 404))]


def _sha512_content(_: Client) -> list[Stored]:
    return [manifest_of([b"layer"], tag=None, algorithm="sha512")]


DATA: Mapping[str, Callable[[Client], list[Stored]]] = {
    "image": _image,
    "image-uncompressed": _image_uncompressed,
    "large-manifest": _large_manifest,
    "index": _index,
    "nested-index": _nested_index,
    "empty-index": _empty_index,
    "artifact": _artifact,
    "artifact-index": _artifact_index,
    "artifact-without-layers": _artifact_without_layers,
    "artifacts-with-subject": _artifacts_with_subject,
    "index-with-subject": _index_with_subject,
    "missing-subject": _missing_subject,
    "data-field": _data_field,
    "non-distributable-layers": _non_distributable,
    "custom-fields": _custom_fields,
    "no-layers": _no_layers,
    "sparse": _sparse,
    "sha512": _sha512_content,
}


# Ways to push a blob ----------------------------------------------------------------------------

Push = Callable[[Client, str, bytes, Digest, Collection[int]], Awaitable[Answer]]


def _finish(location: str, digest: Digest) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


async def _start(client: Client, repository: str, digest: Digest) -> str:
    # A registry that hashes while it receives is told the algorithm early.
    algorithm = "" if digest.algorithm == "sha256" else f"?digest-algorithm={digest.algorithm}"
    target = f"/v2/{repository}/blobs/uploads/{algorithm}"
    return (await client.ask("POST", target, expect={202})).location


async def _post_only(
    client: Client, repository: str, blob: bytes, digest: Digest, expect: Collection[int]
) -> Answer:
    target = f"/v2/{repository}/blobs/uploads/?digest={digest}"
    answer = await client.ask("POST", target, headers=OCTETS, body=blob, expect={*expect, 202})
    if answer.status != 202:
        return answer
    return await client.ask(
        "PUT", _finish(answer.location, digest), headers=OCTETS, body=blob, expect=expect
    )


async def _post_put(
    client: Client, repository: str, blob: bytes, digest: Digest, expect: Collection[int]
) -> Answer:
    location = await _start(client, repository, digest)
    return await client.ask(
        "PUT", _finish(location, digest), headers=OCTETS, body=blob, expect=expect
    )


async def _patch(
    client: Client, location: str, chunk: bytes, first: int, expect: Collection[int]
) -> Answer:
    headers = (*OCTETS, ("Content-Range", f"{first}-{first + len(chunk) - 1}"))
    return await client.ask("PATCH", location, headers=headers, body=chunk, expect=expect)


async def _chunked(
    client: Client,
    repository: str,
    blob: bytes,
    digest: Digest,
    expect: Collection[int],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    last_in_put: bool = False,
) -> Answer:
    location = await _start(client, repository, digest)
    chunks = [(at, blob[at : at + chunk_bytes]) for at in range(0, len(blob), chunk_bytes)]
    last = chunks.pop() if last_in_put else None
    for first, chunk in chunks:
        location = (await _patch(client, location, chunk, first, {202})).location
    headers: Headers = OCTETS
    if last is not None:
        headers = (*OCTETS, ("Content-Range", f"{last[0]}-{len(blob) - 1}"))
    return await client.ask(
        "PUT",
        _finish(location, digest),
        headers=headers,
        body=last[1] if last else None,
        expect=expect,
    )


async def _stream(
    client: Client, repository: str, blob: bytes, digest: Digest, expect: Collection[int]
) -> Answer:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(blob), CHUNK_BYTES):
            yield blob[at : at + CHUNK_BYTES]

    location = await _start(client, repository, digest)
    sent = await client.ask("PATCH", location, headers=OCTETS, body=pieces(), expect={202})
    return await client.ask("PUT", _finish(sent.location, digest), expect=expect)


PUSHES: Mapping[str, Push] = {
    "post-only": _post_only,
    "post-put": _post_put,
    "chunked-single": partial(_chunked, chunk_bytes=BLOB_BYTES),
    "chunked-multi": _chunked,
    "chunked-put-chunk": partial(_chunked, last_in_put=True),
    "stream": _stream,
}


# Cases ------------------------------------------------------------------------------------------


async def case_ping(client: Client) -> None:
    await client.ask("GET", "/v2/", expect={200})


async def case_empty_tag_list(client: Client) -> None:
    await client.ask("GET", f"/v2/{client.repository}/tags/list", expect={200, 404})


async def case_empty_referrers(client: Client) -> None:
    await _referrers(client, Digest.of(b"nobody refers to this"))


async def case_blob_missing(client: Client) -> None:
    for digest in (Digest.of(b"never pushed"), Digest.of(b"never pushed", "sha512")):
        for method in ("GET", "HEAD"):
            target = f"/v2/{client.repository}/blobs/{digest}"
            await client.ask(method, target, expect={404})


async def case_blob(client: Client, *, push: Push, algorithm: str) -> None:
    blob = blob_of(client, algorithm)
    await _push_read_delete(client, blob, Digest.of(blob, algorithm), push=push)


async def case_small_blobs(client: Client, *, algorithm: str) -> None:
    for blob in (b"", b"{}"):
        await _push_read_delete(client, blob, Digest.of(blob, algorithm), push=_post_put)


async def _push_read_delete(client: Client, blob: bytes, digest: Digest, *, push: Push) -> None:
    created = await push(client, client.repository, blob, digest, {201})
    claimed = created.headers.get("Docker-Content-Digest", str(digest))
    client.check(claimed == str(digest), f"created {claimed}, expected {digest}")
    followed = await client.ask("GET", created.location, expect={200})
    client.check(followed.body == blob, "the created location holds other bytes")
    target = f"/v2/{client.repository}/blobs/{digest}"
    head = await client.ask("HEAD", target, expect={200})
    client.check(head.headers.get("Content-Length") == str(len(blob)), "HEAD: another length")
    got = await client.ask("GET", target, expect={200})
    client.check(got.body == blob, "other bytes")
    gone = await client.ask("DELETE", target, expect={202, 404, 405})
    if gone.status == 202:
        await client.ask("HEAD", target, expect={404})
        await client.ask("GET", target, expect={404})


async def case_bad_digest(client: Client, *, push: Push, algorithm: str) -> None:
    blob = blob_of(client, algorithm)
    wrong = Digest.of(b"something else", algorithm)
    await push(client, client.repository, blob, wrong, {400})
    await client.ask("HEAD", f"/v2/{client.repository}/blobs/{wrong}", expect={404})


async def case_out_of_order(client: Client, *, last_in_put: bool) -> None:
    blob = blob_of(client, "sha256")
    digest = Digest.of(blob)
    location = await _start(client, client.repository, digest)
    sent = await _patch(client, location, blob[:CHUNK_BYTES], 0, {202})
    wrong = 2 * CHUNK_BYTES
    await _patch(client, sent.location, blob[wrong:], wrong, {416})
    status = await client.ask("GET", sent.location, expect={204})
    client.check(status.headers.get("Range") == f"0-{CHUNK_BYTES - 1}", "another upload status")
    rest = blob[CHUNK_BYTES:]
    if last_in_put:
        headers = (*OCTETS, ("Content-Range", f"{CHUNK_BYTES}-{len(blob) - 1}"))
        target = _finish(status.location, digest)
        await client.ask("PUT", target, headers=headers, body=rest, expect={201})
        return
    sent = await _patch(client, status.location, rest, CHUNK_BYTES, {202})
    await client.ask("PUT", _finish(sent.location, digest), expect={201})


async def case_mount(client: Client, *, algorithm: str, source: str) -> None:
    """``source``: there (mounted from a repository that holds it), anonymous, or missing."""
    blob = blob_of(client, algorithm)
    digest = Digest.of(blob, algorithm)
    if source == "there":
        await _post_put(client, client.other, blob, digest, {201})
    query = f"?mount={digest}" + ("" if source == "anonymous" else f"&from={client.other}")
    target = f"/v2/{client.repository}/blobs/uploads/{query}"
    expect = {"there": {201, 202}, "anonymous": {201, 202}, "missing": {202}}[source]
    answer = await client.ask("POST", target, expect=expect)
    if answer.status == 202:
        target = _finish(answer.location, digest)
        answer = await client.ask("PUT", target, headers=OCTETS, body=blob, expect={201})
    got = await client.ask("GET", answer.location, expect={200})
    client.check(got.body == blob, "the mounted blob holds other bytes")


async def case_cancel(client: Client) -> None:
    location = await _start(client, client.repository, Digest.of(b""))
    await client.ask("DELETE", location, expect={204})
    await client.ask("GET", location, expect={404})


async def case_ranges(client: Client, *, algorithm: str) -> None:
    blob = blob_of(client, algorithm)
    digest = Digest.of(blob, algorithm)
    await _post_put(client, client.repository, blob, digest, {201})
    target = f"/v2/{client.repository}/blobs/{digest}"
    for asked, first, last in (
        ("500-1499", 500, 1499),
        ("500-", 500, 2047),
        ("-500", 1548, 2047),
        ("2000-5000", 2000, 2047),
        ("0-", 0, 2047),
    ):
        headers = (("Range", f"bytes={asked}"),)
        answer = await client.ask("GET", target, headers=headers, expect={206})
        client.check(answer.body == blob[first : last + 1], f"{asked}: other bytes")
        where = answer.headers.get("Content-Range")
        client.check(where == f"bytes {first}-{last}/{len(blob)}", f"{asked}: {where}")
    # RFC 9110 §14.1.2: an invalid range may be ignored; the suite wants 416.
    for asked, expect in (("5000-10000", {416}), ("500-0", {200, 416})):
        headers = (("Range", f"bytes={asked}"),)
        answer = await client.ask("GET", target, headers=headers, expect=expect)
        where = answer.headers.get("Content-Range", f"bytes */{len(blob)}")
        client.check(where == f"bytes */{len(blob)}", f"{asked}: {where}")


async def case_data(client: Client, *, name: str) -> None:
    pushed = DATA[name](client)
    for stored in pushed:
        if not await _push_manifest(client, stored):
            return
    for stored in pushed:
        if stored.subject is not None:
            await _check_referrer(client, stored)
    await client.ask("GET", f"/v2/{client.repository}/tags/list", expect={200, 404})
    for stored in reversed(pushed):
        await _delete_manifest(client, stored)


async def _push_manifest(client: Client, stored: Stored) -> bool:
    """Push blobs and manifest, read it in all ways; whether the registry took it."""
    for blob in stored.blobs:
        digest = Digest.of(blob, stored.algorithm if blob != b"{}" else "sha256")
        await _post_put(client, client.repository, blob, digest, {201})
    content_type = (("Content-Type", stored.media_type),)
    manifests = f"/v2/{client.repository}/manifests"
    for reference in (str(stored.digest), stored.tag):
        if reference is None:
            continue
        target = f"{manifests}/{reference}"
        created = await client.ask(
            "PUT", target, headers=content_type, body=stored.body, expect=stored.accepted
        )
        if created.status != 201:
            return False
        if stored.subject is not None:
            subject = created.headers.get("OCI-Subject")
            client.check(subject == str(stored.subject.digest), f"OCI-Subject {subject}")
        for followed in (created.location, target):
            got = await client.ask("GET", followed, headers=ACCEPT, expect={200})
            client.check(got.body == stored.body, "other bytes of the manifest")
            kind = got.headers.get("Content-Type")
            client.check(kind == stored.media_type, f"Content-Type {kind}")
        head = await client.ask("HEAD", target, headers=ACCEPT, expect={200})
        length = head.headers.get("Content-Length")
        client.check(length == str(len(stored.body)), f"HEAD: Content-Length {length}")
    return True


async def _delete_manifest(client: Client, stored: Stored) -> None:
    manifests = f"/v2/{client.repository}/manifests"
    for reference in (stored.tag, str(stored.digest)):
        if reference is None:
            continue
        target = f"{manifests}/{reference}"
        gone = await client.ask("DELETE", target, expect={202, 400, 404, 405})
        if gone.status == 202:
            await client.ask("HEAD", target, headers=ACCEPT, expect={404})


async def _referrers(client: Client, subject: Digest, query: str = "") -> list[dict[str, object]]:
    target = f"/v2/{client.repository}/referrers/{subject}{query}"
    answer = await client.ask("GET", target, expect={200})
    if answer.status != 200:
        raise Stopped
    kind = answer.headers.get("Content-Type")
    client.check(kind == OCI_INDEX, f"referrers: Content-Type {kind}")
    if query:
        applied = answer.headers.get("OCI-Filters-Applied")
        client.check(applied == "artifactType", f"OCI-Filters-Applied {applied}")
    found = json.loads(answer.body)["manifests"]
    assert isinstance(found, list)
    return found


async def _check_referrer(client: Client, stored: Stored) -> None:
    assert stored.subject is not None
    manifest = json.loads(stored.body)
    kind = manifest["artifactType"]
    for query in ("", f"?artifactType={kind}"):
        found = await _referrers(client, stored.subject.digest, query)
        mine = [entry for entry in found if entry["digest"] == str(stored.digest)]
        expected = {
            "mediaType": stored.media_type,
            "digest": str(stored.digest),
            "size": len(stored.body),
            "artifactType": kind,
            **({"annotations": manifest["annotations"]} if "annotations" in manifest else {}),
        }
        client.check(mine == [expected], f"referrer {mine}, expected {expected}")
    others = await _referrers(client, stored.subject.digest, "?artifactType=other/type")
    client.check(not others, "the filter by artifactType lets others through")


async def case_tag_parameters(client: Client, *, algorithm: str) -> None:
    stored = manifest_of([], tag=None)
    await _post_put(client, client.repository, b"{}", Digest.of(b"{}"), {201})
    digest = Digest.of(stored.body, algorithm)
    created = await client.ask(
        "PUT",
        f"/v2/{client.repository}/manifests/{digest}?tag=a&tag=b",
        headers=(("Content-Type", OCI_MANIFEST),),
        body=stored.body,
        expect={201},
    )
    client.check(created.headers.get("OCI-Tag") == "a, b", "OCI-Tag does not name both tags")
    for tag in ("a", "b"):
        target = f"/v2/{client.repository}/manifests/{tag}"
        got = await client.ask("GET", target, headers=ACCEPT, expect={200})
        client.check(got.body == stored.body, "other bytes of the manifest")


async def _push_tags(client: Client, repository: str, tags: Sequence[str]) -> None:
    stored = manifest_of([], tag=None)
    await _post_put(client, repository, b"{}", Digest.of(b"{}"), {201})
    for tag in tags:
        await client.ask(
            "PUT",
            f"/v2/{repository}/manifests/{tag}",
            headers=(("Content-Type", OCI_MANIFEST),),
            body=stored.body,
            expect={201},
        )


async def case_tag_list(client: Client) -> None:
    tags = ["a", "b", "c", "d", "e"]
    await _push_tags(client, client.repository, list(reversed(tags)))
    target = f"/v2/{client.repository}/tags/list"
    whole = await client.ask("GET", target, expect={200})
    client.check(json.loads(whole.body)["tags"] == tags, "not all tags in order")
    rest = await client.ask("GET", f"{target}?last=c", expect={200})
    client.check(json.loads(rest.body)["tags"] == ["d", "e"], "tags that do not come after last")


async def case_tag_pages(client: Client) -> None:
    tags = ["a", "b", "c"]
    await _push_tags(client, client.repository, tags)
    seen: list[str] = []
    target = f"/v2/{client.repository}/tags/list?n=1"
    for _ in range(len(tags) + 1):
        answer = await client.ask("GET", target, expect={200})
        # distribution v3 ends with a page of null.
        seen += json.loads(answer.body)["tags"] or []
        if "Link" not in answer.headers:
            break
        target = _link_target(client, answer.headers["Link"])
    client.check(seen == tags, f"pages hold {seen}, expected {tags}")


async def case_catalog_pages(client: Client) -> None:
    names = [f"{client.prefix}/{name}" for name in ("a", "b", "c")]
    for name in names:
        await _push_tags(client, name, ["v1"])
    # What else is there depends on other tests: so from here, and not to the end.
    target = f"/v2/_catalog?n=1&last={client.prefix}/0"
    for name in names[:2]:
        answer = await client.ask("GET", target, expect={200})
        found = json.loads(answer.body)["repositories"]
        client.check(found == [name], f"the page holds {found}, expected {name}")
        target = _link_target(client, answer.headers.get("Link", ""))


def _link_target(client: Client, link: str) -> str:
    match = re.fullmatch(r'<(/v2/[^>]*)>; rel="next"', link)
    client.check(match is not None, f"Link {link!r} is no relative one")
    if match is None:
        raise Stopped
    return match[1]


async def case_bad_digest_manifest(client: Client) -> None:
    stored = manifest_of([], tag=None)
    await _post_put(client, client.repository, b"{}", Digest.of(b"{}"), {201})
    await client.ask(
        "PUT",
        f"/v2/{client.repository}/manifests/{stored.digest}",
        headers=(("Content-Type", OCI_MANIFEST),),
        body=stored.body + b"  ",
        expect={400},
    )


async def case_missing_manifest(client: Client) -> None:
    for reference in ("missing", str(Digest.of(b"missing"))):
        target = f"/v2/{client.repository}/manifests/{reference}"
        for method in ("GET", "HEAD"):
            await client.ask(method, target, headers=ACCEPT, expect={404})


async def case_invalid_digest_format(client: Client) -> None:
    target = f"/v2/{client.repository}/manifests/sha256:baddigeststring"
    await client.ask(
        "PUT",
        target,
        headers=(("Content-Type", OCI_MANIFEST),),
        body=manifest_of([], tag=None).body,
        expect={400},
    )
    await client.ask("GET", target, headers=ACCEPT, expect={400, 404})
    blob = f"/v2/{client.repository}/blobs/sha256:baddigeststring"
    await client.ask("GET", blob, expect={400, 404})


async def case_conditions(client: Client) -> None:
    blob = blob_of(client, "sha256")
    stored = manifest_of([blob], tag="v1")
    await _push_manifest(client, stored)
    manifest = f"/v2/{client.repository}/manifests/v1"
    content = f"/v2/{client.repository}/blobs/{Digest.of(blob)}"
    etag = '"none"'
    for target in (manifest, content):
        got = await client.ask("GET", target, headers=ACCEPT, expect={200})
        await client.ask("HEAD", target, headers=ACCEPT, expect={200})
        head, whole = client.steps[-1], client.steps[-2]
        client.check(head.headers == whole.headers, f"HEAD {target} has other headers than GET")
        etag = got.headers.get("ETag", etag)
        for value, expect in ((etag, {304}), ('"other"', {200})):
            asked = (*ACCEPT, ("If-None-Match", value))
            await client.ask("GET", target, headers=asked, expect=expect)
    for value, expect in ((etag, {206}), ('"other"', {200})):
        part = (("Range", "bytes=1-2"), ("If-Range", value))
        await client.ask("GET", content, headers=part, expect=expect)


Case = Callable[[Client], Awaitable[None]]

ALGORITHMS = ("sha256", "sha512")
CASES: Mapping[str, Case] = {
    "ping": case_ping,
    "empty-tag-list": case_empty_tag_list,
    "empty-referrers": case_empty_referrers,
    "blob-missing": case_blob_missing,
    **{
        f"blob-{name}-{algorithm}": partial(case_blob, push=push, algorithm=algorithm)
        for name, push in PUSHES.items()
        for algorithm in ALGORITHMS
    },
    **{
        f"bad-digest-{name}-{algorithm}": partial(case_bad_digest, push=push, algorithm=algorithm)
        for name, push in PUSHES.items()
        for algorithm in ALGORITHMS
    },
    **{
        f"mount-{source}-{algorithm}": partial(case_mount, source=source, algorithm=algorithm)
        for source in ("there", "anonymous", "missing")
        for algorithm in ALGORITHMS
    },
    **{f"small-{name}": partial(case_small_blobs, algorithm=name) for name in ALGORITHMS},
    **{f"ranges-{name}": partial(case_ranges, algorithm=name) for name in ALGORITHMS},
    "chunked-out-of-order": partial(case_out_of_order, last_in_put=False),
    "chunked-out-of-order-put-chunk": partial(case_out_of_order, last_in_put=True),
    "cancel": case_cancel,
    **{f"data-{name}": partial(case_data, name=name) for name in DATA},
    **{f"tag-parameters-{a}": partial(case_tag_parameters, algorithm=a) for a in ALGORITHMS},
    "tag-list": case_tag_list,
    "tag-pages": case_tag_pages,
    "catalog-pages": case_catalog_pages,
    "bad-digest-manifest": case_bad_digest_manifest,
    "missing-manifest": case_missing_manifest,
    "invalid-digest-format": case_invalid_digest_format,
    "conditions": case_conditions,
}


async def _told(case: Case, *, url: str, prefix: str) -> Client:
    async with aiohttp.ClientSession(
        auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        client = Client(session, url, prefix)
        try:
            await case(client)
        except Stopped:
            client.faults.append("the case could not go on")
        return client


@pytest.mark.parametrize("name", CASES)
async def test_distribution_spec_case_reads_the_same_through_the_proxy(
    any_registry: Proxied, name: str
) -> None:
    # Prefixes of one length, so that lengths of bodies that hold them stay comparable.
    direct = await _told(CASES[name], url=any_registry.upstream.url, prefix=f"spec-a/{name}")
    proxied = await _told(CASES[name], url=any_registry.proxy.url, prefix=f"spec-b/{name}")

    found = _differences(direct, proxied)
    found += [f"worse: {fault}" for fault in proxied.faults if fault not in direct.faults]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.parametrize("name", CASES)
async def test_distribution_spec_case_holds_for_the_embedded_registry(
    proxied_embedded: Server, name: str
) -> None:
    told = await _told(CASES[name], url=proxied_embedded.url, prefix=f"spec/{name}")

    assert not told.faults
