"""The query of a request, part by part: what is not asked for stays byte for byte.

Parts end at ``&`` and at ``;``, and names are compared percent-decoded: some registries read them
so, and what they read must be what was looked at here.
Source: WHATWG URL, "application/x-www-form-urlencoded parsing"; HTML 4.01 §B.2.2 for ``;``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote


@dataclass(frozen=True, slots=True)
class _Part:
    """``<name>[=<value>]`` as it is written; ``mark`` parts it from the one before."""

    mark: str
    text: str

    @property
    def name(self) -> str:
        return unquote(self.text.partition("=")[0])


@dataclass(frozen=True, slots=True)
class Query:
    """A query without its ``?``."""

    parts: tuple[_Part, ...]

    @classmethod
    def parse(cls, raw: str) -> Query:
        """Read a query; there is none that cannot be read."""
        # As if a mark stood before the first part, too: then any part can be taken out.
        pieces = re.split("([&;])", f"&{raw}")[1:]
        return cls(tuple(map(_Part, pieces[::2], pieces[1::2])))

    def __contains__(self, name: str) -> bool:
        """Whether a part has this name, with or without a value."""
        return any(part.name == name for part in self.parts)

    def values(self, name: str) -> list[str]:
        """The decoded values of ``name`` in their order; a part without ``=`` has none."""
        return [
            unquote(part.text.partition("=")[2])
            for part in self.parts
            if "=" in part.text and part.name == name
        ]

    def without(self, *names: str) -> Query:
        """The query less every part of these names."""
        return Query(tuple(part for part in self.parts if part.name not in names))

    def replacing(self, name: str, value: str) -> Query:
        """The query with ``value``, decoded, in every part of this name."""
        text = f"{name}={quote(value)}"
        return Query(
            tuple(replace(part, text=text) if part.name == name else part for part in self.parts)
        )

    def __str__(self) -> str:
        return "".join(f"{part.mark}{part.text}" for part in self.parts)[1:]
