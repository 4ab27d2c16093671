"""The files that are packed: small, the same in every run, real where that is cheap."""

from __future__ import annotations

import json
import random

from proxy.samples.texts import licence
from proxy.samples.weights import gguf, make_tensor
from tests import build


def weights(seed: int, *, rows: int = 16) -> bytes:
    """A safetensors file with values of its own; ``rows`` times 128 bytes of them."""
    values = random.Random(seed)
    return build.safetensors(
        {
            "embed.weight": ("F32", (rows, 32), values.randbytes(rows * 128)),
            "embed.bias": ("F32", (32,), values.randbytes(128)),
        }
    )


def ggufs(name: str) -> bytes:
    """A GGUF file with values of its own."""
    metadata = {"general.architecture": "llama", "general.name": name}
    return gguf(metadata, [make_tensor(f"{name}.weight", "F32", shape=(8, 32))])


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


README = b"---\nlicense: apache-2.0\n---\n# Tiny\n\nA model of *nothing*.\n"
LICENSE = licence()
CONFIG = _json({"architectures": ["TinyForCausalLM"], "hidden_size": 32})
TOKENIZER = _json({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}})
CODE = b'"""Serve it."""\n\nprint("tiny")\n'
DATASET = b"text,label\nyes,1\nno,0\n"

# A model as it lies in a directory; by classes, as packers sort it.
CONFIGS = {"config.json": CONFIG, "tokenizer.json": TOKENIZER}
WEIGHTS = {
    "model-00001-of-00002.safetensors": weights(1),
    "parts/model-00002-of-00002.safetensors": weights(2, rows=24),
}
CODES = {"src/serve.py": CODE}
DOCS = {"LICENSE": LICENSE, "README.md": README}
TREE = {**CONFIGS, **WEIGHTS, **CODES, **DOCS}
