"""The README's table of families and packings is the one that the artifacts make."""

from __future__ import annotations

import re
from pathlib import Path

from tests.producers import matrix

_README = Path(__file__).parent.parent.parent / "README.md"


def test_readme_shows_exactly_this_table() -> None:
    found = re.search(
        r"^## Models it opens\n.*?<!-- models -->\n(.*?)<!-- models -->\n",
        _README.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )

    assert found is not None
    assert found[1] == matrix.table(), "README.md: run python -m tests.producers.matrix"
