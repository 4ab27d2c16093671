from __future__ import annotations

import json

import pytest

from tests.samples.written import BERT, GGUF, LLAMA, Written


@pytest.mark.parametrize("name", [LLAMA, BERT, GGUF])
async def test_tokenizer_of_the_samples_holds_together(written: Written, name: str) -> None:
    files = await written.files(name)
    model = json.loads(files["tokenizer.json"])["model"]
    vocabulary = model["vocab"]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= json.loads(files["config.json"])["vocab_size"]
    for merge in model.get("merges", []):
        left, right = merge.split(" ")
        assert {left, right, left + right} <= vocabulary.keys()
