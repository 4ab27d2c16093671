"""Path globs as in gitignore: which of a model's files a caller wants.

Globs come from strangers. Each becomes one regular expression whose every choice is final: text
between two stars has a fixed length and is taken where it is found first, inside an atomic group,
which is the best place for all that follows. So a match costs at most the product of the lengths
of glob and path, whatever they are.
Source: gitignore(5), "Pattern format" (git 2.39), without ``!`` and without what belongs to lines
of a file (comments, spaces at the end); POSIX.1-2017 §9.3.5 for classes in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.errors import BadRequest, SizeInvalid

GLOB_BYTES_LIMIT = 1024
GLOBS_LIMIT = 64
# Characters of globs times characters of paths: some seconds of matching at the worst.
WORK_LIMIT = 500_000_000

# Any number of directories, and any text within a part; both take as little as they can, and each
# opens a group that holds what follows up to the next of its kind.
_DIRECTORIES = "(?>(?:[^/]*+/)*?"
_TEXT = "(?>[^/]*?"

# ``**`` means directories only as a whole part with more behind it. At the end ``*`` says the
# same, as all beneath a match is taken in; anywhere else git reads it as ``*``.
_TOKEN = re.compile(
    r"(?P<directories>(?<![^/])\*\*+/)|(?P<text>\*+)|(?P<one>\?)|\\(?P<quoted>.)|(?P<plain>[^\\])",
    re.DOTALL,
)
_BRACKET_ITEM = re.compile(
    r"\[:(?P<name>[^\]]*):\]|(?P<first>\\.|[^\\])(?:-(?P<last>\\.|[^\\\]]))?", re.DOTALL
)
_CLASSES: Mapping[str, str] = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t-\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True, slots=True)
class Glob:
    """One glob; ``text`` is as it was written."""

    text: str
    _pattern: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Glob:
        """Read a glob.

        Without a slash, but at its end, it names a file or a directory at any depth; else it
        starts at the root. A slash at its end: a directory only. ``*`` and ``?`` stay within a
        part of the path; ``**`` as a whole part is any number of parts.

        Raises:
            BadRequest: over 1,024 bytes of UTF-8, or one that no path can match: nothing named, an
                open bracket, an unknown class, a backslash that quotes nothing, a leading ``!``.
        """
        length = len(text.encode("utf-8", "surrogatepass"))
        if length > GLOB_BYTES_LIMIT:
            raise BadRequest(
                f"expected a glob of at most {GLOB_BYTES_LIMIT} bytes, found {length} bytes",
                detail={"limit": GLOB_BYTES_LIMIT, "found": length},
            )
        if text.startswith("!"):
            raise _refused(r"no ! before a glob (write \! for a name that starts so)", text)
        if text in ("", "/", "//"):
            raise _refused("a glob that names something", text)
        return cls(text, re.compile(_translated(text)))

    def matches(self, path: str) -> bool:
        """Whether it takes in the file at ``path``, relative and without empty parts.

        It does if it matches the path or a directory that the file lies in, at any height.
        """
        return self._pattern.match(path) is not None


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted: all where nothing is included; ``exclude`` wins over ``include``."""

    include: tuple[Glob, ...] = ()
    exclude: tuple[Glob, ...] = ()

    @classmethod
    def parse(cls, include: Sequence[str], exclude: Sequence[str]) -> Filter:
        """Read the globs of both kinds.

        Raises:
            BadRequest: more than 64 globs in all, or one that ``Glob.parse`` refuses.
        """
        count = len(include) + len(exclude)
        if count > GLOBS_LIMIT:
            raise BadRequest(
                f"expected at most {GLOBS_LIMIT} globs, found {count}",
                detail={"limit": GLOBS_LIMIT, "found": count},
            )
        return cls(tuple(map(Glob.parse, include)), tuple(map(Glob.parse, exclude)))

    def chosen(self, paths: Iterable[str]) -> list[bool]:
        """For each of the paths whether it is wanted.

        Raises:
            SizeInvalid: so many and long paths and globs that matching them would take too long.
        """
        listed = list(paths)
        if not self.include and not self.exclude:
            return [True] * len(listed)
        work = sum(map(len, listed)) * sum(len(glob.text) for glob in self.include + self.exclude)
        if work > WORK_LIMIT:
            raise SizeInvalid(
                f"expected globs and paths whose lengths make at most {WORK_LIMIT} as a product, "
                f"found {work}: use fewer or shorter globs",
                detail={"limit": WORK_LIMIT, "found": work},
            )
        return [self.wants(path) for path in listed]

    def wants(self, path: str) -> bool:
        """Whether the file at ``path``, relative and without empty parts, is wanted."""
        if self.include and not any(glob.matches(path) for glob in self.include):
            return False
        return not any(glob.matches(path) for glob in self.exclude)


def _refused(expected: str, text: str) -> BadRequest:
    return BadRequest(f"expected {expected}, found {text[:200]!r}")


def _translated(text: str) -> str:
    """The regular expression that matches the beginning of every path that ``text`` takes in."""
    body = text.removesuffix("/")
    end = "(?=/)" if text.endswith("/") else r"(?=/|\Z)"
    written: list[str] = []
    directories_end = text_end = ""
    if "/" not in body:
        written.append(_DIRECTORIES)
        directories_end = ")"
    for piece in _pieces(body.removeprefix("/"), text):
        if piece is _DIRECTORIES:
            written += (text_end, directories_end)
            text_end, directories_end = "", ")"
        elif piece is _TEXT:
            written.append(text_end)
            text_end = ")"
        written.append(piece)
    return "".join((*written, end, text_end, directories_end))


def _pieces(body: str, text: str) -> Iterator[str]:
    """Regular expressions of ``body`` one by one; all but the two constants match one character."""
    position = 0
    while position < len(body):
        if body[position] == "[":
            bracket = _bracket(body, position)
            if bracket is None:
                raise _refused("every [ of a glob closed, with known classes only", text)
            piece, position = bracket
            yield piece
            continue
        token = _TOKEN.match(body, position)
        if token is None:
            raise _refused("a backslash only before what it quotes", text)
        position = token.end()
        match token.lastgroup:
            case "directories":
                yield _DIRECTORIES
            case "text":
                yield _TEXT
            case "one":
                yield "[^/]"
            case _:
                yield re.escape(token["quoted"] or token["plain"])


def _bracket(body: str, start: int) -> tuple[str, int] | None:
    """The regular expression of the bracket at ``start`` and where it ends; None: malformed."""
    first = position = start + 1
    if body[position : position + 1] in ("!", "^"):
        first = position = position + 1
    items: list[str] = []
    while position == first or not body.startswith("]", position):
        item = _BRACKET_ITEM.match(body, position)
        content = item and _item(item)
        if item is None or content is None:
            return None
        items.append(content)
        position = item.end()
    mark = "^" if first > start + 1 else ""
    return f"(?!/)[{mark}{''.join(items)}]", position + 1


def _item(item: re.Match[str]) -> str | None:
    if item["first"] is None:
        return _CLASSES.get(item["name"])
    first = item["first"][-1]
    last = (item["last"] or first)[-1]
    # A range that runs backwards still holds where it starts: that is a character of its own.
    return re.escape(first) + (f"-{re.escape(last)}" if first < last else "")
