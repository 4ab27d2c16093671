"""Settings: a YAML file, the environment and flags become one frozen value, or a list of faults.

Each fault is one line that names the key's path. The unit of a number is in its name. Only
``__main__``, ``demo`` and ``app`` read this module; everyone else gets plain values.
"""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

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

_HOST = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]"
_HOST_PORT = re.compile(rf"({_HOST})(:[0-9]{{1,5}})?")
_AUTH_HOST = re.compile(rf"(https?://)?({_HOST})(:[0-9]{{1,5}})?")
_BASE_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
# What Kubernetes puts into the environment when a Service is called "cnai-proxy": no settings.
_KUBERNETES = re.compile(
    r"(?s)(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)=.*"
    r"|PORT=(tcp|udp|sctp)://.*"
)


class SettingsError(Exception):
    """The settings cannot be used; ``faults`` has one line for each reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def _registry_url(value: str) -> str:
    if "@" in value:
        raise ValueError("expected no credentials in the address; clients send their own")
    match = re.fullmatch(r"https?://(?P<authority>[^/?#]*)(?P<rest>.*)", value, re.DOTALL)
    if match is None or not _is_host_port(match["authority"]):
        raise ValueError("expected http://HOST[:PORT][/PATH] or https://…")
    path = match["rest"]
    if not _BASE_PATH.fullmatch(path):
        raise ValueError("expected a plain base path without query or percent-encoding")
    if {".", ".."} & set(path.split("/")):
        raise ValueError("expected a base path without dot segments")
    if path.rstrip("/").endswith("/v2"):
        raise ValueError("expected the registry's address without its /v2")
    return value.rstrip("/")


def _listen_host(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):  # an empty one would be every interface
        raise ValueError("expected an address to listen on, such as 127.0.0.1 or 0.0.0.0")
    return value


def _upstream_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", value):
        raise ValueError("expected at most 63 lower-case letters, digits and '-'")
    return value


def _is_host_port(value: str) -> bool:
    if not _HOST_PORT.fullmatch(value.lower()):
        return False
    try:
        return urlsplit(f"//{value}").port != 0
    except ValueError:  # a port over 65535, brackets around something else than an address
        return False


def _readable_file(value: Path) -> Path:
    try:
        value.open("rb").close()
    except OSError as error:
        raise ValueError(f"expected a file that can be read ({error.strerror})") from error
    return value


def _certificates(value: Path) -> Path:
    file = _readable_file(value)
    try:
        ssl.create_default_context(cafile=file)
    except (ssl.SSLError, OSError) as error:
        raise ValueError("expected a file of PEM certificates") from error
    return file


def _host_port(value: str) -> str:
    if not _is_host_port(value):
        raise ValueError("expected HOST or HOST:PORT")
    return value.lower()


def _auth_host(value: str) -> str:
    if not _AUTH_HOST.fullmatch(value.lower()) or not _is_host_port(value.rpartition("//")[2]):
        raise ValueError("expected HOST (https), or http://HOST:PORT, or https://HOST:PORT")
    return value.lower()


def _no_truth(value: object) -> object:
    # "yes" is true in YAML, and true would count as 1.
    if isinstance(value, bool):
        raise ValueError("expected a number")  # noqa: TRY004  # pydantic takes a ValueError
    return value


Seconds = Annotated[float, BeforeValidator(_no_truth), Field(gt=0, le=86_400)]
WholeNumber = Annotated[int, BeforeValidator(_no_truth)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, value: object) -> object:
        # "listen:" with nothing below it is null in YAML and means the defaults.
        if isinstance(value, dict):
            return {
                key: entry
                for key, entry in value.items()
                if entry is not None or key not in cls.model_fields
            }
        return value


class ListenSettings(_Section):
    """Where clients connect, and how long they may be silent."""

    host: Annotated[str, AfterValidator(_listen_host)] = "127.0.0.1"
    port: WholeNumber = Field(default=8080, ge=0, le=65_535)
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    write_seconds: Seconds = 60.0
    keepalive_seconds: Seconds = 75.0
    drain_seconds: Seconds = 30.0


class TlsSettings(_Section):
    """How the upstream's certificate is checked."""

    ca_file: Annotated[Path, AfterValidator(_certificates)] | None = None
    insecure: bool = False


class TimeoutSettings(_Section):
    """Seconds; none of them bounds a whole transfer."""

    connect_seconds: Seconds = 10.0
    idle_seconds: Seconds = 60.0
    response_seconds: Seconds = 60.0
    upload_response_seconds: Seconds = 900.0


class UpstreamSettings(_Section):
    """One existing registry."""

    name: Annotated[str, AfterValidator(_upstream_name)] = "default"
    url: Annotated[str, AfterValidator(_registry_url)]
    redirects: Literal["relay", "follow"] = "relay"
    redirect_hosts: tuple[Annotated[str, AfterValidator(_host_port)], ...] = ()
    auth_hosts: tuple[Annotated[str, AfterValidator(_auth_host)], ...] = ()
    connections: WholeNumber = Field(default=128, ge=1, le=4096)
    tls: TlsSettings = TlsSettings()
    timeouts: TimeoutSettings = TimeoutSettings()


class ModelsSettings(_Section):
    """The routes below /cnai/."""

    enabled: bool = True


class LogSettings(_Section):
    """Lines on standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MetricsSettings(_Section):
    """Prometheus counters at /metrics."""

    enabled: bool = True


class Settings(_Section):
    """Everything an operator can set."""

    listen: ListenSettings = ListenSettings()
    upstreams: tuple[UpstreamSettings, ...] = ()
    models: ModelsSettings = ModelsSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    @field_validator("upstreams")
    @classmethod
    def _one_upstream(cls, value: tuple[UpstreamSettings, ...]) -> tuple[UpstreamSettings, ...]:
        if len(value) > 1:
            raise ValueError(f"expected one upstream, found {len(value)}")
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
    document = _parse_yaml(text, source=str(file))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError([f"{file}: expected keys such as 'listen:', found another YAML value"])
    return {str(key): value for key, value in document.items()}


def _parse_yaml(text: str, *, source: str) -> object:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506, TID251  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise SettingsError([f"{place}: not YAML: {error.problem}"]) from error
    except yaml.reader.ReaderError as error:
        place = f"character {error.position + 1}"
        raise SettingsError([f"{source}: not YAML: {error.reason} ({place})"]) from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own constructors: a date of month 13, "!!bool maybe", nesting without end.
        fault = f"{source}: expected plain YAML text and numbers, found a value YAML cannot read"
        raise SettingsError([fault]) from error


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], object]]:
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        text = environment[variable]
        if name == variable or _KUBERNETES.fullmatch(f"{name}={text}"):
            continue
        yield variable, name.lower().split("__"), _parse_yaml(text, source=variable)


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


def _faults(error: ValidationError, origin: str, sources: Mapping[str, str]) -> Iterator[str]:
    for entry in error.errors(include_url=False, include_context=True):
        path = ".".join(str(part) for part in entry["loc"])
        if not path.isprintable():  # a key of the file is the operator's text: keep to one line
            path = path.encode("unicode_escape").decode("ascii")
        # The last one to set the value, a section around it or a key within it is to correct.
        setters = [
            sources[key]
            for key in sources
            if f"{path}.".startswith(f"{key}.") or f"{key}.".startswith(f"{path}.")
        ]
        yield f"{setters[-1] if setters else origin}: {path}: {_explain(entry)}"


def _explain(entry: ErrorDetails) -> str:
    kind, found = entry["type"], entry["input"]
    if kind == "extra_forbidden":
        *section, key = entry["loc"]
        known = _known_keys(section)
        first, _, rest = str(key).partition("_")
        if not section and first in known and rest:
            variable = f"{ENVIRONMENT_PREFIX}{first}__{rest}".upper()
            return f"unknown key; did you mean '{first}.{rest}', as a variable {variable}?"
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key; {hint}"
    if kind == "missing":
        return "expected a value, found none"
    expected = _EXPECTED.get(kind, entry["msg"].removeprefix("Value error, "))
    text = expected.format_map(entry.get("ctx", {})) if kind in _EXPECTED else expected
    return text if ", found" in text else f"{text}{_found(found)}"


def _found(value: object) -> str:
    match value:
        case dict():
            return ", found keys and values"
        case list() | tuple():
            return ", found a list"
        case bool():
            return f", found {str(value).lower()}"
        case str() if set(value) & set("@?#"):
            return ""  # "user:password@host" or a signed query is not for the screen
        case str() | Path():
            return f", found {str(value)[:80]!r}"
        case _:
            return f", found {str(value)[:80]}"


def _known_keys(location: Sequence[int | str]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[str(part)].annotation
        nested = {"upstreams": UpstreamSettings}.get(str(part), annotation)
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            section = nested
    return list(section.model_fields)
