"""The papers keep up with the code: settings, changes, the map."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from proxy import settings
from proxy.settings import Settings, UpstreamSettings

_ROOT = Path(__file__).parent.parent
_PROXY = _ROOT / "proxy"
_EXAMPLE = _ROOT / "config.example.yaml"
_HEADING = re.compile(r"^## ", re.MULTILINE)


def _keys(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every key that takes a value, as the papers write it: ``upstreams[].tls.ca_file``."""
    for name, field in section.model_fields.items():
        yield from _forms(field.annotation, f"{prefix}{name}")


def _forms(annotation: object, path: str) -> Iterator[str]:
    """``path`` if it takes a value, and the keys below it if it takes those; or either."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _keys(annotation, f"{path}.")
    elif origin is tuple and _is_section(parts[0]):
        yield from _forms(parts[0], f"{path}[]")
    elif origin is Annotated:
        yield from _forms(parts[0], path)
    elif origin in (Union, UnionType):
        forms = [part for part in parts if part is not NoneType]
        yield from dict.fromkeys(key for form in forms for key in _forms(form, path))
    else:
        yield path


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _with_other_forms(example: str) -> str:
    """The example with the lines uncommented that show another form of a key."""
    return re.sub(r"^( *)#: ", r"\1", example, flags=re.MULTILINE)


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
    text = _with_other_forms(_EXAMPLE.read_text(encoding="utf-8"))
    explained = list(_explained(yaml.compose(text, yaml.SafeLoader), text.splitlines()))

    bare = [path for path, has_comment in explained if not has_comment]
    paths = {path for path, _ in explained}
    leaves = {path for path in paths if not _holds_others(path, paths)}

    assert bare == [], "config.example.yaml: expected a comment on the line above each key"
    assert set(_keys()) - paths == set()
    assert leaves - set(_keys()) == set()


def _holds_others(path: str, paths: Iterable[str]) -> bool:
    return any(other.startswith((f"{path}.", f"{path}[]")) for other in paths)


def test_example_loads_and_gives_the_defaults() -> None:
    found = settings.load(file=_EXAMPLE, environment={}, flags={})

    assert found == Settings(upstreams=(UpstreamSettings(url=found.upstreams[0].url),))


def test_example_loads_with_the_other_forms_too(tmp_path: Path) -> None:
    text = _with_other_forms(_EXAMPLE.read_text(encoding="utf-8"))
    text = text.replace("  auth: null\n", "").replace("    credentials: caller\n", "")
    for named, content in (
        ("/run/secrets/registry-password", "secret"),
        ("/etc/cnai-proxy/htpasswd", f"reader:$2y$05${'a' * 21}O{'a' * 30}C"),
    ):
        file = tmp_path / Path(named).name
        file.write_text(content)
        text = text.replace(named, str(file))
    example = tmp_path / "settings.yaml"
    example.write_text(text, encoding="utf-8")

    found = settings.load(file=example, environment={}, flags={})

    account = found.upstreams[0].account
    assert account is not None
    assert (account.username, account.anonymous) == ("models-reader", False)
    assert list(found.own_users()) == ["reader"]


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


def _spans() -> set[str]:
    """What the map has in backticks, its tree left out."""
    text = (_ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    return set(
        re.findall(
            r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        )
    )


def _defined(body: Iterable[ast.stmt], *, with_imports: bool = False) -> Iterator[str]:
    """The names that statements of a module or a class define."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom) and with_imports:
            yield from (name.asname or name.name for name in node.names)


def _members() -> dict[str, set[str]]:
    """What each module, by its name and by its path, and each class has in it."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in _PROXY.rglob("*.py"):
        module = ast.parse(file.read_text(encoding="utf-8"))
        is_package = file.name == "__init__.py"
        place = (file.parent if is_package else file.with_suffix("")).relative_to(_PROXY)
        for name in {place.name, place.as_posix()}:
            found[name].update(_defined(module.body, with_imports=is_package))
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                found[node.name].update(_defined(node.body))
    return found


def test_architecture_names_files_that_exist() -> None:
    files = [f"/{file.relative_to(_ROOT).as_posix()}" for file in _ROOT.glob("[pt]*/**/*.py")]
    named = {path for span in _spans() for path in re.findall(r"(?<![\w>/])[\w/]+\.py", span)}

    assert len(named) > 20
    assert [p for p in sorted(named) if not any(file.endswith(f"/{p}") for file in files)] == []


def test_architecture_tree_has_every_module_and_no_other() -> None:
    tree = _section("ARCHITECTURE.md", "The tree").split("```")[1]
    words = set(re.findall(r"\w+", tree))
    files = [file for file in _PROXY.rglob("*.py") if file.name != "__init__.py"]
    places = [file.relative_to(_PROXY).as_posix() for file in files]
    modules = {
        file.stem for file, place in zip(files, places, strict=True) if "/families/" not in place
    }

    assert modules - words == set()
    assert {name for name in re.findall(r"[\w/]+\.py", tree) if name not in places} == set()


def test_architecture_names_functions_and_classes_that_exist() -> None:
    members = _members()
    classes_and_functions = set().union(*members.values())
    missing, looked_at = [], 0
    for span in sorted(_spans()):
        text = span.partition("(")[0]
        if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w+", text):  # one hump alone may be a header's name
            looked_at += 1
            missing += [] if text in classes_and_functions else [span]
        elif re.fullmatch(r"[\w/]+(?:\.\w+)+", text) and not re.search(r"\.(py|md|ya?ml)$", text):
            looked_at += 1
            pairs = pairwise(text.split("."))
            missing += [] if all(b in members.get(a, ()) for a, b in pairs) else [span]

    assert looked_at > 30
    assert missing == []


def test_architecture_names_tests_that_exist() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (_ROOT / "tests").rglob("*.py"))
    named = {span for span in _spans() if re.fullmatch(r"test_[A-Z]\w*\*", span)}

    assert len(named) > 30
    assert [one for one in sorted(named) if f"def {one.removesuffix('*')}" not in text] == []
