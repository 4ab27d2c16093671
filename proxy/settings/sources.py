"""What the operator wrote: a YAML file, over it the environment, over that flags, as one document.

Nothing of a document is checked here but that it can be read, and that its file holds no password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from proxy.settings.faults import ENVIRONMENT_PREFIX, Fault, SettingsError, variable_of

# What Kubernetes puts into the environment when a Service is called "cnai-proxy": no settings.
_KUBERNETES = re.compile(
    r"(?s)(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)=.*"
    r"|PORT=(tcp|udp|sctp)://.*"
)


@dataclass(frozen=True, slots=True)
class Document:
    """All sources laid over each other, and who set what.

    ``setters`` names the variable or flag for the path of each key that the file did not set.
    """

    origin: str
    values: Mapping[str, object]
    setters: Mapping[str, str]
    written_passwords: tuple[str, ...]

    def line(self, fault: Fault) -> str:
        """The fault as the operator reads it, beginning with whoever set the value."""
        return _line(self._setter(fault.path) or self.origin, fault)

    def _setter(self, path: str) -> str | None:
        """Who set the value at ``path``, a section around it or a key within it last."""
        setters = [
            setter
            for key, setter in self.setters.items()
            if f"{path}.".startswith(f"{key}.") or f"{key}.".startswith(f"{path}.")
        ]
        return setters[-1] if setters else None


def gather(
    *, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Document:
    """The three sources as one document; ``flags`` maps a key's path to a value.

    Raises:
        SettingsError: something cannot be read, or has no place in the document.
    """
    values = {} if file is None else _read(file)
    origin = "settings" if file is None else str(file)
    written_passwords = tuple(_line(origin, fault) for fault in _written_passwords(values))
    setters: dict[str, str] = {}
    for variable, path, value in _from_environment(environment):
        _place(values, path, value, source=variable)
        setters[".".join(path)] = variable
    for key, value in flags.items():
        _place(values, key.split("."), value, source="command line")
        setters[key] = "command line"
    return Document(origin, values, setters, written_passwords)


def _line(source: str, fault: Fault) -> str:
    return f"{source}: {fault.path}: {fault.text}"


def _read(file: Path) -> dict[str, object]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError([f"{file}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{file}: expected UTF-8, found other bytes"]) from error
    document = _parse_yaml(text, source=str(file))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError([f"{file}: expected keys such as 'listen:', found another YAML value"])
    return {str(key): value for key, value in document.items()}


def _written_passwords(document: Mapping[str, object]) -> Iterator[Fault]:
    """Passwords in a settings file: it is printed, copied and shared, a secret is not."""
    upstreams = document.get("upstreams")
    for at, upstream in enumerate(upstreams if isinstance(upstreams, list) else ()):
        credentials = upstream.get("credentials") if isinstance(upstream, dict) else None
        if isinstance(credentials, dict) and credentials.get("password") is not None:
            variable = variable_of("upstreams", at, "credentials", "password")
            yield Fault(
                f"upstreams.{at}.credentials.password",
                f"expected no password in a settings file; use password_file, or the variable "
                f"{variable}",
            )


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], object]]:
    """Each variable of ours, the path of the key it sets, and the value."""
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        text = environment[variable]
        if name == variable or _KUBERNETES.fullmatch(f"{name}={text}"):
            continue
        path = name.lower().split("__")
        # A secret stands as it is: "12345" stays text, and no part of "*abc" gets into a fault.
        as_it_is = path[-1] in ("username", "password")
        yield variable, path, text if as_it_is else _parse_yaml(text, source=variable)


def _place(document: dict[str, object], path: list[str], value: object, *, source: str) -> None:
    """Set one value deep in ``document``; a number in the path counts in a list."""
    at: object = document
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        fresh: object = [] if not last and path[depth + 1].isdecimal() else {}
        if isinstance(at, list) and key.isdecimal() and int(key) <= len(at):
            if int(key) == len(at):
                at.append({})
            if last:
                at[int(key)] = value
            elif not isinstance(at[int(key)], dict | list):
                at[int(key)] = fresh
            at = at[int(key)]
        elif isinstance(at, dict):
            if last:
                at[key] = value
            elif not isinstance(at.get(key), dict | list):
                at[key] = fresh
            at = at[key]
        else:
            fault = f"{source}: {'.'.join(path)}: no such place; lists count from 0 without gaps"
            raise SettingsError([fault])


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as ``safe_load`` reads it, but a key that stands twice is a fault."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, str) and key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice", key_node.start_mark
            )
        if isinstance(key, str):
            seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def _parse_yaml(text: str, *, source: str) -> object:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506, TID251  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        # "password: *abc" and "!abc" are an alias and a tag to YAML: PyYAML would repeat them.
        problem = re.sub(r"( alias| for the tag| tag handle) '.*", r"\1", str(error.problem))
        raise SettingsError([f"{place}: not YAML: {problem}"]) from None
    except yaml.reader.ReaderError as error:
        place = f"character {error.position + 1}"
        raise SettingsError([f"{source}: not YAML: {error.reason} ({place})"]) from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own constructors: a date of month 13, "!!bool maybe", nesting without end.
        fault = f"{source}: expected plain YAML text and numbers, found a value YAML cannot read"
        raise SettingsError([fault]) from error
