"""Addresses below ``/cnai/``: a raw path in, the reference and what is asked of it out.

A repository name holds neither ``:`` nor ``@``, so the first segment that does ends the reference,
as people write OCI references; both may arrive percent-encoded.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.errors import ManifestUnknown, NameInvalid
from proxy.oci.reference import Reference, RepositoryName

_PREFIX = "/cnai"
# Longer than any name plus any path we serve; a guard for the error text, not for the parser.
_PATH_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True)
class ModelAddress:
    """``/cnai/<reference>[/<view>[/<path>]]``; ``view`` is empty for the record itself."""

    reference: Reference
    view: str
    path: str


def parse(raw_path: str) -> ModelAddress:
    """Read the raw path of a request below ``/cnai/``.

    ``path`` is decoded; it names a file inside an artifact and is only ever compared.

    Raises:
        ManifestUnknown: no reference with a tag or digest in the path.
        NameInvalid, DigestInvalid: a reference outside the grammar.
    """
    if len(raw_path) > _PATH_LIMIT:
        raise NameInvalid(f"expected a path of at most {_PATH_LIMIT} characters")
    segments = [
        unquote(segment, errors="surrogateescape")
        for segment in raw_path.removeprefix(_PREFIX).removeprefix("/").split("/")
    ]
    for number, segment in enumerate(segments):
        if ":" in segment or "@" in segment:
            reference = Reference.parse("/".join(segments[: number + 1]))
            rest = segments[number + 1 :]
            view = rest[0] if rest else ""
            return ModelAddress(reference, view, "/".join(rest[1:]).strip("/"))
    name = "/".join(segments).strip("/")
    detail = None
    with contextlib.suppress(NameInvalid):
        detail = {"tags": f"/v2/{RepositoryName.parse(name)}/tags/list"}
    raise ManifestUnknown(
        f"expected /cnai/<name>:<tag> or /cnai/<name>@<digest>, found {name[:300]!r} with neither "
        "tag nor digest",
        detail=detail,
    )
