"""Which upstream a request belongs to, and everything that upstream is served with.

A closed lookup, in this order: containerd's ``ns`` · the host that was asked · the longest prefix
of the name · the default. What is in no table is unknown; no name of a client is ever resolved.
Source: distribution-spec v1.1, "Pulling from a mirror" (``ns``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.content.models import Models
from proxy.errors import NotFound
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.client import Upstream
from proxy.upstream.identity import Caller
from proxy.upstream.names import Names, Rules


@dataclass(frozen=True, slots=True)
class Site:
    """One upstream under one way to write its names.

    ``own`` is the settings' credential (``ANONYMOUS`` for none at all), None where callers bring
    theirs; ``asks_login`` says that the proxy's own login comes first, ``takes_writes`` that pushes
    may pass.
    """

    upstream: Upstream
    names: Names
    rules: Rules
    client: AuthorizedClient
    models: Models
    own: Caller | None = None
    asks_login: bool = False
    takes_writes: bool = True

    async def wants_login(self) -> bool:
        """Whether a caller without a credential is asked for one, for all that can be known."""
        if self.own is not None:
            return self.asks_login
        return bool(await self.client.challenges())


@dataclass(frozen=True, slots=True)
class Entry:
    """One upstream's rows in the tables.

    ``whole`` takes names as they are, ``prefixed`` those that begin with its prefix.
    """

    whole: Site
    prefixed: Site | None = None
    hosts: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    is_default: bool = False


class Sites:
    """The tables. ``reads_namespace`` off: ``ns`` is not looked at, as in a registry without it."""

    def __init__(self, entries: Sequence[Entry], *, reads_namespace: bool = True) -> None:
        self._entries = {entry.whole.upstream.name: entry for entry in entries}
        self._reads_namespace = reads_namespace
        # Two accounts at one registry: its own name alone does not say which of them is meant.
        named = Counter(text for entry in entries for text in entry.namespaces)
        self._namespaces = {
            text: entry for entry in entries for text in entry.namespaces if named[text] == 1
        }
        self._hosts = {text: entry.whole for entry in entries for text in entry.hosts}
        self._prefixed = {
            entry.prefixed.names.prefix: entry.prefixed
            for entry in entries
            if entry.prefixed is not None
        }
        # How many segments prefixes have, the longest first.
        depths = {prefix.count("/") + 1 for prefix in self._prefixed}
        self._depths = sorted(depths, reverse=True)
        self._default = next((entry.whole for entry in entries if entry.is_default), None)

    def named(self, upstream: str) -> Site:
        """The site of an upstream's own name, the one with a prefix where it has one.

        Raises:
            NotFound: no such upstream.
        """
        entry = self._entries.get(upstream)
        if entry is None:
            raise NotFound("no such upstream")
        return entry.prefixed or entry.whole

    def select(self, name: str, *, host: str, namespace: str | None = None) -> tuple[Site, bool]:
        """The site for the repository ``name``, and whether ``namespace`` chose it.

        ``host`` is in lower case, with the port if the client wrote one.

        Raises:
            NotFound: nothing in the tables; the text says what was looked for.
        """
        if (entry := self._of_namespace(namespace)) is not None:
            # containerd's override_path writes the prefix too.
            is_prefixed = entry.prefixed is not None and _has_prefix(name, entry.prefixed)
            found = entry.prefixed if is_prefixed and entry.prefixed is not None else entry.whole
            return found, True
        if (site := self._of_host(host)) is not None:
            return site, False
        for depth in self._depths:
            *segments, _ = name.split("/", depth)
            if len(segments) == depth and (site := self._prefixed.get("/".join(segments))):
                return site, False
        if self._default is None:
            raise NotFound(
                f"no upstream for {name[:300]!r}: expected a host, a namespace or a prefix of the "
                "settings"
            )
        return self._default, False

    def sharing(self, *, host: str, namespace: str | None = None) -> tuple[list[Site], bool]:
        """All sites at one address, told apart by names alone; whether ``namespace`` chose.

        Raises:
            NotFound: an unknown ``namespace``.
        """
        if (entry := self._of_namespace(namespace)) is not None:
            return [entry.whole], True
        if (site := self._of_host(host)) is not None:
            return [site], False
        return [*([self._default] if self._default else []), *self._prefixed.values()], False

    def _of_namespace(self, namespace: str | None) -> Entry | None:
        if namespace is None or not self._reads_namespace:
            return self._namespaces.get(namespace or "")
        entry = self._namespaces.get(namespace)
        if entry is None:
            raise NotFound(
                f"no upstream for the namespace {namespace[:100]!r}; upstreams[].namespaces names "
                "those that are served"
            )
        return entry

    def _of_host(self, host: str) -> Site | None:
        return self._hosts.get(host) or self._hosts.get(_without_port(host))


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _has_prefix(name: str, site: Site) -> bool:
    return name.startswith(f"{site.names.prefix}/")
