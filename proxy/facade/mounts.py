"""Mounting a blob of another repository, whose name stands in the query (row K5)."""

from __future__ import annotations

from proxy.content.sites import Choice, Sites
from proxy.errors import Denied, NameInvalid, NotFound
from proxy.oci.query import Query
from proxy.oci.reference import RepositoryName


def mount_query(query: str, choice: Choice, *, sites: Sites, host: str) -> str:
    """The query of an upload's start at ``choice`` with ``from`` in the upstream's form.

    A blob of another upstream, or of a repository that may not be read here, cannot be mounted:
    without the two parameters the registry starts an upload instead.
    """
    asked = Query.parse(query)
    if "from" not in asked:
        return query
    written = asked.values("from")
    source = _source(written[0], choice, sites, host) if len(written) == 1 else None
    if source is None:
        return str(asked.without("from", "mount"))
    return query if source == written[0] else str(asked.replacing("from", source))


def _source(written: str, choice: Choice, sites: Sites, host: str) -> str | None:
    """The upstream's name of the repository ``written`` by the client; None for nothing here."""
    try:
        repository = RepositoryName.parse(written)
        found = sites.select(written, host=host, namespace=choice.namespace).site
        if found.upstream is not choice.site.upstream:
            return None
        return found.upstream_name(repository)
    except (NameInvalid, NotFound, Denied):
        return None
