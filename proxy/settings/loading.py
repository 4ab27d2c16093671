"""The way from the sources to settings: gathered, validated, checked across sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from proxy.settings.faults import SettingsError, faults_of
from proxy.settings.model import Settings
from proxy.settings.rules import conflicts
from proxy.settings.sources import gather


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
    document = gather(file=file, environment=environment, flags=flags)
    settings = None
    try:
        settings = Settings.model_validate(document.values)
        found = list(conflicts(settings))
    except ValidationError as error:
        found = faults_of(error)
    lines = [*document.written_passwords, *map(document.line, found)]
    if settings is None or lines:
        raise SettingsError(lines)
    return settings
