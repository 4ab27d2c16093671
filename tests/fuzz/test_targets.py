"""Targets hold for what they begin with; the slow run lets atheris change it for a while."""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import zstandard

from proxy.oci.digest import Digest
from tests.build import pax_record, tar_entry, tar_extension, tar_header, tar_of
from tests.fuzz.targets import TARGETS

SECONDS = 20
_ROOT = Path(__file__).parent.parent.parent

_ARCHIVE = tar_of(
    tar_entry(b"dir/", flag=b"5"),
    tar_entry(b"dir/a", b"content"),
    tar_extension(b"L", b"long/" * 30),
    tar_entry(b"short", b"x" * 700),
    tar_extension(b"x", pax_record("path", "pax/é") + pax_record("size", "3")),
    tar_entry(b"y", b"abc"),
    tar_header(b"link", flag=b"2", target=b"../etc"),
    tar_header(b"hard", flag=b"1", target=b"dir/a"),
    tar_header(b"sparse", flag=b"S", size=0),
)
_TEXT = b"tokenizer " * 3_000
_ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress
_MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.kitops.modelkit.config.v1+json",
            "digest": str(Digest.of(b"")),
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/vnd.kitops.modelkit.model.v1.tar+gzip",
                "digest": str(Digest.of(b"1")),
                "size": 7,
                "annotations": {"org.cncf.model.filepath": "../x"},
            }
        ],
    }
).encode()
_KITFILE = b'{"model":{"path":"./m.gguf","parts":[{"path":"a"}]},"docs":[{"path":"README.md"}]}'
_INDEX = b'{"manifests":[{"digest":"%s","size":1,"platform":{"os":"linux"}}]}'

SEEDS: Mapping[str, Sequence[bytes]] = {
    "tar": [b"\x07" + _ARCHIVE, b"\xff" + _ARCHIVE[:700]],
    "gzip": [
        b"\x10\x20" + gzip.compress(_TEXT),
        b"\xff\x01" + gzip.compress(b"a") + gzip.compress(_TEXT) + bytes(9),
        b"\x01\x01" + gzip.compress(_TEXT)[:-3],
    ],
    "zstd": [
        b"\x10\x20" + _ZSTD(_TEXT),
        b"\xff\x01" + _ZSTD(b"a") + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + _ZSTD(_TEXT),
        b"\x01\x01" + _ZSTD(_TEXT)[:-3],
    ],
    "head": [gzip.compress(_ARCHIVE), _ZSTD(_ARCHIVE), _ARCHIVE, b"GGUF"],
    "manifest": [_MANIFEST + b"\0" + _KITFILE, _INDEX % str(Digest.of(b"")).encode()],
    "globs": [b"**/[!a-z]*.json\0a/b.json", b"/a/**\0a", b"\\*\0*"],
}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_holds_for_its_seeds_and_all_their_beginnings(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
        for end in range(0, len(seed), max(1, len(seed) // 40)):
            TARGETS[name](seed[:end])
            TARGETS[name](seed[:end] + b"\xff" + seed[end + 1 :])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_holds_under_atheris(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("pip install atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={SECONDS}", "-max_len=65536", "-rss_limit_mb=1024", "-timeout=5"]
    command = [sys.executable, "-m", "tests.fuzz", name, *options, str(corpus)]
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
