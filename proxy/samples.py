"""Three small sample models for the demo: real files of every kind, with random weights.

Everything is made here from constants, so the same version always writes the same bytes (the one
gzip layer: with the same zlib). What a producer such as modctl would write is written: one file
per layer, the path and the file's metadata as annotations, a model config beside them.
Source: model-spec "config.md", "annotations.md"; safetensors "Format"; GGUF v3; POSIX ustar.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from proxy.oci.digest import Digest
from proxy.oci.manifest import OCI_MANIFEST
from proxy.oci.reference import Reference, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from proxy.embedded.layout import Layout

CREATED = "2026-01-01T00:00:00Z"
CREATED_SECONDS = 1_767_225_600

_VOCABULARY = 512
_COMMON_WORDS = (
    "the of and to in is that it was for on are with as at be this have from or one had by word "
    "but not what all were we when your can said there use an each which she do how their if will "
    "up other about out many then them these so some her would make like him into time has look "
    "two more write go see number no way could people my than first water been call who oil its "
    "now find long down day did get come made may part model layer token weight proxy registry"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample model: its reference in the layout, its family, what it shows in one line."""

    reference: str
    family: str
    description: str


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a model: ``role`` and ``packing`` as they stand in the layer's media type."""

    path: str
    role: str
    packing: str
    content: bytes


@dataclass(frozen=True, slots=True)
class _Tensor:
    """``shape`` slowest dimension first; ``content`` little-endian, contiguous."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes


@dataclass(frozen=True, slots=True)
class _Model:
    sample: Sample
    namespace: str  # "cncf" or "cnai": in the media types and in the annotation keys
    descriptor: Mapping[str, object]
    config: Mapping[str, object]
    files: tuple[_File, ...]


async def write_samples(layout: Layout) -> list[Sample]:
    """Put the sample models into ``layout``; whoever calls it again changes nothing."""
    models = await asyncio.to_thread(lambda: [_tiny_llama(), _tiny_bert(), _tiny_gguf()])
    for model in models:
        await _write(layout, model)
    return [model.sample for model in models]


async def _write(layout: Layout, model: _Model) -> None:
    reference = Reference.parse(model.sample.reference)
    keys = f"org.{model.namespace}.model"
    types = f"application/vnd.{model.namespace}.model"
    layers: list[dict[str, object]] = []
    unpacked: list[str] = []
    for file in model.files:
        blob, plain = _packed(file)
        unpacked.append(str(Digest.of(plain)))
        metadata = {
            "name": PurePosixPath(file.path).name,
            "mode": 0o644,
            "uid": 0,
            "gid": 0,
            "size": len(file.content),
            "mtime": CREATED,
            "typeflag": 0,
        }
        layers.append(
            {
                "mediaType": f"{types}.{file.role}.v1.{file.packing}",
                "digest": str(await layout.add_blob(reference.repository, blob)),
                "size": len(blob),
                "annotations": {
                    f"{keys}.filepath": file.path,
                    f"{keys}.file.metadata+json": _compact(metadata),
                },
            }
        )
    config = _compact(
        {
            "descriptor": {"createdAt": CREATED, "authors": ["cnai-proxy"], **model.descriptor},
            "modelfs": {"type": "layers", "diffIds": unpacked},
            "config": model.config,
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": f"{types}.manifest.v1+json",
        "config": {
            "mediaType": f"{types}.config.v1+json",
            "digest": str(await layout.add_blob(reference.repository, config)),
            "size": len(config),
        },
        "layers": layers,
    }
    tags = [reference.target] if isinstance(reference.target, Tag) else []
    await layout.put_manifest(
        reference.repository, _compact(manifest).encode(), media_type=OCI_MANIFEST, tags=tags
    )


# The models ----------------------------------------------------------------------------------


def _tiny_llama() -> _Model:
    hidden, inner, heads, groups, blocks = 64, 128, 4, 2, 2
    narrow = hidden // heads * groups
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, hidden)}
    for block in range(blocks):
        prefix = f"model.layers.{block}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (hidden,),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.post_attention_layernorm.weight": (hidden,),
            f"{prefix}.self_attn.k_proj.weight": (narrow, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.v_proj.weight": (narrow, hidden),
        }
    shapes["model.norm.weight"] = (hidden,)
    tensors = [
        _Tensor(name, "BF16", shape, _bfloat16(_values(name, shape)))
        for name, shape in shapes.items()
    ]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    }
    sample = Sample(
        "demo/tiny-llama:v1", "modelpack", "CNCF ModelPack, one raw layer per file, safetensors"
    )
    return _Model(
        sample=sample,
        namespace="cncf",
        descriptor=_description("tiny-llama", "Tiny Llama", sample),
        config={
            "architecture": "transformer",
            "format": "safetensors",
            "paramSize": _thousands(tensors),
            "precision": "bf16",
            "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"], "languages": ["en"]},
        },
        files=(
            _File("config.json", "weight.config", "raw", _pretty(config)),
            _File("tokenizer.json", "weight.config", "raw", _pretty(_bpe_tokenizer())),
            _File("model.safetensors", "weight", "raw", _safetensors(tensors)),
            _File("LICENSE", "doc", "raw", _license()),
            _File(
                "README.md",
                "doc",
                "raw",
                _readme(
                    sample,
                    title="Tiny Llama",
                    task="text-generation",
                    shape=f"{blocks} blocks, {hidden} wide, {heads} heads in {groups} groups",
                    tensors=tensors,
                    packing="every file is a raw layer: the layer *is* the file",
                    weights="model.safetensors",
                ),
            ),
        ),
    )


def _tiny_bert() -> _Model:
    hidden, inner, heads, blocks, positions = 64, 128, 4, 2, 128
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.LayerNorm.bias": (hidden,),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.position_embeddings.weight": (positions, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.word_embeddings.weight": (_VOCABULARY, hidden),
    }
    for block in range(blocks):
        prefix = f"encoder.layer.{block}"
        for name, (rows, columns) in {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (inner, hidden),
            "output.dense": (hidden, inner),
        }.items():
            shapes[f"{prefix}.{name}.bias"] = (rows,)
            shapes[f"{prefix}.{name}.weight"] = (rows, columns)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}.{name}.bias"] = (hidden,)
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
    shapes |= {"pooler.dense.bias": (hidden,), "pooler.dense.weight": (hidden, hidden)}
    tensors = [
        _Tensor(name, "F16", shape, _float16(_values(name, shape)))
        for name, shape in shapes.items()
    ]
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "max_position_embeddings": positions,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "torch_dtype": "float16",
    }
    sample = Sample(
        "demo/tiny-bert:v1", "modelpack", "CNCF ModelPack, tar layers, the weights as tar+gzip"
    )
    return _Model(
        sample=sample,
        namespace="cncf",
        descriptor=_description("tiny-bert", "Tiny BERT", sample),
        config={
            "architecture": "transformer",
            "format": "safetensors",
            "paramSize": _thousands(tensors),
            "precision": "float16",
            "capabilities": {
                "inputTypes": ["text"],
                "outputTypes": ["embedding"],
                "languages": ["en"],
            },
        },
        files=(
            _File("config.json", "weight.config", "tar", _pretty(config)),
            _File("tokenizer.json", "weight.config", "tar", _pretty(_word_tokenizer())),
            _File("model.safetensors", "weight", "tar+gzip", _safetensors(tensors)),
            _File("LICENSE", "doc", "tar", _license()),
            _File(
                "README.md",
                "doc",
                "tar",
                _readme(
                    sample,
                    title="Tiny BERT",
                    task="feature-extraction",
                    shape=f"{blocks} blocks, {hidden} wide, {heads} heads",
                    tensors=tensors,
                    packing="every file is alone in a tar layer, and the weights' tar is gzipped",
                    weights="model.safetensors",
                ),
            ),
        ),
    )


def _tiny_gguf() -> _Model:
    hidden, inner, heads, groups, blocks = 64, 192, 4, 2, 3
    narrow = hidden // heads * groups
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (_VOCABULARY, hidden)}
    for block in range(blocks):
        shapes |= {
            f"blk.{block}.attn_norm.weight": (hidden,),
            f"blk.{block}.attn_q.weight": (hidden, hidden),
            f"blk.{block}.attn_k.weight": (narrow, hidden),
            f"blk.{block}.attn_v.weight": (narrow, hidden),
            f"blk.{block}.attn_output.weight": (hidden, hidden),
            f"blk.{block}.ffn_norm.weight": (hidden,),
            f"blk.{block}.ffn_gate.weight": (inner, hidden),
            f"blk.{block}.ffn_up.weight": (inner, hidden),
            f"blk.{block}.ffn_down.weight": (hidden, inner),
        }
    shapes["output_norm.weight"] = (hidden,)
    tensors = [
        _Tensor(name, "F32", shape, _float32(_values(name, shape)))
        if len(shape) == 1
        else _Tensor(name, "Q8_0", shape, _q8_0(name, shape))
        for name, shape in shapes.items()
    ]
    vocabulary, merges = _bpe()
    metadata: dict[str, object] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny GGUF",
        "general.license": "apache-2.0",
        "general.file_type": 7,  # mostly Q8_0
        "general.quantization_version": 2,
        "llama.block_count": blocks,
        "llama.context_length": 256,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups,
        "llama.attention.layer_norm_rms_epsilon": 1e-05,
        "llama.rope.dimension_count": hidden // heads,
        "llama.vocab_size": _VOCABULARY,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": _padded(vocabulary),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    sample = Sample(
        "demo/tiny-gguf:v1", "cnai", "CNAI (the generation before ModelPack), raw layers, GGUF"
    )
    return _Model(
        sample=sample,
        namespace="cnai",
        descriptor=_description("tiny-gguf", "Tiny GGUF", sample),
        config={
            "architecture": "transformer",
            "format": "gguf",
            "paramSize": _thousands(tensors),
            "precision": "int8",
            "quantization": "q8_0",
        },
        files=(
            _File("config.json", "weight.config", "raw", _pretty(config)),
            _File("tokenizer.json", "weight.config", "raw", _pretty(_bpe_tokenizer())),
            _File("tiny-gguf.Q8_0.gguf", "weight", "raw", _gguf(metadata, tensors)),
            _File("LICENSE", "doc", "raw", _license()),
            _File(
                "README.md",
                "doc",
                "raw",
                _readme(
                    sample,
                    title="Tiny GGUF",
                    task="text-generation",
                    shape=f"{blocks} blocks, {hidden} wide, {heads} heads in {groups} groups",
                    tensors=tensors,
                    packing="every file is a raw layer: the layer *is* the file",
                    weights="tiny-gguf.Q8_0.gguf",
                ),
            ),
        ),
    )


def _description(name: str, title: str, sample: Sample) -> dict[str, object]:
    return {
        "family": name.partition("-")[2],
        "name": name,
        "version": "v1",
        "vendor": "cnai-proxy",
        "licenses": ["Apache-2.0"],
        "title": title,
        "description": f"A sample with random weights: {sample.description}",
    }


def _thousands(tensors: Sequence[_Tensor]) -> str:
    return f"{_count(tensors) / 1000:.0f}k"


def _count(tensors: Sequence[_Tensor]) -> int:
    return sum(_elements(tensor.shape) for tensor in tensors)


# Weights -------------------------------------------------------------------------------------


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _noise(name: str, size: int) -> bytes:
    """``size`` bytes that look random and are the same everywhere."""
    return hashlib.shake_256(name.encode()).digest(size)


def _values(name: str, shape: tuple[int, ...]) -> list[float]:
    """Norms start at one, biases at zero, everything else is evenly spread over ±0.05."""
    count = _elements(shape)
    if name.endswith("bias"):
        return [0.0] * count
    if "norm" in name.lower():
        return [1.0] * count
    numbers = struct.unpack(f"<{count}H", _noise(name, 2 * count))
    return [(number / 65535 - 0.5) / 10 for number in numbers]


def _float32(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _float16(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def _bfloat16(values: Sequence[float]) -> bytes:
    """The upper half of each float32."""
    wide = _float32(values)
    narrow = bytearray(2 * len(values))
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


def _q8_0(name: str, shape: tuple[int, ...]) -> bytes:
    """Blocks of 32 signed bytes behind one float16 scale, here the same for all blocks."""
    scale = struct.pack("<e", 0.05 / 127)
    noise = _noise(name, _elements(shape))
    return b"".join(scale + noise[start : start + 32] for start in range(0, len(noise), 32))


def _safetensors(tensors: Sequence[_Tensor]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + len(tensor.content)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (position, end),
        }
        position = end
    text = _compact(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(entry.content for entry in tensors)])


def _gguf(metadata: Mapping[str, object], tensors: Sequence[_Tensor]) -> bytes:
    alignment = 32
    numbers = {"F32": 0, "Q8_0": 8}
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        head += [_gguf_text(key), _gguf_value(value)]
    content = bytearray()
    for tensor in tensors:
        content += bytes(-len(content) % alignment)
        lengths = tensor.shape[::-1]  # GGUF names the fastest dimension first
        head += [
            _gguf_text(tensor.name),
            struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths),
            struct.pack("<IQ", numbers[tensor.dtype], len(content)),
        ]
        content += tensor.content
    front = b"".join(head)
    tail = bytes(-len(content) % alignment)
    return front + bytes(-len(front) % alignment) + bytes(content) + tail


def _gguf_text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _gguf_value(value: object) -> bytes:
    """Unsigned 32-bit, float32, text, or a list of texts, each behind its type number."""
    match value:
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _gguf_text(value)
        case list():
            texts = b"".join(_gguf_text(text) for text in value)
            return struct.pack("<IIQ", 9, 8, len(value)) + texts
        case _:
            raise TypeError(f"expected number, text or list of texts, found {type(value).__name__}")


# Tokenizers ----------------------------------------------------------------------------------


def _bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level BPE: 256 byte symbols, then each common word letter by letter."""
    symbols = _byte_symbols()
    tokens = {"<s>": 0, "</s>": 1}
    for symbol in symbols:
        tokens.setdefault(symbol, len(tokens))
    merges: list[tuple[str, str]] = []
    for word in _COMMON_WORDS.split():
        left = symbols[ord(" ")]
        for letter in word:
            if (left, letter) not in merges and len(tokens) < _VOCABULARY:
                merges.append((left, letter))
                tokens[left + letter] = len(tokens)
            left += letter
            if left not in tokens:
                break  # the vocabulary is full
    return tokens, merges


def _byte_symbols() -> list[str]:
    """A printable character for each byte: itself where it is one, else one beyond Latin-1."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    beyond = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(beyond)) for byte in range(256)]


def _padded(vocabulary: Mapping[str, int]) -> list[str]:
    return [*vocabulary, *(f"<unused{n}>" for n in range(_VOCABULARY - len(vocabulary)))]


def _bpe_tokenizer() -> dict[str, object]:
    vocabulary, merges = _bpe()
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    byte_level["use_regex"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_special_tokens(["<s>", "</s>"])),
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [" ".join(merge) for merge in merges],
        },
    }


def _word_tokenizer() -> dict[str, object]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    endings = [f"##{letter}" for letter in letters if letter.isalnum()]
    tokens = list(dict.fromkeys([*special, *letters, *endings, *_COMMON_WORDS.split()]))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_special_tokens(special)),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokens)},
        },
    }


def _special_tokens(tokens: Sequence[str]) -> Iterator[dict[str, object]]:
    for number, token in enumerate(tokens):
        yield {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }


# Packing -------------------------------------------------------------------------------------


def _packed(file: _File) -> tuple[bytes, bytes]:
    """The layer's blob, and the same before compression."""
    if file.packing == "raw":
        return file.content, file.content
    archive = _tar(file)
    if file.packing == "tar":
        return archive, archive
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip framing, no time in the header
    return compressor.compress(archive) + compressor.flush(), archive


def _tar(file: _File) -> bytes:
    """One member as Go's archive/tar writes it: ustar, two zero blocks at the end, no more."""
    size = len(file.content)
    header = bytearray(512)
    header[0:100] = file.path.encode().ljust(100, b"\0")
    header[100:124] = b"0000644\0" + b"0000000\0" * 2  # mode, owner, group
    header[124:148] = f"{size:011o}\0{CREATED_SECONDS:011o}\0".encode()
    header[148:156] = b" " * 8  # the checksum counts itself as blanks
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[329:345] = b"0000000\0" * 2  # device numbers
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + file.content + bytes(-size % 512) + bytes(1024)


def _compact(document: object) -> str:
    return json.dumps(document, separators=(",", ":"))


def _pretty(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


# Texts ---------------------------------------------------------------------------------------


def _readme(
    sample: Sample,
    *,
    title: str,
    task: str,
    shape: str,
    tensors: Sequence[_Tensor],
    packing: str,
    weights: str,
) -> bytes:
    name = sample.reference.partition("/")[2].partition(":")[0]
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
    return f"""---
license: apache-2.0
language:
  - en
pipeline_tag: {task}
tags:
  - sample
  - random-weights
---

# {title}

A **sample** that comes with the demo. Its weights are random: it has the files, the headers and
the layout of a real model, and it knows nothing. Use it to look around, not to ask it questions.

## At a glance

| | |
|---|---|
| Shape | {shape} |
| Parameters | {_count(tensors):,} in {len(tensors)} tensors |
| Types | {dtypes} |
| Task | {task} |
| Packing | {packing} |
| Licence | Apache-2.0 |

## What is inside

- `{weights}` — the weights
- `config.json` — the architecture, as training code writes it
- `tokenizer.json` — a vocabulary of a few hundred tokens that really tokenizes
- `LICENSE`, and this `README.md`

## Try it

Set `PROXY` to the address the demo printed, for example `http://127.0.0.1:8080`.

```sh
curl $PROXY/cnai/{sample.reference}                    # what the proxy knows of this model
curl $PROXY/cnai/{sample.reference}/files              # its files, without pulling a layer
curl -O $PROXY/cnai/{sample.reference}/files/{weights}
oras pull --plain-http ${{PROXY#http://}}/{sample.reference}
```

## Limits

There is no training data, no evaluation and no intended use for `{name}` beyond trying out a
registry. Whatever it generates is noise.
""".encode()


def _license() -> bytes:
    return b"""SPDX-License-Identifier: Apache-2.0

This sample model is made by cnai-proxy and comes with it.

You may use, change and pass on its files under the terms of the Apache License, version 2.0,
whose full text is at https://www.apache.org/licenses/LICENSE-2.0. They are given as they are,
without a warranty of any kind.
"""
