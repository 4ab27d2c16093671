from __future__ import annotations

from pathlib import Path

from proxy.embedded.layout import Layout
from proxy.model.families import recognise
from proxy.samples import write_samples
from tests.samples.written import BERT, GGUF, LLAMA, Written


async def test_write_samples_names_three_models_and_their_families(written: Written) -> None:
    families = {}
    for name in written.samples:
        _, manifest, _ = await written.manifest(name)
        artifact = recognise(manifest)
        assert artifact is not None
        families[name] = artifact.family
    assert families == {LLAMA: "modelpack", BERT: "modelpack", GGUF: "cnai"}
    assert written.layout.repositories() == ["demo/tiny-bert", "demo/tiny-gguf", "demo/tiny-llama"]


async def test_write_samples_twice_writes_the_same_bytes(written: Written, tmp_path: Path) -> None:
    before = (tmp_path / "layout" / "index.json").read_bytes()
    await write_samples(written.layout)
    assert (tmp_path / "layout" / "index.json").read_bytes() == before
    other = await Layout.open(tmp_path / "other")
    await write_samples(other)
    await other.aclose()
    assert (tmp_path / "other" / "index.json").read_bytes() == before
