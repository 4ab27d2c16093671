"""``python -m bench.run``: every scenario against every peer, one table.

Rounds are interleaved (A B C, A B C, …), the first is dropped, and ratios are taken within a
round, so that a slow minute of the machine slows both sides of a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import load, peers
from bench.load import GIB, MIB, Connection, Content, LoadError
from bench.measure import Reading, Sample, Spread, Verdict, machine, ratios, sample
from bench.peers import (
    DIRECT,
    NGINX,
    NGINX_TUNED,
    ONE_UPSTREAM,
    PRODUCT,
    ROUTED_PREFIX,
    STARTERS,
    Peer,
    PeerAbsent,
    Traffic,
)
from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST, Descriptor
from tests.build import layer_type, manifest_bytes, tar_header

_REPOSITORY, _PUSHED_TO, _TAG = "bench/model", "bench/pushed", "v1"
_ACCEPT = {"Accept": OCI_MANIFEST}
_ONE_BYTE = {"Range": "bytes=0-0"}
_FIRST_MEMBER, _WEIGHTS, _LAST_MEMBER = "config.json", "model.safetensors", "README.md"
_TAR_BLOCK = 512
_SMALL_FILE_BYTES = 8 * _TAR_BLOCK
_FIRST_BYTE_REQUESTS = 50
_COLUMNS = (
    "scenario",
    "peer",
    "median (range)",
    "x nginx",
    "x nginx 256k",
    "CPU",
    "CPU x nginx 256k",
    "peak RSS MiB",
    "target: verdict",
)
# A read of tar headers that finds a file may cost this much, the answer's own header included.
_READ_BYTES = 8 * 1024

# Of the rows of one scenario.
_ORDER = (ONE_UPSTREAM, *STARTERS)

Samples = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is moved, how often."""

    blob_bytes: int
    stream_bytes: int
    rounds: int
    small_seconds: int = 1
    streams: int = 8


QUICK = Scale(blob_bytes=256 * MIB, stream_bytes=32 * MIB, rounds=3)
NORMAL = Scale(blob_bytes=GIB, stream_bytes=128 * MIB, rounds=5)
FULL = Scale(blob_bytes=GIB, stream_bytes=128 * MIB, rounds=9, small_seconds=3)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the product; ``check`` answers None where a peer it compares with is absent."""

    text: str
    check: Callable[[Samples], Verdict | None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure: ``measured`` runs once for each of ``peers`` in every round."""

    name: str
    title: str
    unit: str
    measured: Callable[[Peer], Reading]
    peers: tuple[Peer, ...]
    targets: tuple[Target, ...]


@dataclass(slots=True)
class Result:
    """A scenario's samples by peer, and why a peer has none."""

    scenario: Scenario
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What the registry holds while the scenarios run."""

    blob: Content
    blob_digest: str
    stream: Content
    stream_digest: str
    layer: Content
    layer_digest: str


def values(samples: Sequence[Sample]) -> list[float]:
    """The samples' values."""
    return [one.reading.value for one in samples]


def costs(samples: Sequence[Sample]) -> list[float]:
    """CPU seconds for each unit of work; empty where the peer is no process of its own."""
    return [
        one.cpu_seconds / one.reading.work
        for one in samples
        if one.cpu_seconds is not None and one.reading.work
    ]


def peaks(samples: Sequence[Sample]) -> list[float]:
    """Peak memory in MiB."""
    return [one.peak_rss_bytes / MIB for one in samples if one.peak_rss_bytes is not None]


def ratio(
    found: Samples, of: str, to: str, taken: Callable[[Sequence[Sample]], list[float]]
) -> Spread | None:
    """One peer's figures by another's, round by round; None where either has none."""
    ours, theirs = taken(found.get(of, ())), taken(found.get(to, ()))
    return ratios(ours, theirs) if ours and len(ours) == len(theirs) else None


def faster(than: str, factor: float) -> Target:
    """The product's value is at least ``factor`` times the peer's."""

    def check(found: Samples) -> Verdict | None:
        spread = ratio(found, PRODUCT, than, values)
        return None if spread is None else spread.at_least(factor)

    return Target(f"≥ {factor:g} x {than}", check)


def sooner(than: str, factor: float) -> Target:
    """The product's value, a time, is at most ``factor`` times the peer's."""

    def check(found: Samples) -> Verdict | None:
        spread = ratio(found, PRODUCT, than, values)
        return None if spread is None else spread.at_most(factor)

    return Target(f"≤ {factor:g} x {than}", check)


def cheaper(than: str, factor: float) -> Target:
    """The product's CPU for the same work is at most ``factor`` times the peer's."""

    def check(found: Samples) -> Verdict | None:
        spread = ratio(found, PRODUCT, than, costs)
        return None if spread is None else spread.at_most(factor)

    return Target(f"CPU ≤ {factor:g} x {than}", check)


def smaller(mib: float) -> Target:
    """The product's memory peaks within ``mib``."""

    def check(found: Samples) -> Verdict | None:
        taken = peaks(found.get(PRODUCT, ()))
        return Spread.of(taken).at_most(mib) if taken else None

    return Target(f"RSS ≤ {mib:g} MiB", check)


def within(limit: float, unit: str, *, detail: str | None = None) -> Target:
    """The product's value, or one detail of it, is at most ``limit``."""

    def check(found: Samples) -> Verdict | None:
        readings = [one.reading for one in found.get(PRODUCT, ())]
        taken = [one.details[detail] if detail else one.value for one in readings]
        return Spread.of(taken).at_most(limit) if taken else None

    return Target(f"≤ {limit:g} {unit}", check)


def _seed(registry: str, scale: Scale) -> Seeded:
    """Fill the registry: two blobs of random bytes, and a model whose one layer is a tar."""
    block = os.urandom(MIB)
    blob = Content(block, scale.blob_bytes // MIB)
    stream = Content(block, scale.stream_bytes // MIB)
    small = block[:_SMALL_FILE_BYTES]
    layer = Content(
        block,
        blob.blocks,
        head=_member(_FIRST_MEMBER, small) + tar_header(_WEIGHTS.encode(), size=blob.size),
        tail=_member(_LAST_MEMBER, small) + bytes(2 * _TAR_BLOCK),
    )
    seeded = Seeded(blob, blob.digest(), stream, stream.digest(), layer, layer.digest())
    config = Content(b"{}", 1)
    for content, digest in (
        (blob, seeded.blob_digest),
        (stream, seeded.stream_digest),
        (layer, seeded.layer_digest),
        (config, config.digest()),
    ):
        load.push(registry, _REPOSITORY, content, digest=digest)
    descriptor = Descriptor(
        media_type=layer_type("weight", "tar"),
        digest=Digest.parse(seeded.layer_digest),
        size=layer.size,
        annotations={},
    )
    load.put_manifest(registry, _REPOSITORY, _TAG, manifest_bytes([descriptor]), OCI_MANIFEST)
    return seeded


def _member(name: str, content: bytes) -> bytes:
    # The content is a whole number of tar blocks.
    return tar_header(name.encode(), size=len(content)) + content


def _transfers(seeded: Seeded, scale: Scale, plain: tuple[Peer, ...]) -> list[Scenario]:
    """Large blobs, both ways. Targets: see README.md."""
    blob, stream = seeded.blob, seeded.stream

    def pull(peer: Peer) -> Reading:
        return load.pull(peer.url, _blob(seeded.blob_digest), size=blob.size)

    def pull_streams(peer: Peer) -> Reading:
        target = _blob(seeded.stream_digest)
        return load.pull(peer.url, target, size=stream.size, streams=scale.streams)

    def push(peer: Peer) -> Reading:
        return load.push(peer.url, _PUSHED_TO, blob, digest=seeded.blob_digest)

    return [
        Scenario(
            "pull",
            f"pull {_size(blob.size)}, 1 stream",
            "GiB/s",
            pull,
            plain,
            (
                faster(NGINX_TUNED, 1.1),
                faster(NGINX, 1.5),
                cheaper(NGINX_TUNED, 0.75),
                smaller(64),
            ),
        ),
        Scenario(
            "pull-streams",
            f"pull {_size(stream.size)}, {scale.streams} streams",
            "GiB/s",
            pull_streams,
            plain,
            (faster(NGINX_TUNED, 1.0), cheaper(NGINX_TUNED, 0.7), smaller(64)),
        ),
        Scenario(
            "push",
            f"push {_size(blob.size)}",
            "GiB/s",
            push,
            plain,
            (faster(NGINX, 0.9), smaller(64)),
        ),
    ]


def _requests(seeded: Seeded, scale: Scale, plain: tuple[Peer, ...]) -> list[Scenario]:
    """What comes before the bytes: manifests and first bytes."""
    manifest = f"/v2/{_REPOSITORY}/manifests/{_TAG}"

    def by_tag(connections: int) -> Callable[[Peer], Reading]:
        return lambda peer: load.requests(
            peer.url,
            manifest,
            headers=_ACCEPT,
            connections=connections,
            seconds=scale.small_seconds,
        )

    def first_byte(peer: Peer) -> Reading:
        return load.first_byte(
            peer.url,
            _blob(seeded.blob_digest),
            headers=_ONE_BYTE,
            expected=206,
            count=_FIRST_BYTE_REQUESTS,
        )

    return [
        *(
            Scenario(
                f"manifest-c{connections}",
                f"manifest by tag, c={connections}",
                "req/s",
                by_tag(connections),
                plain,
                (faster(NGINX, 0.7),),
            )
            for connections in (1, 16)
        ),
        Scenario(
            "first-byte",
            "first byte of a blob",
            "ms",
            first_byte,
            plain,
            (sooner(DIRECT, 3.0),),
        ),
    ]


def _routing(one: Peer, routed: Peer, scale: Scale) -> Scenario:
    """The same manifest before one upstream, and by a prefix before twenty."""
    names = {ONE_UPSTREAM: _REPOSITORY, PRODUCT: f"{ROUTED_PREFIX}/{_REPOSITORY}"}

    def by_tag(peer: Peer) -> Reading:
        return load.requests(
            peer.url,
            f"/v2/{names[peer.name]}/manifests/{_TAG}",
            headers=_ACCEPT,
            connections=16,
            seconds=scale.small_seconds,
        )

    return Scenario(
        "routing",
        "manifest by tag, c=16, prefix before 20 upstreams",
        "req/s",
        by_tag,
        (replace(one, name=ONE_UPSTREAM), routed),
        (cheaper(ONE_UPSTREAM, 1.05),),
    )


def _files(
    seeded: Seeded, plain: tuple[Peer, ...], counted: tuple[Peer, ...], crossed: Traffic
) -> list[Scenario]:
    """One file of a model's tar layer, beside what a client without the proxy has to do.

    ``counted`` is the product behind a go-between that adds up in ``crossed``.
    """
    layer = _blob(seeded.layer_digest)
    files = f"/cnai/{_REPOSITORY}:{_TAG}/files"
    size = _size(seeded.layer.size)

    def first_byte(peer: Peer) -> Reading:
        if peer.name == PRODUCT:
            return load.first_byte(
                peer.url,
                f"{files}/{_FIRST_MEMBER}",
                headers={},
                expected=200,
                count=_FIRST_BYTE_REQUESTS,
            )
        # With the offset known beforehand: the manifest, then the member by Range.
        asked = {"Range": f"bytes={_TAR_BLOCK}-{_TAR_BLOCK + _SMALL_FILE_BYTES - 1}"}
        manifest = load.first_byte(
            peer.url,
            f"/v2/{_REPOSITORY}/manifests/{_TAG}",
            headers=_ACCEPT,
            expected=200,
            count=_FIRST_BYTE_REQUESTS,
        )
        member = load.first_byte(
            peer.url, layer, headers=asked, expected=206, count=_FIRST_BYTE_REQUESTS
        )
        return Reading(manifest.value + member.value, _FIRST_BYTE_REQUESTS)

    def moved(path: str, headers: Mapping[str, str]) -> Callable[[Peer], Reading]:
        def measured(peer: Peer) -> Reading:
            with closing(Connection(peer.url)) as connection:
                if peer.name != PRODUCT:
                    whole = connection.ask("GET", layer)
                    return Reading(whole.size, 1, {"requests": 1})
                requests, received = crossed.requests, crossed.received_bytes
                expected = 206 if headers else 200
                connection.ask("GET", f"{files}/{path}", headers=headers, expected=expected)
            # The manifest's request is the proof that the caller may read: not counted.
            return Reading(
                crossed.received_bytes - received, 1, {"requests": crossed.requests - requests - 1}
            )

        return measured

    # The last figure: one read for each header that stands alone, one for the file.
    asked: tuple[tuple[str, str, Mapping[str, str], int, int], ...] = (
        ("file-first", _FIRST_MEMBER, {}, _SMALL_FILE_BYTES, 2),
        ("file-weights", _WEIGHTS, _ONE_BYTE, 1, 3),
        ("file-last", _LAST_MEMBER, {}, _SMALL_FILE_BYTES, 4),
    )
    both = tuple(peer for peer in plain if peer.name in (DIRECT, PRODUCT))
    return [
        Scenario(
            "file-first-byte",
            f"{_FIRST_MEMBER} in a tar layer of {size}",
            "ms",
            first_byte,
            both,
            (sooner(DIRECT, 3.0),),
        ),
        *(
            Scenario(
                name,
                f"{path}{', 1 byte' if headers else ''}, of that layer",
                "bytes from upstream",
                moved(path, headers),
                counted,
                (
                    within(file_bytes + reads * _READ_BYTES, "bytes"),
                    within(reads, "requests after the manifest", detail="requests"),
                ),
            )
            for name, path, headers, file_bytes, reads in asked
        ),
    ]


def _start(upstream: str, plain: tuple[Peer, ...]) -> Scenario:
    def measured(peer: Peer) -> Reading:
        with (
            tempfile.TemporaryDirectory(prefix="bench-start-") as folder,
            STARTERS[peer.name](upstream, Path(folder)) as started,
        ):
            return Reading(started.started_seconds)

    fresh = tuple(replace(peer, pid=None) for peer in plain if peer.pid is not None)
    return Scenario("start", "start to first answer", "s", measured, fresh, (within(2.0, "s"),))


def _blob(digest: str) -> str:
    return f"/v2/{_REPOSITORY}/blobs/{digest}"


def _size(size: int) -> str:
    return f"{size / GIB:.3g} GiB" if size >= GIB else f"{size / MIB:.4g} MiB"


def _measure(scenario: Scenario, rounds: int, absent: Mapping[str, str]) -> Result:
    """All rounds of one scenario; a peer that fails leaves it."""
    result = Result(scenario, {peer.name: [] for peer in scenario.peers}, dict(absent))
    for number in range(rounds + 1):
        for peer in scenario.peers:
            if peer.name in result.missing:
                continue
            try:
                taken = sample(peer.pid, partial(scenario.measured, peer))
            except (LoadError, OSError) as error:
                result.missing[peer.name] = f"failed: {error}"
                del result.samples[peer.name]
                continue
            if number:
                result.samples[peer.name].append(taken)
    return result


def _table(results: Sequence[Result]) -> str:
    lines = [
        f"| {' | '.join(_COLUMNS)} |",
        "|---" * len(_COLUMNS) + "|",
    ]
    for result in results:
        scenario = result.scenario
        rows = [*result.samples, *(name for name in result.missing if name not in result.samples)]
        for name in sorted(rows, key=_ORDER.index):
            cells = _cells(result, name)
            lines.append(f"| {scenario.title} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(result: Result, name: str) -> list[str]:
    found = result.samples.get(name)
    if not found:
        return [result.missing.get(name, "absent"), *[""] * 6]
    scenario = result.scenario
    spread = Spread.of(values(found))
    details = "".join(
        f", {key} {Spread.of([one.reading.details[key] for one in found]).median:.3g}"
        for key in found[0].reading.details
    )
    cpu = costs(found)
    is_bulk = scenario.unit == "GiB/s"
    cost = ""
    if cpu and scenario.unit in ("GiB/s", "req/s"):
        median = Spread.of(cpu).median
        cost = f"{median:.2f} s/GiB" if is_bulk else f"{median * 1e6:.0f} µs/req"
    memory = peaks(found)
    verdicts = [_verdict(target, result) for target in scenario.targets] if name == PRODUCT else []
    span = f"{_number(spread.low)} to {_number(spread.high)}"
    return [
        f"{_number(spread.median)} {scenario.unit} ({span}){details}",
        _ratio_cell(result, name, NGINX, values),
        _ratio_cell(result, name, NGINX_TUNED, values),
        cost,
        _ratio_cell(result, name, NGINX_TUNED, costs) if cost else "",
        f"{Spread.of(memory).high:.0f}" if memory else "",
        "; ".join(verdicts),
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio_cell(
    result: Result, of: str, to: str, taken: Callable[[Sequence[Sample]], list[float]]
) -> str:
    spread = None if of == to else ratio(result.samples, of, to, taken)
    return f"{spread.median:.2f}" if spread is not None else ""


def _verdict(target: Target, result: Result) -> str:
    return f"{target.text}: {target.check(result.samples) or 'peer absent'}"


def _document(results: Sequence[Result], scale: Scale, about: object) -> dict[str, object]:
    return {
        "scale": asdict(scale),
        "machine": about,
        "scenarios": [
            {
                "name": result.scenario.name,
                "title": result.scenario.title,
                "unit": result.scenario.unit,
                "missing": result.missing,
                "samples": {
                    name: [asdict(one) for one in taken] for name, taken in result.samples.items()
                },
                "targets": {
                    target.text: target.check(result.samples) for target in result.scenario.targets
                },
            }
            for result in results
        ],
    }


def _run(scale: Scale, only: str | None) -> list[Result]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        registry = stack.enter_context(peers.registry(folder))
        _note("filling the registry")
        seeded = _seed(registry.url, scale)
        plain: list[Peer] = []
        absent: dict[str, str] = {}
        for name, start in STARTERS.items():
            try:
                plain.append(stack.enter_context(start(registry.url, folder)))
            except PeerAbsent as error:
                absent[name] = f"absent: {error}"
        relay, crossed = stack.enter_context(peers.counting(registry.url))
        apart = folder / "counted"
        apart.mkdir()
        counted = stack.enter_context(peers.product(relay, apart))
        routed = stack.enter_context(peers.routed(registry.url, folder / "routed"))
        one = next(peer for peer in plain if peer.name == PRODUCT)
        scenarios = [
            *_transfers(seeded, scale, tuple(plain)),
            *_requests(seeded, scale, tuple(plain)),
            _routing(one, routed, scale),
            *_files(
                seeded,
                tuple(plain),
                (*(peer for peer in plain if peer.name == DIRECT), counted),
                crossed,
            ),
            _start(registry.url, tuple(plain)),
        ]
        wanted = [one for one in scenarios if only is None or one.name.startswith(only)]
        if not wanted:
            raise LoadError(f"no scenario {only!r}; there are {[one.name for one in scenarios]}")
        for peer in plain:
            # What is fast and wrong is not fast.
            load.pull(
                peer.url,
                _blob(seeded.stream_digest),
                size=seeded.stream.size,
                digest=seeded.stream_digest,
            )
        results = []
        for scenario in wanted:
            _note(scenario.title)
            # Nginx knows no files and no prefixes, so it has no row there.
            compared = {} if scenario.name.startswith(("file", "routing")) else absent
            results.append(_measure(scenario, scale.rounds, compared))
        return results


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table; 1 when the upstream is absent or the product failed."""
    arguments = _parser().parse_args(argv)
    scale: Scale = arguments.scale
    signal.signal(signal.SIGTERM, _stop)
    before = machine()
    try:
        results = _run(scale, arguments.only)
    except (PeerAbsent, LoadError) as error:
        _note(f"nothing measured: {error}")
        return 1
    about = {
        "before": before,
        "after": machine(),
        "python": sys.version.split()[0],
        "docker-registry": peers.version("docker-registry"),
        "nginx": peers.version("nginx"),
    }
    print(_table(results))
    if arguments.json is not None:
        text = json.dumps(_document(results, scale, about), indent=1)
        arguments.json.write_text(f"{text}\n")
    return 1 if any(PRODUCT in result.missing for result in results) else 0


def _stop(_: int, __: FrameType | None) -> NoReturn:
    # Ends the contexts, and with them the peers.
    raise SystemExit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.run", description=__doc__)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument(
        "--quick", dest="scale", action="store_const", const=QUICK, help="smaller, 3 rounds"
    )
    scale.add_argument(
        "--full", dest="scale", action="store_const", const=FULL, help="9 rounds, longer ones"
    )
    parser.set_defaults(scale=NORMAL)
    parser.add_argument("--only", metavar="NAME", help="scenarios whose names begin so")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every sample to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
