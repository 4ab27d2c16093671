"""The three models: which tensors, which files, how each is packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.samples.packing import File
from proxy.samples.texts import licence, pretty, readme
from proxy.samples.tokenizers import VOCABULARY, bpe_tokenizer, gguf_tokens, word_tokenizer
from proxy.samples.weights import Tensor, gguf, make_tensor, parameters, safetensors


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample model: its reference in the layout, what it shows in one line."""

    reference: str
    description: str


@dataclass(frozen=True, slots=True)
class Model:
    """A sample with its files; ``descriptor`` and ``config`` as in the model config."""

    sample: Sample
    namespace: str  # "cncf" or "cnai": in the media types and in the annotation keys
    descriptor: Mapping[str, object]
    config: Mapping[str, object]
    files: tuple[File, ...]


def sample_models() -> list[Model]:
    """All sample models; some 30 ms of computing."""
    return [_tiny_llama(), _tiny_bert(), _tiny_gguf()]


def _tiny_llama() -> Model:
    hidden, inner, heads, groups, blocks = 64, 128, 4, 2, 2
    narrow = hidden // heads * groups
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
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
    tensors = [make_tensor(name, "BF16", shape=shape) for name, shape in shapes.items()]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
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
    sample = Sample("demo/tiny-llama:v1", "CNCF ModelPack, one raw layer per file, safetensors")
    return Model(
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
        files=_files(
            config,
            tokenizer=bpe_tokenizer(),
            weights=File("model.safetensors", "weight", "raw", safetensors(tensors)),
            card=readme(
                sample.reference,
                title="Tiny Llama",
                task="text-generation",
                shape=f"{blocks} blocks, {hidden} wide, {heads} heads in {groups} groups",
                tensors=tensors,
                packing="every file is a raw layer: the layer *is* the file",
                weights="model.safetensors",
            ),
        ),
    )


def _tiny_bert() -> Model:
    hidden, inner, heads, blocks, positions = 64, 128, 4, 2, 128
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.LayerNorm.bias": (hidden,),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.position_embeddings.weight": (positions, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.word_embeddings.weight": (VOCABULARY, hidden),
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
    tensors = [make_tensor(name, "F16", shape=shape) for name, shape in shapes.items()]
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": VOCABULARY,
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
    sample = Sample("demo/tiny-bert:v1", "CNCF ModelPack, tar layers, the weights as tar+gzip")
    return Model(
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
        files=_files(
            config,
            tokenizer=word_tokenizer(),
            weights=File("model.safetensors", "weight", "tar+gzip", safetensors(tensors)),
            card=readme(
                sample.reference,
                title="Tiny BERT",
                task="feature-extraction",
                shape=f"{blocks} blocks, {hidden} wide, {heads} heads",
                tensors=tensors,
                packing="every file is alone in a tar layer, and the weights' tar is gzipped",
                weights="model.safetensors",
            ),
            packing="tar",
        ),
    )


def _tiny_gguf() -> Model:
    hidden, inner, heads, groups, blocks = 64, 192, 4, 2, 3
    narrow = hidden // heads * groups
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, hidden)}
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
        make_tensor(name, "F32" if len(shape) == 1 else "Q8_0", shape=shape)
        for name, shape in shapes.items()
    ]
    tokens, merges = gguf_tokens()
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
        "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    sample = Sample("demo/tiny-gguf:v1", "CNAI (the generation before ModelPack), raw layers, GGUF")
    return Model(
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
        files=_files(
            config,
            tokenizer=bpe_tokenizer(),
            weights=File("tiny-gguf.Q8_0.gguf", "weight", "raw", gguf(metadata, tensors)),
            card=readme(
                sample.reference,
                title="Tiny GGUF",
                task="text-generation",
                shape=f"{blocks} blocks, {hidden} wide, {heads} heads in {groups} groups",
                tensors=tensors,
                packing="every file is a raw layer: the layer *is* the file",
                weights="tiny-gguf.Q8_0.gguf",
            ),
        ),
    )


def _files(
    config: Mapping[str, object],
    *,
    tokenizer: Mapping[str, object],
    weights: File,
    card: bytes,
    packing: str = "raw",
) -> tuple[File, ...]:
    """The five files of each model; ``packing`` is that of all but the weights."""
    return (
        File("config.json", "weight.config", packing, pretty(config)),
        File("tokenizer.json", "weight.config", packing, pretty(tokenizer)),
        weights,
        File("LICENSE", "doc", packing, licence()),
        File("README.md", "doc", packing, card),
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


def _thousands(tensors: Sequence[Tensor]) -> str:
    return f"{parameters(tensors) / 1000:.0f}k"
