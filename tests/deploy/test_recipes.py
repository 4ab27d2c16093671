"""The folder as a whole: each file is told of in the README, each settings file is valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy import settings
from tests.deploy import recipes
from tests.deploy.recipes import Tls

_FILES = sorted(file.name for file in recipes.FOLDER.iterdir())
_SETTINGS = [name for name in _FILES if name.endswith(".yaml") and name != "kubernetes.yaml"]


def test_recipes_are_those_that_the_readme_names() -> None:
    text = (recipes.FOLDER.parent / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Deployment\n")[2].partition("\n## ")[0]

    assert sorted(set(re.findall(r"deploy/([a-z.-]+\w)", section))) == _FILES


@pytest.mark.parametrize("name", _SETTINGS)
def test_recipe_settings_are_valid(name: str, tls: Tls, tmp_path: Path) -> None:
    text = recipes.read(name, {})
    changes = tls.changes("/etc/cnai-proxy") if "/etc/cnai-proxy" in text else {}
    config = tmp_path / name
    config.write_text(recipes.read(name, changes))

    settings.load(file=config, environment={}, flags={})


@pytest.mark.parametrize("name", [name for name in _FILES if name != "kubernetes.yaml"])
def test_recipe_says_where_it_goes(name: str) -> None:
    first, *_ = recipes.read(name, {}).splitlines()

    assert first.startswith("# ")
