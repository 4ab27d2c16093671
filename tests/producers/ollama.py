"""Ollama: a Docker manifest of raw files that only the layers' types tell apart.

Source: ollama, "server/manifest.go", "server/layer.go" and its design of safetensors models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from proxy.oci.digest import Digest
from proxy.oci.manifest import DOCKER_MANIFEST
from tests.producers import files
from tests.producers.artifact import Artifact, Maker, Part, compact

_TYPE = "application/vnd.ollama.image"
_TEMPLATE = b"{{ .System }}\nUSER: {{ .Prompt }}\n"
_SYSTEM = b"You are tiny.\n"
_PARAMS = b'{"num_ctx":64,"stop":["USER:"]}\n'
_MESSAGES = b'[{"role":"user","content":"hi"}]\n'
_MIT = b"MIT License\n"


def _of(label: str, layers: Sequence[Part], expected: Mapping[str, bytes]) -> Artifact:
    document = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "256",
        "file_type": "F32",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {
            "type": "layers",
            "diff_ids": [str(Digest.of(layer.blob)) for layer in layers],
        },
    }
    config = Part("application/vnd.docker.container.image.v1+json", compact(document))
    maker = Maker("Ollama", "ollama", media_type=DOCKER_MANIFEST)
    return maker.artifact(label, "raw", layers, config=config, files=expected)


def classic() -> Artifact:
    """GGUF weights and texts, none of them with a name."""
    named = (
        ("model", "model.gguf", files.ggufs("llama")),
        ("projector", "projector.gguf", files.ggufs("eyes")),
        ("adapter", "adapter.gguf", files.ggufs("lora")),
        ("template", "template", _TEMPLATE),
        ("system", "system", _SYSTEM),
        ("params", "params.json", _PARAMS),
        ("messages", "messages.json", _MESSAGES),
        ("license", "LICENSE", files.LICENSE),
        ("license", "LICENSE-2", _MIT),
    )
    layers = [
        Part(
            f"{_TYPE}.{token}",
            content,
            members={"from": "/root/.ollama/models/blobs/x"} if token == "model" else {},
        )
        for token, _, content in named
    ]
    return _of("ollama-classic", layers, {path: content for _, path, content in named})


def tensors() -> Artifact:
    """Safetensors of 2026: tensors and JSON files named in the descriptor or the type."""
    embedding, bias = files.weights(40), files.weights(41)
    parameters = "name=text_encoder/bias; dtype=F32; shape=32"
    layers = [
        Part(
            f"{_TYPE}.tensor",
            embedding,
            members={"name": "text_encoder/model.embed_tokens.weight"},
        ),
        Part(f"{_TYPE}.tensor; {parameters}", bias),
        Part(f"{_TYPE}.json", files.CONFIG, members={"name": "config.json"}),
        Part(f"{_TYPE}.json", files.TOKENIZER, members={"name": "tokenizer/tokenizer.json"}),
        Part(f"{_TYPE}.license", _MIT),
    ]
    expected = {
        "text_encoder/model.embed_tokens.weight": embedding,
        "text_encoder/bias": bias,
        "config.json": files.CONFIG,
        "tokenizer/tokenizer.json": files.TOKENIZER,
        "LICENSE": _MIT,
    }
    return _of("ollama-tensors", layers, expected)


def artifacts() -> Iterator[Artifact]:
    """All of them."""
    yield classic()
    yield tensors()
