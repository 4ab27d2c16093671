"""``python -m bench.files``: files of a model out of its layers, beside what a client has today.

One model of a GiB or so, as a tar, as tar+gzip and as tar+zstd, is asked for its listing, one file
and an archive, and hostile layers are asked for. Before docker-registry, and where the registry
itself is the limit before an nginx that serves the same blobs as files. Peers take turns, the
first round is dropped, and ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tarfile  # noqa: TID251 - the peer of two rows, on archives made here
import tempfile
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

import zstandard

from bench import load, peers
from bench.load import GIB, MIB, Connection, Content, LoadError
from bench.measure import (
    Spread,
    Verdict,
    cpu_seconds,
    cpu_seconds_when_idle,
    machine,
    peak_rss_bytes,
    ratios,
    reset_peak_rss,
    rss_bytes,
)
from bench.peers import PRODUCT, Peer, PeerAbsent, Traffic
from proxy.content.blobs import BlobPart
from proxy.content.indexes import LayerIndex
from proxy.content.scans import StreamScan
from proxy.oci.byterange import ByteRange
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST, Descriptor
from tests.build import layer_type, manifest_bytes, pax_record, tar_extension, tar_header

KIB = 1024
MS = 1e-3
_TAG, _TITLED = "v1", "titled"
_TITLE = "org.opencontainers.image.title"
_FIRST, _LAST = "config.json", "zz/last.json"
_SMALL_BYTES = 4 * KIB
_BLOCK = 512
_SECONDS_LIMIT = 300
_COLUMNS = ("", "before", "what", "median (range)", "x peer", "target", "verdict")
_COMPRESSED = ("tar+gzip", "tar+zstd")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is: ``weights`` files of ``weight_bytes``, ``members`` small ones."""

    weight_bytes: int
    weights: int
    members: int
    many: int
    rounds: int


FULL = Scale(weight_bytes=128 * MIB, weights=7, members=9_000, many=100_000, rounds=5)
QUICK = Scale(weight_bytes=16 * MIB, weights=7, members=1_125, many=12_500, rounds=3)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. ``ratio`` is to ``peer``; figures that have no target have no verdict.

    ``values`` are in ``unit``, a sample each.
    """

    row: str
    upstream: str
    what: str
    unit: str
    values: Sequence[float]
    ratio: Spread | None = None
    peer: str = ""
    target: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one layer in the registry."""

    repository: str
    digest: str
    size: int
    plain_size: int

    @property
    def files(self) -> str:
        """The address of its files."""
        return f"/cnai/{self.repository}:{_TAG}/files"

    @property
    def layer(self) -> str:
        """The address of its layer."""
        return f"/v2/{self.repository}/blobs/{self.digest}"


@dataclass(frozen=True, slots=True)
class Bench:
    """What all rows use."""

    scale: Scale
    folder: Path
    registry: Peer
    static: Peer | None
    models: Mapping[str, Model]

    @property
    def upstreams(self) -> list[Peer]:
        """The registry, and the files alone where there is an nginx."""
        return [self.registry, *([self.static] if self.static else [])]

    @contextmanager
    def fresh(self, upstream: str) -> Iterator[Peer]:
        """A proxy that knows nothing yet."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder) as apart,
            peers.product(upstream, Path(apart)) as peer,
        ):
            yield peer

    @contextmanager
    def counted(self) -> Iterator[tuple[Peer, Traffic]]:
        """The same before a go-between that counts."""
        with peers.counting(self.registry.url) as (relay, traffic), self.fresh(relay) as peer:
            yield peer, traffic


# --- What is measured with ---


def _samples(
    rounds: int, measured: Mapping[str, Callable[[], float]]
) -> tuple[dict[str, list[float]], list[str]]:
    """Samples by name, in interleaved rounds of which the first is dropped; and who is absent."""
    found: dict[str, list[float]] = {name: [] for name in measured}
    absent: list[str] = []
    for number in range(rounds + 1):
        for name, measure in measured.items():
            if name in absent:
                continue
            try:
                value = measure()
            except PeerAbsent:
                absent.append(name)
                continue
            if number:
                found[name].append(value)
    return found, absent


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Got:
    """An answer that was read to its end."""

    size: int
    first_byte_seconds: float


def _get(url: str, target: str) -> _Got:
    """GET over a connection of its own; long listings come in chunks, without their length."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=_SECONDS_LIMIT)) as peer:
        started = time.perf_counter()
        peer.request("GET", target)
        answer = peer.getresponse()
        size = len(answer.read(1))
        first = time.perf_counter() - started
        while piece := answer.read(256 * KIB):
            size += len(piece)
        if answer.status != 200:
            raise LoadError(f"GET {target}: expected status 200, found {answer.status}")
    return _Got(size, first)


def _run(*argv: str, check: bool = True) -> str:
    """What a program of the machine writes; bounded in time."""
    name, *rest = argv
    done = subprocess.run(
        [peers.program(name), *rest],
        capture_output=True,
        text=True,
        timeout=_SECONDS_LIMIT,
        check=False,
    )
    if check and done.returncode:
        raise LoadError(f"{name}: {done.stderr[-500:]}")
    return done.stdout


def _expect(count: int, found: int, who: str) -> None:
    if count != found:
        raise LoadError(f"{who}: expected {count} members, found {found}")


def _line(
    row: str,
    upstream: str,
    what: str,
    unit: str,
    values: Sequence[float],
    *,
    most: float | None = None,
) -> Line:
    """A line of one's own figures, ``most`` the bound on all of them."""
    if most is None:
        return Line(row, upstream, what, unit, values)
    verdict = Spread.of(values).at_most(most)
    return Line(row, upstream, what, unit, values, target=f"≤ {most:g} {unit}", verdict=verdict)


def _beside(
    row: str,
    upstream: str,
    unit: str,
    found: Mapping[str, Sequence[float]],
    peer: str,
    *,
    absent: Sequence[str] = (),
    times: float | None = None,
) -> list[Line]:
    """The product's line with how many times better than ``peer`` it is, and the peers' lines.

    Less is better, but of GiB/s. ``times`` is the target.
    """
    ours, theirs = found[PRODUCT], found.get(peer, ())
    more_is_better = unit == "GiB/s"
    spread = None
    if theirs:
        spread = ratios(ours, theirs) if more_is_better else ratios(theirs, ours)
    verdict = spread.at_least(times) if spread is not None and times is not None else None
    if times is not None and spread is None:
        verdict = "absent"
    target = "" if times is None else f"≥ {times:g} x {peer}"
    lines = [Line(row, upstream, PRODUCT, unit, ours, spread, peer, target, verdict)]
    for name, values in found.items():
        if name != PRODUCT:
            what = f"{name}: absent" if name in absent else name
            lines.append(Line(row, upstream, what, unit, values))
    return lines


# --- What is in the registry ---


class _Text:
    """Text that compresses as text does, never the same twice in a compressor's window."""

    def __init__(self) -> None:
        chosen = random.Random(1)
        letters = b"abcdefghijklmnopqrstuvwxyz"
        words = [bytes(chosen.choices(letters, k=chosen.randint(2, 10))) for _ in range(5_000)]
        self._pool = b" ".join(chosen.choices(words, k=16 * MIB // 7))
        self._chosen = chosen

    def take(self, size: int) -> bytes:
        """So many bytes of it."""
        start = self._chosen.randrange(len(self._pool) - size)
        return self._pool[start : start + size]

    def size(self) -> int:
        """A small file's, 14 KiB on average."""
        return self._chosen.randint(1_000, 28_000)


def _write_tar(path: Path, scale: Scale) -> None:
    """Weights, half of them noise, among small files; ``_FIRST`` is first, ``_LAST`` last."""
    text = _Text()
    every = scale.members // scale.weights
    noise = random.Random(2)
    with path.open("wb") as file:
        _write_member(file, _FIRST, [text.take(_SMALL_BYTES)])
        weights = 0
        for number in range(scale.members - 2 - scale.weights):
            if number % every == every - 1 and weights < scale.weights:
                pieces = (
                    noise.randbytes(MIB) if half % 2 else text.take(MIB)
                    for half in range(scale.weight_bytes // MIB)
                )
                _write_member(file, f"weights-{weights}.bin", pieces, size=scale.weight_bytes)
                weights += 1
            small = text.take(text.size())
            _write_member(file, f"layer{number % 97}/file-{number}.json", [small])
        while weights < scale.weights:
            pieces = (noise.randbytes(MIB) for _ in range(scale.weight_bytes // MIB))
            _write_member(file, f"weights-{weights}.bin", pieces, size=scale.weight_bytes)
            weights += 1
        _write_member(file, _LAST, [text.take(_SMALL_BYTES)])
        file.write(bytes(2 * _BLOCK))


def _write_member(
    file: IO[bytes], name: str, pieces: Iterator[bytes] | list[bytes], *, size: int | None = None
) -> None:
    count = sum(map(len, pieces)) if size is None else size
    file.write(tar_header(name.encode(), size=count))
    for piece in pieces:
        file.write(piece)
    file.write(bytes(-count % _BLOCK))


def _write_gzip(source: Path, target: Path) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    with source.open("rb") as file, target.open("wb") as out:
        while piece := file.read(MIB):
            out.write(packer.compress(piece))
        out.write(packer.flush())


def _write_zstd(source: Path, target: Path) -> None:
    with source.open("rb") as file, target.open("wb") as out:
        zstandard.ZstdCompressor(level=3).copy_stream(file, out)


def _many(count: int) -> bytes:
    """A tar of files of one block."""
    content = b"x" * _BLOCK
    members = (
        tar_header(f"part{number % 211}/file-{number}.txt".encode(), size=_BLOCK) + content
        for number in range(count)
    )
    return b"".join(members) + bytes(2 * _BLOCK)


def _gzipped(pieces: Iterator[bytes]) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([packer.compress(piece) for piece in pieces] + [packer.flush()])


def _hostile() -> dict[str, tuple[str, bytes, int]]:
    """Layers that lie, by name: their packing, their bytes, and what they say to be."""

    def zeros() -> Iterator[bytes]:
        yield tar_header(b"weights.bin", size=GIB)
        for _ in range(GIB // MIB):
            yield bytes(MIB)
        yield bytes(2 * _BLOCK)

    def flood() -> Iterator[bytes]:
        block = pax_record("comment", b"x" * 8) * 20_000
        for _ in range(256):
            yield tar_extension(b"x", block)
            yield tar_header(b"small.txt")

    packer = zstandard.ZstdCompressor(level=3).compressobj()
    bomb = b"".join([packer.compress(piece) for piece in zeros()] + [packer.flush()])
    # A frame with a window of 2**27 and one raw block of a byte. Source: RFC 8878 §3.1.1.1.2.
    window = b"\x28\xb5\x2f\xfd\x00" + bytes((17 << 3,)) + b"\x09\x00\x00x"
    tib = tar_header(b"weights.bin", size=b"\x80\0\0\0\0\0" + (1 << 40).to_bytes(6, "big"))
    return {
        "gzip bomb, 1 MiB → 1 GiB": ("tar+gzip", _gzipped(zeros()), GIB),
        "zstd bomb, 32 KiB → 1 GiB": ("tar+zstd", bomb, GIB),
        "zstd window of 2**27": ("tar+zstd", window, 1),
        "header says 1 TiB": ("tar", tib + bytes(_BLOCK), 2 * _BLOCK),
        "flood of PAX records": ("tar+gzip", _gzipped(flood()), 0),
    }


def _push(
    registry: str, manifests: Path, name: str, packing: str, blob: bytes, plain: int
) -> Model:
    """A model of one layer; the manifest that ORAS is given names a file, as it wants it."""
    repository = f"bench/{name}"
    content = Content(blob, 1)
    digest = content.digest()
    config = Content(b"{}", 1)
    load.push(registry, repository, content, digest=digest)
    load.push(registry, repository, config, digest=config.digest())
    folder = manifests / repository
    folder.mkdir(parents=True)
    for tag, annotated in ((_TAG, {}), (_TITLED, {_TITLE: "model.tar"})):
        descriptor = Descriptor(
            media_type=layer_type("weight", packing),
            digest=Digest.parse(digest),
            size=content.size,
            annotations=annotated,
        )
        body = manifest_bytes([descriptor])
        load.put_manifest(registry, repository, tag, body, OCI_MANIFEST)
        (folder / tag).write_bytes(body)
    return Model(repository, digest, content.size, plain)


def _seed(registry: str, folder: Path, manifests: Path, scale: Scale) -> dict[str, Model]:
    models: dict[str, Model] = {}

    def push(key: str, name: str, packing: str, blob: bytes, plain: int) -> None:
        models[key] = _push(registry, manifests, name, packing, blob, plain)

    tar = folder / "model.tar"
    _write_tar(tar, scale)
    writers = {"tar+gzip": _write_gzip, "tar+zstd": _write_zstd}
    push("tar", "plain", "tar", tar.read_bytes(), tar.stat().st_size)
    for packing, write in writers.items():
        packed = folder / packing
        write(tar, packed)
        name = packing.removeprefix("tar+")
        push(packing, name, packing, packed.read_bytes(), tar.stat().st_size)
    tar.unlink()
    many = _many(scale.many)
    push("many", "many", "tar", many, len(many))
    for number, (key, (packing, blob, plain)) in enumerate(_hostile().items()):
        push(key, f"hostile{number}", packing, blob, plain)
    return models


# --- The rows ---


def _one_file(bench: Bench) -> list[Line]:
    """A small file of a plain tar, beside clients that pull all of it."""
    model = bench.models["tar"]
    upstream = bench.registry
    clients = {"oras pull": _oras, "skopeo copy": _skopeo}
    lines: list[Line] = []

    def ours(path: str, *, is_warm: bool) -> float:
        with bench.fresh(upstream.url) as peer:
            if is_warm:
                _get(peer.url, model.files + "?flat=1")
            return _timed(lambda: _get(peer.url, f"{model.files}/{path}")) / MS

    def theirs(pull: Callable[[str, Model, Path], None], url: str) -> float:
        with tempfile.TemporaryDirectory(dir=bench.folder) as out:
            return _timed(lambda: pull(url, model, Path(out))) / MS

    cold, warm = f"{PRODUCT}, first, cold", f"{PRODUCT}, last, warm"
    found, absent = _samples(
        bench.scale.rounds,
        {
            cold: lambda: ours(_FIRST, is_warm=False),
            warm: lambda: ours(_LAST, is_warm=True),
            **{
                name: lambda pull=pull: theirs(pull, upstream.url)  # type: ignore[misc]
                for name, pull in clients.items()
            },
        },
    )
    pulled: dict[str, float] = {}
    with peers.counting(upstream.url) as (relay, traffic):
        for name in (name for name in clients if name not in absent):
            before = traffic.received_bytes
            theirs(clients[name], relay)
            pulled[name] = (traffic.received_bytes - before) / KIB
    for title, path, is_warm, taken in (
        (f"1 · `{_FIRST}`, first member, cold", _FIRST, False, found[cold]),
        (f"1 · last of {bench.scale.members:,} members, index warm", _LAST, True, found[warm]),
    ):
        moved, asked = _moved(bench, path, is_warm=is_warm)
        lines.append(_line(title, upstream.name, f"{PRODUCT}: moved", "KiB", moved, most=64))
        lines.append(Line(title, upstream.name, f"{PRODUCT}: requests", "", asked))
        for name, kib in pulled.items():
            more = Spread.of([kib / value for value in moved])
            lines.append(Line(title, upstream.name, f"{name}: moved", "KiB", [kib], more, PRODUCT))
        lines.append(Line(title, upstream.name, f"{PRODUCT}: time", "ms", taken))
        for name in clients:
            spread = ratios(found[name], taken) if found[name] else None
            what = f"{name}: time"
            lines.append(Line(title, upstream.name, what, "ms", found[name], spread, PRODUCT))
    return lines


def _moved(bench: Bench, path: str, *, is_warm: bool) -> tuple[list[float], list[float]]:
    """KiB from the upstream for one file, and requests, those for the manifest included."""
    model = bench.models["tar"]
    moved: list[float] = []
    asked: list[float] = []
    for _ in range(bench.scale.rounds):
        with bench.counted() as (peer, traffic):
            if is_warm:
                _get(peer.url, model.files + "?flat=1")
            before, requests = traffic.received_bytes, traffic.requests
            _get(peer.url, f"{model.files}/{path}")
            moved.append((traffic.received_bytes - before) / KIB)
            asked.append(traffic.requests - requests)
    return moved, asked


def _oras(url: str, model: Model, out: Path) -> None:
    name = f"{urlsplit(url).netloc}/{model.repository}:{_TITLED}"
    _run("oras", "pull", "--plain-http", "--no-tty", name, "-o", str(out))


def _skopeo(url: str, model: Model, out: Path) -> None:
    source = f"docker://{urlsplit(url).netloc}/{model.repository}:{_TAG}"
    _run("skopeo", "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{out}")


def _listing(bench: Bench) -> list[Line]:
    """A compressed layer listed, cold, beside Python's tarfile on the stream and on the disk."""
    lines: list[Line] = []
    for packing in _COMPRESSED:
        model = bench.models[packing]
        for upstream in bench.upstreams:
            cpu: list[float] = []

            def ours(upstream: Peer = upstream, model: Model = model) -> float:
                with bench.fresh(upstream.url) as peer:
                    assert peer.pid is not None
                    before = cpu_seconds(peer.pid)
                    seconds = _timed(lambda: _get(peer.url, model.files + "?flat=1"))
                    spent = cpu_seconds_when_idle(peer.pid) - before
                    cpu.append(spent / (model.plain_size / GIB))  # noqa: B023
                    return seconds

            def stream(upstream: Peer = upstream, model: Model = model) -> float:
                return _timed(lambda: _list_stream(upstream.url, model, packing, bench.scale))  # noqa: B023

            def local() -> float:
                return _timed(lambda: _list_local(bench.folder / packing, packing, bench.scale))  # noqa: B023

            measured = {PRODUCT: ours, "tarfile over HTTP": stream, "tarfile on the file": local}
            if upstream is bench.static:
                del measured["tarfile on the file"]  # the same file
            found, absent = _samples(bench.scale.rounds, measured)
            row = f"2 · list {packing}, {_size(model.size)}, cold"
            lines += _beside(
                row, upstream.name, "s", found, "tarfile over HTTP", absent=absent, times=3
            )
            lines.append(Line(row, upstream.name, "CPU by GiB of plain", "s", cpu[1:]))
    return lines


def _list_stream(url: str, model: Model, packing: str, scale: Scale) -> None:
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc)) as connection:
        connection.request("GET", model.layer)
        with connection.getresponse() as answer:
            _count_members(cast("IO[bytes]", answer), packing, scale)


def _list_local(path: Path, packing: str, scale: Scale) -> None:
    with path.open("rb") as file:
        _count_members(file, packing, scale)


def _count_members(source: IO[bytes], packing: str, scale: Scale) -> None:
    if packing == "tar+zstd":
        plain = cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(source))
        opened = tarfile.open(fileobj=plain, mode="r|")  # noqa: SIM115 - closed below
    else:
        opened = tarfile.open(fileobj=source, mode="r|gz")  # noqa: SIM115 - closed below
    with opened as archive:
        _expect(scale.members, sum(1 for _ in archive), "tarfile")


def _seek(bench: Bench) -> list[Line]:
    """The last file of a tar+gzip: cold, and with the index of places to begin at."""
    model = bench.models["tar+gzip"]
    target = f"{model.files}/{_LAST}"
    row = "3 · last file of tar+gzip"
    cold: list[float] = []
    first: list[float] = []
    whole: list[float] = []
    moved: list[float] = []
    for _ in range(bench.scale.rounds + 1):
        with bench.counted() as (peer, traffic):
            _get(peer.url, target)
            # Members known, a place before the file known: this reads the blob from there.
            before = traffic.received_bytes
            _get(peer.url, target)
            moved.append((traffic.received_bytes - before - _SMALL_BYTES) / MIB)
        with bench.fresh(bench.registry.url) as peer:
            cold.append(_timed(lambda: _get(peer.url, target)) / MS)
            taken = []
            for _ in range(5):
                started = time.perf_counter()
                taken.append(_get(peer.url, target).first_byte_seconds / MS)
                whole.append((time.perf_counter() - started) / MS)
            first.append(statistics.median(taken))
            whole[-5:] = [statistics.median(whole[-5:])]
    upstream = bench.registry.name
    faster = ratios(cold[1:], first[1:])
    faster_whole = ratios(cold[1:], whole[1:])
    path = bench.folder / "tar+gzip"
    share = asyncio.run(_index_share(path, model))
    return [
        Line(row, upstream, "cold: decoded from the start", "ms", cold[1:]),
        Line(
            row,
            upstream,
            "warm: first byte",
            "ms",
            first[1:],
            faster,
            "cold",
            "≥ 10 x cold",
            faster.at_least(10) if faster else None,
        ),
        Line(
            row,
            upstream,
            "warm: whole",
            "ms",
            whole[1:],
            faster_whole,
            "cold",
            "≥ 10 x cold",
            faster_whole.at_least(10) if faster_whole else None,
        ),
        _line(row, upstream, "warm: bytes beside the file", "MiB", moved[1:], most=10),
        _line(row, "in process", "index by blob", "%", [share], most=1.5),
    ]


@dataclass(frozen=True, slots=True)
class _FileSource:
    """A blob on the disk; see ``proxy.content.scans.Source``."""

    descriptor: Descriptor
    path: Path

    @asynccontextmanager
    async def open(self, byte_range: ByteRange) -> AsyncIterator[BlobPart]:
        async def chunks() -> AsyncIterator[bytes]:
            left = byte_range.length
            with self.path.open("rb") as file:
                file.seek(byte_range.first)
                while left and (piece := file.read(min(left, 256 * KIB))):
                    left -= len(piece)
                    yield piece

        yield BlobPart(chunks(), None, 0)


async def _index_share(path: Path, model: Model) -> float:
    """What the index of a tar+gzip costs in memory, in percent of the blob."""
    descriptor = Descriptor(
        media_type=layer_type("weight", "tar+gzip"),
        digest=Digest.parse(model.digest),
        size=model.size,
        annotations={},
    )
    index = LayerIndex(seeking=StreamScan("gzip", is_tar=True, collects=True))
    assert index.seeking is not None
    await index.seeking.until(lambda: False, source=_FileSource(descriptor, path))
    if not index.verified:
        raise LoadError("the scan did not verify the blob")
    return 100 * index.cost / model.size


def _plain_listing(bench: Bench) -> list[Line]:
    """A plain tar listed: headers are read, weights are jumped over."""
    model = bench.models["tar"]
    lines: list[Line] = []
    for upstream in bench.upstreams:
        seconds: list[float] = []
        cpu: list[float] = []
        for _ in range(bench.scale.rounds + 1):
            with bench.fresh(upstream.url) as peer:
                assert peer.pid is not None
                before = cpu_seconds(peer.pid)
                seconds.append(_timed(lambda: _get(peer.url, model.files + "?flat=1")))
                cpu.append(cpu_seconds_when_idle(peer.pid) - before)
        row = f"4 · list plain tar of {bench.scale.members:,}, cold"
        lines.append(_line(row, upstream.name, PRODUCT, "s", seconds[1:], most=0.2))
        lines.append(Line(row, upstream.name, "CPU", "s", cpu[1:]))
    return lines


def _many_members(bench: Bench) -> list[Line]:
    """Very many members, listed in one pass."""
    model = bench.models["many"]
    seconds: list[float] = []
    peaks: list[float] = []
    for _ in range(bench.scale.rounds + 1):
        with bench.fresh(bench.registry.url) as peer:
            assert peer.pid is not None
            reset_peak_rss(peer.pid)
            seconds.append(_timed(lambda: _get(peer.url, model.files + "?flat=1")))
            peaks.append(peak_rss_bytes(peer.pid) / MIB)
    row = f"5 · list {bench.scale.many:,} members"
    return [
        _line(row, bench.registry.name, "peak RSS", "MiB", peaks[1:], most=200),
        Line(row, bench.registry.name, "time", "s", seconds[1:]),
    ]


@dataclass(slots=True)
class _Watch:
    """The longest that ``/livez`` took while somebody else asked for something."""

    longest_ms: float = 0.0
    count: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, url: str) -> None:
        with closing(Connection(url)) as connection:
            while not self.stop.is_set():
                taken = _timed(lambda: connection.ask("GET", "/livez")) / MS
                self.longest_ms = max(self.longest_ms, taken)
                self.count += 1
                time.sleep(MS)


@contextmanager
def _watching(url: str) -> Iterator[_Watch]:
    watch = _Watch()
    thread = threading.Thread(target=watch.run, args=(url,), daemon=True)
    thread.start()
    try:
        # As long as nothing is asked there is nothing to see.
        yield watch
    finally:
        watch.stop.set()
        thread.join(10)


def _hostile_rows(bench: Bench) -> list[Line]:
    """Layers that lie: what they cost, and what others notice of it."""
    upstream = bench.registry.name
    lines: list[Line] = []
    idle: list[float] = []
    with bench.fresh(bench.registry.url) as peer:
        for _ in range(bench.scale.rounds):
            with _watching(peer.url) as watch:
                time.sleep(0.5)
            idle.append(watch.longest_ms)
    lines.append(Line("6 · nothing hostile, for 0.5 s", upstream, "longest /livez", "ms", idle))
    for name in _HOSTILE:
        model = bench.models[name]
        for what, target in (("listed", "?flat=1"), ("read", f"/{_hostile_file(name)}")):
            seconds: list[float] = []
            growth: list[float] = []
            lag: list[float] = []
            status, size = "", 0
            for _ in range(bench.scale.rounds + 1):
                with bench.fresh(bench.registry.url) as peer:
                    assert peer.pid is not None
                    # What the first answers load is no growth of theirs.
                    _get(peer.url, bench.models["warm"].files + "?flat=1")
                    reset_peak_rss(peer.pid)
                    before = rss_bytes(peer.pid)
                    with _watching(peer.url) as watch:
                        status, size, taken = _drained(peer.url, model.files + target)
                    seconds.append(taken)
                    growth.append((peak_rss_bytes(peer.pid) - before) / MIB)
                    lag.append(watch.longest_ms)
            row = f"6 · {name}, {what}"
            # A listing that says what is wrong, an error, or a file's first bytes and a cut.
            is_answer = size < MIB
            how = f"{'answered' if is_answer else 'streamed'} ({status}, {_size(size)})"
            most = 1.0 if is_answer else None
            lines.append(_line(row, upstream, how, "s", seconds[1:], most=most))
            lines.append(_line(row, upstream, "RSS growth", "MiB", growth[1:], most=64))
            lines.append(_line(row, upstream, "longest /livez", "ms", lag[1:], most=50))
    return lines


_HOSTILE = (
    "gzip bomb, 1 MiB → 1 GiB",
    "zstd bomb, 32 KiB → 1 GiB",
    "zstd window of 2**27",
    "header says 1 TiB",
    "flood of PAX records",
)


def _hostile_file(name: str) -> str:
    return "small.txt" if name.startswith("flood") else "weights.bin"


def _drained(url: str, target: str) -> tuple[str, int, float]:
    """Status, bytes and seconds of an answer that may be cut short."""
    form = "%{http_code} %{size_download} %{time_total}"
    found = _run("curl", "-s", "-o", os.devnull, "-w", form, f"{url}{target}", check=False)
    status, size, seconds = found.split()
    return status, int(size), float(seconds)


def _archive(bench: Bench) -> list[Line]:
    """All files as one tar, written to the disk, beside the whole artifact by skopeo."""
    lines: list[Line] = []
    for packing in ("tar", "tar+gzip"):
        model = bench.models[packing]
        for upstream in bench.upstreams:
            cpu: list[float] = []

            def ours(upstream: Peer = upstream, model: Model = model) -> float:
                with (
                    bench.fresh(upstream.url) as peer,
                    tempfile.TemporaryDirectory(dir=bench.folder) as out,
                ):
                    assert peer.pid is not None
                    to = f"{out}/archive.tar"
                    source = f"{peer.url}/cnai/{model.repository}:{_TAG}/archive.tar"
                    before = cpu_seconds(peer.pid)
                    seconds = _timed(lambda: _run("curl", "-sSf", "-o", to, source))
                    size = Path(to).stat().st_size / GIB
                    cpu.append((cpu_seconds_when_idle(peer.pid) - before) / size)  # noqa: B023
                    return size / seconds

            def skopeo(upstream: Peer = upstream, model: Model = model) -> float:
                with tempfile.TemporaryDirectory(dir=bench.folder) as out:
                    seconds = _timed(lambda: _skopeo(upstream.url, model, Path(out)))
                    return model.size / GIB / seconds

            def pull(upstream: Peer = upstream, model: Model = model) -> float:
                with tempfile.TemporaryDirectory(dir=bench.folder) as out:
                    to = f"{out}/layer"
                    source = f"{upstream.url}{model.layer}"
                    seconds = _timed(lambda: _run("curl", "-sSf", "-o", to, source))
                    return model.size / GIB / seconds

            found, absent = _samples(
                bench.scale.rounds,
                {PRODUCT: ours, "skopeo copy": skopeo, "curl of the layer, direct": pull},
            )
            row = f"7 · archive.tar of {packing}, {_size(model.plain_size)}"
            lines += _beside(row, upstream.name, "GiB/s", found, "skopeo copy", absent=absent)
            lines.append(Line(row, upstream.name, "CPU by GiB", "s", cpu[1:]))
    return lines


_ROWS: Mapping[str, Callable[[Bench], list[Line]]] = {
    "1": _one_file,
    "2": _listing,
    "3": _seek,
    "4": _plain_listing,
    "5": _many_members,
    "6": _hostile_rows,
    "7": _archive,
}


# --- The table ---


def _size(size: int) -> str:
    if size >= GIB:
        return f"{size / GIB:.3g} GiB"
    return f"{size / MIB:.4g} MiB" if size >= MIB else f"{size:,} bytes"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _cells(line: Line) -> str:
    """A line of the table."""
    value = "absent"
    if line.values:
        spread = Spread.of(line.values)
        value = f"{_number(spread.median)} {line.unit}".rstrip()
        if spread.low != spread.high:
            value += f" ({_number(spread.low)} to {_number(spread.high)})"
    ratio = ""
    if line.ratio is not None:
        ratio = f"{_number(line.ratio.median)} x {line.peer}"
    cells = (line.row, line.upstream, line.what, value, ratio, line.target, line.verdict or "")
    return f"| {' | '.join(cells)} |"


def _measure(scale: Scale, only: str | None) -> Iterator[Line]:
    """All rows, or those whose numbers are in ``only``, each when it is measured."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-files-")))
        registry = stack.enter_context(peers.registry(folder))
        _note("filling the registry")
        manifests = folder / "manifests"
        models = _seed(registry.url, folder, manifests, scale)
        models["warm"] = _push(registry.url, manifests, "warm", "tar", _many(10), 0)
        blobs = folder / "content" / "docker" / "registry" / "v2" / "blobs" / "sha256"
        static: Peer | None = None
        try:
            static = stack.enter_context(
                peers.static(blobs, manifests, OCI_MANIFEST, folder / "static")
            )
        except PeerAbsent as error:
            _note(f"no rows before files alone: {error}")
        bench = Bench(scale, folder, registry, static, models)
        for number, row in _ROWS.items():
            if only is None or number in only:
                _note(f"row {number}")
                yield from row(bench)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table, row by row; 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="bench.files", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the size, 3 rounds")
    parser.add_argument("--only", metavar="ROWS", help="rows by number, such as 24")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample to FILE")
    arguments = parser.parse_args(argv)
    # Ends the contexts, and with them the peers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    before = machine()
    lines: list[Line] = []
    print(f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|")
    try:
        for line in _measure(QUICK if arguments.quick else FULL, arguments.only):
            lines.append(line)
            print(_cells(line), flush=True)
    except (PeerAbsent, LoadError) as error:
        _note(f"measured no further: {error}")
        return 1
    if arguments.json is not None:
        document = {"before": before, "after": machine(), "lines": [asdict(line) for line in lines]}
        arguments.json.write_text(f"{json.dumps(document, indent=1)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
