from __future__ import annotations

import random
from dataclasses import replace

import pytest

from proxy.model.additions import ADDITIONS, choose
from proxy.model.artifact import RAW, LayerClass, ModelLayer, Packing
from proxy.model.placement import FileEntry, entry_of_layer
from tests.build import descriptor


def _entry(path: str, *, packing: Packing = RAW) -> FileEntry:
    layer = ModelLayer(descriptor("x", path.encode()), LayerClass.OTHER, packing, path)
    return entry_of_layer(layer, layer_index=0)


@pytest.mark.parametrize(
    ("name", "ranked"),
    [
        (
            "readme",
            [
                "README.md",
                "ReadMe.md",
                "readme.md",
                "README.markdown",
                "readme.mdown",
                "README.rst",
                "readme.txt",
                "README",
                "MODEL_CARD.md",
                "modelcard.md",
                "docs/README.md",
                "a/readme",
                "a/b/README.md",
            ],
        ),
        (
            "license",
            [
                "LICENSE",
                "license",
                "LICENSE.txt",
                "LICENSE.md",
                "LICENCE.txt",
                "COPYING",
                "COPYING.LESSER",
                "USE_LICENSE",
                "a/LICENSE",
            ],
        ),
    ],
)
def test_choose_takes_the_best_of_what_is_left(name: str, ranked: list[str]) -> None:
    shuffled = [_entry(path) for path in ranked]
    random.Random(1).shuffle(shuffled)
    for expected in ranked:
        chosen = choose(shuffled, name)
        assert chosen is not None
        assert chosen.path == expected
        shuffled.remove(chosen)
    assert choose(shuffled, name) is None


def test_choose_file_that_can_be_opened_comes_first() -> None:
    closed = replace(_entry("README.md", packing=Packing("raw", "gzip")), unsupported="broken")
    deep = _entry("docs/sub/readme.txt")
    assert choose([closed, deep], "readme") == deep
    assert choose([deep, closed], "readme") == deep
    assert choose([closed], "readme") == closed


def test_choose_code_and_unknown_names_give_none() -> None:
    assert choose([_entry("license.py"), _entry("a.gguf"), _entry("other")], "license") is None
    assert choose([_entry("README.md")], "nothing") is None


def test_additions_are_capped_at_4_mib() -> None:
    assert {name: row.bytes_limit for name, row in ADDITIONS.items()} == {
        "readme": 4 << 20,
        "license": 4 << 20,
    }
