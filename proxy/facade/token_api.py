"""``/-/token``: the token service that clients are sent to where upstreams have prefixes.

docker asks for the scope of the name *it* wrote, whatever the challenge says, so the upstream's own
service could not serve it. Here scopes are mapped to the upstream's names and the credential goes
on to the upstream's real realm, and to nobody else. An upstream without a token service gets a
token that is the credential itself, checked against the upstream where that can be done.
Source: distribution's "Token Authentication Specification" and "OAuth 2 Token Authentication".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode

from aiohttp import hdrs, web

from proxy.content.reader import upstream_name
from proxy.content.sites import Site
from proxy.errors import (
    BadRequest,
    BadUpstream,
    Denied,
    NameInvalid,
    NotFound,
    RequestTimeout,
    SizeInvalid,
    Unauthorized,
)
from proxy.facade.client import expect
from proxy.facade.credentials import caller_of
from proxy.facade.cross_site import refuse_foreign_write
from proxy.facade.forwarding import Forwarding
from proxy.facade.responses import CONTENT_SAFETY, NO_SNIFFING
from proxy.facade.selection import Selection
from proxy.facade.token_address import token_address
from proxy.facade.trace import trace_of
from proxy.oci.challenge import Challenge
from proxy.oci.reference import RepositoryName
from proxy.oci.scope import REPOSITORY, Scope, parse_scopes
from proxy.upstream.identity import ANONYMOUS, Caller
from proxy.upstream.names import Names
from proxy.upstream.tokens import TokenAnswer

# Of a form or a query; the largest honest one holds two scopes and a refresh token.
_FORM_BYTES_LIMIT = 64 * 1024
_FIELDS_LIMIT = 100
# A token of our own is the credential in another spelling; the time is for the client's memory.
_OWN_TOKEN_SECONDS = 300
_NO_STORE = {"Cache-Control": "no-store", **NO_SNIFFING}
# What goes on to the realm besides service and scope. The account's name is what docker sends with
# a login; the others are those of OAuth 2.
_PASSED = ("account", "client_id", "offline_token", "grant_type", "access_type")
_SECRETS = ("username", "password", "refresh_token")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request for a token: its fields, its scopes in the client's names, who asks.

    ``is_named``: at the endpoint of one upstream; ``is_form``: by POST, as OAuth 2 has it.
    """

    fields: Sequence[tuple[str, str]]
    scopes: Sequence[Scope]
    caller: Caller
    is_named: bool
    is_form: bool


class TokenApi:
    """The token endpoints; ``body_seconds`` bounds how long a client may take over a form."""

    def __init__(
        self, selection: Selection, *, forwarding: Forwarding, body_seconds: float
    ) -> None:
        self._selection = selection
        self._forwarding = forwarding
        self._body_seconds = body_seconds

    def routes(self) -> list[web.RouteDef]:
        """One endpoint for each upstream by name, and one that goes by the scope's repository."""
        return [
            web.route(method, path, self.handle, expect_handler=expect)
            for method in (hdrs.METH_GET, hdrs.METH_POST)
            for path in (token_address(), token_address("{upstream}"))
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer with a token, or with what the upstream's token service says."""
        trace = trace_of(request)
        trace.route = token_address()
        named = request.match_info.get("upstream")
        if named is not None:
            trace.route = token_address("<upstream>")
        if request.method == hdrs.METH_POST:
            refuse_foreign_write(request, self._forwarding)
        asked = await self._read(request)
        site = self._selection.sites.named(named) if named else await self._site(request, asked)
        if site is None:  # which upstream the login is for shows with the first repository
            return _own_token(asked.caller)
        trace.upstream = site.upstream.name
        return await self._answer(request, site, asked)

    async def _answer(self, request: web.Request, site: Site, asked: _Asked) -> web.StreamResponse:
        caller = await self._selection.admit(asked.caller, site)
        if site.identity is not None:
            return _own_token(caller if site.asks_login else ANONYMOUS)
        if caller != asked.caller:  # the proxy's own login, which is nobody's there
            asked = replace(asked, caller=caller, fields=(), is_form=False)
        challenges = await site.client.challenges()
        if not challenges:
            # It wants no login, so it sees none: the one sent is meant for another upstream here.
            return _own_token(ANONYMOUS)
        bearer = site.client.tokens.bearer(challenges)
        if bearer is not None:
            return _relay(await self._forward(request, site, bearer, asked))
        if asked.caller.authorization is not None and not await site.client.accepts(asked.caller):
            raise Unauthorized.asking_basic("the registry refuses this login")
        return _own_token(asked.caller)

    async def _forward(
        self, request: web.Request, site: Site, bearer: Challenge, asked: _Asked
    ) -> TokenAnswer:
        scopes = [str(scope) for scope in self._upstream_scopes(request, site, asked)]
        service = bearer.parameters.get("service")
        passed = [(name, value) for name, value in asked.fields if name in _PASSED]
        if service:
            passed.append(("service", service))
        if not asked.is_form:
            query = urlencode([*passed, *(("scope", scope) for scope in scopes)])
            return await site.client.tokens.ask(bearer, query, asked.caller)
        passed += [(name, value) for name, value in asked.fields if name in _SECRETS]
        form = urlencode([*passed, ("scope", " ".join(scopes))]).encode("ascii")
        return await site.client.tokens.ask(bearer, "", ANONYMOUS, form=form)

    def _upstream_scopes(self, request: web.Request, site: Site, asked: _Asked) -> list[Scope]:
        """The scopes in the upstream's names, without what is not its own or is denied."""
        mapped = (
            _mapped(scope, site, self._names(request, site, scope, is_named=asked.is_named))
            if _is_repository(scope)
            else scope
            for scope in asked.scopes
        )
        return [scope for scope in mapped if scope is not None]

    def _names(
        self, request: web.Request, site: Site, scope: Scope, *, is_named: bool
    ) -> Names | None:
        """How the name in ``scope`` is written, None for another upstream's."""
        try:
            found = self._selection.select(request, scope.name, namespace=None).site
        except NotFound:
            found = None
        if found is not None and found.upstream is site.upstream:
            return found.names
        if is_named and (found is None or not found.names.prefix):
            # containerd's override_path has the prefix in paths alone: to push it asks the
            # upstream's own endpoint for names without it.
            return Names(default_namespace=site.names.default_namespace)
        return None

    async def _site(self, request: web.Request, asked: _Asked) -> Site | None:
        """The upstream that the scopes are for; without a scope the only one to log in to."""
        wanted = [scope for scope in asked.scopes if _is_repository(scope)]
        # With a mount there are two: the one that is written to decides.
        wanted.sort(key=lambda scope: "push" not in scope.actions)
        if wanted:
            return self._selection.select(request, wanted[0].name, namespace=None).site
        sites = [choice.site for choice in self._selection.sharing(request, namespace=None)]
        wants = await asyncio.gather(*(site.may_want_login() for site in sites))
        found = {
            site.upstream.name: site for site, wanted in zip(sites, wants, strict=True) if wanted
        }
        return next(iter(found.values())) if len(found) == 1 else None

    async def _read(self, request: web.Request) -> _Asked:
        is_form = request.method == hdrs.METH_POST  # HEAD is read as GET
        if is_form:
            fields = await self._form(request)
            values, caller = dict(fields), ANONYMOUS
            if values.get("grant_type") == "password":
                caller = Caller.account(values.get("username", ""), values.get("password", ""))
        else:
            fields, caller = _fields(request.rel_url.raw_query_string), caller_of(request)
        scopes = parse_scopes(value for name, value in fields if name == "scope")
        is_named = "upstream" in request.match_info
        return _Asked(fields, scopes, caller, is_named=is_named, is_form=is_form)

    async def _form(self, request: web.Request) -> list[tuple[str, str]]:
        if request.content_type != "application/x-www-form-urlencoded":
            raise BadRequest("expected a form, application/x-www-form-urlencoded")
        try:
            text = (await self._body(request)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest("expected a form in UTF-8") from error
        return _fields(text)

    async def _body(self, request: web.Request) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_seconds):
                async for chunk in request.content.iter_any():
                    size += len(chunk)
                    if size > _FORM_BYTES_LIMIT:
                        raise SizeInvalid(f"expected a form of at most {_FORM_BYTES_LIMIT} bytes")
                    parts.append(chunk)
        except TimeoutError as error:
            raise RequestTimeout("the form did not come in time") from error
        return b"".join(parts)


def _fields(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, max_num_fields=_FIELDS_LIMIT)
    except ValueError as error:
        raise BadRequest(f"expected at most {_FIELDS_LIMIT} fields, found more") from error


def _is_repository(scope: Scope) -> bool:
    return scope.kind.partition("(")[0] == REPOSITORY  # also "repository(plugin)"


def _mapped(scope: Scope, site: Site, names: Names | None) -> Scope | None:
    """``scope`` in the upstream's form; None for what is no name of it, or closed."""
    if names is None:
        return None
    try:
        repository = RepositoryName.parse(scope.name)
        name = upstream_name(repository, names=names, rules=site.rules)
    except (NameInvalid, NotFound, Denied):
        return None
    return Scope(scope.kind, name, scope.actions)


def _own_token(caller: Caller) -> web.Response:
    token = caller.to_token()
    answer = {"token": token, "access_token": token, "expires_in": _OWN_TOKEN_SECONDS}
    return web.json_response(answer, headers=_NO_STORE)


def _relay(answer: TokenAnswer) -> web.Response:
    if 300 <= answer.status < 400:
        # Nobody may be led elsewhere with a login (row B3).
        raise BadUpstream(f"expected a token from the token service, found {answer.status}")
    headers = {**_NO_STORE, **CONTENT_SAFETY, "Content-Type": answer.media_type}
    if answer.retry_after is not None:
        headers["Retry-After"] = answer.retry_after
    return web.Response(status=answer.status, body=answer.body, headers=headers)
