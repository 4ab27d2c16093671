"""A secret that tests use as every kind of credential, and the search for where it must not be.

Whatever a proxy writes for people (log, metrics, its own answers, ``check``) is searched for it as
it is, percent-encoded, and in base64 at any place within what was encoded: as the password of a
Basic login, say.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from proxy.redact import redact

CANARY = "CANARY-s3cr3t"
# Some tests write it in lower case; in base64 that is another text.
SECRETS = (CANARY, CANARY.lower())
# Those that log in a proxy: its own, and of the libraries that see requests.
LOGGERS = ("proxy", "aiohttp", "asyncio")


def spellings(secret: str = CANARY) -> tuple[bytes, ...]:
    """How ``secret`` could stand in a text: what to search for, without regard to case."""
    text = secret.encode()
    found = {text, quote(secret, safe="").encode(), text.hex().encode()}
    for shift in range(3):
        # The first and the last characters depend on what stands beside the secret.
        encoded = base64.b64encode(bytes(shift) + text).rstrip(b"=")
        first = (shift * 8 + 5) // 6
        core = encoded[first : (shift + len(text)) * 8 // 6]
        found |= {core, core.translate(bytes.maketrans(b"+/", b"-_"))}
    return tuple(sorted(found))


def hits(text: bytes | str, *, secrets: Iterable[str] = SECRETS) -> list[str]:
    """The lines of ``text`` that hold one of ``secrets`` in any spelling, cut to 300 characters."""
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    wanted = [spelling.lower() for secret in secrets for spelling in spellings(secret)]
    return [
        line[:300].decode("utf-8", "replace")
        for line in content.splitlines()
        if any(spelling in line.lower() for spelling in wanted)
    ]


def hits_below(
    folder: Path, *, name: str = "proxy.log", secrets: Iterable[str] = SECRETS
) -> list[str]:
    """``hits`` of every file called ``name`` at any depth of ``folder``, with the file's path."""
    # Not Path.rglob: registries of a session hold thousands of files whose names do not matter.
    return [
        f"{Path(place) / name}: {line}"
        for place, _, files in os.walk(folder)
        if name in files
        for line in hits((Path(place) / name).read_bytes(), secrets=secrets)
    ]


class _Watcher(logging.Handler):
    """Keeps what of the records shows a secret once it is written."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._secrets = tuple(secrets)

    def emit(self, record: logging.LogRecord) -> None:
        """As ``proxy.logs`` writes a record: the message, the fields, the traceback, redacted."""
        text = f"{self.format(record)} {record.__dict__.get('fields', '')}"
        self.found += [
            f"{record.name}: {line}" for line in hits(redact(text), secrets=self._secrets)
        ]


@contextmanager
def watching(*, secrets: Iterable[str] = SECRETS) -> Iterator[list[str]]:
    """What the loggers of a proxy in this process show of ``secrets``, until the context ends."""
    watcher = _Watcher(secrets)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(watcher)
    try:
        yield watcher.found
    finally:
        for logger in loggers:
            logger.removeHandler(watcher)
