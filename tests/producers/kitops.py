"""KitOps: ModelKits of both generations, kits written as ModelPacks, and an index of variants.

Source: the KitOps documentation, "Kitfile format" and "ModelKit specification"; its releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from proxy.oci.digest import Digest
from tests.producers import files
from tests.producers.archives import compressed, go_tar, parents
from tests.producers.artifact import Artifact, Maker, Part, compact, index_of

_TYPE = "application/vnd.kitops.modelkit"
_OWNER = 1000
_VERSION = {"ml.kitops.modelkit.cli-version": "1.10.0"}
_MIDDLE_VERSION = {"ml.kitops.modelkit.cli-version": "1.7.0"}
_OLD_VERSION = {"ml.kitops.modelkit.cli-version": "0.3.0"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the Kitfile: where it stands, its path, the files at or below that path."""

    kind: str
    path: str
    files: Mapping[str, bytes]


_SHARDS = {
    "weights/tiny/model-00001-of-00002.safetensors": files.weights(20),
    "weights/tiny/model-00002-of-00002.safetensors": files.weights(21),
}
_ADAPTER = files.weights(22)
_ENTRIES = (
    _Entry("model", "weights/tiny", _SHARDS),
    _Entry("modelpart", "adapters/one.safetensors", {"adapters/one.safetensors": _ADAPTER}),
    _Entry("code", "src", {"src/serve.py": files.CODE, "src/tool/__init__.py": b""}),
    _Entry("dataset", "data/train.csv", {"data/train.csv": files.DATASET}),
    _Entry("docs", "README.md", {"README.md": files.README}),
    _Entry("docs", "legal/LICENSE", {"legal/LICENSE": files.LICENSE}),
)
# Single files: a directory cannot be a raw layer.
_SINGLE = (
    _Entry("model", "weights/model.safetensors", {"weights/model.safetensors": files.weights(23)}),
    *(entry for entry in _ENTRIES if list(entry.files) == [entry.path]),
)
_LISTS = {"code": "code", "dataset": "datasets", "docs": "docs"}


def _kitfile(
    entries: tuple[_Entry, ...], layers: list[Part], plain: list[bytes] | None
) -> dict[str, object]:
    """The config; ``plain``, the layers' uncompressed bytes, makes it own layers by digest."""
    document: dict[str, object] = {
        "manifestVersion": "1.0.0",
        "package": {"name": "tiny", "version": "1.0.0", "authors": ["cnai-proxy"]},
    }
    model: dict[str, object] = {}
    for number, entry in enumerate(entries):
        written: dict[str, object] = {"path": entry.path, "description": f"The {entry.kind}."}
        if plain is not None:
            written |= {
                "digest": str(Digest.of(layers[number].blob)),
                "diffId": str(Digest.of(plain[number])),
            }
        if entry.kind == "model":
            model = {"name": "tiny", "framework": "none", **written}
            document["model"] = model
        elif entry.kind == "modelpart":
            parts = model.setdefault("parts", [])
            assert isinstance(parts, list)
            parts.append(written)
        else:
            listed = document.setdefault(_LISTS[entry.kind], [])
            assert isinstance(listed, list)
            listed.append(written)
    return document


def _packed(entry: _Entry, packing: str, *, relative: bool) -> tuple[bytes, bytes]:
    """The blob, and the same before compression."""
    if packing.startswith("raw"):
        plain = next(iter(entry.files.values()))
    elif relative:
        above = PurePosixPath(entry.path).parent
        members = {
            str(PurePosixPath(path).relative_to(above)): content
            for path, content in entry.files.items()
        }
        plain = go_tar(members, directories=parents(members), modified_seconds=0, owner=_OWNER)
    else:
        plain = go_tar(
            entry.files, directories=parents(entry.files), modified_seconds=0, owner=_OWNER
        )
    return compressed(plain, packing), plain


def _all_files(entries: tuple[_Entry, ...]) -> dict[str, bytes]:
    return {path: content for entry in entries for path, content in entry.files.items()}


def old(packing: str) -> Artifact:
    """Until 2025: no types but the config's, members relative to the entry, order alone tells."""
    layers = [
        Part(f"{_TYPE}.{entry.kind}.v1.{packing}", _packed(entry, packing, relative=True)[0])
        for entry in _ENTRIES
    ]
    config = Part(f"{_TYPE}.config.v1+json", compact(_kitfile(_ENTRIES, layers, None)))
    maker = Maker("KitOps before v0.5", "kitops", states_type=False, annotations=_OLD_VERSION)
    return maker.artifact(
        f"kitops-old-{packing}", packing, layers, config=config, files=_all_files(_ENTRIES)
    )


def new(packing: str, *, typed: bool = True) -> Artifact:
    """Whole paths with their parents in the tar, the Kitfile owns layers by digest.

    ``typed``: with the artifact type that manifests have since v1.10.
    """
    entries = _SINGLE if packing.startswith("raw") else _ENTRIES
    pairs = [_packed(entry, packing, relative=False) for entry in entries]
    layers = [
        Part(f"{_TYPE}.{entry.kind}.v1.{packing}", blob)
        for entry, (blob, _) in zip(entries, pairs, strict=True)
    ]
    kitfile = _kitfile(entries, layers, [plain for _, plain in pairs])
    config = Part(f"{_TYPE}.config.v1+json", compact(kitfile))
    created = {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"}
    maker = Maker(
        "KitOps since v1.10" if typed else "KitOps v0.5 to v1.9",
        "kitops",
        artifact_type=f"{_TYPE}.manifest.v1+json" if typed else None,
        states_type=typed,
        annotations={**_VERSION, **created} if typed else _MIDDLE_VERSION,
    )
    return maker.artifact(
        f"kitops-{'new' if typed else 'middle'}-{packing}",
        packing,
        list(reversed(layers)),  # only the digest tells which is which
        config=config,
        files=_all_files(entries),
    )


def modelpack(packing: str) -> Artifact:
    """``kit pack --use-model-pack``: a directory's path has no slash at its end."""
    tokens = {"model": "weight", "modelpart": "weight"}
    entries = _SINGLE if packing.startswith("raw") else _ENTRIES
    pairs = [_packed(entry, packing, relative=False) for entry in entries]
    layers = [
        Part(
            f"application/vnd.cncf.model.{_token(entry.kind, tokens)}.v1.{packing}",
            blob,
            {"org.cncf.model.filepath": entry.path, **_metadata(entry, packing)},
        )
        for entry, (blob, _) in zip(entries, pairs, strict=True)
    ]
    kitfile = compact(_kitfile(entries, layers, [plain for _, plain in pairs])).decode()
    diffs = [str(Digest.of(plain)) for _, plain in pairs]
    config = Part(
        "application/vnd.cncf.model.config.v1+json",
        compact(
            {
                "descriptor": {"name": "tiny", "version": "1.0.0"},
                "modelfs": {"type": "layers", "diffIds": diffs},
                "config": {"format": "safetensors"},
            }
        ),
    )
    maker = Maker(
        "KitOps, `--use-model-pack`",
        "modelpack",
        artifact_type="application/vnd.cncf.model.manifest.v1+json",
        annotations={**_VERSION, "ml.kitops.modelkit.kitfile": kitfile},
    )
    return maker.artifact(
        f"kitops-modelpack-{packing}", packing, layers, config=config, files=_all_files(entries)
    )


def variants() -> Artifact:
    """An index of two kits that differ by their numbers' precision, not by a platform."""
    children = [
        (
            new(packing),
            {"modelMetadata": {"quantization": name}, "artifactType": f"{_TYPE}.manifest.v1+json"},
        )
        for packing, name in (("tar", "q4"), ("raw", "q8"))
    ]
    return index_of(
        "kitops-index",
        children,
        refused={"": "variant"},
        artifact_type=f"{_TYPE}.index.v1+json",
    )


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    for packing in ("tar", "tar+gzip"):
        yield old(packing)
    for packing in ("tar", "tar+gzip"):
        yield new(packing, typed=False)
    for packing in ("tar", "tar+gzip", "tar+zstd", "raw", "raw+gzip", "raw+zstd"):
        yield new(packing)
    for packing in ("tar", "tar+gzip", "tar+zstd", "raw", "raw+zstd"):
        yield modelpack(packing)
    yield variants()


def _token(kind: str, tokens: Mapping[str, str]) -> str:
    return {"docs": "doc", **tokens}.get(kind, kind)


def _metadata(entry: _Entry, packing: str) -> dict[str, str]:
    """Only raw layers have it."""
    if not packing.startswith("raw"):
        return {}
    document = {
        "name": PurePosixPath(entry.path).name,
        "mode": 420,
        "uid": _OWNER,
        "gid": _OWNER,
        "size": len(next(iter(entry.files.values()))),
        "mtime": "2026-01-01T00:00:00Z",
        "typeflag": 0,
    }
    return {"org.cncf.model.file.metadata+json": compact(document).decode()}
