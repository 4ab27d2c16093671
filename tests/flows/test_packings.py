"""Files out of every packing: cold and warm, whole and by Range, honest and hostile."""

from __future__ import annotations

import asyncio
import gzip
import io
import random
import tarfile  # noqa: TID251 - reads what the proxy wrote
import time
import zipfile
from collections.abc import Callable

import aiohttp
import pytest
import zstandard

from proxy.oci.manifest import OCI_INDEX, OCI_MANIFEST
from proxy.tasks import spawn
from tests.build import tar_archive, tar_entry, tar_header, tar_of
from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Client
from tests.flows.pushing import REF, assert_error, files_target, flat, layer, push

MIB = 1024 * 1024


def _noise(count: int, *, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


def _members(plain: bytes, size: int) -> bytes:
    """Several gzip members, as pigz and bgzip write them."""
    return b"".join(gzip.compress(plain[at : at + size], 1) for at in range(0, len(plain), size))


def _frames(plain: bytes, size: int) -> bytes:
    compress = zstandard.ZstdCompressor().compress
    return b"".join(compress(plain[at : at + size]) for at in range(0, len(plain), size))


COMPRESSIONS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", lambda plain: gzip.compress(plain, 1)),
    "gzip of several members": ("gzip", lambda plain: _members(plain, 300_000)),
    "zstd": ("zstd", lambda plain: zstandard.ZstdCompressor().compress(plain)),
    "zstd of several frames": ("zstd", lambda plain: _frames(plain, 300_000)),
}
FILES = {
    "config.json": b'{"a": 1}',
    "empty": b"",
    "sub/weights.bin": _noise(2 * MIB),
    "tokenizer.json": b"word " * 50_000,
}


@pytest.fixture(params=sorted(COMPRESSIONS))
def compression(request: pytest.FixtureRequest) -> tuple[str, Callable[[bytes], bytes]]:
    return COMPRESSIONS[request.param]


async def test_compressed_tar_lists_and_opens_every_file_cold_and_warm(
    proxy: Client, upstream: FaultyUpstream, compression: tuple[str, Callable[[bytes], bytes]]
) -> None:
    name, compress = compression
    push(upstream, layer(None, compress(tar_archive(FILES)), packing=f"tar+{name}"))
    for _ in range(2):
        for path, content in FILES.items():
            answer = await proxy.get(files_target(path))
            assert (answer.status, answer.body) == (200, content), path
            assert answer.headers["Content-Length"] == str(len(content))
    listed = await flat(proxy)
    assert {path: (entry["size"], entry["exact"]) for path, entry in listed.items()} == {
        path: (len(content), True) for path, content in FILES.items()
    }
    assert {entry["packing"] for entry in listed.values()} == {f"tar+{name}"}


async def test_compressed_tar_serves_ranges_cold(
    proxy: Client, upstream: FaultyUpstream, compression: tuple[str, Callable[[bytes], bytes]]
) -> None:
    name, compress = compression
    push(upstream, layer(None, compress(tar_archive(FILES)), packing=f"tar+{name}"))
    content = FILES["sub/weights.bin"]
    target = files_target("sub/weights.bin")
    for wanted, expected in (
        ("bytes=-7", content[-7:]),
        ("bytes=0-9", content[:10]),
        ("bytes=1000000-1000009", content[1_000_000:1_000_010]),
        ("bytes=2000000-", content[2_000_000:]),
    ):
        answer = await proxy.get(target, Range=wanted)
        assert (answer.status, answer.body) == (206, expected), wanted
    etag = (await proxy.head(target)).headers["ETag"]
    assert (await proxy.get(target, If_None_Match=etag)).status == 304


async def test_compressed_raw_file_goes_out_at_once_and_has_its_size_later(
    proxy: Client, upstream: FaultyUpstream, compression: tuple[str, Callable[[bytes], bytes]]
) -> None:
    name, compress = compression
    content = _noise(700_000) + b"tail" * 10
    push(upstream, layer("w.bin", compress(content), packing=f"raw+{name}"))
    listed = (await flat(proxy))["w.bin"]
    assert (listed["size"], listed["exact"]) == (None, False)
    target = files_target("w.bin")
    for asked in ({}, {"Range": "bytes=0-0"}):  # not worth reading a layer through
        head = await proxy.head(target, **asked)
        assert head.status == 200
        assert "Content-Length" not in head.headers
    cold = await proxy.get(target)
    assert (cold.status, cold.body) == (200, content)
    part = await proxy.get(target, Range="bytes=-8")
    assert (part.status, part.body) == (206, b"tailtail")
    assert part.headers["ETag"] == cold.headers["ETag"]
    warm = await proxy.head(target)
    assert warm.headers["Content-Length"] == str(len(content))
    listed = (await flat(proxy))["w.bin"]
    assert (listed["size"], listed["exact"]) == (len(content), True)


@pytest.mark.parametrize(
    ("declared", "made", "found"),
    [
        ("tar", lambda tar: gzip.compress(tar), "tar+gzip"),
        ("tar", lambda tar: zstandard.ZstdCompressor().compress(tar), "tar+zstd"),
        ("tar+gzip", lambda tar: tar, "tar"),
        ("tar+gzip", lambda tar: zstandard.ZstdCompressor().compress(tar), "tar+zstd"),
        ("tar+zstd", lambda tar: gzip.compress(tar), "tar+gzip"),
        ("raw+gzip", lambda tar: gzip.compress(tar), "tar+gzip"),
    ],
)
async def test_media_type_that_lies_is_warned_of_and_opened(
    proxy: Client,
    upstream: FaultyUpstream,
    declared: str,
    made: Callable[[bytes], bytes],
    found: str,
) -> None:
    push(upstream, layer(None, made(tar_archive({"a": b"1", "b": b"2"})), packing=declared))
    assert (await proxy.get(files_target("b"))).body == b"2"
    listed = await flat(proxy)
    assert {path: entry["packing"] for path, entry in listed.items()} == {"a": found, "b": found}
    assert listed["a"]["warnings"] == [f"the layer's type says {declared}, its content is {found}"]


async def test_tar_that_is_none_is_one_raw_file(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, layer("w.bin", b"no archive", packing="tar"))
    assert (await proxy.get(files_target("w.bin"))).body == b"no archive"
    listed = (await flat(proxy))["w.bin"]
    assert listed["packing"] == "raw"
    assert listed["warnings"] == ["the layer's type says tar, its content is raw"]


async def test_F9_parallel_tails_of_a_compressed_file_cost_one_pass(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    content = _noise(MIB) * 64
    blob = gzip.compress(tar_of(tar_entry(b"w.bin", content)), 1)
    push(upstream, layer(None, blob, packing="tar+gzip"))
    before = upstream.sent
    answers = await asyncio.gather(
        *(proxy.get(files_target("w.bin"), Range="bytes=-16") for _ in range(50))
    )
    assert {(answer.status, answer.body) for answer in answers} == {(206, content[-16:])}
    # One pass; besides it each reads from the nearest place, 4 MiB before at most.
    assert upstream.sent - before < len(blob) + 50 * 6 * MIB
    assert len(upstream.requests(r"GET .*/blobs/.*")) < 110
    before = upstream.sent
    answer = await proxy.get(files_target("w.bin"), Range="bytes=1000000-1000015")
    assert answer.body == content[1_000_000:1_000_016]
    assert upstream.sent - before < 8 * MIB


async def test_scan_goes_on_where_a_leaving_client_left_it(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    content = _noise(48 * MIB)
    blob = gzip.compress(tar_of(tar_entry(b"w.bin", content), tar_entry(b"last", b"end")), 1)
    push(upstream, layer(None, blob, packing="tar+gzip"))
    assert (await proxy.get(files_target("w.bin"), Range="bytes=0-0")).status == 206
    upstream.faults.append(Fault(match=r"GET .*/blobs/", stall_at=36 * MIB, times=1))
    before = upstream.sent
    leaving = spawn(proxy.get(files_target("last")), name="leaving")
    while upstream.sent < before + 36 * MIB:  # noqa: ASYNC110 - a count has no event
        await asyncio.sleep(0.01)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    before = upstream.sent
    upstream.faults.clear()
    assert (await proxy.get(files_target("last"))).body == b"end"
    assert upstream.sent - before < 28 * MIB


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor().compress])
async def test_truncated_compressed_tar_keeps_what_came_before(
    proxy: Client, upstream: FaultyUpstream, compress: Callable[[bytes], bytes]
) -> None:
    archive = tar_of(tar_entry(b"good", b"1"), tar_entry(b"big", _noise(MIB)), tar_entry(b"z", b""))
    name = "gzip" if compress is gzip.compress else "zstd"
    blob = compress(archive)
    push(upstream, layer(None, blob[: len(blob) // 2], packing=f"tar+{name}"))
    listed = await flat(proxy)
    assert "good" in listed
    broken = [path for path, entry in listed.items() if entry["path"].startswith("weight/")]
    assert len(broken) == 1
    assert listed[broken[0]]["warnings"]
    assert (await proxy.get(files_target("good"))).body == b"1"
    assert_error(await proxy.get(files_target(broken[0])), 422, "MANIFEST_INVALID")


async def test_F1_bombs_are_bounded_and_refused(proxy: Client, upstream: FaultyUpstream) -> None:
    plain = bytes(512) * 1024
    packer = zstandard.ZstdCompressor().compressobj()
    bombs = {}
    compressor = gzip.GzipFile(fileobj=(raw := io.BytesIO()), mode="wb", compresslevel=9, mtime=0)
    parts = []
    for _ in range(2048):
        compressor.write(plain)
        parts.append(packer.compress(plain))
    compressor.close()
    bombs["gzip"] = raw.getvalue()
    bombs["zstd"] = b"".join(parts) + packer.flush()
    for name, blob in bombs.items():
        push(upstream, layer("w.bin", blob, packing=f"raw+{name}"))
        started = time.monotonic()
        answer = await proxy.get(files_target("w.bin"), Range="bytes=-1")
        assert time.monotonic() - started < 5
        assert_error(answer, 413, "SIZE_INVALID")


async def test_A3_index_of_a_verified_blob_is_shared_but_only_where_the_blob_is(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    packed = layer(None, gzip.compress(tar_archive(FILES), 1), packing="tar+gzip")
    push(upstream, packed)
    push(upstream, packed, repository="other/model")
    push(upstream, packed, repository="denied/model")
    assert set(await flat(proxy)) == set(FILES)
    before = upstream.sent
    assert set(await flat(proxy, "/cnai/other/model:v1")) == set(FILES)
    assert upstream.sent - before < 64 * 1024
    assert upstream.requests(r"GET /v2/other/model/blobs/")
    # A repository that names the blob without holding it learns nothing of it.
    upstream.faults.append(Fault(match=r"/denied/model/blobs/", status=404))
    listed = await flat(proxy, "/cnai/denied/model:v1")
    assert set(listed).isdisjoint(FILES)
    assert_error(
        await proxy.get(files_target("config.json", reference="/cnai/denied/model:v1")),
        404,
        "BLOB_UNKNOWN",
    )


@pytest.mark.parametrize("packing", ["raw+gzip", "tar+gzip"])
async def test_layer_that_is_not_its_digest_is_never_a_whole_answer(
    proxy: Client, upstream: FaultyUpstream, packing: str
) -> None:
    plain = _noise(MIB) if packing == "raw+gzip" else tar_archive({"w.bin": b"forged"})
    good = gzip.compress(plain, 1)
    packed = layer("w.bin" if packing == "raw+gzip" else None, good, packing=packing)
    push(upstream, packed)
    upstream.blobs[str(packed.descriptor.digest)] = gzip.compress(plain, 1, mtime=7)  # same length
    target = files_target("w.bin")
    if packing == "raw+gzip":
        with pytest.raises(aiohttp.ClientError):  # cut, not ended
            await proxy.get(target)
    else:
        listed = await flat(proxy)
        assert any("expected the content of" in str(e.get("warnings")) for e in listed.values())
    assert_error(await proxy.get(target), 422, "MANIFEST_INVALID")


async def test_many_globs_over_many_paths_are_refused(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    files = {f"{number:04}/{'x' * 80}": b"" for number in range(5_000)}
    push(upstream, layer(None, tar_archive(files), packing="tar"))
    glob = "include=" + "*" + "%5Ba-z%5D" * 100 + "b"
    answer = await proxy.get(f"{REF}/files?{glob}&{glob}&{glob}")
    assert_error(answer, 413, "SIZE_INVALID")


async def test_warm_plain_tar_costs_the_file_alone(proxy: Client, upstream: FaultyUpstream) -> None:
    files = {f"d/{number:04}.json": b"x" * 700 for number in range(2_000)}
    push(upstream, layer(None, tar_archive(files), packing="tar"))
    assert set(await flat(proxy)) == set(files)
    before = upstream.sent
    assert (await proxy.get(files_target("d/1500.json"))).body == b"x" * 700
    assert upstream.sent - before < 4 * 1024


async def test_layer_over_the_scan_limit_is_flagged_and_its_files_still_open(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(models__scan_bytes=1000)
    push(upstream, layer(None, gzip.compress(tar_archive(FILES), 1), packing="tar+gzip"))
    (flagged,) = (await flat(proxy)).values()
    assert "at most 1000 bytes" in flagged["warnings"][0]
    assert (await proxy.get(files_target("tokenizer.json"))).body == FILES["tokenizer.json"]


async def _begun(proxy: Client, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A GET whose answer has begun and is not read on."""
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=64 * 1024)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    return b"".join(parts)


async def test_reader_who_lost_the_lead_still_gets_every_byte(
    proxy: Client, upstream: FaultyUpstream, compression: tuple[str, Callable[[bytes], bytes]]
) -> None:
    name, compress = compression
    content = _noise(24 * MIB)
    push(upstream, layer("w.bin", compress(content), packing=f"raw+{name}"))
    reader, writer = await _begun(proxy, files_target("w.bin"))
    try:
        # Another one takes the lead from who does not read, and comes to the end before.
        tail = await proxy.get(files_target("w.bin"), Range="bytes=-8")
        assert (tail.status, tail.body) == (206, content[-8:])
        async with asyncio.timeout(20):
            assert await _chunked(reader) == content
    finally:
        writer.close()


async def test_wrong_bytes_of_one_upstream_harm_no_other(
    start_proxy: StartProxy, upstream: FaultyUpstream, other: FaultyUpstream
) -> None:
    proxy = await start_proxy(
        upstream__prefix="a",
        upstreams__1__name="b",
        upstreams__1__url=other.url,
        upstreams__1__prefix="b",
    )
    files = {"a.bin": _noise(6 * MIB), "b.bin": _noise(6 * MIB, seed=2)}
    packed = layer(None, gzip.compress(tar_archive(files), 1), packing="tar+gzip")
    size = packed.descriptor.size
    wrong = {"a.bin": bytes(6 * MIB), "b.bin": _noise(6 * MIB - 1, seed=3) + b"x"}
    push(upstream, packed)
    push(other, packed)
    forged = gzip.compress(tar_archive(wrong), 1)
    other.blobs[str(packed.descriptor.digest)] = forged + bytes(size - len(forged))
    assert (await proxy.get("/cnai/a/team/model:v1/files")).status == 200
    await proxy.get(files_target("b.bin", reference="/cnai/b/team/model:v1"))
    for path, content in files.items():
        answer = await proxy.get(files_target(path, reference="/cnai/a/team/model:v1"))
        assert (answer.status, answer.body) == (200, content), path


@pytest.mark.parametrize("first", ["typed", "untyped"])
async def test_one_blob_of_two_types_is_read_as_each_manifest_says(
    proxy: Client, upstream: FaultyUpstream, first: str
) -> None:
    content = _noise(1000)
    blob = gzip.compress(content)
    push(upstream, layer("w.bin", blob, packing="raw+gzip"), tag="typed")
    entries = [
        {
            "mediaType": "application/octet-stream",
            "digest": upstream.blob(blob),
            "size": len(blob),
            "annotations": {"org.opencontainers.image.title": "w.gguf.gz"},
        },
        {
            "mediaType": "application/octet-stream",
            "digest": upstream.blob(b"w"),
            "size": 1,
            "annotations": {"org.opencontainers.image.title": "w.gguf"},
        },
    ]
    document: dict[str, object] = {"artifactType": "application/x-some", "layers": entries}
    upstream.manifest("team/model", "untyped", document, OCI_MANIFEST)
    expected = {"typed": ("w.bin", content), "untyped": ("w.gguf.gz", blob)}
    for tag in sorted(expected, key=lambda tag: tag != first):
        path, body = expected[tag]
        answer = await proxy.get(files_target(path, reference=f"/cnai/team/model:{tag}"))
        assert (answer.status, answer.body) == (200, body), tag


async def test_silent_upstream_is_waited_for_once_however_many_wait(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(upstream__timeouts__idle_seconds=1)
    blob = gzip.compress(_noise(MIB), 1)
    push(upstream, layer("w.bin", blob, packing="raw+gzip"))
    await flat(proxy)
    upstream.faults.append(Fault(match=r"GET .*/blobs/", stall_at=300_000))
    started = time.monotonic()
    answers = await asyncio.gather(
        *(proxy.get(files_target("w.bin"), Range="bytes=-8") for _ in range(6))
    )
    assert {answer.status for answer in answers} == {504}
    assert time.monotonic() - started < 4


async def test_directory_written_once_is_not_multiplied_by_its_files(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    path = "/".join(["d" * 250] * 16)
    archive = tar_of(*(tar_entry(b"%d" % number) for number in range(20_000)))
    packed = layer(path, gzip.compress(archive), packing="tar+gzip")
    push(upstream, packed, layer("w.bin", b"w"))
    listed = await flat(proxy)
    assert len(listed) == 2
    assert any("characters together" in str(entry.get("warnings")) for entry in listed.values())
    assert (await proxy.get(files_target("w.bin"))).body == b"w"


async def test_archive_of_many_layers_looks_into_each_once(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    shared = [gzip.compress(tar_archive({"x": bytes([number])})) for number in range(4)]
    layers = [layer(f"f{at}", shared[at % 4], packing="tar+gzip") for at in range(4_000)]
    push(upstream, *layers)
    started = time.monotonic()
    answer = await proxy.head(f"{REF}/archive.tar")
    assert answer.status == 200
    assert time.monotonic() - started < 10


# Filters and archives ----------------------------------------------------------------------------


async def test_files_are_filtered_as_gitignore_does(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, layer(None, tar_archive(FILES), packing="tar"))
    for query, expected in (
        ("include=*.json", {"config.json", "tokenizer.json"}),
        ("exclude=*.json&exclude=empty", {"sub/weights.bin"}),
        ("include=sub/", {"sub/weights.bin"}),
        ("include=**/*.bin&exclude=/sub", set()),
    ):
        answer = await proxy.get(f"{REF}/files?flat=1&{query}")
        assert {entry["path"] for entry in answer.json} == expected, query
    nested = (await proxy.get(f"{REF}/files?include=sub")).json
    assert [entry["name"] for entry in nested] == ["sub"]
    assert_error(await proxy.get(f"{REF}/files?include=[a"), 400, "UNSUPPORTED")


@pytest.mark.parametrize("packing", ["tar", "tar+gzip", "tar+zstd", "raw"])
async def test_archive_holds_the_selected_files(
    proxy: Client, upstream: FaultyUpstream, packing: str
) -> None:
    archive = tar_archive(FILES)
    if packing == "raw":
        layers = [layer(path, content) for path, content in FILES.items()]
    else:
        name = packing.partition("+")[2]
        blob = COMPRESSIONS[name][1](archive) if name else archive
        layers = [layer(None, blob, packing=packing), layer("extra.txt", b"more")]
    push(upstream, *layers)
    expected = FILES if packing == "raw" else {**FILES, "extra.txt": b"more"}
    answer = await proxy.get(f"{REF}/archive.tar")
    assert answer.status == 200
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        found = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}
    assert found == expected
    answer = await proxy.get(f"{REF}/archive.zip?exclude=*.bin")
    assert answer.headers["Content-Length"] == str(len(answer.body))
    with zipfile.ZipFile(io.BytesIO(answer.body)) as packed:
        assert packed.testzip() is None
        assert {name: packed.read(name) for name in packed.namelist()} == {
            path: content for path, content in expected.items() if not path.endswith(".bin")
        }


async def test_archive_of_nothing_or_of_what_cannot_open_is_refused(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    archive = tar_of(tar_entry(b"a", b"1"), tar_entry(b"link", flag=b"2"))
    push(upstream, layer(None, archive, packing="tar"))
    assert_error(await proxy.get(f"{REF}/archive.tar?include=nothing"), 404, "BLOB_UNKNOWN")
    answer = await proxy.get(f"{REF}/archive.zip")
    assert_error(answer, 422, "MANIFEST_INVALID")
    assert "?exclude=/link" in answer.message
    assert (await proxy.get(f"{REF}/archive.zip?exclude=/link")).status == 200


async def test_archive_reads_what_hard_links_share_once(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    archive = tar_of(
        tar_entry(b"pad", _noise(12 * MIB)),
        tar_entry(b"file", b"x" * 1000),
        *(tar_header(b"link%d" % number, flag=b"1", target=b"file") for number in range(200)),
    )
    push(upstream, layer(None, gzip.compress(archive, 1), packing="tar+gzip"))
    assert len(await flat(proxy)) == 202
    before = upstream.sent
    answer = await proxy.get(f"{REF}/archive.tar?exclude=pad")
    assert upstream.sent - before < 32 * MIB
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as tar:
        found = {(tar.extractfile(m) or io.BytesIO()).read() for m in tar.getmembers()}
        assert len(tar.getmembers()) == 201
    assert found == {b"x" * 1000}


# Indexes -----------------------------------------------------------------------------------------


def _index(upstream: FaultyUpstream, *children: dict[str, object], tag: str = "v1") -> str:
    document: dict[str, object] = {"mediaType": OCI_INDEX, "manifests": list(children)}
    return upstream.manifest("team/model", tag, document, OCI_INDEX)


def _child(upstream: FaultyUpstream, content: bytes, **members: object) -> dict[str, object]:
    digest = push(upstream, layer("w.bin", content), tag="child")
    return {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, **members}


async def test_index_of_one_model_is_that_model(proxy: Client, upstream: FaultyUpstream) -> None:
    child = _child(upstream, b"only")
    digest = _index(upstream, child)
    record = (await proxy.get(REF)).json
    assert (record["digest"], record["index"]) == (child["digest"], digest)
    assert (await proxy.get(files_target("w.bin"))).body == b"only"
    assert set(await flat(proxy)) == {"w.bin"}


async def test_index_of_platforms_is_chosen_from(proxy: Client, upstream: FaultyUpstream) -> None:
    _index(
        upstream,
        _child(upstream, b"arm", platform={"os": "linux", "architecture": "arm64"}),
        _child(upstream, b"amd", platform={"os": "linux", "architecture": "amd64"}),
    )
    target = files_target("w.bin")
    assert (await proxy.get(target)).body == b"amd"
    assert (await proxy.get(f"{target}?platform=linux/arm64")).body == b"arm"
    assert_error(await proxy.get(f"{target}?platform=linux/s390x"), 404, "MANIFEST_UNKNOWN")
    assert_error(await proxy.get(f"{target}?platform=linux"), 400, "UNSUPPORTED")


async def test_set_of_models_is_listed_and_chosen_from(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    small = _child(upstream, b"q4", modelMetadata={"bits": 4})
    large = _child(upstream, b"q8", modelMetadata={"bits": 8})
    _index(upstream, small, large)
    record = (await proxy.get(REF)).json
    assert record["family"] is None
    assert [one["metadata"] for one in record["variants"]] == [{"bits": 4}, {"bits": 8}]
    target = files_target("w.bin")
    answer = await proxy.get(target)
    assert_error(answer, 404, "MANIFEST_UNKNOWN")
    assert len(answer.json["errors"][0]["detail"]["variants"]) == 2
    assert (await proxy.get(f"{target}?variant={large['digest']}")).body == b"q8"
    assert (await proxy.get(f"{REF}?variant={small['digest']}")).json["digest"] == small["digest"]
    assert_error(await proxy.get(f"{target}?variant=sha256:0"), 404, "MANIFEST_UNKNOWN")


async def test_F10_deep_index_is_refused(proxy: Client, upstream: FaultyUpstream) -> None:
    entry = _child(upstream, b"deep")
    for depth in range(5):
        digest = _index(upstream, entry, tag="v1" if depth == 4 else f"deep{depth}")
        entry = {"mediaType": OCI_INDEX, "digest": digest, "size": 1}
    assert_error(await proxy.get(REF), 422, "MANIFEST_INVALID")
    assert (await proxy.get("/cnai/team/model:deep3/files/w.bin")).body == b"deep"
    _index(upstream)
    assert_error(await proxy.get(REF), 404, "MANIFEST_UNKNOWN")


# Declared families -------------------------------------------------------------------------------


async def test_made_up_family_and_layer_type_by_settings_alone(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    family = {
        "name": "acme",
        "artifact_types": ["application/vnd.acme.model.v*"],
        "layers": [
            {
                "media_type": "application/vnd.acme.brain.*",
                "file_class": "weight",
                "packing": "type",
            }
        ],
        "path_annotations": ["com.acme.path"],
    }
    proxy = await start_proxy(models__families=[family])
    blob = gzip.compress(tar_archive(FILES), 1)
    entries = [
        {
            "mediaType": "application/vnd.acme.brain.v1.tar+gzip",
            "digest": upstream.blob(blob),
            "size": len(blob),
        },
        {
            "mediaType": "application/vnd.acme.brain.v1.raw",
            "digest": upstream.blob(b"thought"),
            "size": 7,
            "annotations": {"com.acme.path": "mind/thought.bin"},
        },
    ]
    document: dict[str, object] = {
        "schemaVersion": 2,
        "artifactType": "application/vnd.acme.model.v7",
        "layers": entries,
    }
    upstream.manifest("team/model", "v1", document, OCI_MANIFEST)
    assert (await proxy.get(REF)).json["family"] == "acme"
    listed = await flat(proxy)
    assert set(listed) == {*FILES, "mind/thought.bin"}
    assert listed["mind/thought.bin"]["class"] == "weight"
    for path, content in {**FILES, "mind/thought.bin": b"thought"}.items():
        assert (await proxy.get(files_target(path))).body == content
