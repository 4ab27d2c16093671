from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGUFReader
from safetensors import safe_open

from proxy.samples.weights import gguf, make_tensor
from tests.samples.written import BERT, GGUF, LLAMA, Written


@pytest.mark.parametrize(("name", "dtype"), [(LLAMA, "BF16"), (BERT, "F16")])
async def test_safetensors_of_the_samples_open_with_the_library(
    written: Written, tmp_path: Path, name: str, dtype: str
) -> None:
    files = await written.files(name)
    path = tmp_path / "model.safetensors"
    path.write_bytes(files["model.safetensors"])
    assert 100_000 < path.stat().st_size < 300_000
    config = json.loads(files["config.json"])
    with safe_open(str(path), framework="np") as opened:
        shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118 - not a dict
        assert {opened.get_slice(key).get_dtype() for key in shapes} == {dtype}
        assert [config["vocab_size"], config["hidden_size"]] in shapes.values()
        if dtype == "F16":  # numpy has no bfloat16
            words = opened.get_tensor("embeddings.word_embeddings.weight")
            assert 0.02 < abs(words).mean() < 0.03


async def test_gguf_of_the_samples_opens_with_the_library(written: Written, tmp_path: Path) -> None:
    files = await written.files(GGUF)
    path = tmp_path / "model.gguf"
    path.write_bytes(files["tiny-gguf.Q8_0.gguf"])
    assert 100_000 < path.stat().st_size < 300_000
    reader = GGUFReader(path)

    def value(key: str) -> object:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    assert value("general.architecture") == "llama"
    assert value("llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    tokens = value("tokenizer.ggml.tokens")
    assert isinstance(tokens, list)
    assert (len(tokens), tokens[0]) == (512, "<s>")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors["token_embd.weight"].shape) == [64, 512]
    assert tensors["token_embd.weight"].tensor_type.name == "Q8_0"
    assert tensors["output_norm.weight"].data.tolist() == [1.0] * 64
    last = reader.tensors[-1]
    assert last.data_offset + last.n_bytes <= path.stat().st_size


def test_make_tensor_and_gguf_refuse_types_they_cannot_write() -> None:
    with pytest.raises(ValueError, match="found 'I8'"):
        make_tensor("a.weight", "I8", shape=(1,))
    with pytest.raises(TypeError, match="found NoneType"):
        gguf({"general.name": None}, [])
