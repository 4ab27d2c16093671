"""Log lines on standard error: text for people, JSON for machines, no secret in either."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from proxy.redact import redact


class _TextFormatter(logging.Formatter):
    """``TIME LEVEL logger message key=value …`` on one line."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line += "".join(f" {key}={_plain(value)}" for key, value in fields.items())
        return redact(line)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            entry |= {
                key: redact(value) if isinstance(value, str) else value
                for key, value in fields.items()
            }
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=True, default=str)


def configure(*, style: Literal["text", "json"], level: str) -> None:
    """Send all log lines of this process to standard error, once, redacted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def _plain(value: object) -> str:
    text = str(value)
    # A value that could be read as two, or break the line, is quoted as JSON quotes it.
    if text and text.isascii() and text.isprintable() and not set(text) & {" ", '"', "="}:
        return text
    return json.dumps(text)
