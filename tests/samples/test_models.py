from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.embedded.layout import Layout
from proxy.samples import write_samples
from tests.samples.written import BERT, GGUF, LLAMA, Written

if TYPE_CHECKING:
    from pathlib import Path


async def test_write_samples_names_three_models_and_their_families(written: Written) -> None:
    assert {name: sample.family for name, sample in written.samples.items()} == {
        LLAMA: "modelpack",
        BERT: "modelpack",
        GGUF: "cnai",
    }
    assert written.layout.repositories() == ["demo/tiny-bert", "demo/tiny-gguf", "demo/tiny-llama"]


async def test_write_samples_twice_writes_the_same_bytes(written: Written, tmp_path: Path) -> None:
    before = (tmp_path / "layout" / "index.json").read_bytes()
    await write_samples(written.layout)
    assert (tmp_path / "layout" / "index.json").read_bytes() == before
    other = await Layout.open(tmp_path / "other")
    await write_samples(other)
    await other.aclose()
    assert (tmp_path / "other" / "index.json").read_bytes() == before
