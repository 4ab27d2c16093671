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
from proxy.content.reader import upstream_name
from proxy.errors import NotFound, ProxyError
from proxy.oci.reference import RepositoryName
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.client import Upstream
from proxy.upstream.identity import Caller
from proxy.upstream.names import Names, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One upstream under one way to write its names.

    ``identity`` is who the settings say to ask as (an account, or ``ANONYMOUS``), None for the
    caller; ``asks_login`` says that the proxy's own login comes first, ``takes_writes`` that pushes
    may pass.
    """

    upstream: Upstream
    names: Names
    rules: Rules
    client: AuthorizedClient
    models: Models
    identity: Caller | None = None
    asks_login: bool = False
    takes_writes: bool = True

    def upstream_name(self, repository: RepositoryName) -> str:
        """What the upstream calls ``repository``; raises as ``reader.upstream_name`` does."""
        return upstream_name(repository, names=self.names, rules=self.rules)

    async def may_want_login(self) -> bool:
        """Whether a caller without a credential is asked for one, also where it is not known.

        An offered login harms nobody, a missing one locks out.
        """
        if self.identity is not None:
            return self.asks_login
        try:
            return bool(await self.client.challenges())
        except ProxyError:
            return True


@dataclass(frozen=True, slots=True)
class Choice:
    """A site for a request, and the ``ns`` that chose it: None where something else did."""

    site: Site
    namespace: str | None = None


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

    def select(self, name: str, *, host: str, namespace: str | None = None) -> Choice:
        """The site for the repository ``name``.

        ``host`` is in lower case, with the port if the client wrote one.

        Raises:
            NotFound: nothing in the tables; the text says what was looked for.
        """
        if (entry := self._of_namespace(namespace)) is not None:
            # containerd's override_path writes the prefix too.
            is_prefixed = entry.prefixed is not None and _has_prefix(name, entry.prefixed)
            found = entry.prefixed if is_prefixed and entry.prefixed is not None else entry.whole
            return Choice(found, namespace)
        if (site := self._of_host(host)) is not None:
            return Choice(site)
        for depth in self._depths:
            *segments, _ = name.split("/", depth)
            if len(segments) == depth and (site := self._prefixed.get("/".join(segments))):
                return Choice(site)
        if self._default is None:
            raise NotFound(
                f"no upstream for {name[:300]!r}: expected a host, a namespace or a prefix of the "
                "settings"
            )
        return Choice(self._default)

    def sharing(self, *, host: str, namespace: str | None = None) -> list[Choice]:
        """All sites at one address, told apart by names alone.

        Raises:
            NotFound: an unknown ``namespace``.
        """
        if (entry := self._of_namespace(namespace)) is not None:
            return [Choice(entry.whole, namespace)]
        if (site := self._of_host(host)) is not None:
            return [Choice(site)]
        default = [self._default] if self._default else []
        return [Choice(site) for site in (*default, *self._prefixed.values())]

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
