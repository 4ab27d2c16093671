from __future__ import annotations

import pytest

from tests.samples.written import BERT, GGUF, LLAMA, Written


@pytest.mark.parametrize("name", [LLAMA, BERT, GGUF])
async def test_texts_of_the_samples_name_licence_and_reference(written: Written, name: str) -> None:
    files = await written.files(name)
    readme = files["README.md"].decode()
    assert readme.startswith("---\nlicense: apache-2.0\n")
    assert "random" in readme
    assert f"/cnai/{name}" in readme
    assert files["LICENSE"].startswith(b"SPDX-License-Identifier: Apache-2.0\n")
