"""How a file of an artifact may be called and typed, so that no browser runs it or is misled.

Source: RFC 6266 and RFC 8187 for Content-Disposition; threats to browsers in SECURITY.md.
"""

from __future__ import annotations

import re
from urllib.parse import quote

_NAME_LIMIT = 255

# Shown as they are: no browser runs anything inside these.
_PICTURES = {
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
}
# Shown as text, whatever they could be elsewhere: HTML, SVG and scripts are not among them, since
# a browser that ignores nosniff must find nothing to run.
_TEXTS = frozenset(
    {
        *("cfg", "conf", "csv", "ini", "jinja", "jinja2", "json", "jsonl", "log", "markdown", "md"),
        *("modelfile", "py", "rst", "sh", "template", "toml", "tsv", "txt", "yaml", "yml"),
    }
)
_MARKDOWN = (".md", ".markdown", ".mdown")
_TEXT_NAMES = re.compile(
    r"(readme|licen[sc]e|copying|notice|modelfile|kitfile|\.gitattributes)([_-][^.]*)?",
    re.IGNORECASE,
)
# Also the characters that reorder text: a name must read as what it is.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def content_type(path: str) -> str:
    """The media type a file is sent with: text, a picture, or bytes to be saved."""
    name = path.rpartition("/")[2]
    stem, _, last = name.rpartition(".")
    extension = last.lower() if stem else ""  # a leading dot hides a file, it types none
    if extension in _PICTURES:
        return _PICTURES[extension]
    if extension in _TEXTS or (not extension and _TEXT_NAMES.fullmatch(name)):
        return "text/plain; charset=utf-8"
    return "application/octet-stream"


def document_type(path: str) -> str:
    """The media type an addition is sent with: Markdown where its extension says so, else text."""
    kind = "markdown" if path.lower().endswith(_MARKDOWN) else "plain"
    return f"text/{kind}; charset=utf-8"


def content_disposition(path: str, *, attachment: bool) -> str:
    """A header value that names the file by its base name, safe on one line."""
    name = _UNPRINTABLE.sub("_", path.rpartition("/")[2])[-_NAME_LIMIT:] or "file"
    plain = re.sub(r'[^\x20-\x7e]|["\\/;%]', "_", name)
    kind = "attachment" if attachment else "inline"
    value = f'{kind}; filename="{plain}"'
    return value if plain == name else f"{value}; filename*=UTF-8''{quote(name, safe='')}"
