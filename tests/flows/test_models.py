"""Models through /cnai/: records, trees, documents, single files, and upstreams that lie."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from proxy.content import layers, models
from proxy.content.blobs import BlobPart, Blobs
from proxy.content.indexes import Indexes
from proxy.content.layers import Layers
from proxy.content.manifests import Manifests, StoredManifest
from proxy.content.models import Models
from proxy.errors import SizeInvalid
from proxy.oci.byterange import ByteRange
from proxy.oci.digest import Digest
from proxy.oci.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from proxy.oci.reference import Reference, RepositoryName
from proxy.upstream.identity import Caller
from tests.build import (
    Generation,
    descriptor,
    file_annotations,
    layer_type,
    manifest_bytes,
    tar_archive,
    tar_entry,
    tar_header,
    tar_of,
)
from tests.faulty_upstream import Fault, FaultyUpstream
from tests.flows.conftest import StartProxy
from tests.flows.http import Answer, Client
from tests.flows.pushing import (
    CONFIG,
    GENERATIONS,
    LARGE,
    LICENSE,
    README,
    RECORD,
    REF,
    WEIGHTS,
    Layer,
    assert_error,
    files_target,
    flat,
    layer,
    missing,
    push,
    tar_layer,
    usual,
)

# Record, listing, documents ----------------------------------------------------------------------


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_record_tells_the_model(
    proxy: Client, upstream: FaultyUpstream, generation: Generation
) -> None:
    layers = usual(generation)
    digest = push(upstream, *layers, generation=generation)
    answer = await proxy.get(REF)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    record = answer.json
    expected = {
        "schema": 1,
        "repository": "team/model",
        "tag": "v1",
        "digest": digest,
        "mediaType": OCI_MANIFEST,
        "artifactType": f"application/vnd.{generation}.model.manifest.v1+json",
        "family": "modelpack" if generation == "cncf" else "cnai",
        "name": "tiny",
        "architecture": "transformer",
        "format": "safetensors",
        "parameters": 8_000_000_000,
        "licenses": ["Apache-2.0"],
        "created": "2025-01-02T03:04:05Z",
        "warnings": [],
        "config": RECORD,
    }
    assert {key: record[key] for key in expected} == expected
    sizes = [each.descriptor.size for each in layers]
    assert record["size"] == sum(sizes) + len(json.dumps(RECORD))
    assert [entry["path"] for entry in record["layers"]] == [
        "model.safetensors", "config.json", "README.md", "papers",
    ]  # fmt: skip
    assert [entry["packing"] for entry in record["layers"]] == ["raw", "raw", "tar", "tar"]
    assert [entry["class"] for entry in record["layers"]] == ["weight", "config", "doc", "doc"]
    assert "readme" in record["additions"]


async def test_record_names_tag_and_digest_as_asked(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = push(upstream, *usual())
    hex_digits = digest.removeprefix("sha256:")
    for target, tag in (
        ("team/model:v1", "v1"),
        ("team/model%3Av1", "v1"),
        ("team/model%3av1", "v1"),
        ("team%2Fmodel:v1", "v1"),
        ("team%2fmodel%3av1", "v1"),
        ("team/model:v1/", "v1"),
        (f"team/model@{digest}", None),
        (f"team/model%40{digest}", None),
        (f"team/model@sha256%3A{hex_digits}", None),
        (f"team%2Fmodel%40sha256%3a{hex_digits}", None),
        (f"team/model:gone@{digest}", "gone"),
        (f"team/model%3Agone%40sha256%3A{hex_digits}", "gone"),
    ):
        answer = await proxy.get(f"/cnai/{target}")
        assert answer.status == 200, target
        assert (answer.json["tag"], answer.json["digest"]) == (tag, digest), target
        assert (await proxy.get(f"/cnai/{target.rstrip('/')}/readme")).body == README, target
    assert {seen.target for seen in upstream.requests("manifests")} == {
        "/v2/team/model/manifests/v1", f"/v2/team/model/manifests/{digest}",
    }  # fmt: skip


async def test_listing_is_a_tree_and_flat_on_request(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    layers = usual()
    push(upstream, *layers)
    answer = await proxy.get(f"{REF}/files")
    assert answer.headers["Content-Type"].startswith("application/json")
    nested = answer.json
    assert [(entry["name"], entry["type"]) for entry in nested] == [
        ("papers", "directory"),
        ("README.md", "file"),
        ("config.json", "file"),
        ("model.safetensors", "file"),
    ]
    papers = nested[0]
    assert set(papers) == {"name", "type", "size", "children"}
    assert papers["size"] is None
    assert [entry["name"] for entry in papers["children"]] == ["guide", "LICENSE"]
    listed = await flat(proxy)
    assert {path: entry["size"] for path, entry in listed.items()} == {
        "README.md": len(README),
        "config.json": len(CONFIG),
        "papers/LICENSE": len(LICENSE),
        "papers/guide/empty": 0,
        "papers/guide/use.md": 4,
        "model.safetensors": len(WEIGHTS),
    }
    assert all(entry["exact"] for entry in listed.values())
    assert listed["model.safetensors"] == {
        "name": "model.safetensors",
        "type": "file",
        "size": len(WEIGHTS),
        "path": "model.safetensors",
        "digest": str(layers[0].descriptor.digest),
        "class": "weight",
        "packing": "raw",
        "exact": True,
        "sha256": layers[0].descriptor.digest.hex,
    }
    assert listed["README.md"]["digest"] == str(layers[2].descriptor.digest)
    assert listed["README.md"]["sha256"] is None


@pytest.mark.parametrize(
    ("types", "annotations"), [("cncf", "cnai"), ("cnai", "cncf"), ("cncf", "cncf")]
)
async def test_generations_may_be_mixed(
    proxy: Client, upstream: FaultyUpstream, types: Generation, annotations: Generation
) -> None:
    push(
        upstream,
        layer("a/w.bin", WEIGHTS, generation=types, annotated=annotations),
        layer("README.md", README, token="doc", generation="cnai", annotated="cncf"),
        generation=types,
    )
    assert set(await flat(proxy)) == {"a/w.bin", "README.md"}
    assert (await proxy.get(f"{REF}/files/a/w.bin")).body == WEIGHTS
    assert (await proxy.get(f"{REF}/readme")).body == README


async def test_directory_is_its_subtree(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    for target in (f"{REF}/files/papers", f"{REF}/files/papers/"):
        answer = await proxy.get(target)
        assert answer.status == 200
        assert [entry["name"] for entry in answer.json] == ["guide", "LICENSE"]
        assert [entry["path"] for entry in answer.json[0]["children"]] == [
            "papers/guide/empty", "papers/guide/use.md",
        ]  # fmt: skip
    assert (await proxy.get(f"{REF}/files/")).json == (await proxy.get(f"{REF}/files")).json


async def test_every_listed_file_opens_by_get_and_head(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    contents = {
        "README.md": README,
        "config.json": CONFIG,
        "papers/LICENSE": LICENSE,
        "papers/guide/empty": b"",
        "papers/guide/use.md": b"use\n",
        "model.safetensors": WEIGHTS,
    }
    for path, content in contents.items():
        got, headed = await proxy.get(files_target(path)), await proxy.head(files_target(path))
        assert (got.status, got.body) == (200, content), path
        assert (headed.status, headed.body) == (200, b""), path
        assert _compared(headed) == _compared(got), path
        assert got.headers["Content-Length"] == str(len(content))
        assert got.headers["Accept-Ranges"] == "bytes"


def _compared(answer: Answer) -> dict[str, list[str]]:
    names = {name.lower() for name in answer.headers} - {"date", "x-request-id"}
    return {name: answer.headers.getall(name) for name in names}


async def test_head_is_get_without_a_body_on_every_view(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    for view in ("", "/files", "/files?flat=1", "/files/papers", "/readme", "/license", "/nothing"):
        got, headed = await proxy.get(REF + view), await proxy.head(REF + view)
        assert (headed.status, headed.body) == (got.status, b""), view
        assert _compared(headed) == _compared(got), view


async def test_model_without_layers_is_empty(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream)
    assert (await proxy.get(REF)).status == 200
    assert (await proxy.get(f"{REF}/files")).json == []
    assert (await proxy.get(f"{REF}/files?flat=1")).json == []
    assert_error(await proxy.get(f"{REF}/readme"), 404, "BLOB_UNKNOWN")


async def test_archive_without_files_lists_nothing(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, layer("papers", tar_of(), token="doc", packing="tar"), layer("w.bin", WEIGHTS))
    assert set(await flat(proxy)) == {"w.bin"}


@pytest.mark.parametrize(
    ("made", "expected", "content_type"),
    [
        ([layer("README.md", README, token="doc")], README, "text/markdown; charset=utf-8"),
        ([tar_layer("README.md", {"README.md": README})], README, "text/markdown; charset=utf-8"),
        ([tar_layer("README.md", {"x/y": README})], README, "text/markdown; charset=utf-8"),
        ([layer("readme.MD", README, token="doc")], README, "text/markdown; charset=utf-8"),
        ([layer("readme", README, token="doc")], README, "text/plain; charset=utf-8"),
        ([layer("README.rst", README, token="doc")], README, "text/plain; charset=utf-8"),
        ([layer("sub/dir/ReadMe.md", README, token="doc")], README, "text/markdown; charset=utf-8"),
        ([tar_layer("docs", {"README.md": README})], README, "text/markdown; charset=utf-8"),
        ([tar_layer(None, {"a/README.md": README})], README, "text/markdown; charset=utf-8"),
        # Packers mislabel: what a file is called counts.
        ([layer("README.md", README, token="code")], README, "text/markdown; charset=utf-8"),
        (
            [
                layer("a/README.md", b"deeper", token="doc"),
                layer("README.txt", README, token="doc"),
            ],
            README,
            "text/plain; charset=utf-8",
        ),
    ],
)
async def test_readme_is_found(
    proxy: Client,
    upstream: FaultyUpstream,
    made: list[Layer],
    expected: bytes,
    content_type: str,
) -> None:
    push(upstream, layer("w.bin", WEIGHTS), *made)
    answer = await proxy.get(f"{REF}/readme")
    assert (answer.status, answer.body) == (200, expected)
    assert answer.headers["Content-Type"] == content_type
    assert_content_is_safe(answer)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("LICENSE", "text/plain; charset=utf-8"),
        ("LICENSE.md", "text/markdown; charset=utf-8"),
        ("license.txt", "text/plain; charset=utf-8"),
        ("LICENCE", "text/plain; charset=utf-8"),
        ("COPYING", "text/plain; charset=utf-8"),
        ("legal/LICENSE", "text/plain; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("packing", ["raw", "tar"])
async def test_license_is_found(
    proxy: Client, upstream: FaultyUpstream, path: str, content_type: str, packing: str
) -> None:
    if packing == "raw":
        found = layer(path, LICENSE, token="doc")
    else:
        found = tar_layer(None, {path: LICENSE})
    push(upstream, layer("license.py", b"print()", token="code"), found)
    answer = await proxy.get(f"{REF}/license")
    assert (answer.status, answer.body) == (200, LICENSE)
    assert answer.headers["Content-Type"] == content_type


async def test_documents_that_are_not_there_are_404_with_what_is(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, layer("w.bin", WEIGHTS))
    for name in ("readme", "license"):
        answer = await proxy.get(f"{REF}/{name}")
        assert_error(answer, 404, "BLOB_UNKNOWN")
        assert answer.json["errors"][0]["detail"]["files"] == ["w.bin"]


async def test_document_over_its_cap_is_413_and_its_bytes_stay_reachable(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    large = b"#" * (4 * 1024 * 1024 + 1)
    push(upstream, layer("README.md", large, token="doc"))
    answer = await proxy.get(f"{REF}/readme")
    assert_error(answer, 413, "SIZE_INVALID")
    assert "4194304" in answer.message
    assert "4194305" in answer.message
    assert upstream.requests("GET .*/blobs/") == []
    assert (await proxy.get(f"{REF}/files/README.md")).body == large


async def test_documents_answer_ranges_and_conditions(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    whole = await proxy.get(f"{REF}/readme")
    part = await proxy.get(f"{REF}/readme", Range="bytes=2-5")
    assert (part.status, part.body) == (206, README[2:6])
    again = await proxy.get(f"{REF}/readme", If_None_Match=whole.headers["ETag"])
    assert (again.status, again.body) == (304, b"")


async def test_layers_without_annotations_get_names(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    titled = layer(
        None, b"titled", extra={"org.opencontainers.image.title": "titled.bin"}, token="weight"
    )
    nameless = layer(None, b"nameless")
    push(upstream, titled, nameless, tar_layer(None, {"a.md": b"a", "b/c.md": b"c"}))
    listed = await flat(proxy)
    synthetic = f"weight/{nameless.descriptor.digest.short}"
    assert set(listed) == {"titled.bin", synthetic, "a.md", "b/c.md"}
    for path, content in (("titled.bin", b"titled"), (synthetic, b"nameless"), ("b/c.md", b"c")):
        assert (await proxy.get(files_target(path))).body == content


async def test_percent_encoded_paths_are_found(proxy: Client, upstream: FaultyUpstream) -> None:
    names = ("a b.txt", "100%.txt", "ü/ñ.txt", "q?x=1.txt", "semi;colon", "at@colon:x", "#1", "+")
    push(upstream, *(layer(name, name.encode()) for name in names))
    for name in names:
        answer = await proxy.get(files_target(name))
        assert (answer.status, answer.body) == (200, name.encode()), name
    assert (await proxy.get(f"{REF}/files/%C3%BC%2F%C3%B1.txt")).status == 200


# Hostile artifacts -------------------------------------------------------------------------------

HOSTILE_PATHS = [
    "../../x", "/etc/passwd", "a\0b", "a\nb", "a\r\nX-Evil: 1", "a\u202egpj.exe", "x" * 10_000,
    "C:\\w", "\\\\host\\share", "..", "/", ".", ".git/config", "a/../../b", "a\\b/c", "\ud800",
    "y/" * 5_000, "\u2066left", "~", "-rf", "<script>alert(1)</script>", "a\x7fb", "con",
]  # fmt: skip


async def test_E3_hostile_annotations_are_listed_safely_and_open(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *(layer(path, b"%d" % at) for at, path in enumerate(HOSTILE_PATHS)))
    listed = await flat(proxy)
    assert len(listed) == len(HOSTILE_PATHS)
    contents = set()
    for path, entry in listed.items():
        assert_path_is_safe(path)
        answer = await proxy.get(files_target(path))
        assert answer.status == 200, path
        contents.add(answer.body)
        if (written := HOSTILE_PATHS[int(answer.body)]) != "\ud800":
            assert entry.get("rawPath", path) == written
        headed = await proxy.head(files_target(path))
        assert "\n" not in headed.headers["Content-Disposition"]
    assert contents == {b"%d" % at for at in range(len(HOSTILE_PATHS))}
    nested = await proxy.get(f"{REF}/files")
    assert nested.status == 200
    record = (await proxy.get(REF)).json
    for number, path in enumerate(HOSTILE_PATHS):
        if path in ("../../x", "/etc/passwd", "a\0b", "a\u202egpj.exe", "..", "a/../../b"):
            assert any(
                text.startswith(f"layers[{number}]: the path") for text in record["warnings"]
            )
    assert all(len(text) < 1000 for text in record["warnings"])


def assert_path_is_safe(path: str) -> None:
    """Relative, printable, of bounded length, without empty or dot segments."""
    assert not re.search("[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", path)
    assert len(path.encode()) <= 4096
    for segment in path.split("/"):
        assert segment not in ("", ".", "..")
        assert len(segment.encode()) <= 255


async def test_E3_hostile_members_are_listed_safely_and_open(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    names = [
        b"../../x", b"/etc/passwd", b"a\nb", b"C:\\w", b"\\\\host\\share", b"..", b"./ok",
        b"a/../../b", b"\xff\xfe", "a\u202eb".encode(), b".git/config",
    ]  # fmt: skip
    archive = tar_of(*(tar_entry(name, b"%d" % at) for at, name in enumerate(names)))
    push(upstream, layer(None, archive, token="doc", packing="tar"))
    listed = await flat(proxy)
    contents = set()
    for path in listed:
        assert_path_is_safe(path)
        answer = await proxy.get(files_target(path))
        assert answer.status == 200, path
        contents.add(answer.body)
    assert contents == {b"%d" % at for at in range(len(names))}
    assert listed["x"]["rawPath"] == "../../x"
    assert listed["etc/passwd"]["rawPath"] == "/etc/passwd"


@pytest.mark.parametrize(
    "asked",
    [
        "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "a%00b",
        "%2Fetc%2Fpasswd", "a\\..\\b", "%ff%fe", "%", "%zz", "./w.bin", "w.bin/x", "%0d%0aX:1",
        "papers/../w.bin", "x" * 9_000, "W.BIN",
    ],
)  # fmt: skip
async def test_E3_asked_paths_are_only_compared(
    proxy: Client, upstream: FaultyUpstream, asked: str
) -> None:
    push(upstream, layer("w.bin", WEIGHTS), tar_layer("papers", {"a.md": b"a", "b.md": b"b"}))
    answer = await proxy.get(f"{REF}/files/{asked}")
    assert_error(answer, 404, "BLOB_UNKNOWN")
    detail = answer.json["errors"][0]["detail"]
    assert detail == {"files": ["papers/a.md", "papers/b.md", "w.bin"], "count": 3}
    assert len(answer.body) < 4096


@pytest.mark.parametrize(
    "metadata",
    [
        "{", "[]", "null", '"x"', '{"size":-1}', '{"size":"1"}', '{"size":1.5}', '{"size":true}',
        '{"size":1e999}', '{"size":9223372036854775808}', '{"size":NaN}', '{"size":1,"size":2}',
        "[" * 100_000, '{"name":"../../x"}', "\ud800",
    ],
)  # fmt: skip
async def test_D10_wrong_metadata_is_a_warning(
    proxy: Client, upstream: FaultyUpstream, metadata: str
) -> None:
    key = {"org.cncf.model.file.metadata+json": metadata}
    push(
        upstream,
        layer("w.bin", WEIGHTS, extra=key),
        layer("z.bin", gzip.compress(b"content"), packing="raw+gzip", extra=key),
    )
    listed = await flat(proxy)
    assert listed["w.bin"]["size"] == len(WEIGHTS)
    assert listed["w.bin"]["exact"] is True
    assert listed["z.bin"]["size"] is None
    assert listed["z.bin"]["exact"] is False
    assert len((await proxy.get(REF)).json["warnings"]) == 2
    assert (await proxy.get(f"{REF}/files/w.bin")).body == WEIGHTS


@pytest.mark.parametrize(
    "size", ["-1", "1.5", '"1"', "true", "1e2", "9223372036854775808", "null", "[]"]
)
async def test_D10_sizes_that_are_no_count_are_422(
    proxy: Client, upstream: FaultyUpstream, size: str
) -> None:
    blob = {"mediaType": layer_type("weight"), "digest": upstream.blob(b"x"), "size": "SIZE"}
    body = json.dumps({"schemaVersion": 2, "layers": [blob]}).replace('"SIZE"', size).encode()
    upstream.manifest("team/model", "v1", body, OCI_MANIFEST)
    for view in ("", "/files", "/readme", "/files/x"):
        answer = await proxy.get(REF + view)
        assert_error(answer, 422, "MANIFEST_INVALID")
        assert "$.layers[0].size" in answer.message


@pytest.mark.parametrize("packing", ["raw", "tar"])
@pytest.mark.parametrize("factor", [0.5, 4])
@pytest.mark.parametrize("ignore_range", [False, True])
async def test_D10_blob_of_another_length_than_its_descriptor_is_422(
    proxy: Client, upstream: FaultyUpstream, packing: str, factor: float, *, ignore_range: bool
) -> None:
    content = WEIGHTS if packing == "raw" else tar_archive({"w.bin": WEIGHTS})
    lying = layer("w.bin", content, packing=packing, size=int(len(content) * factor))
    push(upstream, lying, layer("fine.md", README, token="doc"))
    if ignore_range:
        upstream.faults.append(Fault(ignore_range=True))
    assert_error(await proxy.get(f"{REF}/files/w.bin"), 422, "MANIFEST_INVALID")
    assert (await proxy.get(f"{REF}/files/fine.md")).body == README
    assert set(await flat(proxy)) == {"w.bin", "fine.md"}


async def test_D10_config_of_another_length_is_a_warning(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    text = json.dumps(RECORD).encode()
    for size in (len(text) - 1, len(text) + 1):
        config = descriptor("application/vnd.cncf.model.config.v1+json", text)
        lying = Descriptor(config.media_type, config.digest, size, {})
        upstream.blob(text)
        upstream.manifest("team/model", "v1", manifest_bytes([], config=lying), OCI_MANIFEST)
        record = (await proxy.get(REF)).json
        assert record["config"] is None
        assert any("descriptor says" in text for text in record["warnings"])


@pytest.mark.parametrize("config", [b"[]", b"{", b"\xff", b'{"a":1,"a":2}', b"null", b"[" * 5000])
async def test_config_that_cannot_be_read_is_a_warning(
    proxy: Client, upstream: FaultyUpstream, config: bytes
) -> None:
    push(upstream, layer("w.bin", WEIGHTS), config=config)
    record = (await proxy.get(REF)).json
    assert record["config"] is None
    assert len(record["warnings"]) == 1
    assert record["layers"][0]["path"] == "w.bin"


async def test_config_over_4_mib_is_a_warning_and_not_fetched(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    limit = 4 * 1024 * 1024
    config = b'{"a":"' + b"x" * (limit - 8) + b'"}'
    push(upstream, layer("w.bin", WEIGHTS), config=config)
    record = (await proxy.get(REF)).json
    assert (len(record["config"]["a"]), record["warnings"]) == (limit - 8, [])
    before = len(upstream.requests("GET .*/blobs/"))
    push(upstream, layer("w.bin", WEIGHTS), config=config + b" ")
    record = (await proxy.get(REF)).json
    assert record["config"] is None
    assert record["warnings"] == ["the config has 4194305 bytes, more than 4194304"]
    assert len(upstream.requests("GET .*/blobs/")) == before


async def test_config_that_is_missing_is_a_warning(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, layer("w.bin", WEIGHTS))
    upstream.blobs = {
        digest: content for digest, content in upstream.blobs.items() if content == WEIGHTS
    }
    record = (await proxy.get(REF)).json
    assert record["config"] is None
    assert any(text.startswith("config: ") for text in record["warnings"])


async def test_E7_duplicates_and_conflicts_never_fail_the_listing(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(
        upstream,
        layer("twice", b"first"),
        layer("twice", b"second"),
        layer("same", b"same"),
        layer("same", b"same"),
        layer("node", b"a file"),
        layer("node/below", b"below"),
        layer("case.md", b"lower", token="doc"),
        layer("CASE.md", b"upper", token="doc"),
    )
    listed = await flat(proxy)
    assert set(listed) == {"twice", "same", "node~file", "node/below", "case.md", "CASE.md"}
    for path, content in (
        ("twice", b"second"),
        ("same", b"same"),
        ("node~file", b"a file"),
        ("node/below", b"below"),
        ("case.md", b"lower"),
        ("CASE.md", b"upper"),
    ):
        assert (await proxy.get(files_target(path))).body == content, path
    assert {path: entry["warnings"] for path, entry in listed.items() if "warnings" in entry} == {
        "twice": ["'twice' is in layer 0 and in layer 1, which counts"],
        "node~file": ["'node' is a file and a directory, the file is 'node~file'"],
    }
    nested = (await proxy.get(f"{REF}/files")).json
    assert {entry["path"]: entry for entry in nested if entry["type"] == "file"} == {
        path: entry for path, entry in listed.items() if path != "node/below"
    }


async def test_E7_duplicate_members_are_one_file(proxy: Client, upstream: FaultyUpstream) -> None:
    archive = tar_of(tar_entry(b"a", b"1"), tar_entry(b"a", b"2"), tar_entry(b"a/b", b"3"))
    push(upstream, layer(None, archive, token="doc", packing="tar"))
    listed = await flat(proxy)
    assert set(listed) == {"a~file", "a/b"}
    assert listed["a~file"]["warnings"] == [
        "1 later members of the same path are hidden; unpacking leaves the last",
        "'a' is a file and a directory, the file is 'a~file'",
    ]
    assert (await proxy.get(f"{REF}/files/a~file")).body == b"1"
    assert (await proxy.get(f"{REF}/files/a/b")).body == b"3"


async def test_E6_links_are_listed_and_only_hard_ones_open(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    archive = tar_of(
        tar_entry(b"real", b"content"),
        tar_header(b"hard", flag=b"1", target=b"real"),
        tar_header(b"soft", flag=b"2", target=b"real"),
        tar_header(b"passwd", flag=b"2", target=b"/etc/passwd"),
        tar_header(b"outside", flag=b"1", target=b"../../etc/passwd"),
        tar_header(b"itself", flag=b"1", target=b"itself"),
        tar_header(b"later", flag=b"1", target=b"last"),
        tar_header(b"chain", flag=b"1", target=b"hard"),
        tar_header(b"device", flag=b"3"),
        tar_header(b"pipe", flag=b"6"),
        tar_entry(b"last", b"last"),
    )
    push(upstream, layer(None, archive, token="doc", packing="tar"))
    listed = await flat(proxy)
    assert set(listed) == {
        "real", "hard", "soft", "passwd", "outside", "itself", "later", "chain", "last",
    }  # fmt: skip
    for path, content in (("real", b"content"), ("hard", b"content"), ("last", b"last")):
        assert (await proxy.get(files_target(path))).body == content
        assert listed[path]["exact"] is True
    for path in ("soft", "passwd", "outside", "itself", "later", "chain"):
        assert listed[path]["exact"] is False, path
        answer = await proxy.get(files_target(path))
        assert_error(answer, 404, "BLOB_UNKNOWN")
    assert {path: listed[path]["linkTarget"] for path in ("passwd", "outside")} == {
        "passwd": "/etc/passwd", "outside": "../../etc/passwd",
    }  # fmt: skip


async def test_E8_unicode_twins_are_two_files(proxy: Client, upstream: FaultyUpstream) -> None:
    composed, decomposed = "caf\u00e9.md", "cafe\u0301.md"
    push(upstream, layer(composed, b"1", token="doc"), layer(decomposed, b"2", token="doc"))
    assert set(await flat(proxy)) == {composed, decomposed}
    assert (await proxy.get(files_target(composed))).body == b"1"
    assert (await proxy.get(files_target(decomposed))).body == b"2"


async def test_E8_names_that_are_no_utf8_are_listed(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    body = manifest_bytes(
        [
            layer("\ud800", b"surrogate").descriptor,
            layer(None, tar_of(tar_entry(b"\xff.md", b"bytes")), packing="tar").descriptor,
        ],
        artifact_type="application/vnd.cncf.model.manifest.v1+json",
    )
    upstream.blob(b"surrogate")
    upstream.blob(b"{}")
    upstream.blob(tar_of(tar_entry(b"\xff.md", b"bytes")))
    upstream.manifest("team/model", "v1", body, OCI_MANIFEST)
    listed = await flat(proxy)
    assert len(listed) == 2
    written = {entry["rawPath"].replace("\ufffd", "") for entry in listed.values()}
    assert written == {"", ".md"}
    assert {(await proxy.get(files_target(path))).body for path in listed} == {
        b"surrogate", b"bytes",
    }  # fmt: skip
    assert (await proxy.get(REF)).status == 200


BAD_LAYERS = {
    "missing": (missing("bad", 20_480, token="doc", packing="tar"), 404, "BLOB_UNKNOWN"),
    "truncated": (
        layer("bad", tar_archive({"bad/a": WEIGHTS})[:9_000], token="doc", packing="tar"),
        422,
        "MANIFEST_INVALID",
    ),
    "bad checksum": (
        layer("bad", b"x" + tar_archive({"bad/a": b"a"})[1:], token="doc", packing="tar"),
        422,
        "MANIFEST_INVALID",
    ),
    "claims 1 TiB": (
        layer(
            "bad",
            tar_of(tar_header(b"bad/a", size=b"\x80" + (1 << 40).to_bytes(11, "big"))),
            token="doc",
            packing="tar",
        ),
        422,
        "MANIFEST_INVALID",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LAYERS)
async def test_F4_bad_layer_flags_only_itself(
    proxy: Client, upstream: FaultyUpstream, name: str
) -> None:
    bad, status, code = BAD_LAYERS[name]
    push(upstream, *usual(), bad, tar_layer("more", {"z.md": b"z"}))
    listed = await flat(proxy)
    assert set(listed) == {
        "README.md", "bad", "config.json", "model.safetensors", "more",
        "papers/LICENSE", "papers/guide/empty", "papers/guide/use.md",
    }  # fmt: skip
    assert [path for path, entry in listed.items() if not entry["exact"]] == ["bad"]
    assert_error(await proxy.get(f"{REF}/files/bad"), status, code)
    assert_error(await proxy.get(f"{REF}/files/bad/a"), status, code)
    assert_error(await proxy.get(f"{REF}/files/nothing"), 404, "BLOB_UNKNOWN")
    for path, content in (
        ("README.md", README),
        ("more", b"z"),
        ("papers/LICENSE", LICENSE),
        ("model.safetensors", WEIGHTS),
    ):
        assert (await proxy.get(files_target(path))).body == content
    assert (await proxy.get(f"{REF}/files/papers")).status == 200
    assert (await proxy.get(f"{REF}/readme")).body == README
    assert (await proxy.get(REF)).status == 200


async def test_bad_layer_without_a_path_hides_no_directory(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    bad = missing(None, 20_480, token="doc", packing="tar")
    push(upstream, *usual(), bad)
    answer = await proxy.get(f"{REF}/files/papers")
    assert answer.status == 200
    assert [entry["name"] for entry in answer.json] == ["guide", "LICENSE"]
    # Whether it would have held this path, nobody knows: that is said instead of a plain no.
    answer = await proxy.get(f"{REF}/files/nothing")
    assert_error(answer, 404, "BLOB_UNKNOWN")
    assert str(bad.descriptor.digest) in answer.message


async def test_missing_readme_layer_is_404(proxy: Client, upstream: FaultyUpstream) -> None:
    for packing in ("raw", "tar"):
        gone = missing("README.md", 2_048, token="doc", packing=packing)
        push(upstream, layer("w.bin", WEIGHTS), gone)
        for target in (f"{REF}/readme", f"{REF}/files/README.md"):
            answer = await proxy.get(target)
            assert_error(answer, 404, "BLOB_UNKNOWN")
            assert str(gone.descriptor.digest) in answer.message
        assert "README.md" in await flat(proxy)


async def test_sha512_layers_are_asked_by_their_own_digest(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = "sha512:" + "0" * 128
    blob = {
        "mediaType": layer_type("weight"),
        "digest": digest,
        "size": 5,
        "annotations": file_annotations("w.bin"),
    }
    document: dict[str, object] = {"schemaVersion": 2, "layers": [blob]}
    upstream.manifest("team/model", "v1", document, OCI_MANIFEST)
    assert (await flat(proxy))["w.bin"]["sha256"] is None
    assert_error(await proxy.get(f"{REF}/files/w.bin"), 404, "BLOB_UNKNOWN")
    assert upstream.log[-1].target == f"/v2/team/model/blobs/{digest}"


# Bytes of a file ---------------------------------------------------------------------------------

SIZE = 1000
BYTES = bytes(at % 251 for at in range(SIZE))


@pytest.fixture(params=["raw", "tar", "second in a tar"])
def a_file(request: pytest.FixtureRequest, upstream: FaultyUpstream) -> str:
    """The address of a file of ``BYTES``."""
    if request.param == "raw":
        push(upstream, layer("f.bin", BYTES))
    elif request.param == "tar":
        push(upstream, tar_layer("f.bin", {"f.bin": BYTES}, token="weight"))
    else:
        push(upstream, tar_layer(None, {"before": WEIGHTS, "f.bin": BYTES}, token="weight"))
    return f"{REF}/files/f.bin"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-999", 0, 999),
        ("bytes=10-19", 10, 19),
        ("bytes=990-", 990, 999),
        ("bytes=-1", 999, 999),
        ("bytes=-10", 990, 999),
        ("bytes=-5000", 0, 999),
        ("bytes=500-5000", 500, 999),
        ("bytes=0-", 0, 999),
    ],
)
async def test_range_is_answered_206(
    proxy: Client, a_file: str, asked: str, first: int, last: int
) -> None:
    answer = await proxy.get(a_file, Range=asked)
    assert answer.status == 206
    assert answer.body == BYTES[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    headed = await proxy.head(a_file, Range=asked)
    assert _compared(headed) == _compared(answer)


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=99999-"])
async def test_range_beyond_the_end_is_416(
    proxy: Client, upstream: FaultyUpstream, a_file: str, asked: str
) -> None:
    answer = await proxy.get(a_file, Range=asked)
    assert_error(answer, 416, "SIZE_INVALID")
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,5-6", "bytes=5-1", "bytes=", "bytes=a-b", "bytes=--1", "items=0-1", "0-1",
        "bytes=1-2-3", "bytes=0x1-2", "bytes=-", "bytes=99999999999999999999-", "bytes 0-1",
        "bytes=\u0661-\u0662",
    ],
)  # fmt: skip
async def test_range_that_is_none_is_answered_200(proxy: Client, a_file: str, asked: str) -> None:
    answer = await proxy.get(a_file, Range=asked)
    assert (answer.status, answer.body) == (200, BYTES)
    assert "Content-Range" not in answer.headers


async def test_etag_is_strong_stable_and_of_the_content(
    proxy: Client, upstream: FaultyUpstream, a_file: str
) -> None:
    first, second = await proxy.get(a_file), await proxy.get(a_file)
    etag = first.headers["ETag"]
    assert re.fullmatch(r'"[\x21\x23-\x7e]+"', etag)
    assert second.headers["ETag"] == etag
    for name, value in (("Range", "bytes=0-1"), ("If-None-Match", '"other"')):
        assert (await proxy.send("GET", a_file, headers=[(name, value)])).headers["ETag"] == etag
    push(upstream, layer("f.bin", BYTES + b"changed"))
    assert (await proxy.get(a_file)).headers["ETag"] != etag


async def test_members_of_one_tar_have_different_etags(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, tar_layer(None, {"a": BYTES, "b": BYTES}))
    etags = {(await proxy.head(f"{REF}/files/{name}")).headers["ETag"] for name in "ab"}
    assert len(etags) == 2


@pytest.mark.parametrize("form", ["{}", "W/{}", '"x", {}', '"x",W/{} ,"y"', "*"])
async def test_if_none_match_is_answered_304(
    proxy: Client, upstream: FaultyUpstream, a_file: str, form: str
) -> None:
    etag = (await proxy.head(a_file)).headers["ETag"]
    for method in ("GET", "HEAD"):
        answer = await proxy.send(
            method,
            a_file,
            headers=[("If-None-Match", form.format(etag)), ("Range", "bytes=0-1")],
        )
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == etag
        assert "Content-Range" not in answer.headers
    assert (await proxy.get(a_file, If_None_Match='"other"')).body == BYTES


async def test_if_range_decides_between_part_and_whole(proxy: Client, a_file: str) -> None:
    etag = (await proxy.head(a_file)).headers["ETag"]
    same = await proxy.get(a_file, Range="bytes=0-9", If_Range=etag)
    assert (same.status, same.body) == (206, BYTES[:10])
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await proxy.get(a_file, Range="bytes=0-9", If_Range=other)
        assert (answer.status, answer.body) == (200, BYTES), other


async def test_download_makes_it_an_attachment(proxy: Client, a_file: str) -> None:
    for query, kind in (
        ("", "inline"),
        ("?download=0", "inline"),
        ("?download=1", "attachment"),
        ("?download=true", "attachment"),
    ):
        answer = await proxy.get(a_file + query)
        assert answer.headers["Content-Disposition"] == f'{kind}; filename="f.bin"', query
        assert answer.body == BYTES


@pytest.mark.parametrize("packing", ["raw", "tar"])
async def test_file_of_no_bytes(proxy: Client, upstream: FaultyUpstream, packing: str) -> None:
    found = layer("none", b"") if packing == "raw" else tar_layer("none", {"none": b""})
    push(upstream, found)
    answer = await proxy.get(f"{REF}/files/none")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == "0"
    for asked in ("bytes=0-0", "bytes=0-", "bytes=-1"):
        answer = await proxy.get(f"{REF}/files/none", Range=asked)
        assert_error(answer, 416, "SIZE_INVALID")
        assert answer.headers["Content-Range"] == "bytes */0"


# What no browser may take for something to run.
_NOT_RUN = re.compile(
    r"application/octet-stream|text/plain; charset=utf-8|image/(png|jpeg|gif|webp)"
)


def assert_content_is_safe(answer: Answer) -> None:
    """The headers that keep artifact bytes from running in the proxy's origin."""
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "x.html", "x.HTM", "x.svg", "x.svgz", "x.xhtml", "x.xml", "x.js", "x.mjs", "x.pdf", "x.swf",
        "x.css", "x.wasm", "x.ipynb", "noextension", "README", "x.html.", "x.md", "x.json", "x.png",
        "x.txt", "x.", ".html", "x.html/LICENSE", "x.mht", "x.xsl", "x.hta", "x.py",
    ],
)  # fmt: skip
async def test_G2_no_file_is_sent_as_something_that_runs(
    proxy: Client, upstream: FaultyUpstream, path: str
) -> None:
    push(upstream, layer(path, b"<html><script>alert(1)</script></html>", token="doc"))
    target = files_target(path)
    etag = (await proxy.head(target)).headers["ETag"]
    for answer in (
        await proxy.get(target),
        await proxy.head(target),
        await proxy.get(target, Range="bytes=0-5"),
        await proxy.get(f"{target}?download=1"),
    ):
        assert_content_is_safe(answer)
        assert answer.status in (200, 206)
        assert _NOT_RUN.fullmatch(answer.headers["Content-Type"])
    assert_content_is_safe(await proxy.get(target, If_None_Match=etag))


async def test_G2_upstream_types_do_not_reach_the_client(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, layer("x.bin", b"<html>"))
    upstream.faults.append(
        Fault(headers=[("Content-Type", "text/html"), ("Set-Cookie", "a=b"), ("X-Frame", "y")])
    )
    answer = await proxy.get(f"{REF}/files/x.bin")
    assert answer.headers.getall("Content-Type") == ["application/octet-stream"]
    assert "Set-Cookie" not in answer.headers
    assert "X-Frame" not in answer.headers


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ('a"b.bin', "inline; filename=\"a_b.bin\"; filename*=UTF-8''a%22b.bin"),
        ("a;b.bin", "inline; filename=\"a_b.bin\"; filename*=UTF-8''a%3Bb.bin"),
        ("100%.bin", "inline; filename=\"100_.bin\"; filename*=UTF-8''100%25.bin"),
        ("d/e/plain.bin", 'inline; filename="plain.bin"'),
        ("\U0001f916.bin", "inline; filename=\"_.bin\"; filename*=UTF-8''%F0%9F%A4%96.bin"),
        ("ü.bin", "inline; filename=\"_.bin\"; filename*=UTF-8''%C3%BC.bin"),
        ("x" * 255, f'inline; filename="{"x" * 255}"'),
    ],
)
async def test_G4_names_are_quoted(
    proxy: Client, upstream: FaultyUpstream, path: str, expected: str
) -> None:
    push(upstream, layer(path, b"x"))
    answer = await proxy.get(files_target(path))
    assert answer.headers.getall("Content-Disposition") == [expected]


@pytest.mark.parametrize(
    "path", ["a\r\nSet-Cookie: x=y", "a\u202egpj.exe", "x" * 10_000, "a\0.bin", "a\u2028b"]
)
async def test_G4_hostile_names_stay_on_one_line(
    proxy: Client, upstream: FaultyUpstream, path: str
) -> None:
    push(upstream, layer(path, b"x"))
    (shown,) = await flat(proxy)
    answer = await proxy.get(files_target(shown))
    (value,) = answer.headers.getall("Content-Disposition")
    assert re.fullmatch(r'inline; filename="[A-Za-z0-9.]{1,255}"', value)
    assert "Set-Cookie" not in answer.headers


# Cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "first", "last"), [(None, 0, 16_383), ("bytes=5-9", 5, 9)])
async def test_raw_file_costs_its_manifest_and_its_own_bytes(
    proxy: Client, upstream: FaultyUpstream, asked: str | None, first: int, last: int
) -> None:
    push(upstream, *usual())
    manifest = upstream.manifests["team/model", "v1"][1]
    headers = [("Range", asked)] if asked else []
    answer = await proxy.send("GET", f"{REF}/files/model.safetensors", headers=headers)
    assert answer.body == WEIGHTS[first : last + 1]
    asked_manifest, asked_blob = upstream.log
    assert asked_manifest.target.endswith("/manifests/v1")
    assert asked_blob.get("Range") == f"bytes={first}-{last}"
    assert upstream.sent == len(manifest) + last + 1 - first


async def test_head_and_304_of_a_raw_file_cost_the_manifest(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    headed = await proxy.head(f"{REF}/files/model.safetensors")
    await proxy.get(f"{REF}/files/model.safetensors", If_None_Match=headed.headers["ETag"])
    assert upstream.requests("/blobs/") == []


BIG = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def big_tar() -> Layer:
    """A tar of a small file, 64 MiB of weights, and a small file."""
    archive = tar_of(
        tar_entry(b"small.txt", b"s" * 1024),
        tar_entry(b"weights.bin", bytes(BIG)),
        tar_entry(b"last.txt", b"l" * 1024),
    )
    return layer(None, archive, packing="tar")


@pytest.mark.parametrize(
    ("path", "asked", "length", "requests"),
    [
        ("small.txt", None, 1024, 2),
        ("small.txt", "bytes=0-9", 10, 2),
        ("weights.bin", "bytes=1000-1999", 1000, 2),
        ("weights.bin", f"bytes={BIG - 10}-", 10, 2),
        ("last.txt", None, 1024, 3),
    ],
)
async def test_member_of_a_big_tar_costs_headers_and_its_own_bytes(
    proxy: Client,
    upstream: FaultyUpstream,
    big_tar: Layer,
    path: str,
    asked: str | None,
    length: int,
    requests: int,
) -> None:
    push(upstream, big_tar)
    headers = [("Range", asked)] if asked else []
    answer = await proxy.send("GET", f"{REF}/files/{path}", headers=headers)
    assert len(answer.body) == length
    assert len(upstream.requests("GET .*/blobs/")) <= requests
    assert upstream.sent - length <= 64 * 1024


async def test_annotated_member_of_a_big_tar_costs_two_reads(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    archive = tar_of(tar_entry(b"w.bin", bytes(BIG)))
    push(upstream, layer("w.bin", archive, packing="tar"))
    answer = await proxy.get(f"{REF}/files/w.bin", Range="bytes=5000000-5000099")
    assert (answer.status, answer.body) == (206, bytes(100))
    assert len(upstream.requests("GET .*/blobs/")) == 2
    assert upstream.sent <= 64 * 1024


async def test_listing_costs_few_ranged_reads_per_tar(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    layers = [
        tar_layer(f"shard-{at}.bin", {f"shard-{at}.bin": b"%02d" % at * 500_000}, token="weight")
        for at in range(20)
    ]
    push(upstream, *layers)
    listed = await flat(proxy)
    assert {entry["size"] for entry in listed.values()} == {1_000_000}
    asked = upstream.requests("GET .*/blobs/")
    assert all(seen.get("Range") for seen in asked)
    for each in layers:
        digest = str(each.descriptor.digest)
        assert 1 <= len([seen for seen in asked if seen.target.endswith(digest)]) <= 3
    assert upstream.sent <= 20 * 16 * 1024 + 16 * 1024


async def test_readme_costs_no_weights(
    proxy: Client, upstream: FaultyUpstream, big_tar: Layer
) -> None:
    weights = layer("w.safetensors", big_tar.content or b"", packing="tar")
    push(upstream, weights, layer("README.md", README, token="doc"))
    assert (await proxy.get(f"{REF}/readme")).body == README
    assert len(upstream.requests("GET .*/blobs/")) == 1


# What one request may cost the upstream, over blobs in memory: thousands of reads are slow else.


class _ManifestInMemory(Manifests):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def get(self, reference: Reference, *, caller: Caller) -> StoredManifest:
        return StoredManifest(self._body, OCI_MANIFEST, Digest.of(self._body))


class _BlobInMemory(Blobs):
    """Every blob has the same ``content``."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.reads = 0

    def place(self, repository: RepositoryName) -> tuple[str, str]:
        return "main", repository.text

    @asynccontextmanager
    async def open(
        self,
        repository: RepositoryName,
        descriptor: Descriptor,
        *,
        byte_range: ByteRange,
        caller: Caller,
    ) -> AsyncIterator[BlobPart]:
        self.reads += 1
        yield BlobPart(self._chunks(byte_range), None, 0)

    async def _chunks(self, byte_range: ByteRange) -> AsyncIterator[bytes]:
        yield self._content[byte_range.first : byte_range.last + 1]


def _models(archive: bytes, layers: int) -> tuple[Models, _BlobInMemory]:
    layer = descriptor(layer_type("weight", "tar"), archive)
    blobs = _BlobInMemory(archive)
    distinct = [replace(layer, digest=Digest.of(b"%d" % number)) for number in range(layers)]
    found = Layers(blobs, Indexes(limit_bytes=1 << 30), scan_bytes=0)
    return Models(_ManifestInMemory(manifest_bytes(distinct)), blobs, found), blobs


async def test_many_archives_cost_a_bounded_number_of_reads() -> None:
    # Two reads each: the second header is too far away to be read through to.
    archive = tar_of(tar_entry(b"a", bytes(300 * 1024)), tar_entry(b"b", b"x"))
    found, blobs = _models(archive, 3_000)
    with pytest.raises(SizeInvalid, match=f"at most {layers.REQUESTS_LIMIT} reads"):
        await found.find(Reference.parse("team/model:v1"), "nothing", caller=Caller())
    assert blobs.reads <= layers.REQUESTS_LIMIT + models.LAYERS_AT_ONCE


async def test_listing_reads_a_bounded_number_of_archives() -> None:
    found, blobs = _models(tar_of(tar_entry(b"a", b"x")), 3_000)
    tree = await found.files(Reference.parse("team/model:v1"), caller=Caller())
    assert blobs.reads == models.LAYERS_WALKED_LIMIT
    assert tree.entries


# Upstreams that lie ------------------------------------------------------------------------------


async def test_upstream_that_ignores_range_is_cut_here(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    upstream.faults.append(Fault(ignore_range=True))
    part = await proxy.get(f"{REF}/files/model.safetensors", Range="bytes=1000-1099")
    assert (part.status, part.body) == (206, WEIGHTS[1000:1100])
    assert (await proxy.get(f"{REF}/files/papers/LICENSE")).body == LICENSE
    assert (await proxy.get(f"{REF}/files/papers/LICENSE", Range="bytes=2-4")).body == LICENSE[2:5]
    assert (await proxy.get(f"{REF}/readme")).body == README
    listed = await flat(proxy)
    assert listed["papers/LICENSE"]["size"] == len(LICENSE)


async def test_upstream_that_ignores_range_is_not_read_for_ever(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    """Each header behind 16 MiB of weights costs all before it again."""
    archive = tar_of(*[tar_entry(b"%d" % number, bytes(16 * 1024**2)) for number in range(8)])
    push(upstream, layer(None, archive, packing="tar"))
    upstream.faults.append(Fault(ignore_range=True))
    for view in ("files", "files/nothing"):
        upstream.sent = 0
        answer = await proxy.get(f"{REF}/{view}")
        assert_error(answer, 413, "SIZE_INVALID")
        assert "ignores Range" in answer.message
        assert upstream.sent <= 6 * BIG


@pytest.mark.parametrize(
    "content_range",
    [
        f"bytes 0-9/{len(WEIGHTS)}", f"bytes 101-110/{len(WEIGHTS)}", "bytes */5", "", "junk",
        f"bytes 100-108/{len(WEIGHTS)}", f"bytes 100-110/{len(WEIGHTS)}", "bytes 109-100/200",
    ],
)  # fmt: skip
async def test_another_part_than_asked_for_is_502(
    proxy: Client, upstream: FaultyUpstream, content_range: str
) -> None:
    push(upstream, *usual())
    upstream.faults.append(
        Fault(status=206, body=bytes(10), headers=[("Content-Range", content_range)])
    )
    answer = await proxy.get(f"{REF}/files/model.safetensors", Range="bytes=100-109")
    assert_error(answer, 502, "UNAVAILABLE")
    assert_error(await proxy.get(f"{REF}/files"), 502, "UNAVAILABLE")


@pytest.mark.parametrize("length", [None, "chunked", "none"])
async def test_short_body_cuts_the_connection(
    proxy: Client, upstream: FaultyUpstream, length: Any
) -> None:
    push(upstream, layer("f.bin", LARGE))
    upstream.faults.append(Fault(cut_at=1000, length=length))
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"{REF}/files/f.bin")
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"{REF}/files/f.bin", Range="bytes=10-100000")
    upstream.faults.clear()
    assert (await proxy.get(f"{REF}/files/f.bin")).body == LARGE


async def test_short_small_body_is_502(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    upstream.faults.append(Fault(cut_at=1000))
    for headers in ({}, {"Range": "bytes=10-2000"}):
        answer = await proxy.get(f"{REF}/files/model.safetensors", **headers)
        assert_error(answer, 502, "UNAVAILABLE")


async def test_short_tar_headers_are_502(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    upstream.faults.append(Fault(cut_at=100))
    for target in (f"{REF}/files", f"{REF}/files/papers/LICENSE", f"{REF}/readme"):
        assert_error(await proxy.get(target), 502, "UNAVAILABLE")


async def test_long_body_is_never_passed_on(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    upstream.faults.append(Fault(extra=b"more", length="chunked"))
    answer = await proxy.get(f"{REF}/files/model.safetensors")
    assert (answer.status, answer.body) == (200, WEIGHTS)


async def test_manifest_that_is_not_its_digest_is_502(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    digest = push(upstream, *usual())
    body = manifest_bytes([layer("evil.bin", b"evil").descriptor])
    upstream.faults.append(Fault(match="manifests", status=200, body=body))
    for view in ("", "/files", "/readme", "/files/evil.bin"):
        answer = await proxy.get(f"/cnai/team/model@{digest}{view}")
        assert_error(answer, 502, "UNAVAILABLE")
    assert (await proxy.get(f"/cnai/team/model:v1@{digest}")).status == 502


async def test_wrong_docker_content_digest_is_502(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    body = upstream.manifests["team/model", "v1"][1]
    wrong = [("Docker-Content-Digest", "sha256:" + "0" * 64)]
    upstream.faults.append(Fault(match="manifests", status=200, body=body, headers=wrong))
    assert_error(await proxy.get(REF), 502, "UNAVAILABLE")


async def test_config_that_is_not_its_digest_is_502(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    upstream.faults.append(Fault(flip=3))
    assert_error(await proxy.get(REF), 502, "UNAVAILABLE")


@pytest.mark.parametrize("length", [None, "chunked"])
async def test_manifest_over_8_mib_is_413(
    proxy: Client, upstream: FaultyUpstream, length: Any
) -> None:
    limit = 8 * 1024 * 1024
    start, end = b'{"layers":[],"annotations":{"x":"', b'"}}'
    for size, status in ((limit + 1, 413), (limit, 404)):
        body = start + b"y" * (size - len(start) - len(end)) + end
        upstream.manifest("team/model", "v1", body, OCI_MANIFEST)
        upstream.faults = [Fault(match="manifests", length=length)]
        answer = await proxy.get(REF)
        assert answer.status == status
        if status == 413:
            assert_error(answer, 413, "SIZE_INVALID")
            assert str(limit) in answer.message


def written(text: str) -> bytes:
    """A manifest as bytes; words in capitals stand for what is long."""
    return (
        text.replace("LAYER", '{"mediaType":"application/x","digest":"DIGEST","size":1}')
        .replace("DIGEST", "sha256:" + "0" * 64)
        .replace("INDEX", OCI_INDEX)
        .replace("MANIFEST", OCI_MANIFEST)
        .encode()
    )


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("", "JSON"),
        ("<html>", "JSON"),
        ("[]", "object"),
        ("{}", "$"),
        ("\ufeff{}", "JSON"),
        ('{"layers":{}}', "$.layers"),
        ('{"layers":[1]}', "$.layers[0]"),
        ('{"layers":[LAYER,{"digest":"sha256:zz","size":1}]}', "$.layers[1].digest"),
        ('{"layers":[{"digest":"DIGEST"}]}', "$.layers[0].size"),
        ('{"layers":[],"config":[]}', "$.config"),
        ('{"layers":[],"artifactType":1}', "$.artifactType"),
        ('{"layers":[],"annotations":[]}', "$.annotations"),
        ("[" * 10_000 + "]" * 10_000, "deep"),
        ('{"layers":[],"x":NaN}', "NaN"),
    ],
)
async def test_manifest_that_is_malformed_is_422_with_the_place(
    proxy: Client, upstream: FaultyUpstream, body: str, place: str
) -> None:
    upstream.manifest("team/model", "v1", written(body), OCI_MANIFEST)
    for view in ("", "/files"):
        answer = await proxy.get(REF + view)
        assert_error(answer, 422, "MANIFEST_INVALID")
        assert place in answer.message


@pytest.mark.parametrize("content_type", [OCI_MANIFEST, OCI_INDEX, "application/json"])
@pytest.mark.parametrize(
    "body",
    [
        '{"manifests":[],"layers":[LAYER]}',
        '{"manifests":[],"config":LAYER}',
        '{"mediaType":"INDEX","layers":[LAYER]}',
        '{"mediaType":"MANIFEST","manifests":[]}',
        '{"layers":[LAYER],"Layers":[]}',
    ],
)
async def test_D8_ambiguous_manifests_are_422(
    proxy: Client, upstream: FaultyUpstream, body: str, content_type: str
) -> None:
    upstream.manifest("team/model", "v1", written(body), content_type)
    answer = await proxy.get(REF)
    assert_error(answer, 422, "MANIFEST_INVALID")
    assert "ambiguous" in answer.message


@pytest.mark.parametrize(
    "body",
    [
        '{"layers":[LAYER],"layers":[]}',
        '{"layers":[{"digest":"DIGEST","size":1,"size":2}]}',
        '{"layers":[{"digest":"DIGEST","size":1,"annotations":{"a":"1","a":"2"}}]}',
        '{"layers":[LAYER],"l\\u0061yers":[]}',
    ],
)
async def test_D9_duplicate_keys_are_422(
    proxy: Client, upstream: FaultyUpstream, body: str
) -> None:
    upstream.manifest("team/model", "v1", written(body), OCI_MANIFEST)
    answer = await proxy.get(REF)
    assert_error(answer, 422, "MANIFEST_INVALID")
    assert "twice" in answer.message


async def test_manifest_that_is_no_model_is_404_with_the_reason(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    config = "application/vnd.docker.container.image.v1+json"
    rootfs = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    upstream.manifest(
        "team/model",
        "v1",
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": config, "digest": upstream.blob(b"{}"), "size": 2},
            "layers": [{"mediaType": rootfs, "digest": upstream.blob(b"x"), "size": 1}],
        },
        DOCKER_MANIFEST,
    )
    for view in ("", "/files", "/readme", "/files/x"):
        answer = await proxy.get(REF + view)
        assert_error(answer, 404, "MANIFEST_UNKNOWN")
        assert "no model" in answer.message
        detail = answer.json["errors"][0]["detail"]
        assert detail == {"artifactType": None, "config": config}
    assert upstream.requests("/blobs/") == []


async def test_unknown_references_are_404(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    for reference in (
        "team/model:gone", "team/gone:v1", "team/model@sha256:" + "0" * 64, "team/model",
    ):  # fmt: skip
        answer = await proxy.get(f"/cnai/{reference}")
        assert_error(answer, 404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        ("/cnai/team/model", {"tags": "/v2/team/model/tags/list"}),
        ("/cnai/team/model/", {"tags": "/v2/team/model/tags/list"}),
        ("/cnai/Team", None),
        ("/cnai/", None),
        ("/cnai", None),
    ],
)
async def test_name_without_a_reference_is_404_that_leads_to_its_tags(
    proxy: Client, upstream: FaultyUpstream, target: str, detail: object
) -> None:
    answer = await proxy.get(target)
    assert_error(answer, 404, "MANIFEST_UNKNOWN")
    assert "/cnai/<name>:<tag>" in answer.message
    assert answer.json["errors"][0]["detail"] == detail
    assert upstream.log == []


async def test_404_of_something_else_than_a_registry_says_what_to_check(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    assert "upstreams[].url" not in (await proxy.get(REF)).message
    page = b"HTTP/1.1 404 X\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nNot Found"
    upstream.faults.append(Fault(match="/manifests/", raw=page))
    answer = await proxy.get(REF)
    assert_error(answer, 404, "MANIFEST_UNKNOWN")
    assert "check upstreams[].url" in answer.message


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("Team/model:v1", "NAME_INVALID"),
        ("team//model:v1", "NAME_INVALID"),
        ("../model:v1", "NAME_INVALID"),
        ("team/%2e%2e/model:v1", "NAME_INVALID"),
        ("team/model:", "NAME_INVALID"),
        ("team/model:-x", "NAME_INVALID"),
        (f"team/model:{'x' * 129}", "NAME_INVALID"),
        (f"{'x' * 256}:v1", "NAME_INVALID"),
        (":v1", "NAME_INVALID"),
        ("team/model:v1:v2", "NAME_INVALID"),
        ("team/m%00del:v1", "NAME_INVALID"),
        ("team/m%0adel:v1", "NAME_INVALID"),
        ("team/m%ffdel:v1", "NAME_INVALID"),
        ("team/model:v1%2f..", "NAME_INVALID"),
        ("team/model%253Av1:x", "NAME_INVALID"),
        ("team/model@sha256:zz", "DIGEST_INVALID"),
        ("team/model@sha256:" + "A" * 64, "DIGEST_INVALID"),
        ("team/model@", "DIGEST_INVALID"),
        ("team/model@md5:" + "0" * 32, "DIGEST_INVALID"),
        ("team/model:v1@", "DIGEST_INVALID"),
    ],
)
async def test_E2_bad_references_never_reach_the_upstream(
    proxy: Client, upstream: FaultyUpstream, reference: str, code: str
) -> None:
    for view in ("", "/files", "/files/x"):
        assert_error(await proxy.get(f"/cnai/{reference}{view}"), 400, code)
    assert upstream.log == []


async def test_unknown_views_are_404_naming_the_views(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    for view in ("nothing", "Files", "readme/x", "%2e%2e", "files%2fx", "x" * 5000, "%ff"):
        answer = await proxy.get(f"{REF}/{view}")
        assert_error(answer, 404, "BLOB_UNKNOWN")
        views = answer.json["errors"][0]["detail"]["views"]
        assert {"files", "readme", "license"} <= set(views)
        assert len(answer.body) < 2000


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_writing_methods_are_405(
    proxy: Client, upstream: FaultyUpstream, method: str
) -> None:
    push(upstream, *usual())
    for view in ("", "/files", "/readme"):
        answer = await proxy.send(method, REF + view)
        assert_error(answer, 405, "UNSUPPORTED")
        assert answer.headers["Allow"] == "GET, HEAD"
    assert upstream.log == []


@pytest.mark.parametrize("match", ["manifests", "/blobs/"])
@pytest.mark.parametrize(
    ("found", "status", "code"),
    [
        (403, 403, "DENIED"),
        (429, 429, "TOOMANYREQUESTS"),
        (500, 502, "UNAVAILABLE"),
        (502, 502, "UNAVAILABLE"),
        (503, 503, "UNAVAILABLE"),
        (204, 502, "UNAVAILABLE"),
        (418, 502, "UNAVAILABLE"),
    ],
)
async def test_upstream_failures_have_their_status(
    proxy: Client, upstream: FaultyUpstream, match: str, found: int, status: int, code: str
) -> None:
    push(upstream, *usual())
    upstream.faults.append(Fault(match=match, status=found, headers=[("Retry-After", "17")]))
    for view in ("", "/files", "/readme", "/files/model.safetensors", "/files/papers/LICENSE"):
        answer = await proxy.get(REF + view)
        assert_error(answer, status, code)
        expected = "17" if found in (429, 503) else None
        assert answer.headers.get("Retry-After") == expected, view


async def test_silent_upstream_is_504(start_proxy: StartProxy, upstream: FaultyUpstream) -> None:
    proxy = await start_proxy(
        upstream__timeouts__idle_seconds=0.3, upstream__timeouts__response_seconds=0.3
    )
    push(upstream, *usual())
    for match in ("manifests", "/blobs/"):
        upstream.faults = [Fault(match=match, delay=30)]
        answer = await proxy.get(f"{REF}/files/model.safetensors")
        assert_error(answer, 504, "UNAVAILABLE")
    upstream.faults = [Fault(stall_at=1000)]
    assert_error(await proxy.get(f"{REF}/files/model.safetensors"), 504, "UNAVAILABLE")
    assert_error(await proxy.get(f"{REF}/files/gone"), 504, "UNAVAILABLE")
    push(upstream, layer("f.bin", LARGE))
    with pytest.raises(aiohttp.ClientPayloadError):
        await proxy.get(f"{REF}/files/f.bin")


async def test_unreachable_upstream_is_503(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(url="http://127.0.0.1:1")
    assert_error(await proxy.get(REF), 503, "UNAVAILABLE")


@pytest.mark.parametrize(
    "raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
)
async def test_upstream_that_speaks_no_http_is_502(
    proxy: Client, upstream: FaultyUpstream, raw: bytes
) -> None:
    upstream.faults.append(Fault(match="manifests", raw=raw))
    assert_error(await proxy.get(REF), 502, "UNAVAILABLE")
    upstream.faults = [Fault(match="manifests", hang_up=True)]
    assert_error(await proxy.get(REF), 502, "UNAVAILABLE")


async def test_A3_layer_the_upstream_refuses_in_this_repository_is_404(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    secret = [
        layer("w.bin", b"secret weights"),
        tar_layer("papers", {"README.md": b"secret readme", "LICENSE": b"secret license"}),
    ]
    push(upstream, *secret, repository="private/a")
    push(upstream, *secret, repository="pub/x")
    upstream.faults.append(Fault(match="/v2/pub/x/blobs/", status=404))
    for path in ("w.bin", "papers", "README.md"):
        await proxy.get(f"/cnai/private/a:v1/files/{path}")
        answer = await proxy.get(f"/cnai/pub/x:v1/files/{path}")
        assert_error(answer, 404, "BLOB_UNKNOWN")
    assert (await proxy.get("/cnai/private/a:v1/readme")).body == b"secret readme"
    for view in ("readme", "license"):
        assert_error(await proxy.get(f"/cnai/pub/x:v1/{view}"), 404, "BLOB_UNKNOWN")
    listed = await proxy.get("/cnai/pub/x:v1/files?flat=1")
    assert b"LICENSE" not in listed.body
    assert all("/v2/pub/x/" in seen.target for seen in upstream.requests("pub"))


async def test_models_may_be_switched_off(
    start_proxy: StartProxy, upstream: FaultyUpstream
) -> None:
    proxy = await start_proxy(models__enabled=False)
    push(upstream, *usual())
    for target in ("/cnai/", REF, f"{REF}/files", f"{REF}/readme"):
        assert_error(await proxy.get(target), 404, "NAME_UNKNOWN")
    assert upstream.log == []
    assert (await proxy.get("/v2/team/model/manifests/v1")).status == 200


async def test_answers_may_be_kept_by_the_caller_alone(
    proxy: Client, upstream: FaultyUpstream
) -> None:
    push(upstream, *usual())
    for view in ("", "/files", "/readme", "/files/papers", "/files/model.safetensors"):
        answer = await proxy.get(REF + view)
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert "Authorization" in answer.headers["Vary"]


async def test_range_of_several_readers_at_once(proxy: Client, upstream: FaultyUpstream) -> None:
    push(upstream, *usual())
    answers = await _together(
        [proxy.get(f"{REF}/files/model.safetensors", Range=f"bytes={at}-{at + 99}")
         for at in range(0, 4000, 100)]
    )  # fmt: skip
    assert b"".join(answer.body for answer in answers) == WEIGHTS[:4000]


async def _together(requests: Sequence[Any]) -> list[Answer]:
    return list(await asyncio.gather(*requests))
