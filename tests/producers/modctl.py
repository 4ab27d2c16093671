"""modctl: one file per layer, raw since v0.1.0-rc.0 and a tar of one member before.

Source: model-spec v0.0.1 to v0.0.7; modctl's releases v0.0.1 to v0.2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath

from proxy.oci.digest import Digest
from tests.build import Generation
from tests.producers import files
from tests.producers.archives import compressed, go_tar
from tests.producers.artifact import Artifact, Maker, Part, compact

MODIFIED = "2026-01-01T00:00:00.123456789Z"
_MODELFILE = "# Generated at 2026-01-01T00:00:00Z\nNAME tiny\nMODEL *.safetensors\n"
# In the order in which modctl writes layers, each sorted by path.
GROUPS: Mapping[str, Mapping[str, bytes]] = {
    "weight.config": files.CONFIGS,
    "weight": files.WEIGHTS,
    "code": files.CODES,
    "doc": files.DOCS,
}


def maker(generation: Generation, producer: str) -> Maker:
    """Manifests of one generation by ``producer``."""
    vendor = f"application/vnd.{generation}.model"
    family = "modelpack" if generation == "cncf" else "cnai"
    return Maker(
        producer,
        family,
        artifact_type=f"{vendor}.manifest.v1+json",
        annotations={f"org.{generation}.modctl.modelfile": _MODELFILE},
    )


def config(generation: Generation, blobs: list[bytes], *, legacy_names: bool = False) -> Part:
    """The model config; modctl's diff IDs are the layers' digests.

    ``legacy_names``: as the fields were called until June 2025.
    """
    created, diffs = ("createTime", "diff_ids") if legacy_names else ("createdAt", "diffIds")
    precision = {"parameterSize": 1000, "puantization": "none"} if legacy_names else {}
    document = {
        "descriptor": {created: "2026-01-01T00:00:00Z", "family": "tiny", "name": "tiny"},
        "modelfs": {"type": "layers", diffs: [str(Digest.of(blob)) for blob in blobs]},
        "config": {"architecture": "transformer", "format": "safetensors", **precision},
    }
    return Part(f"application/vnd.{generation}.model.config.v1+json", compact(document))


def path_annotations(
    path: str, content: bytes, *, generation: Generation, metadata_key: str | None = "metadata+json"
) -> dict[str, str]:
    """What stands on a layer; ``metadata_key`` None: nothing but the path."""
    found = {f"org.{generation}.model.filepath": path}
    if metadata_key is not None:
        document = {
            "name": PurePosixPath(path).name,
            "mode": 420,
            "uid": 0,
            "gid": 0,
            "size": len(content),
            "mtime": MODIFIED,
            "typeflag": 0,
        }
        found[f"org.{generation}.model.file.{metadata_key}"] = compact(document).decode()
    return found


def layered(
    generation: Generation,
    packing: str,
    *,
    groups: Mapping[str, Mapping[str, bytes]] = GROUPS,
    member_name: Callable[[str], str] = str,
    annotated: Generation | None = None,
    metadata_key: str | None = "metadata+json",
) -> list[Part]:
    """One layer per file; ``member_name`` gives a tar's member its name from the path."""
    layers: list[Part] = []
    for token, group in groups.items():
        for path in sorted(group):
            content = group[path]
            is_tar = packing.startswith("tar")
            plain = go_tar({member_name(path): content}) if is_tar else content
            layers.append(
                Part(
                    f"application/vnd.{generation}.model.{token}.v1.{packing}",
                    compressed(plain, packing),
                    path_annotations(
                        path,
                        content,
                        generation=annotated or generation,
                        metadata_key=metadata_key,
                    ),
                )
            )
    return layers


def _of(
    label: str,
    producer: str,
    packing: str,
    layers: list[Part],
    *,
    generation: Generation,
    expected: Mapping[str, bytes] = files.TREE,
    legacy_names: bool = False,
) -> Artifact:
    blobs = [layer.blob for layer in layers]
    return maker(generation, producer).artifact(
        label,
        packing,
        layers,
        config=config(generation, blobs, legacy_names=legacy_names),
        files=expected,
    )


def raw(generation: Generation) -> Artifact:
    """As modctl writes by default since November 2025."""
    producer = "modctl v0.2" if generation == "cncf" else "modctl v0.1, v0.2.1-cnai"
    layers = layered(generation, "raw")
    return _of(f"modctl-raw-{generation}", producer, "raw", layers, generation=generation)


def tar(generation: Generation) -> Artifact:
    """As modctl wrote by default until then, and still does with ``--raw=false``."""
    producer = "modctl v0.2" if generation == "cncf" else "modctl v0.1, v0.2.1-cnai"
    layers = layered(generation, "tar")
    return _of(f"modctl-tar-{generation}", producer, "tar", layers, generation=generation)


def tar_basename() -> Artifact:
    """Before 28 February 2025 a member had only the last part of its path."""
    layers = layered(
        "cnai", "tar", member_name=lambda path: PurePosixPath(path).name, metadata_key=None
    )
    return _of(
        "modctl-tar-basename",
        "modctl v0.0.1",
        "tar",
        layers,
        generation="cnai",
        legacy_names=True,
    )


def old_metadata_key() -> Artifact:
    """For two weeks of 2025 the key of the metadata had no ``+json``."""
    layers = layered("cnai", "tar", metadata_key="metadata")
    return _of("modctl-old-metadata-key", "modctl v0.0.4", "tar", layers, generation="cnai")


def mixed() -> Artifact:
    """Types of one generation and annotations of the other, as in July 2025."""
    layers = layered("cncf", "raw", annotated="cnai")
    return _of("modctl-mixed", "modctl v0.1.0-alpha.0", "raw", layers, generation="cncf")


def parent_path(packing: str) -> Artifact:
    """``modctl attach ../model.safetensors``: the path is written as it was given."""
    groups = {
        "weight.config": {"/root/config.json": files.CONFIG},
        "weight": {"../outside/model.safetensors": files.weights(3)},
    }
    expected = {
        "outside/model.safetensors": files.weights(3),
        "root/config.json": files.CONFIG,
    }
    layers = layered("cncf", packing, groups=groups)
    return _of(
        f"modctl-parent-path-{packing}",
        "modctl v0.2",
        packing,
        layers,
        generation="cncf",
        expected=expected,
    )


def destination_dir(packing: str) -> Artifact:
    """``modctl attach -d dir``: the path has that directory, a tar's member the old one."""
    groups = {"weight": {"moved/here/model.safetensors": files.weights(4)}}
    layers = layered(
        "cncf", packing, groups=groups, member_name=lambda _: "parts/model.safetensors"
    )
    return _of(
        f"modctl-destination-dir-{packing}",
        "modctl v0.2",
        packing,
        layers,
        generation="cncf",
        expected=groups["weight"],
    )


def attached() -> Artifact:
    """A tar model to which a later modctl attached a raw file."""
    old = layered("cncf", "tar", groups={"weight": files.WEIGHTS})
    new = layered("cncf", "raw", groups={"doc": files.DOCS})
    return _of(
        "modctl-attached",
        "modctl v0.2",
        "tar",
        [*old, *new],
        generation="cncf",
        expected={**files.WEIGHTS, **files.DOCS},
    )


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    generations: tuple[Generation, ...] = ("cncf", "cnai")
    for generation in generations:
        yield raw(generation)
        yield tar(generation)
    yield tar_basename()
    yield old_metadata_key()
    yield mixed()
    yield attached()
    for packing in ("raw", "tar"):
        yield parent_path(packing)
        yield destination_dir(packing)
