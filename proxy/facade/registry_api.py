"""``/v2/``: the distribution API. Reads the raw address once, refuses what is unsafe, forwards."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import hdrs, web

from proxy.content.sites import Choice
from proxy.errors import Denied, MethodNotAllowed, NotFound, ProxyError
from proxy.facade.client import expect
from proxy.facade.credentials import caller_of
from proxy.facade.cross_site import refuse_foreign_write
from proxy.facade.forwarding import Forwarding
from proxy.facade.mounts import mount_query
from proxy.facade.passthrough import Passthrough, Relay
from proxy.facade.selection import Selection, take_namespace
from proxy.facade.shared_address import answer_ping, catalogue_choice
from proxy.facade.token_address import token_address
from proxy.facade.trace import trace_of
from proxy.oci import endpoint
from proxy.oci.endpoint import READS, WRITES
from proxy.oci.reference import RepositoryName
from proxy.upstream.translation import Translation, upstream_query

_METHODS = tuple(sorted((*READS, *WRITES)))


class RegistryApi:
    """The facade that registry clients talk to; ``readonly`` refuses every write."""

    def __init__(
        self,
        passthrough: Passthrough,
        selection: Selection,
        *,
        forwarding: Forwarding,
        readonly: bool,
    ) -> None:
        self._passthrough = passthrough
        self._selection = selection
        self._forwarding = forwarding
        self._readonly = readonly

    def routes(self) -> list[web.RouteDef]:
        """One catch-all: the grammar is ``oci.endpoint``'s, on the raw path."""
        return [
            web.route("*", "/v2", self.handle, expect_handler=expect),
            # (?s): aiohttp matches the decoded path, and %0a is for our grammar to refuse.
            web.route("*", "/v2/{rest:(?s:.*)}", self.handle, expect_handler=expect),
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request at or below ``/v2``."""
        trace = trace_of(request)
        trace.route = "/v2/"
        if request.method not in _METHODS:
            raise MethodNotAllowed.of(", ".join(_METHODS), request.method)
        path, query = endpoint.split_target(request.raw_path)
        call = endpoint.parse(path)
        trace.describe(call)
        if request.method in WRITES:
            self._check_write(request)
        namespace, query = take_namespace(query)
        if isinstance(call, endpoint.Ping | endpoint.Catalog):
            choices = self._selection.sharing(request, namespace=namespace)
            if isinstance(call, endpoint.Ping) and len(choices) != 1:
                return await answer_ping(request, choices, self._forwarding)
            choice = catalogue_choice(choices)
            trace.upstream = choice.site.upstream.name
        else:
            repository = _repository(call)
            name = repository.text if repository is not None else path.removeprefix("/v2/")
            choice = self._selection.select(request, name, namespace=namespace)
        try:
            return await self._forward(request, choice, call, path, query)
        except ProxyError as error:
            if choice.namespace is not None:
                error.headers += (("OCI-Namespace", choice.namespace),)
            raise

    def _check_write(self, request: web.Request) -> None:
        if self._readonly:
            raise _no_writes("this proxy is read-only (listen.readonly): no pushes, no deletes")
        refuse_foreign_write(request, self._forwarding)

    async def _forward(
        self,
        request: web.Request,
        choice: Choice,
        call: endpoint.Endpoint,
        path: str,
        query: str,
    ) -> web.StreamResponse:
        site = choice.site
        caller = await self._selection.admit(caller_of(request), site)
        if request.method in WRITES and not site.takes_writes:
            raise _no_writes(
                "this upstream is read with an account of the proxy's (upstreams[].credentials): "
                "push to the registry itself"
            )
        repository = _repository(call)
        client, upstream = "", ""
        if repository is not None:
            client, upstream = repository.text, site.upstream_name(repository)
            path = f"/v2/{upstream}{path[4 + len(client) :]}"
        elif isinstance(call, endpoint.Other):
            if not (site.rules.are_open and site.takes_writes):
                # What is behind it, and whom it concerns, is not known here.
                raise Denied("the proxy's settings allow the paths of the specification only")
            prefix = site.names.prefix
            path = f"/v2/{path[5 + len(prefix) :]}" if prefix else path
            if not isinstance(endpoint.parse(path), endpoint.Other):
                # The upstream's own catalogue, in its names and with links to another one's.
                raise NotFound("a prefix stands before repositories only")
        if isinstance(call, endpoint.Catalog):
            query = upstream_query(query, site.names)
        elif isinstance(call, endpoint.Upload) and request.method == hdrs.METH_POST:
            host = self._forwarding.host(request)
            query = mount_query(query, choice, sites=self._selection.sites, host=host)
        translation = Translation(
            base_url=site.upstream.base_url,
            names=site.names,
            client=client,
            upstream=upstream,
            namespace=choice.namespace,
            realm=self._realm(request, choice),
        )
        target = f"{path}?{query}" if query else path
        relay = Relay(site, caller, call, target, translation)
        return await self._passthrough.forward(request, relay)

    def _realm(self, request: web.Request, choice: Choice) -> Callable[[], str] | None:
        """Our token endpoint, where the upstream's would be asked for names it does not know."""
        site, names = choice.site, choice.site.names
        is_library = bool(names.default_namespace) and not choice.namespace
        if site.identity is None and (names.prefix or is_library):
            return lambda: f"{self._forwarding.base(request)}{token_address(site.upstream.name)}"
        return None


def _no_writes(text: str) -> MethodNotAllowed:
    return MethodNotAllowed(text, headers=(("Allow", ", ".join(READS)),))


def _repository(call: endpoint.Endpoint) -> RepositoryName | None:
    match call:
        case endpoint.Ping() | endpoint.Catalog() | endpoint.Other():
            return None
        case _:
            return call.repository
