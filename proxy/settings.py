"""Settings: a YAML file, the environment and flags become one frozen value, or a list of faults.

Each fault is one line that names the key's path. The unit of a number is in its name. This module
is read by ``app`` and ``__main__`` only; everyone else gets plain values.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

ENVIRONMENT_PREFIX = "CNAI_PROXY_"

_HOST = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\]"
_HOST_PORT = re.compile(rf"({_HOST})(:\d{{1,5}})?")
_AUTH_HOST = re.compile(rf"(https?://)?({_HOST})(:\d{{1,5}})?")
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")


class SettingsError(Exception):
    """The settings cannot be used; ``faults`` has one line for each reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def _registry_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST[:PORT][/PATH] or https://…")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected no credentials in the address")
    if parts.query or parts.fragment or not _BASE_PATH.fullmatch(parts.path):
        raise ValueError("expected a plain base path without query or percent-encoding")
    if "." in parts.path.split("/") or ".." in parts.path.split("/"):
        raise ValueError("expected a base path without dot segments")
    if parts.path.rstrip("/").endswith("/v2"):
        raise ValueError("expected the registry's address without its /v2")
    _ = parts.port  # raises ValueError when it is no port
    return value.rstrip("/")


def _existing_file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f"expected a file that can be read, found none at {str(value)!r}")
    return value


def _host_port(value: str) -> str:
    if not _HOST_PORT.fullmatch(value.lower()):
        raise ValueError("expected HOST or HOST:PORT")
    return value.lower()


def _auth_host(value: str) -> str:
    if not _AUTH_HOST.fullmatch(value.lower()):
        raise ValueError("expected HOST (https), or http://HOST:PORT, or https://HOST:PORT")
    return value.lower()


Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Listen(_Section):
    """Where clients connect, and how long they may be silent."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    write_seconds: Seconds = 60.0
    keepalive_seconds: Seconds = 75.0
    drain_seconds: Seconds = 30.0


class Tls(_Section):
    """How the upstream's certificate is checked."""

    ca_file: Annotated[Path, AfterValidator(_existing_file)] | None = None
    insecure: bool = False


class UpstreamTimeouts(_Section):
    """Seconds; none of them bounds a whole transfer."""

    connect_seconds: Seconds = 10.0
    idle_seconds: Seconds = 60.0
    response_seconds: Seconds = 60.0
    upload_response_seconds: Seconds = 900.0


class UpstreamSettings(_Section):
    """One existing registry."""

    name: str = Field(default="default", pattern=r"^[a-z0-9]([a-z0-9-]{0,62})$")
    url: Annotated[str, AfterValidator(_registry_url)]
    redirects: Literal["relay", "follow"] = "relay"
    redirect_hosts: tuple[Annotated[str, AfterValidator(_host_port)], ...] = ()
    auth_hosts: tuple[Annotated[str, AfterValidator(_auth_host)], ...] = ()
    connections: int = Field(default=128, ge=1, le=4096)
    tls: Tls = Tls()
    timeouts: UpstreamTimeouts = UpstreamTimeouts()


class Models(_Section):
    """The routes below /cnai/."""

    enabled: bool = True


class Log(_Section):
    """Lines on standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsSettings(_Section):
    """Prometheus counters at /metrics."""

    enabled: bool = True


class Settings(_Section):
    """Everything an operator can set."""

    listen: Listen = Listen()
    upstreams: tuple[UpstreamSettings, ...] = ()
    models: Models = Models()
    log: Log = Log()
    metrics: MetricsSettings = MetricsSettings()

    @field_validator("upstreams")
    @classmethod
    def _one_upstream(cls, value: tuple[UpstreamSettings, ...]) -> tuple[UpstreamSettings, ...]:
        if len(value) > 1:
            raise ValueError(f"expected one upstream, found {len(value)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: object) -> object:
        # "listen:" with nothing below it is null in YAML and means the defaults.
        if isinstance(value, dict):
            return {key: entry for key, entry in value.items() if entry is not None}
        return value

    def with_upstream(self, url: str) -> Settings:
        """The same settings before the registry at ``url``."""
        return self.model_copy(update={"upstreams": (UpstreamSettings(url=url),)})

    def to_yaml(self) -> str:
        """The effective settings as a file that would give them; it holds no secret."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load(
    *,
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, object],
) -> Settings:
    """Settings from the file, over it the environment, over that the flags.

    ``flags`` maps a key's path (``listen.port``) to a value.

    Raises:
        SettingsError: with one line for each fault.
    """
    document = _read(file) if file is not None else {}
    sources: dict[str, str] = {}
    for variable, path, value in _from_environment(environment):
        _place(document, path, value, source=variable)
        sources[".".join(path)] = variable
    for key, value in flags.items():
        _place(document, key.split("."), value, source="command line")
        sources[key] = "command line"
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        origin = str(file) if file is not None else "settings"
        raise SettingsError(list(_faults(error, origin, sources))) from error


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


def _read(file: Path) -> dict[str, object]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError([f"{file}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{file}: expected UTF-8, found other bytes"]) from error
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506, TID251  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        raise SettingsError([f"{place}: {error.problem}"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError([f"{file}: not YAML"]) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError([f"{file}: expected keys such as 'listen:', found another YAML value"])
    return {str(key): value for key, value in document.items()}


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], object]]:
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        try:
            value = yaml.safe_load(environment[variable])
        except yaml.YAMLError as error:
            raise SettingsError([f"{variable}: expected a YAML value"]) from error
        yield variable, path, value


def _place(document: dict[str, object], path: list[str], value: object, *, source: str) -> None:
    """Set one value deep in ``document``; a number in the path counts in a list."""
    at: object = document
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        fresh: object = [] if not last and path[depth + 1].isdigit() else {}
        if isinstance(at, list) and key.isdigit() and int(key) <= len(at):
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
            raise SettingsError([f"{source}: no such key: {'.'.join(path)}"])


def _faults(error: ValidationError, origin: str, sources: Mapping[str, str]) -> Iterator[str]:
    for entry in error.errors(include_url=False, include_context=True):
        path = ".".join(str(part) for part in entry["loc"])
        where = next((sources[key] for key in sources if key == path), origin)
        reason = _explain(entry["type"], entry["msg"], entry["loc"], entry["input"])
        yield f"{where}: {path}: {reason}"


def _explain(kind: str, message: str, location: tuple[int | str, ...], found: object) -> str:
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key; {hint}"
    if kind == "missing":
        return "expected a value, found none"
    text = message.removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if isinstance(found, str | int | float | bool) and "://" not in str(found):
        text = f"{text}, found {str(found)[:80]!r}"
    return text


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[str(part)].annotation
        nested = {"upstreams": UpstreamSettings}.get(str(part), annotation)
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            section = nested
    return list(section.model_fields)
