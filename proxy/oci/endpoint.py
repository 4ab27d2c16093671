"""The addresses of the distribution API: a raw request target in, one typed endpoint out.

Works on the *raw* path, because a decoded one hides ``%2f`` and ``%2e``: what is checked here is
byte for byte what goes upstream. Anchored at both ends; verbs are looked for from the right, since
a repository may be called ``a/blobs/b``.
Source: distribution-spec v1.1, "Endpoints"; the catalogue is docker's addition to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.errors import BadRequest, DigestInvalid, NameInvalid
from proxy.oci.digest import Digest, is_unregistered
from proxy.oci.reference import NAME, NAME_LIMIT, TAG, RepositoryName, Tag

# Unreserved and sub-delimiter characters of RFC 3986 that stand for themselves, plus ":" and "@".
_SAFE_PATH = re.compile(r"/v2(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?")
_SAFE_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%\[\]|-]*")
_VERB = re.compile(
    rf"/v2/(?P<name>{NAME})/"
    r"(?:manifests/(?P<manifest>[^/]+)"
    r"|blobs/uploads/(?P<session>[^/]*)"
    r"|blobs/(?P<blob>[^/]+)"
    r"|tags/(?P<tags>list)"
    r"|referrers/(?P<referrers>[^/]+))"
)
_TAG = re.compile(TAG)

# The methods of the specification: those that change nothing, and those that do.
READS = ("GET", "HEAD")
WRITES = ("DELETE", "PATCH", "POST", "PUT")


@dataclass(frozen=True, slots=True)
class Ping:
    """``/v2/``: does the registry speak the API, does it want a login."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """``/v2/_catalog``."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """``/v2/<name>/manifests/<reference>``; an unknown digest algorithm stays text."""

    repository: RepositoryName
    reference: Tag | Digest | str


@dataclass(frozen=True, slots=True)
class Blob:
    """``/v2/<name>/blobs/<digest>``; an unknown digest algorithm stays text."""

    repository: RepositoryName
    digest: Digest | str


@dataclass(frozen=True, slots=True)
class Upload:
    """``/v2/<name>/blobs/uploads/[<session>]``: start, or a step of, an upload."""

    repository: RepositoryName
    session: str


@dataclass(frozen=True, slots=True)
class Tags:
    """``/v2/<name>/tags/list``."""

    repository: RepositoryName


@dataclass(frozen=True, slots=True)
class Referrers:
    """``/v2/<name>/referrers/<digest>``; an unknown digest algorithm stays text."""

    repository: RepositoryName
    digest: Digest | str


@dataclass(frozen=True, slots=True)
class Other:
    """A safe path below ``/v2/`` that the specification does not name: the upstream's business."""


Endpoint = Ping | Catalog | Manifest | Blob | Upload | Tags | Referrers | Other


def split_target(raw_target: str) -> tuple[str, str]:
    """A raw request target as path and query, ``?`` left out.

    Raises:
        BadRequest: not in origin form (RFC 9112 §3.2.1), or a query no URL may hold.
    """
    path, _, query = raw_target.partition("?")
    if not path.startswith("/"):
        raise BadRequest(f"expected a request target that starts with '/', found {path[:200]!r}")
    if not _SAFE_QUERY.fullmatch(query):
        raise BadRequest("expected a query of RFC 3986 characters, found others")
    return path, query


def parse(raw_path: str) -> Endpoint:
    """Read the raw path of a request below ``/v2/``.

    Raises:
        NameInvalid: percent-encoding, dot segments, empty segments, backslashes, control or
            non-ASCII characters; a repository name over 255 characters.
        DigestInvalid: a sha256 or sha512 digest of another length or case.
    """
    if not _SAFE_PATH.fullmatch(raw_path) or _has_dot_segment(raw_path):
        raise NameInvalid(
            "expected a path of plain characters without percent-encoding, empty or dot segments, "
            f"found {raw_path[:300]!r}"
        )
    if raw_path in ("/v2", "/v2/"):
        return Ping()
    if raw_path == "/v2/_catalog":
        return Catalog()
    match = _VERB.fullmatch(raw_path)
    if match is None:
        return Other()
    name = match["name"]
    if len(name) > NAME_LIMIT:
        raise NameInvalid(
            f"expected a repository name of at most {NAME_LIMIT} characters, found {len(name)}"
        )
    repository = RepositoryName(name)
    if (reference := match["manifest"]) is not None:
        if ":" in reference:
            return Manifest(repository, _digest(reference))
        return Manifest(repository, Tag(reference)) if _TAG.fullmatch(reference) else Other()
    if (session := match["session"]) is not None:
        return Upload(repository, session)
    if (digest := match["blob"]) is not None:
        return Blob(repository, _digest(digest)) if ":" in digest else Other()
    if (digest := match["referrers"]) is not None:
        return Referrers(repository, _digest(digest)) if ":" in digest else Other()
    return Tags(repository)


def _digest(text: str) -> Digest | str:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        if is_unregistered(text):
            return text
        raise


def _has_dot_segment(raw_path: str) -> bool:
    return any(segment in (".", "..") for segment in raw_path.split("/"))
