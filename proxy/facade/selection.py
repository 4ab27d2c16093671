"""From a request to the site it belongs to, the proxy's own login included."""

from __future__ import annotations

from aiohttp import web

from proxy.content.sites import Choice, Site, Sites
from proxy.errors import BadRequest
from proxy.facade.forwarding import Forwarding
from proxy.facade.login import Login
from proxy.facade.trace import trace_of
from proxy.oci.query import Query
from proxy.upstream.identity import ANONYMOUS, Caller


def take_namespace(query: str) -> tuple[str | None, str]:
    """The raw ``query`` parted into containerd's ``ns`` and the rest, which stays byte for byte.

    Raises:
        BadRequest: ``ns`` stands twice.
    """
    asked = Query.parse(query)
    found = asked.values("ns")
    if not found:
        return None, query
    if len(found) > 1:
        raise BadRequest("expected the query's 'ns' once, found it twice")
    return found[0].lower(), str(asked.without("ns"))


class Selection:
    """Chooses sites; ``login`` is None where the settings have no login of the proxy's own."""

    def __init__(self, sites: Sites, *, forwarding: Forwarding, login: Login | None) -> None:
        self.sites = sites
        self._forwarding = forwarding
        self._login = login

    def select(self, request: web.Request, name: str, *, namespace: str | None) -> Choice:
        """As ``Sites.select``, for the host that ``request`` asked."""
        trace, host = trace_of(request), self._forwarding.host(request)
        trace.host = host
        choice = self.sites.select(name, host=host, namespace=namespace)
        trace.upstream = choice.site.upstream.name
        return choice

    def sharing(self, request: web.Request, *, namespace: str | None) -> list[Choice]:
        """As ``Sites.sharing``, for the host that ``request`` asked."""
        host = self._forwarding.host(request)
        trace_of(request).host = host
        return self.sites.sharing(host=host, namespace=namespace)

    async def admit(self, caller: Caller, site: Site) -> Caller:
        """Who asks, as far as ``site`` may know.

        The proxy's own login is checked where the site asks for it. An upstream that takes its
        callers' logins never sees it: clients hold one login for an address, whatever is behind.

        Raises:
            Unauthorized: with a Basic challenge.
        """
        if self._login is None:
            return caller
        if site.asks_login:
            await self._login.check(caller.authorization)
        elif site.identity is None and await self._login.is_ours(caller.authorization):
            return ANONYMOUS
        return caller
