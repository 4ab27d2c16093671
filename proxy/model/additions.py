"""Additions: the named documents of a model, and which of its files each one is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate

from proxy.model.artifact import LayerClass
from proxy.model.placement import FileEntry

# Harbor's cap for the same documents.
TEXT_BYTES_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Addition:
    """``patterns`` are globs for base names, best first, compared without case.

    ``bytes_limit``: a longer file is refused, not cut.
    """

    name: str
    patterns: tuple[str, ...]
    bytes_limit: int


ADDITIONS: Mapping[str, Addition] = {
    addition.name: addition
    for addition in (
        Addition(
            "readme",
            (
                "README.md",
                "README.markdown",
                "README.mdown",
                "README.rst",
                "README.txt",
                "README",
                "MODEL_CARD.md",
                "MODELCARD.md",
            ),
            TEXT_BYTES_LIMIT,
        ),
        Addition(
            "license",
            ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE*", "COPYING*", "*LICENSE*"),
            TEXT_BYTES_LIMIT,
        ),
    )
}


def choose(entries: Iterable[FileEntry], name: str) -> FileEntry | None:
    """The file that is the addition ``name``, or None.

    Files that can be opened first, then the one nearest to the root, then the best pattern, the
    pattern's own case, byte order. Only documents and files of no known class count: an
    architecture's ``license.py`` is no licence.
    """
    addition = ADDITIONS.get(name)
    if addition is None:
        return None
    patterns = [re.compile(translate(pattern), re.IGNORECASE) for pattern in addition.patterns]
    best: tuple[tuple[bool, int, int, bool, str], FileEntry] | None = None
    for entry in entries:
        if entry.file_class not in (LayerClass.DOC, LayerClass.OTHER):
            continue
        closed, depth = entry.unsupported is not None, entry.path.count("/")
        if best is not None and (closed, depth) > best[0][:2]:
            continue
        rank = next((at for at, glob in enumerate(patterns) if glob.match(entry.name)), None)
        if rank is None:
            continue
        exact = re.match(translate(addition.patterns[rank]), entry.name) is not None
        key = (closed, depth, rank, not exact, entry.path)
        if best is None or key < best[0]:
            best = (key, entry)
    return best[1] if best is not None else None
