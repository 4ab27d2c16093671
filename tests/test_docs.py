"""The papers keep up with the code: settings, changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard, get_args

import yaml
from pydantic import BaseModel

from proxy import settings
from proxy.settings import Settings

_ROOT = Path(__file__).parent.parent
_EXAMPLE = _ROOT / "config.example.yaml"
_HEADING = re.compile(r"^## ", re.MULTILINE)


def _keys(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every key that takes a value, as the papers write it: ``upstreams[].tls.ca_file``."""
    for name, field in section.model_fields.items():
        path, annotation = f"{prefix}{name}", field.annotation
        entry = next((part for part in get_args(annotation) if part is not Ellipsis), None)
        if _is_section(annotation):
            yield from _keys(annotation, f"{path}.")
        elif _is_section(entry):
            yield from _keys(entry, f"{path}[].")
        else:
            yield path


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _explained(
    node: yaml.Node | None, lines: list[str], prefix: str = ""
) -> Iterator[tuple[str, bool]]:
    """Every key of the example, and whether the line above it is a comment."""
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _explained(entry, lines, f"{prefix}[]")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}.{key.value}" if prefix else key.value
            above = lines[key.start_mark.line - 1].lstrip()
            yield path, above.startswith("#")
            yield from _explained(value, lines, path)


def _section(paper: str, heading: str) -> str:
    """The text of ``## heading`` in a paper of the project."""
    parts = _HEADING.split((_ROOT / paper).read_text(encoding="utf-8"))
    found = [part for part in parts[1:] if part.partition("\n")[0].strip() == heading]
    assert len(found) == 1, f"{paper}: expected one section '## {heading}', found {len(found)}"
    return found[0]


def test_example_names_and_explains_every_setting_and_no_other() -> None:
    text = _EXAMPLE.read_text(encoding="utf-8")
    explained = dict(_explained(yaml.compose(text, yaml.SafeLoader), text.splitlines()))

    bare = [path for path, has_comment in explained.items() if not has_comment]
    leaves = {path for path in explained if not _holds_others(path, explained)}

    assert bare == [], "config.example.yaml: expected a comment on the line above each key"
    assert leaves == set(_keys())


def _holds_others(path: str, paths: dict[str, bool]) -> bool:
    return any(other.startswith((f"{path}.", f"{path}[]")) for other in paths)


def test_example_loads_and_gives_the_defaults() -> None:
    found = settings.load(file=_EXAMPLE, environment={}, flags={})

    assert found == Settings().with_upstream(found.upstreams[0].url)


def test_readme_lists_every_setting_and_no_other() -> None:
    table = _section("README.md", "Settings")
    cells = re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)
    listed = [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]

    assert sorted(listed) == sorted(_keys())


def test_changelog_has_an_unreleased_section_with_entries() -> None:
    assert re.search(r"^- \S", _section("CHANGELOG.md", "[Unreleased]"), re.MULTILINE)


def test_papers_hold_no_placeholder() -> None:
    for paper in _ROOT.glob("*.md"):
        found = re.findall(r"\b[A-Z]{2,}-(?:TABLE|HERE|TEXT)\b|\bTODO\b|\bTBD\b", paper.read_text())
        assert found == [], paper.name
