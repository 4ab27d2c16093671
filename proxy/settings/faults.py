"""Faults in the operator's words: pydantic's errors become a key's path and one line of text.

A fault shows the value it refuses, but nothing that is or could be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.settings.model import CREDENTIALS_FORMS, Settings

ENVIRONMENT_PREFIX = "CNAI_PROXY_"

# By pydantic's type of error; "{…}" is its context. What is not here is worded where it is raised.
_EXPECTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "expected a whole number"),
    "int_parsing_size": "expected a smaller number",
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "expected a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "expected true or false"),
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le:g}",
    "string_type": "expected text, in quotes if it looks like a number",
    "literal_error": "expected {expected}",
    "path_type": "expected the path of a file",
    "model_type": "expected keys and values below this key",
    "tuple_type": "expected a list, one '- …' line for each entry",
    "invalid_key": "expected a key that is text",
}
# "user:password@host", a signed query, a hash or a key in place of its file.
_LIKE_A_SECRET = re.compile(r"[@?#$\n]")


class Fault(NamedTuple):
    """What is wrong at the path of a key; who set the key is said beside it."""

    path: str
    text: str


class SettingsError(Exception):
    """The settings cannot be used; ``faults`` has one line for each reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def variable_of(*path: object) -> str:
    """The environment's name of a key: ``CNAI_PROXY_LISTEN__PORT``."""
    return ENVIRONMENT_PREFIX + "__".join(map(str, path)).upper()


def faults_of(error: ValidationError) -> list[Fault]:
    """What pydantic found, one fault for each of its errors."""
    return [Fault(_path(one), _text(one)) for one in error.errors(include_url=False)]


def _location(entry: ErrorDetails) -> list[int | str]:
    """Where the fault is, without the names of a union's forms."""
    before = (None, *entry["loc"])
    return [
        part
        for part, parent in zip(entry["loc"], before, strict=False)
        if not (parent == "credentials" and part in CREDENTIALS_FORMS)
    ]


def _path(entry: ErrorDetails) -> str:
    path = ".".join(map(str, _location(entry)))
    if _is_secret(entry):  # "{alice:secret}" is one key, without a value
        path = re.sub(r"(?s)(\.credentials\.)(?![a-z_]+$).*", r"\1…", path)
    # A key of the file is the operator's text: keep to one line.
    return path if path.isprintable() else path.encode("unicode_escape").decode("ascii")


def _text(entry: ErrorDetails) -> str:
    kind = entry["type"]
    if kind == "extra_forbidden":
        *section, key = _location(entry)
        return f"unknown key; {_hint(str(key), section)}"
    if kind == "missing":
        return "expected a value, found none"
    if kind in _EXPECTED:
        text = _EXPECTED[kind].format_map(entry.get("ctx", {}))
    else:
        text = entry["msg"].removeprefix("Value error, ")
    shows_value = ", found" not in text and not _is_secret(entry)
    return text + _found(entry["input"]) if shows_value else text


def _is_secret(entry: ErrorDetails) -> bool:
    return "credentials" in entry["loc"]


def _found(value: object) -> str:
    match value:
        case dict():
            return ", found keys and values"
        case list() | tuple():
            return ", found a list"
        case bool():
            return f", found {str(value).lower()}"
        case str() | Path():
            text = str(value)
            return "" if _LIKE_A_SECRET.search(text) else f", found {text[:80]!r}"
        case _:
            return f", found {str(value)[:80]}"


def _hint(key: str, section: Sequence[int | str]) -> str:
    """What the unknown ``key`` of ``section`` may have been meant to be."""
    known = _known_keys(section)
    first, _, rest = key.partition("_")
    if not section and first in known and rest:
        return f"did you mean '{first}.{rest}', as a variable {variable_of(first, rest)}?"
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"


def _known_keys(location: Sequence[int | str]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: object) -> type[BaseModel] | None:
    """The section that a key takes, alone, in a list or as one of several forms."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((section for section in found if section is not None), None)
