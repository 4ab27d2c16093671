from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientResponse, ClientSession, web
from yarl import URL

from proxy.embedded import registry as registry_module
from proxy.embedded.layout import Layout
from proxy.embedded.registry import build_registry
from proxy.oci.digest import Digest
from proxy.oci.manifest import MANIFEST_BYTES_LIMIT, OCI_INDEX, OCI_MANIFEST
from tests.components.programs import require

CONTENT = bytes(range(256)) * 8  # 2048 bytes
DIGEST = Digest.of(CONTENT)
EMPTY = Digest.of(b"{}")


@dataclass(frozen=True, slots=True)
class Served:
    host: str
    session: ClientSession

    async def call(
        self,
        method: str,
        target: str,
        *,
        body: bytes | AsyncIterator[bytes] | None = None,
        **headers: str,
    ) -> tuple[ClientResponse, bytes]:
        url = URL(f"http://{self.host}{target}", encoded=True)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        data = io.BytesIO(body) if isinstance(body, bytes) else body
        async with self.session.request(method, url, data=data, headers=named) as response:
            return response, await response.read()

    async def push_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(content, algorithm)
        target = f"/v2/{repository}/blobs/uploads/?digest={digest}"
        response, _ = await self.call("POST", target, body=content)
        assert response.status == 201
        assert response.headers["Location"] == f"/v2/{repository}/blobs/{digest}"
        return digest

    async def push_manifest(
        self, repository: str, reference: str, document: dict[str, object], query: str = ""
    ) -> tuple[Digest, ClientResponse]:
        body = json.dumps(document).encode()
        media_type = str(document.get("mediaType", OCI_MANIFEST))
        response, text = await self.call(
            "PUT",
            f"/v2/{repository}/manifests/{reference}{query}",
            body=body,
            Content_Type=media_type,
        )
        assert response.status == 201, text
        return Digest.parse(response.headers["Docker-Content-Digest"]), response


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Served]:
    layout = await Layout.open(folder)
    runner = web.AppRunner(
        build_registry(layout), auto_decompress=False, handler_cancellation=True, access_log=None
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with ClientSession(auto_decompress=False) as session:
            yield Served(f"{host}:{port}", session)
    finally:
        await runner.cleanup()
        await layout.aclose()


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "layout") as served:
        yield served


def manifest(note: str = "", **more: object) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": [],
        "annotations": {"note": note},
        **more,
    }


def descriptor(content: bytes, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def assert_error(answer: tuple[ClientResponse, bytes], status: int, code: str) -> None:
    response, body = answer
    assert response.status == status, body
    assert response.content_type == "application/json"
    (error,) = json.loads(body)["errors"]
    assert error.keys() == {"code", "message", "detail"}
    assert error["code"] == code


@pytest.mark.parametrize("target", ["/v2/", "/v2"])
async def test_ping_answers_200(registry: Served, target: str) -> None:
    response, body = await registry.call("GET", target)
    assert (response.status, body) == (200, b"{}")
    assert response.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v2/a%2fb/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/%2e%2e/b/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/../b/tags/list", 400, "NAME_INVALID"),
        ("/v2/a//b/tags/list", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:../../index.json", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256%3A" + "a" * 64, 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:" + "A" * 64, 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:" + "a" * 63, 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:" + "a" * 32, 404, "BLOB_UNKNOWN"),
        ("/v2/a/manifests/md5:" + "a" * 32, 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/missing", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/UPPER/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/a/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/", 404, "NAME_UNKNOWN"),
        ("/v2x/", 404, "NAME_UNKNOWN"),
        ("/v2/_catalog?n=-1", 400, "UNSUPPORTED"),
        ("/v2/_catalog?" + "n=1&" * 200, 400, "UNSUPPORTED"),
    ],
)
async def test_E1_E2_odd_targets_get_an_error_of_the_spec(
    registry: Served, target: str, status: int, code: str
) -> None:
    assert_error(await registry.call("GET", target), status, code)


async def test_method_that_does_not_exist_names_those_that_do(registry: Served) -> None:
    answer = await registry.call("PATCH", f"/v2/a/blobs/{DIGEST}")
    assert_error(answer, 405, "UNSUPPORTED")
    assert answer[0].headers["Allow"] == "GET, HEAD, DELETE"
    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/")
    answer = await registry.call("POST", response.headers["Location"])
    assert_error(answer, 405, "UNSUPPORTED")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"{}", CONTENT], ids=["empty", "tiny", "small"])
async def test_blob_pushed_at_once_or_in_two_steps_comes_back(
    registry: Served, content: bytes, algorithm: str
) -> None:
    digest = await registry.push_blob("one", content, algorithm)
    response, _ = await registry.call("POST", "/v2/two/blobs/uploads/")
    assert response.status == 202
    location = response.headers["Location"]
    response, _ = await registry.call("PUT", f"{location}?digest={digest}", body=content)
    assert response.status == 201
    for name in ("one", "two"):
        response, body = await registry.call("GET", f"/v2/{name}/blobs/{digest}")
        assert (response.status, body) == (200, content)
        head, nothing = await registry.call("HEAD", f"/v2/{name}/blobs/{digest}")
        assert (head.status, nothing) == (200, b"")
        for header in ("Content-Length", "Content-Type", "Docker-Content-Digest", "ETag"):
            assert head.headers[header] == response.headers[header]
        assert head.headers["Content-Length"] == str(len(content))


async def test_K8_chunks_in_order_and_out_of_order(registry: Served) -> None:
    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/", Content_Length="0")
    location = response.headers["Location"]
    response, _ = await registry.call(
        "PATCH", location, body=CONTENT[:1024], Content_Range="0-1023"
    )
    assert (response.status, response.headers["Range"]) == (202, "0-1023")
    for method, target in (("PATCH", location), ("PUT", f"{location}?digest={DIGEST}")):
        answer = await registry.call(method, target, body=b"x", Content_Range="0-0")
        assert_error(answer, 416, "BLOB_UPLOAD_INVALID")
        assert answer[0].headers["Location"] == location
    response, _ = await registry.call("GET", location)
    assert (response.status, response.headers["Range"]) == (204, "0-1023")
    response, _ = await registry.call(
        "PUT", f"{location}?digest={DIGEST}", body=CONTENT[1024:], Content_Range="1024-2047"
    )
    assert response.status == 201
    assert (await registry.call("GET", response.headers["Location"]))[1] == CONTENT


@pytest.mark.parametrize("claim", ["bytes", "5-1", "1024", "1024-1024", "1024-1030"])
async def test_chunk_of_another_length_than_claimed_leaves_the_upload_as_it_was(
    registry: Served, claim: str
) -> None:
    async def streamed() -> AsyncIterator[bytes]:
        yield b"four"

    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/")
    location = response.headers["Location"]
    await registry.call("PATCH", location, body=CONTENT[:1024])
    for body in (b"four", streamed()):
        answer = await registry.call("PATCH", location, body=body, Content_Range=claim)
        assert_error(answer, 400, "BLOB_UPLOAD_INVALID")
    response, _ = await registry.call(
        "PUT", f"{location}?digest={DIGEST}", body=CONTENT[1024:], Content_Range="1024-2047"
    )
    assert response.status == 201


async def test_K7_streamed_patch_of_many_pieces_arrives_whole(registry: Served) -> None:
    piece = CONTENT * 512  # 1 MiB

    async def streamed() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield piece

    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/?digest-algorithm=sha512")
    location = response.headers["Location"]
    response, _ = await registry.call("PATCH", location, body=streamed())
    assert (response.status, response.headers["Range"]) == (202, f"0-{5 * len(piece) - 1}")
    digest = Digest.of(piece * 5, "sha512")
    response, _ = await registry.call("PUT", f"{location}?digest={digest}")
    assert response.status == 201
    assert (await registry.call("GET", f"/v2/a/blobs/{digest}"))[1] == piece * 5


async def test_K9_client_that_leaves_in_a_patch_may_go_on(registry: Served) -> None:
    sent, never = asyncio.Event(), asyncio.Event()

    async def streamed() -> AsyncIterator[bytes]:
        yield CONTENT[:1024]
        sent.set()
        await never.wait()

    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/")
    location = response.headers["Location"]
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(registry.call("PATCH", location, body=streamed()))
        await sent.wait()
        leaving.cancel()
    target = f"{location}?digest={DIGEST}"
    response, _ = await registry.call("PUT", target, body=CONTENT, Content_Range="0-2047")
    if response.status == 416:  # something had arrived: the answer says how much
        start = int(response.headers["Range"].removeprefix("0-")) + 1
        response, _ = await registry.call(
            "PUT", target, body=CONTENT[start:], Content_Range=f"{start}-2047"
        )
    assert response.status == 201
    assert (await registry.call("GET", f"/v2/a/blobs/{DIGEST}"))[1] == CONTENT


async def test_upload_cancelled_is_gone(registry: Served) -> None:
    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/")
    location = response.headers["Location"]
    other = location.replace("/v2/a/", "/v2/b/")
    assert_error(await registry.call("DELETE", other), 404, "BLOB_UPLOAD_UNKNOWN")
    response, body = await registry.call("DELETE", location)
    assert (response.status, body) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        assert_error(await registry.call(method, location), 404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize("way", ["post", "put", "patch and put"])
async def test_K4_digest_mismatch_is_400_and_stores_nothing(registry: Served, way: str) -> None:
    body = b"other bytes"
    if way == "post":
        answer = await registry.call("POST", f"/v2/a/blobs/uploads/?digest={DIGEST}", body=body)
    else:
        response, _ = await registry.call("POST", "/v2/a/blobs/uploads/")
        location = response.headers["Location"]
        if way == "patch and put":
            await registry.call("PATCH", location, body=body)
            body = b""
        answer = await registry.call("PUT", f"{location}?digest={DIGEST}", body=body)
    assert_error(answer, 400, "DIGEST_INVALID")
    assert_error(await registry.call("GET", f"/v2/a/blobs/{DIGEST}"), 404, "BLOB_UNKNOWN")


async def test_put_of_upload_without_digest_is_400(registry: Served) -> None:
    response, _ = await registry.call("POST", "/v2/a/blobs/uploads/")
    answer = await registry.call("PUT", response.headers["Location"])
    assert_error(answer, 400, "DIGEST_INVALID")
    answer = await registry.call("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5")
    assert_error(answer, 400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (f"mount={DIGEST}&from=source", 201),
        (f"mount={DIGEST}".replace(":", "%3A") + "&from=source", 201),
        (f"mount={DIGEST}", 202),
        (f"mount={DIGEST}&from=elsewhere", 202),
        (f"mount={DIGEST}&from=NOT/A/NAME", 202),
        (f"mount={EMPTY}&from=source", 202),
    ],
)
async def test_mount_only_from_a_repository_that_holds_the_blob(
    registry: Served, query: str, status: int
) -> None:
    await registry.push_blob("source", CONTENT)
    response, _ = await registry.call("POST", f"/v2/target/blobs/uploads/?{query}")
    assert response.status == status
    assert response.headers["Location"].startswith("/v2/target/blobs/")
    found, _ = await registry.call("HEAD", f"/v2/target/blobs/{DIGEST}")
    assert found.status == (200 if status == 201 else 404)


@pytest.mark.parametrize(
    ("header", "status", "content_range", "body"),
    [
        ("bytes=500-1499", 206, "bytes 500-1499/2048", CONTENT[500:1500]),
        ("bytes=500-", 206, "bytes 500-2047/2048", CONTENT[500:]),
        ("bytes=-500", 206, "bytes 1548-2047/2048", CONTENT[-500:]),
        ("bytes=0-0", 206, "bytes 0-0/2048", CONTENT[:1]),
        ("bytes=2000-5000", 206, "bytes 2000-2047/2048", CONTENT[2000:]),
        ("bytes=-5000", 206, "bytes 0-2047/2048", CONTENT),
        ("bytes=500-0", 200, None, CONTENT),
        ("bytes=0-1,5-6", 200, None, CONTENT),
        ("lines=0-1", 200, None, CONTENT),
        ("bytes=5000-10000", 416, "bytes */2048", None),
        ("bytes=2048-", 416, "bytes */2048", None),
    ],
)
async def test_range_of_a_blob(
    registry: Served, header: str, status: int, content_range: str | None, body: bytes | None
) -> None:
    await registry.push_blob("a", CONTENT)
    target = f"/v2/a/blobs/{DIGEST}"
    response, found = await registry.call("GET", target, Range=header)
    assert (response.status, response.headers.get("Content-Range")) == (status, content_range)
    if body is None:
        assert_error((response, found), 416, "SIZE_INVALID")
    else:
        assert found == body
        assert response.headers["Content-Length"] == str(len(body))
    head, _ = await registry.call("HEAD", target, Range=header)
    assert (head.status, head.headers["Content-Length"]) == (200, "2048")


async def test_conditional_requests_of_blob_and_manifest(registry: Served) -> None:
    await registry.push_blob("a", CONTENT)
    digest, _ = await registry.push_manifest("a", "v1", manifest())
    for target, etag in (
        (f"/v2/a/blobs/{DIGEST}", f'"{DIGEST}"'),
        ("/v2/a/manifests/v1", f'"{digest}"'),
    ):
        for method in ("GET", "HEAD"):
            response, body = await registry.call(method, target, If_None_Match=etag)
            assert (response.status, body, response.headers["ETag"]) == (304, b"", etag)
            assert (await registry.call(method, target, If_None_Match='"x"'))[0].status == 200
    target = f"/v2/a/blobs/{DIGEST}"
    response, _ = await registry.call("GET", target, Range="bytes=0-0", If_Range='"x"')
    assert response.status == 200
    response, _ = await registry.call("GET", target, Range="bytes=0-0", If_Range=f'"{DIGEST}"')
    assert response.status == 206


async def test_manifest_keeps_bytes_and_type_by_tag_and_digest(registry: Served) -> None:
    body = b'{ "schemaVersion": 2,\n "layers": [], "x-own": [1, 2] }\n'
    media_type = "application/vnd.example.thing+json; v=1"
    response, _ = await registry.call(
        "PUT", "/v2/a/manifests/v1", body=body, Content_Type=media_type
    )
    assert response.status == 201
    location = response.headers["Location"]
    assert location == f"/v2/a/manifests/{Digest.of(body)}"
    for target in (location, "/v2/a/manifests/v1"):
        response, found = await registry.call("GET", target)
        assert (response.status, found) == (200, body)
        head, nothing = await registry.call("HEAD", target)
        assert (head.status, nothing) == (200, b"")
        for header in ("Content-Type", "Content-Length", "Docker-Content-Digest", "ETag"):
            assert head.headers[header] == response.headers[header]
        assert head.headers["Content-Type"] == media_type


async def test_manifest_put_that_must_fail(registry: Served) -> None:
    body = json.dumps(manifest(layers=[descriptor(CONTENT)])).encode()
    target = "/v2/a/manifests/"
    json_type = {"Content_Type": OCI_MANIFEST}
    answer = await registry.call("PUT", f"{target}v1", body=body, **json_type)
    assert_error(answer, 404, "MANIFEST_BLOB_UNKNOWN")
    answer = await registry.call("PUT", f"{target}v1", body=b"{", **json_type)
    assert_error(answer, 400, "MANIFEST_INVALID")
    answer = await registry.call("PUT", f"{target}v1", body=body, Content_Type=OCI_INDEX)
    assert_error(answer, 400, "MANIFEST_INVALID")
    answer = await registry.call("PUT", f"{target}{DIGEST}", body=body, **json_type)
    assert_error(answer, 400, "DIGEST_INVALID")
    answer = await registry.call("PUT", f"{target}md5:{'a' * 32}", body=body, **json_type)
    assert_error(answer, 400, "DIGEST_INVALID")
    answer = await registry.call("PUT", f"{target}{DIGEST}?tag=-no", body=body, **json_type)
    assert_error(answer, 400, "NAME_INVALID")


@pytest.mark.parametrize("announced", [True, False])
async def test_manifest_of_8_mib_is_the_largest(registry: Served, *, announced: bool) -> None:
    async def streamed(content: bytes) -> AsyncIterator[bytes]:
        yield content

    body = json.dumps(manifest()).encode().ljust(MANIFEST_BYTES_LIMIT)
    for content, status in ((body, 201), (body + b" ", 413)):
        response, _ = await registry.call(
            "PUT",
            "/v2/a/manifests/v1",
            body=content if announced else streamed(content),
            Content_Type=OCI_MANIFEST,
        )
        assert response.status == status


async def test_manifest_pushed_by_digest_takes_tags_from_the_query(registry: Served) -> None:
    document = manifest("tags")
    digest = Digest.of(json.dumps(document).encode(), "sha512")
    _, response = await registry.push_manifest("a", str(digest), document, "?tag=one&tag=two")
    assert response.headers["OCI-Tag"] == "one, two"
    for tag in ("one", "two"):
        response, _ = await registry.call("GET", f"/v2/a/manifests/{tag}")
        assert response.headers["Docker-Content-Digest"] == str(digest)


async def test_delete_of_tag_manifest_and_blob_shows_at_once(registry: Served) -> None:
    await registry.push_blob("a", CONTENT)
    document = manifest(layers=[descriptor(CONTENT)])
    digest, _ = await registry.push_manifest("a", "v1", document)
    await registry.push_manifest("a", "v2", document)

    async def status(method: str, rest: str) -> int:
        return (await registry.call(method, f"/v2/a/{rest}"))[0].status

    assert await status("DELETE", "manifests/v1") == 202
    assert await status("HEAD", "manifests/v1") == 404
    assert await status("DELETE", "manifests/v1") == 404
    assert await status("HEAD", f"manifests/{digest}") == 200
    assert await status("DELETE", f"manifests/{digest}") == 202
    assert await status("HEAD", "manifests/v2") == 404
    assert await status("HEAD", f"manifests/{digest}") == 404
    assert await status("HEAD", f"blobs/{DIGEST}") == 200
    assert await status("DELETE", f"blobs/{DIGEST}") == 202
    assert await status("HEAD", f"blobs/{DIGEST}") == 404
    assert await status("DELETE", f"blobs/{DIGEST}") == 404
    assert await status("DELETE", "blobs/md5:" + "a" * 32) == 404


async def test_manifest_and_blob_belong_to_their_repository(registry: Served) -> None:
    await registry.push_blob("a", CONTENT)
    digest, _ = await registry.push_manifest("a", "v1", manifest())
    for target, code in (
        (f"/v2/b/blobs/{DIGEST}", "BLOB_UNKNOWN"),
        (f"/v2/b/manifests/{digest}", "MANIFEST_UNKNOWN"),
    ):
        assert_error(await registry.call("GET", target), 404, code)


async def test_referrers_lists_and_filters(registry: Served) -> None:
    subject = descriptor(b"anything", OCI_MANIFEST)
    config = descriptor(b"{}", "application/vnd.example.config")
    await registry.push_blob("a", b"{}")
    target = f"/v2/a/referrers/{subject['digest']}"
    response, body = await registry.call("GET", target)
    assert response.headers["Content-Type"] == OCI_INDEX
    assert json.loads(body) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}

    signature = manifest("s", subject=subject, artifactType="application/vnd.example.sig")
    by_config = manifest("c", subject=subject, config=config)
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [],
        "subject": subject,
    }
    for number, document in enumerate((signature, by_config, index, manifest("none"))):
        _, response = await registry.push_manifest("a", f"t{number}", document)
        assert response.headers.get("OCI-Subject") == (
            subject["digest"] if "subject" in document else None
        )
    response, body = await registry.call("GET", target)
    assert "OCI-Filters-Applied" not in response.headers
    found = {entry["digest"]: entry for entry in json.loads(body)["manifests"]}
    assert len(found) == 3
    signature_bytes = json.dumps(signature).encode()
    assert found[str(Digest.of(signature_bytes))] == {
        **descriptor(signature_bytes, OCI_MANIFEST),
        "artifactType": "application/vnd.example.sig",
        "annotations": {"note": "s"},
    }
    response, body = await registry.call(
        "GET", f"{target}?artifactType=application%2Fvnd.example.config"
    )
    assert response.headers["OCI-Filters-Applied"] == "artifactType"
    (entry,) = json.loads(body)["manifests"]
    assert entry["annotations"] == {"note": "c"}
    response, body = await registry.call("GET", "/v2/a/referrers/md5:" + "a" * 32)
    assert (response.status, json.loads(body)["manifests"]) == (200, [])


async def test_referrers_too_large_for_one_answer_are_linked(registry: Served) -> None:
    subject = descriptor(b"anything", OCI_MANIFEST)
    big = "x" * (registry_module.REFERRERS_BYTES_LIMIT // 2)
    pushed = set()
    for number in range(3):
        document = manifest(f"{number}{big}", subject=subject, artifactType="application/a+b")
        pushed.add(str((await registry.push_manifest("a", f"t{number}", document))[0]))
    target: str | None = f"/v2/a/referrers/{subject['digest']}?artifactType=application/a%2Bb"
    found: list[str] = []
    while target is not None:
        response, body = await registry.call("GET", target)
        found += [entry["digest"] for entry in json.loads(body)["manifests"]]
        assert response.headers["OCI-Filters-Applied"] == "artifactType"
        link = response.headers.get("Link")
        target = None if link is None else link[1 : link.index(">")]
    assert found == sorted(pushed)


async def test_tags_and_catalogue_are_sorted_and_paged(registry: Served) -> None:
    tags = ["B", "a", "a.1", "b", "z"]
    for tag in reversed(tags):
        await registry.push_manifest("team/model", tag, manifest())
    for name in ("a", "a/tags/list"):
        await registry.push_manifest(name, "v1", manifest())
    await registry.push_blob("only/blobs", b"x")

    async def walk(target: str | None, key: str) -> list[list[str]]:
        pages = []
        while target is not None:
            response, body = await registry.call("GET", target)
            pages.append(json.loads(body)[key])
            link = response.headers.get("Link")
            assert link is None or link.endswith('>; rel="next"')
            target = None if link is None else link[1 : link.index(">")]
        return pages

    base = "/v2/team/model/tags/list"
    assert await walk(base, "tags") == [tags]
    assert await walk(f"{base}?n=2", "tags") == [["B", "a"], ["a.1", "b"], ["z"]]
    assert await walk(f"{base}?n=5", "tags") == [tags]
    assert await walk(f"{base}?n=0", "tags") == [[]]
    assert await walk(f"{base}?last=a", "tags") == [["a.1", "b", "z"]]
    assert await walk("/v2/_catalog", "repositories") == [["a", "a/tags/list", "team/model"]]
    assert await walk("/v2/_catalog?n=2", "repositories") == [["a", "a/tags/list"], ["team/model"]]
    assert await walk("/v2/only/blobs/tags/list", "tags") == [[]]
    assert await walk("/v2/a/tags/list/tags/list", "tags") == [["v1"]]


async def test_blob_cut_short_on_disk_aborts_and_never_ends_short(tmp_path: Path) -> None:
    content = CONTENT * 4096  # 8 MiB: more than fits into the buffers between the two ends
    async with serving(tmp_path) as served:
        digest = await served.push_blob("a", content)
        url = f"http://{served.host}/v2/a/blobs/{digest}"
        async with served.session.get(url) as response:
            assert response.status == 200
            with (tmp_path / "blobs/sha256" / digest.hex).open("r+b") as file:
                file.truncate(len(content) - 1)
            with pytest.raises(Exception, match=r"payload|closed|reset"):
                await response.read()


async def test_storage_that_fails_is_an_error_of_the_registry(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        (tmp_path / "uploads").rmdir()
        answer = await served.call("POST", "/v2/a/blobs/uploads/")
        assert_error(answer, 500, "UNKNOWN")
        assert (await served.call("GET", "/v2/"))[0].status == 200


async def test_blob_whose_file_is_gone_is_unknown(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.push_blob("a", CONTENT)
        digest, _ = await served.push_manifest("a", "v1", manifest())
        for gone in (DIGEST, digest):
            (tmp_path / "blobs" / "sha256" / gone.hex).unlink()
        assert_error(await served.call("GET", f"/v2/a/blobs/{DIGEST}"), 404, "BLOB_UNKNOWN")
        assert_error(await served.call("GET", "/v2/a/manifests/v1"), 404, "MANIFEST_UNKNOWN")


async def test_restart_keeps_what_was_pushed(tmp_path: Path) -> None:
    document = manifest(layers=[descriptor(CONTENT)])
    async with serving(tmp_path) as served:
        await served.push_blob("team/model", CONTENT)
        digest, _ = await served.push_manifest("team/model", "v1", document)
        await served.push_manifest(
            "team/model", "sig", manifest(subject=descriptor(b"x", OCI_MANIFEST))
        )
    async with serving(tmp_path) as served:
        response, body = await served.call("GET", "/v2/team/model/manifests/v1")
        assert (response.status, json.loads(body)) == (200, document)
        assert response.headers["Docker-Content-Digest"] == str(digest)
        assert (await served.call("GET", f"/v2/team/model/blobs/{DIGEST}"))[1] == CONTENT
        _, body = await served.call("GET", f"/v2/team/model/referrers/{Digest.of(b'x')}")
        assert len(json.loads(body)["manifests"]) == 1


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_skopeo_copies_in_and_out_and_its_layouts_are_adopted(tmp_path: Path) -> None:
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    layer = gzip.compress(CONTENT, mtime=0)  # anything else skopeo would compress
    document = manifest(
        config=descriptor(config, "application/vnd.oci.image.config.v1+json"),
        layers=[descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
    )
    copy = (require("skopeo"), "--insecure-policy", "copy")
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    written, again = tmp_path / "written", tmp_path / "again"
    async with serving(tmp_path / "first") as served:
        pushed = await served.push_blob("team/model", layer)
        await served.push_blob("team/model", config)
        digest, _ = await served.push_manifest("team/model", "v1", document)
        there = f"docker://{served.host}/team/model:v1"
        await run(*copy, *tls, there, f"oci:{written}:v1")
        await run(*copy, *tls, there, f"docker://{served.host}/team/copy:v1")
    # What the registry wrote is a layout that skopeo reads ...
    await run(*copy, f"oci:{tmp_path / 'first'}:team/copy:v1", f"oci:{again}:other/name:v2")
    # ... and what skopeo wrote is a layout that the registry serves.
    for folder, target in ((written, "written/manifests/v1"), (again, "other/name/manifests/v2")):
        async with serving(folder) as served:
            response, body = await served.call("GET", f"/v2/{target}")
            assert (response.status, Digest.of(body)) == (200, digest)
            name = target.partition("/manifests/")[0]
            assert (await served.call("GET", f"/v2/{name}/blobs/{pushed}"))[1] == layer
