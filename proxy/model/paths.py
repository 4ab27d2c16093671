"""Safe paths: what an artifact calls a file, made safe to show, to ask for and to save under.

Paths come from whoever could push. One that cannot be made safe is None here; ``placement`` gives
such a file a name of its own.
"""

from __future__ import annotations

import re

PATH_BYTES_LIMIT = 4096
PART_BYTES_LIMIT = 255
# A placed path is at most twice as deep: nested JSON stays far from the recursion limit.
PARTS_LIMIT = 64

# Control characters, surrogates (bytes that were no UTF-8), and what reorders or breaks a line.
_UNSAFE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
# What nearly all paths look like: nothing in them is changed by what follows.
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_DRIVE = re.compile(r"[A-Za-z]:")


def sanitise_path(text: str) -> str | None:
    """A relative path without empty, ``.`` and ``..`` parts, or None where no safe one is left.

    Leading slashes, drives and ``..`` are stripped, inner ``..`` resolved, backslashes read as
    separators where they are the only ones. None: control or reordering characters, broken UTF-8,
    both separators, more than 4096 bytes, 255 bytes a part or 64 parts.
    """
    if len(text) <= PART_BYTES_LIMIT and text.count("/") < PARTS_LIMIT and _PLAIN.fullmatch(text):
        return text
    if len(text) > PATH_BYTES_LIMIT or _UNSAFE.search(text):
        return None
    if "\\" in text:
        if "/" in text:
            return None
        text = text.replace("\\", "/")
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", ".") and (parts or not _DRIVE.fullmatch(part)):
            parts.append(part)
    path = "/".join(parts)
    encoded = path.encode()
    if not 0 < len(encoded) <= PATH_BYTES_LIMIT or len(parts) > PARTS_LIMIT:
        return None
    if len(encoded) > PART_BYTES_LIMIT and any(
        len(part.encode()) > PART_BYTES_LIMIT for part in parts
    ):
        return None
    return path


def path_warning(text: str) -> str | None:
    """What was done to an unsafe path; None for a path that was only written loosely (``./a``)."""
    path = sanitise_path(text)
    if path is None:
        return f"the path {text[:200]!r} has no safe form"
    loose = "/".join(part for part in text.split("/") if part not in ("", "."))
    if text.startswith("/") or path != loose:
        return f"the path {text[:200]!r} is unsafe, shown as {path[:200]!r}"
    return None
