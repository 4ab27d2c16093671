"""Docker Model Runner: its own format in two versions, and ModelPacks since April 2026.

Source: docker/model-spec "config.md" and "spec.md"; docker/model-runner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from proxy.oci.digest import Digest
from tests.producers import files
from tests.producers.archives import go_tar
from tests.producers.artifact import Artifact, Maker, Part, compact

_TYPE = "application/vnd.docker.ai"
_SECOND_LICENSE = b"MIT License\n\nOnly for the template.\n"
_TEMPLATE = b"{% for m in messages %}{{ m.content }}{% endfor %}\n"
_LOOSE = {"config.json": files.CONFIG, "tokenizer.json": files.TOKENIZER}


def _config(layers: Sequence[Part], version: str, model_format: str) -> Part:
    document = {
        "config": {
            "format": model_format,
            "quantization": "F32",
            "parameters": "256",
            "architecture": "llama",
            "size": "1 kB",
            "gguf": {"general.architecture": "llama"},
        },
        "descriptor": {"created": "2026-01-01T00:00:00Z"},
        "rootfs": {
            "type": "rootfs",
            "diff_ids": [str(Digest.of(layer.blob)) for layer in layers],
        },
    }
    return Part(f"{_TYPE}.model.config.{version}+json", compact(document))


def _annotated(path: str, content: bytes) -> dict[str, str]:
    metadata = {
        "name": PurePosixPath(path).name,
        "mode": 420,
        "uid": 0,
        "gid": 0,
        "size": len(content),
        "mtime": "2026-01-01T00:00:00Z",
        "typeflag": 0,
    }
    return {
        "org.cncf.model.filepath": path,
        "org.cncf.model.file.metadata+json": compact(metadata).decode(),
        "org.cncf.model.file.mediatype.untested": "false",
    }


def _of(
    label: str,
    producer: str,
    packing: str,
    layers: Sequence[Part],
    expected: Mapping[str, bytes],
    *,
    version: str = "v0.1",
    model_format: str = "gguf",
) -> Artifact:
    config = _config(layers, version, model_format)
    return Maker(producer, "docker").artifact(label, packing, layers, config=config, files=expected)


_NAMELESS = "Docker Model v0.1, before November 2025"


def nameless() -> Artifact:
    """Files without a path: names are those that Docker's unpacker makes up."""
    layers = [
        Part(f"{_TYPE}.gguf.v3", files.ggufs("one")),
        Part(f"{_TYPE}.license", files.LICENSE),
        Part(f"{_TYPE}.license", _SECOND_LICENSE),
        Part(f"{_TYPE}.mmproj", files.ggufs("projector")),
        Part(f"{_TYPE}.chat.template.jinja", _TEMPLATE),
    ]
    expected = {
        "model.gguf": files.ggufs("one"),
        "LICENSE": files.LICENSE,
        "LICENSE-2": _SECOND_LICENSE,
        "model.mmproj": files.ggufs("projector"),
        "template.jinja": _TEMPLATE,
    }
    return _of("docker-v0.1-nameless", _NAMELESS, "raw", layers, expected)


def nameless_shards() -> Artifact:
    """Several weights without a path are shards, in the manifest's order."""
    shards = [files.ggufs(f"shard{number}") for number in range(3)]
    layers = [Part(f"{_TYPE}.gguf.v3", shard) for shard in shards]
    expected = {
        f"model-{number:05d}-of-00003.gguf": shard for number, shard in enumerate(shards, 1)
    }
    return _of("docker-v0.1-shards", _NAMELESS, "raw", layers, expected)


def nameless_tars() -> Artifact:
    """Safetensors with their config files in one tar, and a directory in another."""
    folder = {"1_Pooling/config.json": b'{"pooling_mode_mean_tokens":true}\n'}
    layers = [
        Part(f"{_TYPE}.safetensors", files.weights(30)),
        Part(f"{_TYPE}.vllm.config.tar", go_tar(_LOOSE)),
        Part(f"{_TYPE}.dir.tar", go_tar(folder, directories=["1_Pooling"])),
    ]
    expected = {"model.safetensors": files.weights(30), **_LOOSE, **folder}
    return _of("docker-v0.1-tars", _NAMELESS, "tar", layers, expected, model_format="safetensors")


def named() -> Artifact:
    """v0.1 since November 2025: the same types, now with paths."""
    group = {"tiny.gguf": files.ggufs("named"), "LICENSE": files.LICENSE}
    layers = [
        Part(f"{_TYPE}.{token}", content, _annotated(path, content))
        for token, (path, content) in zip(("gguf.v3", "license"), group.items(), strict=True)
    ]
    return _of("docker-v0.1-named", "Docker Model v0.1", "raw", layers, group)


def second_version() -> Artifact:
    """v0.2: every file is a layer of its own, below its directories."""
    tree = {
        "model.safetensors": files.weights(31),
        "1_Pooling/config.json": b"{}\n",
        **_LOOSE,
        "README.md": files.README,
    }
    layers = [
        Part(
            f"{_TYPE}.{'safetensors' if path.endswith('.safetensors') else 'model.file'}",
            content,
            _annotated(path, content),
        )
        for path, content in tree.items()
    ]
    return _of(
        "docker-v0.2",
        "Docker Model v0.2",
        "raw",
        layers,
        tree,
        version="v0.2",
        model_format="safetensors",
    )


def modelpack(token: str) -> Artifact:
    """``--format cncf``; ``token`` was ``gguf`` until April 2026, which is no type of the spec."""
    tree = {
        "tiny.gguf": (files.ggufs("pack"), "weight"),
        "config.json": (files.CONFIG, "weight.config"),
        "LICENSE": (files.LICENSE, "doc"),
    }
    vendor = "application/vnd.cncf.model"
    layers = [
        Part(
            f"{vendor}.{kind}.v1.{token if kind == 'weight' else 'raw'}",
            content,
            _annotated(path, content),
        )
        for path, (content, kind) in tree.items()
    ]
    document = {
        "descriptor": {"createdAt": "2026-01-01T00:00:00Z", "family": "llama", "name": "tiny"},
        "modelfs": {"type": "layers", "diffIds": [str(Digest.of(part.blob)) for part in layers]},
        "config": {"architecture": "llama", "format": "gguf", "paramSize": "256"},
    }
    maker = Maker(
        "Docker Model, `--format cncf`",
        "modelpack",
        artifact_type=f"{vendor}.manifest.v1+json",
    )
    return maker.artifact(
        f"docker-cncf-{token}",
        "raw",
        layers,
        config=Part(f"{vendor}.config.v1+json", compact(document)),
        files={path: content for path, (content, _) in tree.items()},
    )


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    yield nameless()
    yield nameless_shards()
    yield nameless_tars()
    yield named()
    yield second_version()
    yield modelpack("raw")
    yield modelpack("gguf")
