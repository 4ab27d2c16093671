"""``/v2/``: the distribution API. Reads the raw address once, refuses what is unsafe, forwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import assert_never
from urllib.parse import quote, unquote

from aiohttp import hdrs, web

from proxy.content.sites import Site
from proxy.errors import Denied, MethodNotAllowed, NameInvalid, NotFound, ProxyError, Unauthorized
from proxy.facade.caching import REVALIDATED
from proxy.facade.client import expect
from proxy.facade.credentials import caller_of
from proxy.facade.cross_site import refuse_foreign_write
from proxy.facade.forwarding import Forwarding
from proxy.facade.passthrough import Passthrough, Relay
from proxy.facade.responses import NO_SNIFFING
from proxy.facade.selection import Selection, take_namespace, token_address
from proxy.facade.trace import Trace, trace_of
from proxy.oci import endpoint
from proxy.oci.digest import Digest
from proxy.oci.reference import RepositoryName
from proxy.tasks import spawn
from proxy.upstream.auth import settings_deny
from proxy.upstream.translation import Translation, upstream_query

_READS = ("GET", "HEAD")
_WRITES = ("DELETE", "PATCH", "POST", "PUT")
_METHODS = tuple(sorted((*_READS, *_WRITES)))
_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


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
        _describe(trace, call)
        if request.method in _WRITES:
            self._check_write(request)
        namespace, query = take_namespace(query)
        if isinstance(call, endpoint.Ping):
            return await self._ping(request, call, path, query, namespace)
        if isinstance(call, endpoint.Catalog):
            site, by_namespace = self._catalog_site(request, namespace)
        else:
            repository = _repository(call)
            name = repository.text if repository is not None else path.removeprefix("/v2/")
            site, by_namespace = self._selection.select(request, name, namespace=namespace)
        return await self._forward(
            request, site, call, path, query, namespace if by_namespace else None
        )

    def _check_write(self, request: web.Request) -> None:
        if self._readonly:
            raise MethodNotAllowed.of(", ".join(_READS), request.method)
        refuse_foreign_write(request, self._forwarding)

    async def _forward(
        self,
        request: web.Request,
        site: Site,
        call: endpoint.Endpoint,
        path: str,
        query: str,
        namespace: str | None,
    ) -> web.StreamResponse:
        caller = await self._selection.admit(caller_of(request), site)
        if request.method in _WRITES and not site.takes_writes:
            raise MethodNotAllowed.of(", ".join(_READS), request.method)
        repository = _repository(call)
        client, upstream = "", ""
        if repository is not None:
            client, upstream = repository.text, site.names.to_upstream(repository).text
            if not site.rules.permit(upstream):
                raise settings_deny(repository)
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
            query = self._mount_query(request, site, query, namespace)
        translation = Translation(
            base_url=site.upstream.base_url,
            names=site.names,
            client=client,
            upstream=upstream,
            namespace=namespace,
            realm=self._realm(request, site, namespace),
        )
        target = f"{path}?{query}" if query else path
        relay = Relay(site, caller, call, target, translation)
        return await self._passthrough.forward(request, relay)

    def _realm(
        self, request: web.Request, site: Site, namespace: str | None
    ) -> Callable[[], str] | None:
        """Our token endpoint, where the upstream's would be asked for names it does not know."""
        names = site.names
        if site.own is None and (names.prefix or (names.default_namespace and not namespace)):
            return lambda: f"{self._forwarding.base(request)}{token_address(site.upstream.name)}"
        return None

    def _catalog_site(self, request: web.Request, namespace: str | None) -> tuple[Site, bool]:
        sites, by_namespace = self._selection.sharing(request, namespace=namespace)
        default = [site for site in sites if not site.names.prefix]
        found = default or sites
        if len(found) != 1:
            raise NotFound(
                "several upstreams share this address, and none is the default: a catalogue of "
                "all of them would need a login for each"
            )
        trace_of(request).upstream = found[0].upstream.name
        return found[0], by_namespace

    async def _ping(
        self,
        request: web.Request,
        call: endpoint.Ping,
        path: str,
        query: str,
        namespace: str | None,
    ) -> web.StreamResponse:
        """The upstream's own word where there is one upstream, else ours for all of them."""
        sites, by_namespace = self._selection.sharing(request, namespace=namespace)
        if not sites:
            raise NotFound("no upstream at this address: expected a host of the settings")
        if len(sites) == 1:
            trace_of(request).upstream = sites[0].upstream.name
            return await self._forward(
                request, sites[0], call, path, query, namespace if by_namespace else None
            )
        if request.method in _WRITES:
            raise MethodNotAllowed.of(", ".join(_READS), request.method)
        # docker asks here once whether to log in at all, and keeps to it for every repository.
        asks = hdrs.AUTHORIZATION not in request.headers and await _any_wants_login(sites)
        if asks:
            realm = f"{self._forwarding.base(request)}{token_address()}"
            challenge = f'Bearer realm="{realm}",service="cnai-proxy"'
            raise Unauthorized(
                "a login is wanted here, anonymous ones included: ask the realm for a token",
                headers=(("WWW-Authenticate", challenge), *_VERSION.items()),
            )
        return web.json_response({}, headers={**_VERSION, **NO_SNIFFING, **REVALIDATED})

    def _mount_query(
        self, request: web.Request, site: Site, query: str, namespace: str | None
    ) -> str:
        """The query of an upload's start with ``from`` in the upstream's form (row K5).

        A blob of another upstream, or of a repository that may not be read here, cannot be mounted:
        without the two parameters the registry starts an upload instead.
        """
        # Names are compared decoded, and parted at ";" too: some registries read them so.
        pairs = [pair.partition("=") for pair in re.split("[&;]", query)]
        written = [unquote(value) for name, _, value in pairs if unquote(name) == "from"]
        if not written:
            return query
        source = self._source(request, site, written[0], namespace) if len(written) == 1 else None
        if source == written[0]:
            return query
        if source is None:
            pairs = [pair for pair in pairs if unquote(pair[0]) not in ("from", "mount")]
        else:
            pairs = [("from", "=", quote(source)) if unquote(p[0]) == "from" else p for p in pairs]
        return "&".join("".join(pair) for pair in pairs)

    def _source(
        self, request: web.Request, site: Site, written: str, namespace: str | None
    ) -> str | None:
        host = self._forwarding.host(request)
        try:
            repository = RepositoryName.parse(written)
            found, _ = self._selection.sites.select(written, host=host, namespace=namespace)
            name = found.names.to_upstream(repository).text
        except (NameInvalid, NotFound):
            return None
        return name if found.upstream is site.upstream and site.rules.permit(name) else None


def _repository(call: endpoint.Endpoint) -> RepositoryName | None:
    match call:
        case endpoint.Ping() | endpoint.Catalog() | endpoint.Other():
            return None
        case _:
            return call.repository


async def _any_wants_login(sites: list[Site]) -> bool:
    async def wants(site: Site) -> bool:
        try:
            return await site.wants_login()
        except ProxyError:
            return True  # unknown: an offered login harms nobody, a missing one locks out

    asking = [spawn(wants(site), name="ping") for site in sites]
    try:
        for answer in asyncio.as_completed(asking):
            if await answer:
                return True  # whatever a slower one may say
        return False
    finally:
        for task in asking:
            task.cancel()


def _describe(trace: Trace, call: endpoint.Endpoint) -> None:
    match call:
        case endpoint.Ping():
            trace.route = "/v2/"
        case endpoint.Catalog():
            trace.route = "/v2/_catalog"
        case endpoint.Manifest(repository, reference):
            trace.route = "/v2/<name>/manifests/<reference>"
            trace.repository, trace.reference = repository.text, _short(reference)
        case endpoint.Blob(repository, digest):
            trace.route = "/v2/<name>/blobs/<digest>"
            trace.repository, trace.reference = repository.text, _short(digest)
        case endpoint.Upload(repository, _):
            trace.route = "/v2/<name>/blobs/uploads/<session>"
            trace.repository = repository.text
        case endpoint.Tags(repository):
            trace.route = "/v2/<name>/tags/list"
            trace.repository = repository.text
        case endpoint.Referrers(repository, digest):
            trace.route = "/v2/<name>/referrers/<digest>"
            trace.repository, trace.reference = repository.text, _short(digest)
        case endpoint.Other():
            trace.route = "/v2/<other>"
        case _:
            assert_never(call)


def _short(reference: object) -> str:
    return reference.short if isinstance(reference, Digest) else str(reference)[:140]
