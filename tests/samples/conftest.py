from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.embedded.layout import Layout
from proxy.samples import write_samples
from tests.samples.written import Written


@pytest.fixture
async def written(tmp_path: Path) -> AsyncIterator[Written]:
    layout = await Layout.open(tmp_path / "layout")
    samples = await write_samples(layout)
    yield Written(layout, {sample.reference: sample for sample in samples})
    await layout.aclose()
