"""Log lines on standard error: text for people, JSON for machines, no secret in either."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Literal

from proxy.redact import redact

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _TextFormatter(logging.Formatter):
    """``TIME LEVEL logger message key=value …`` on one line, a traceback on those below."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        line = super().formatMessage(record)
        # A line break or a terminal's escape in a foreign name must not forge a second line.
        line = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", line)
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line += "".join(f" {key}={_plain(value)}" for key, value in fields.items())
        return line


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
                key: value if isinstance(value, int | float | None) else redact(str(value))
                for key, value in fields.items()
            }
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=True)


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
