"""What no honest producer writes, or only a careless one: each is opened as far as it can be.

An index cannot name itself, as its digest is not known before it is written: long chains stand for
what a loop would cost.
"""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Iterator, Mapping, Sequence

import zstandard

from proxy.oci.digest import Digest
from tests.build import layer_type, pax_record, tar_entry, tar_extension, tar_header, tar_of
from tests.producers import files
from tests.producers.archives import compressed, go_tar, gzipped, zstandarded
from tests.producers.artifact import PACKINGS, Artifact, Maker, Part, index_of

_PATH = "org.cncf.model.filepath"
_MAKER = Maker("hostile", "modelpack", artifact_type="application/vnd.cncf.model.manifest.v1+json")
_CONFIG = Part("application/vnd.cncf.model.config.v1+json", b"{}")
_MIB = 1024 * 1024
_ENDINGS = {"tar": ".tar", "tar+gzip": ".tar.gz", "tar+zstd": ".tar.zst"}
_NOISE = random.Random(70).randbytes(24 * 1024)


def _layer(
    blob: bytes,
    packing: str,
    path: str | None = None,
    *,
    members: Mapping[str, object] | None = None,
) -> Part:
    annotations = {} if path is None else {_PATH: path}
    return Part(layer_type("weight", packing), blob, annotations, members or {})


def _of(
    label: str,
    layers: Sequence[Part],
    expected: Mapping[str, bytes],
    refused: Mapping[str, str] | None = None,
    *,
    packing: str = "tar",
) -> Artifact:
    return _MAKER.artifact(
        f"hostile-{label}", packing, layers, config=_CONFIG, files=expected, refused=refused
    )


def _synthetic(blob: bytes, extension: str) -> str:
    """The name of a layer that has none."""
    return f"weight/{Digest.of(blob).short}{extension}"


def sparse() -> Artifact:
    """A file with holes in GNU's old form: 200 MiB that are one block."""
    holes = b"".join(b"%011o\0%011o\0" % pair for pair in ((0, 512), (200 * _MIB, 0)))
    tail = bytes(41) + holes.ljust(97, b"\0") + b"%011o\0" % (200 * _MIB)
    header = tar_header(b"holes.bin", size=512, flag=b"S", magic=b"ustar  \0", tail=tail)
    archive = tar_of(header, b"x" * 512, tar_entry(b"whole.bin", b"whole"))
    return _of("sparse", [_layer(archive, "tar")], {"whole.bin": b"whole"}, {"holes.bin": "sparse"})


def pax_sparse() -> Artifact:
    """The same by PAX 1.0: the header's name is a made-up one."""
    records = b"".join(
        pax_record(f"GNU.sparse.{key}", value)
        for key, value in (
            ("major", "1"),
            ("minor", "0"),
            ("name", "holes.bin"),
            ("realsize", str(200 * _MIB)),
        )
    )
    body = b"1\n0\n5\n".ljust(512, b"\0") + b"start".ljust(512, b"\0")
    archive = tar_of(
        tar_extension(b"x", records),
        tar_entry(b"./GNUSparseFile.1/holes.bin", body),
        tar_entry(b"whole.bin", b"whole"),
    )
    return _of(
        "pax-sparse", [_layer(archive, "tar")], {"whole.bin": b"whole"}, {"holes.bin": "sparse"}
    )


def links() -> Artifact:
    """Links of all kinds, and devices, which are not shown at all."""
    archive = tar_of(
        tar_entry(b"real.bin", b"real"),
        tar_header(b"hard.bin", flag=b"1", target=b"real.bin"),
        tar_header(b"dangling.bin", flag=b"1", target=b"../../etc/shadow"),
        tar_header(b"soft.bin", flag=b"2", target=b"/etc/passwd"),
        tar_header(b"device", flag=b"3"),
        tar_header(b"pipe", flag=b"6"),
    )
    return _of(
        "links",
        [_layer(archive, "tar")],
        {"real.bin": b"real", "hard.bin": b"real"},
        {"soft.bin": "symbolic link", "dangling.bin": "hard link"},
    )


def names() -> Artifact:
    """Names beyond what a header holds, in several scripts; unsafe ones in annotations."""
    inside = {
        f"{'deep/' * 30}{'n' * 200}.bin": b"long",
        "模型/权重.bin": "权重".encode(),
        "naïve/Größe.bin": b"latin",
        "model.bin": b"lower",
        "MODEL.bin": b"upper",
    }
    controlled = b"control"
    layers = [
        _layer(go_tar(inside), "tar"),
        _layer(b"drive", "raw", "C:\\models\\drive.bin"),
        _layer(b"share", "raw", "\\\\host\\share.bin"),
        _layer(b"parent", "raw", "a/../../b/./parent.bin"),
        _layer(controlled, "raw", "new\nline\x00.bin"),
        _layer(b"", "raw", "empty.bin"),
    ]
    expected = {
        **inside,
        "models/drive.bin": b"drive",
        "host/share.bin": b"share",
        "b/parent.bin": b"parent",
        _synthetic(controlled, ".bin"): controlled,
        "empty.bin": b"",
    }
    return _of("names", layers, expected)


def terabyte() -> Artifact:
    """A header of 1 TiB in a layer of 2 KiB, in octal's successor base-256."""
    size = b"\x80" + (1024**4).to_bytes(11, "big")
    archive = tar_header(b"huge.bin", size=size, magic=b"ustar  \0") + bytes(1536)
    layers = [_layer(archive, "tar", "huge.bin"), _layer(b"fine", "raw", "fine.bin")]
    return _of("terabyte", layers, {"fine.bin": b"fine"}, {"huge.bin": "within"})


def duplicates() -> Artifact:
    """One path in two layers (the later counts), and one that is a file and a directory."""
    layers = [
        _layer(b"first", "raw", "twice.bin"),
        _layer(b"file", "raw", "both"),
        _layer(go_tar({"both/inside.bin": b"inside"}), "tar"),
        _layer(b"second", "raw", "twice.bin"),
        _layer(b"same", "raw", "same.bin"),
        _layer(b"same", "raw", "same.bin"),
    ]
    expected = {
        "twice.bin": b"second",
        "both~file": b"file",
        "both/inside.bin": b"inside",
        "same.bin": b"same",
    }
    return _of("duplicates", layers, expected)


def many_members() -> Artifact:
    """gzip of several members, with padding behind them, and zstd of several frames."""
    inside = {"a.bin": _NOISE, "b.bin": b"b" * 700}
    archive = go_tar(inside)
    other = go_tar({"c.bin": _NOISE[::-1]})
    half = len(archive) // 2
    skippable = bytes.fromhex("502a4d18") + (4).to_bytes(4, "little") + b"skip"
    layers = [
        _layer(gzipped(archive[:half]) + gzipped(archive[half:]) + bytes(512), "tar+gzip"),
        _layer(zstandarded(other[:1000]) + skippable + zstandarded(other[1000:]), "tar+zstd"),
    ]
    return _of("many-members", layers, {**inside, "c.bin": _NOISE[::-1]}, packing="tar+gzip")


def bombs() -> Artifact:
    """320 MiB out of 320 KiB of gzip and 1 GiB out of 32 KiB of zstd.

    These cannot be less than the 256 MiB below which no ratio is questioned; gzip cannot pack
    zeros any closer, so this one artifact is larger than the others.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    deflated = bytes.fromhex("1f8b08000000000000ff") + piece * 320
    frames = zstandard.ZstdCompressor().compressobj()
    parts = [frames.compress(bytes(16 * _MIB)) for _ in range(64)]
    layers = [
        _layer(deflated, "raw+gzip", "bomb.gz.bin"),
        _layer(b"".join(parts) + frames.flush(), "raw+zstd", "bomb.zst.bin"),
        _layer(b"fine", "raw", "fine.bin"),
    ]
    return _of(
        "bombs",
        layers,
        {"fine.bin": b"fine"},
        {"bomb.gz.bin": "at most", "bomb.zst.bin": "at most"},
        packing="raw+gzip",
    )


def no_layers() -> Artifact:
    """A model of nothing but its config."""
    return _of("no-layers", [], {}, packing="raw")


def truncated(packing: str) -> Artifact:
    """A layer cut in its last member: what came before opens, the layer itself says why not."""
    archive = go_tar({"good.bin": b"good", "cut.bin": _NOISE})
    blob = _in_two_blocks(archive) if packing == "tar+zstd" else compressed(archive, packing)
    blob = blob[: len(blob) - len(_NOISE) // 2]
    refused = {_synthetic(blob, _ENDINGS[packing]): "found"}
    if packing != "tar":
        refused["cut.bin"] = "found"
    return _of(
        f"truncated-{packing}",
        [_layer(blob, packing)],
        {"good.bin": b"good"},
        refused,
        packing=packing,
    )


def truncated_block() -> Artifact:
    """zstd gives whole blocks alone: where the first is cut, nothing comes out."""
    blob = zstandarded(go_tar({"good.bin": b"good", "cut.bin": _NOISE}))[:-1000]
    refused = {_synthetic(blob, ".tar.zst"): "found"}
    return _of("truncated-block", [_layer(blob, "tar+zstd")], {}, refused, packing="tar+zstd")


def _in_two_blocks(archive: bytes) -> bytes:
    """One frame, whose first block ends behind the second member's header."""
    frame = zstandard.ZstdCompressor().compressobj()
    first = frame.compress(archive[:1536]) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return first + frame.compress(archive[1536:]) + frame.flush()


def lying(declared: str) -> Artifact:
    """Layers of one type and every other packing. ``raw`` is believed: the blob is the file."""
    layers = []
    expected = {}
    for number, real in enumerate(PACKINGS):
        path = f"{number}.bin"
        content = f"really {real}\n".encode() * 20
        plain = go_tar({path: content}) if real.startswith("tar") else content
        blob = compressed(plain, real)
        layers.append(_layer(blob, declared, path))
        expected[path] = blob if declared == "raw" else content
    return _of(f"lying-{declared}", layers, expected, packing=declared)


def chain(depth: int) -> Artifact:
    """``depth`` indexes of one entry each, the last of which names a model."""
    found = _of("chained", [_layer(files.weights(71), "raw", "model.safetensors")], {})
    expected = {"model.safetensors": files.weights(71)}
    for level in range(1, depth + 1):
        is_last = level == depth
        refused = {"": "deep"} if is_last and depth > 4 else {}
        found = index_of(
            f"hostile-chain-{level}",
            [(found, {})],
            files={} if refused else expected,
            refused=refused,
        )
    return found


def inline() -> Artifact:
    """Content in the descriptor itself: right in one layer, other bytes in the next."""
    right, wrong = files.weights(72), files.weights(73)
    flipped = bytes((wrong[0] ^ 1,)) + wrong[1:]
    layers = [
        _layer(right, "raw", "right.bin", members={"data": base64.b64encode(right).decode()}),
        _layer(wrong, "raw", "wrong.bin", members={"data": base64.b64encode(flipped).decode()}),
    ]
    return _of("inline", layers, {"right.bin": right, "wrong.bin": wrong}, packing="raw")


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    yield sparse()
    yield pax_sparse()
    yield links()
    yield names()
    yield terabyte()
    yield duplicates()
    yield many_members()
    yield bombs()
    yield no_layers()
    for packing in _ENDINGS:
        yield truncated(packing)
    yield truncated_block()
    for packing in PACKINGS:
        yield lying(packing)
    yield chain(2)
    yield chain(6)
    yield inline()
