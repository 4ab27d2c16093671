"""The README's table of who packs models how, rendered from the artifacts that the tests open."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tests.producers.artifact import INDEX, PACKINGS, Artifact
from tests.producers.catalogue import HONEST

_COLUMNS = (*PACKINGS, INDEX)
_NOT_WRITTEN = "–"  # noqa: RUF001 - a dash as in print


def table() -> str:
    """One row a producer, in the catalogue's order, as Markdown."""
    rows: dict[tuple[str, str], dict[str, list[Artifact]]] = {}
    for artifact in HONEST.values():
        row = rows.setdefault((artifact.producer, artifact.family), {})
        row.setdefault(artifact.packing, []).append(artifact)
    lines = [
        ("written by", "family", *(f"`{column}`" for column in PACKINGS), INDEX),
        ("---",) * (2 + len(_COLUMNS)),
        *(
            (producer, family, *(_cell(row.get(column, ())) for column in _COLUMNS))
            for (producer, family), row in rows.items()
        ),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(artifacts: Sequence[Artifact]) -> str:
    if not artifacts:
        return _NOT_WRITTEN
    reasons = {artifact.refused[""] for artifact in artifacts if "" in artifact.refused}
    if not reasons:
        return "✓"
    (reason,) = reasons
    return "✓ by `?variant=`" if artifacts[0].children else reason


if __name__ == "__main__":
    sys.stdout.write(table())
