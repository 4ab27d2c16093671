"""What is fuzzed: each target takes bytes and fails by raising anything but an answer of ours.

The first bytes say how the rest is cut into pieces: however that is done, the outcome is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from proxy.errors import ProxyError
from proxy.formats.compression import Compression, open_decoder
from proxy.formats.progress import START, DecoderLimits, Point
from proxy.formats.tar import Member, TarReader
from proxy.model.artifact import TAR, LayerClass, ModelLayer, Packing
from proxy.model.families import recognise, with_config
from proxy.model.globs import Filter
from proxy.model.paths import sanitise_path
from proxy.model.placement import EarlyMatch, place_members
from proxy.model.record import read_config
from proxy.model.sniffing import settle
from proxy.model.tree import build_tree
from proxy.model.variants import Choice, choose
from proxy.oci.digest import Digest
from proxy.oci.manifest import Descriptor, Index, decode

_LIMITS = DecoderLimits(free_bytes=4 * 1024 * 1024, spacing_bytes=4096)


def _pieces(content: bytes, step: int) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(content), step):
        yield start, content[start : start + step]


def _members(content: bytes, step: int) -> tuple[list[Member], bool]:
    reader = TarReader(size=len(content))
    found: list[Member] = []
    try:
        for start, piece in _pieces(content, step):
            found += reader.feed(start, piece)
        reader.end()
    except ProxyError:
        return found, False
    return found, True


def tar(content: bytes) -> None:
    """Members lie inside the archive, in order, however it is cut; their placement never fails."""
    step, archive = (content[0] + 1 if content else 1), content[1:]
    found, is_whole = _members(archive, step)
    assert (found, is_whole) == _members(archive, len(archive) or 1)
    layer = ModelLayer(
        Descriptor("a/b", Digest.of(b""), len(archive), {}), LayerClass.OTHER, TAR, "dir/a"
    )
    entries = place_members(layer, found, layer_index=0)
    "".join(build_tree(entries).to_json()).encode()
    for entry in entries:
        assert sanitise_path(entry.path) == entry.path
        assert entry.offset is None or 0 <= entry.offset <= len(archive)
        match = EarlyMatch(layer, entry.path).take(found)
        assert match is None or match.offset == entry.offset


def _decoded(
    compression: Compression, content: bytes, *, step: int, limit: int, collect: bool
) -> tuple[bytes, bool, list[Point]]:
    decoder = open_decoder(compression, start=START, collect=collect, limits=_LIMITS)
    plain = bytearray()
    try:
        for _, piece in _pieces(content, step):
            decoder.feed(piece)
            while part := decoder.take(limit):
                assert len(part) <= limit
                plain += part
        decoder.end()
    except ProxyError:
        return bytes(plain), False, list(decoder.points)
    return bytes(plain), True, list(decoder.points)


def _decoders(compression: Compression, content: bytes) -> None:
    step, limit, packed = (*content[:2], content[2:]) if len(content) > 2 else (1, 1, content)
    small = _decoded(compression, packed, step=step + 1, limit=limit * 64 + 1, collect=True)
    whole = _decoded(compression, packed, step=len(packed) or 1, limit=1 << 20, collect=False)
    assert small[1] == whole[1]
    if not whole[1]:
        return
    assert small[0] == whole[0]
    for point in small[2][-3:]:
        decoder = open_decoder(compression, start=point, limits=_LIMITS)
        decoder.feed(packed[point.position :])
        expected = whole[0][point.plain_position :]
        found = b"".join(iter(partial(decoder.take, 1 << 16), b""))
        assert found == expected


def gzip(content: bytes) -> None:
    """Gzip gives the same however it is cut, and from each place it can begin at."""
    _decoders("gzip", content)


def zstd(content: bytes) -> None:
    """Zstd gives the same however it is cut, and from each place it can begin at."""
    _decoders("zstd", content)


def head(content: bytes) -> None:
    """Any first bytes settle a packing, whatever the type says."""
    descriptor = Descriptor("a/b", Digest.of(b""), len(content), {})
    for packing in (TAR, Packing("tar", "gzip"), Packing("raw", "zstd")):
        for trusted in (True, False):
            layer = ModelLayer(descriptor, LayerClass.OTHER, packing, "a.gz", trusted=trusted)
            settle(layer, content[:4096])


def manifest(content: bytes) -> None:
    """Any bytes are a manifest, an index or an error; a model can be named by any config."""
    text, _, config_text = content.partition(b"\0")
    config, _ = read_config(config_text)
    try:
        found = decode(text)
        if isinstance(found, Index):
            choose(found, Choice(), is_model_type=lambda kind: "model" in kind)
            return
        artifact = recognise(found)
        if artifact is not None and config is not None:
            with_config(artifact, config)
    except ProxyError:
        return


def globs(content: bytes) -> None:
    """Any text is a glob or an error; matching never fails."""
    glob, _, path = content.decode("utf-8", "replace").partition("\0")
    try:
        wanted = Filter.parse([glob], [])
    except ProxyError:
        return
    wanted.wants(path)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "tar": tar,
    "gzip": gzip,
    "zstd": zstd,
    "head": head,
    "manifest": manifest,
    "globs": globs,
}
