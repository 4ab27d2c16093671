"""One request's names, as the upstream has them and as the client wrote them.

Paths, addresses, challenges and JSON of an answer come out in the client's form; where both forms
are the same, everything stays byte for byte. Pure.
Source: distribution-spec v1.1, "Listing tags", "Error Codes"; RFC 8288 for ``Link``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from proxy.errors import BadUpstream
from proxy.oci.challenge import Challenge, parse_challenges
from proxy.oci.query import Query
from proxy.oci.scope import REPOSITORY, Scope, parse_scopes
from proxy.upstream.addresses import local_address
from proxy.upstream.names import Names, Rules

_LINK_TARGET = re.compile(r"<([^>]*)>")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//|/?\\")
_CATALOG = "/v2/_catalog"


@dataclass(frozen=True, slots=True)
class Translation:
    """``client`` and ``upstream`` are the two names of the repository asked for, or both empty.

    ``namespace`` is the ``ns`` that chose the upstream; addresses in answers repeat it. ``realm``
    gives what stands in for that of Bearer challenges, whose scopes then carry the client's names.
    """

    base_url: str
    names: Names = field(default_factory=Names)
    client: str = ""
    upstream: str = ""
    namespace: str | None = None
    realm: Callable[[], str] | None = None

    @property
    def renames(self) -> bool:
        """Whether the client and the upstream use different names."""
        return self.client != self.upstream or bool(self.names.prefix)

    def location(self, value: str) -> str:
        """Where an answer points to, for the client.

        Into the upstream's API: a path on the proxy, the rest byte for byte. Elsewhere on the
        upstream's host (some keep uploads and content beside ``/v2/``): absolute, since the proxy
        has no such path. Other origins: unchanged; paths relative to the request's own: but for
        ``ns``.
        """
        local = local_address(value, base_url=self.base_url)
        if local is None:
            return value if _ABSOLUTE.match(value) else self._repeating_namespace(value)
        path, mark, query = local.partition("?")
        if not path.startswith("/v2/"):
            base = urlsplit(self.base_url)
            return f"{base.scheme}://{base.netloc}{value}" if value.startswith("/") else value
        if path == _CATALOG and self.names.prefix:
            query = _with_last(query, self._name)
        return self._repeating_namespace(f"{self._path(path)}{mark}{query}")

    def link(self, value: str) -> str | None:
        """A ``Link`` header for the client, None for one that leads to another origin (row C9)."""
        targets = [self.location(match) for match in _LINK_TARGET.findall(value)]
        if any(_ABSOLUTE.match(target) for target in targets):
            return None
        rest = iter(targets)
        return _LINK_TARGET.sub(lambda _: f"<{next(rest)}>", value)

    def challenge(self, line: str) -> str:
        """A ``WWW-Authenticate`` line for the client."""
        if self.realm is None:
            return line
        challenges = parse_challenges([line])
        if all(challenge.scheme != "bearer" for challenge in challenges):
            return line
        return ", ".join(str(self._challenge(challenge)) for challenge in challenges)

    def _challenge(self, challenge: Challenge) -> Challenge:
        if challenge.scheme != "bearer" or self.realm is None:
            return challenge
        parameters = {**challenge.parameters, "realm": self.realm()}
        if "scope" in parameters:
            scopes = parse_scopes([parameters["scope"]])
            parameters["scope"] = " ".join(str(self._scope(scope)) for scope in scopes)
        return Challenge(challenge.scheme, parameters)

    def _scope(self, scope: Scope) -> Scope:
        if scope.kind != REPOSITORY:
            return scope
        return Scope(scope.kind, self._name(scope.name), scope.actions)

    def _repeating_namespace(self, address: str) -> str:
        if self.namespace is None:
            return address
        return f"{address}{'&' if '?' in address else '?'}ns={quote(self.namespace, safe=':')}"

    def _path(self, path: str) -> str:
        if self.upstream and path.startswith(f"/v2/{self.upstream}/"):
            return f"/v2/{self.client}{path[4 + len(self.upstream) :]}"
        if self.names.prefix and path not in ("/v2/", _CATALOG):
            return f"/v2/{self.names.prefix}{path[3:]}"
        return path

    def _name(self, name: str) -> str:
        return self.client if name == self.upstream else self.names.to_client(name)

    def tags(self, body: bytes) -> bytes:
        """The body of a tag list.

        Raises:
            BadUpstream: not a JSON object.
        """
        answer = _object(body, "a tag list")
        if isinstance(name := answer.get("name"), str):
            answer = {**answer, "name": self._name(name)}
        return _dump(answer)

    def catalog(self, body: bytes, rules: Rules) -> bytes:
        """The body of a catalogue; what ``rules`` do not permit is left out.

        Raises:
            BadUpstream: not a JSON object.
        """
        answer = _object(body, "a catalogue")
        found = answer.get("repositories")
        if isinstance(found, list):
            names = [self._name(n) for n in found if isinstance(n, str) and rules.permit(n)]
            answer = {**answer, "repositories": names}
        return _dump(answer)

    def errors(self, body: bytes) -> bytes:
        """An error body, its details with the client's names; what is no such body as it is."""
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return body
        if not isinstance(answer, dict) or not isinstance(answer.get("errors"), list):
            return body
        try:
            renamed = [self._error(entry) for entry in answer["errors"]]
            return body if renamed == answer["errors"] else _dump({**answer, "errors": renamed})
        except RecursionError:  # nobody reads a name so deep
            return body

    def _error(self, entry: object) -> object:
        if not isinstance(entry, dict):
            return entry
        detail = entry.get("detail")
        if isinstance(detail, list):  # distribution's: one entry for each access it wanted
            return {**entry, "detail": [self._detail(each) for each in detail]}
        return {**entry, "detail": self._detail(detail)} if isinstance(detail, dict) else entry

    def _detail(self, detail: object) -> object:
        if not isinstance(detail, dict) or not self.upstream:
            return detail
        return {
            key: self.client if key in ("name", "Name") and value == self.upstream else value
            for key, value in detail.items()
        }


def upstream_query(query: str, names: Names) -> str:
    """The query of a catalogue request with ``last`` in the upstream's form."""
    prefix = f"{names.prefix}/"
    return _with_last(query, lambda name: name.removeprefix(prefix)) if names.prefix else query


def _with_last(query: str, renamed: Callable[[str], str]) -> str:
    asked = Query.parse(query)
    found = asked.values("last")
    return str(asked.replacing("last", renamed(found[0]))) if found else query


def _object(body: bytes, what: str) -> Mapping[str, object]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadUpstream(f"expected {what} as JSON from the upstream, found none") from error
    if not isinstance(answer, dict):
        raise BadUpstream(f"expected {what} as a JSON object from the upstream, found another")
    return answer


def _dump(value: object) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode("ascii")
    except RecursionError as error:
        raise BadUpstream("expected JSON of some levels from the upstream, found more") from error
