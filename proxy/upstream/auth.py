"""Reading from the upstream on a caller's behalf: challenge in, token out, the request once more.

``/v2/`` clients answer the upstream's challenges themselves; this is for the proxy's own routes,
whose callers (browsers, curl) speak Basic at most. Credentials go to the upstream and to a token
service bound to it, nowhere else; tokens live in memory only.
Source: distribution's "Token Authentication Specification"; CVE-2026-33540 for unbound realms.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cachetools import TLRUCache

from proxy.errors import (
    BadUpstream,
    Denied,
    LoopDetected,
    TooManyRequests,
    Unauthorized,
    UpstreamUnreachable,
)
from proxy.oci.challenge import (
    TOKEN_ANSWER_LIMIT,
    Challenge,
    Token,
    parse_challenges,
    parse_token,
    token_query,
)
from proxy.oci.reference import RepositoryName
from proxy.tasks import spawn
from proxy.upstream.bodies import UpstreamResponse
from proxy.upstream.client import Upstream
from proxy.upstream.headers import LOOP, OWN_REQUEST, origin_of

# For one exchange, connection and answer together.
EXCHANGE_SECONDS = 10.0
TOKENS_LIMIT = 10_000
# A token is used for this part of its life, so that it does not end inside a transfer's start.
_TOKEN_LIFE = 0.8

# Registries whose token service stands on another host. Source: their own 401 answers.
WELL_KNOWN_AUTH_HOSTS: Mapping[str, tuple[str, ...]] = {
    "docker.io": ("auth.docker.io",),
    "index.docker.io": ("auth.docker.io",),
    "registry-1.docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
    "nvcr.io": ("authn.nvidia.com",),
}

_CHALLENGE = (("WWW-Authenticate", 'Basic realm="cnai-proxy", charset="UTF-8"'),)
_SECRET = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the ``Authorization`` value as it came, or None for anonymous."""

    authorization: str | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> bytes:
        """A key for caches that holds no credential; differs from one start to the next."""
        value = (self.authorization or "").encode("utf-8", "surrogateescape")
        return hmac.digest(_SECRET, value, hashlib.sha256)

    @property
    def holds_basic(self) -> bool:
        """Whether the credential is one a token service takes."""
        return (self.authorization or "")[:6].lower() == "basic "


class RealmGuard:
    """Which token services may see a caller's credential.

    ``auth_hosts``: the operator's own, a host name (https only) or an origin ``scheme://host:port``.
    """

    def __init__(self, base_url: str, *, auth_hosts: Iterable[str]) -> None:
        self._origin = origin_of(base_url)
        named = (*auth_hosts, *WELL_KNOWN_AUTH_HOSTS.get(self._origin[1], ()))
        self._allowed = frozenset(
            origin_of(entry if "://" in entry else f"https://{entry}") for entry in named
        )

    def allows(self, realm: str) -> bool:
        """Whether a credential may go to ``realm``."""
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+(/[\x21-\x7e]*)?", realm):
            return False
        try:
            origin = origin_of(realm)
        except ValueError:
            return False
        if "#" in realm or "\\" in realm or urlsplit(realm).username is not None:
            return False
        if origin == self._origin or origin in self._allowed:
            return True
        return origin[0] == "https" and self._origin[0] == "https" and origin[1] == self._origin[1]


class AuthorizedReader:
    """GET and HEAD below ``/v2/<repository>/`` as the caller, token exchange included.

    ``exchange_seconds`` bounds one exchange.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        auth_hosts: Iterable[str] = (),
        exchange_seconds: float = EXCHANGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._realms = RealmGuard(upstream.base_url, auth_hosts=auth_hosts)
        self._exchange_seconds = exchange_seconds
        self._tokens: TLRUCache[tuple[bytes, str], Token] = TLRUCache(
            TOKENS_LIMIT,
            ttu=lambda _key, token, now: now + token.seconds * _TOKEN_LIFE,
            timer=clock,
        )
        self._exchanges: dict[tuple[bytes, str], asyncio.Task[Token | None]] = {}

    @asynccontextmanager
    async def open(
        self,
        method: str,
        repository: RepositoryName,
        path: str,
        *,
        caller: Caller,
        headers: Mapping[str, str],
    ) -> AsyncIterator[UpstreamResponse]:
        """Ask for ``/v2/<repository>/<path>`` and hand over any answer but 401, 403 and 429.

        Raises:
            Unauthorized: the upstream refuses this caller; the answer asks for Basic.
            Denied: the upstream knows the caller and says no.
            TooManyRequests: with the upstream's ``Retry-After``.
            BadUpstream: the challenge's realm is not bound to the upstream, or a 5xx answer.
            UpstreamUnreachable: the upstream itself answered 503.
            LoopDetected: the upstream answered 508.
        """
        key = (caller.fingerprint, repository.text)
        token = self._tokens.get(key)
        async with AsyncExitStack() as stack:
            answer = await self._ask(stack, method, repository, path, caller, token, headers)
            if answer.status == 401:
                challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
                await stack.aclose()
                token = await self._token(repository, caller, challenges, refused=token)
                if token is None:
                    raise _unauthorized(caller, repository)
                answer = await self._ask(stack, method, repository, path, caller, token, headers)
            if answer.status == 401:
                raise _unauthorized(caller, repository)
            _refuse(answer, repository)
            yield answer

    async def _ask(
        self,
        stack: AsyncExitStack,
        method: str,
        repository: RepositoryName,
        path: str,
        caller: Caller,
        token: Token | None,
        headers: Mapping[str, str],
    ) -> UpstreamResponse:
        authorization = f"Bearer {token.value}" if token else caller.authorization
        sent = {**headers, **OWN_REQUEST}
        if authorization is not None:
            sent["Authorization"] = authorization
        target = f"/v2/{repository}/{path}"
        return await stack.enter_async_context(
            self._upstream.open(method, target, headers=sent, follow=True)
        )

    async def _token(
        self,
        repository: RepositoryName,
        caller: Caller,
        challenges: list[Challenge],
        *,
        refused: Token | None,
    ) -> Token | None:
        """A token for reading ``repository``, None where the caller's credential buys none.

        One exchange at a time per caller and repository; who waits, or comes with the ``refused``
        token of before it, shares its outcome.
        """
        if caller.authorization is not None and not caller.holds_basic:
            return None  # a Bearer token of the client's own: nothing to exchange
        bearers = [entry for entry in challenges if entry.scheme == "bearer"]
        if not bearers:
            return None
        allowed = [b for b in bearers if self._realms.allows(b.parameters.get("realm", ""))]
        if not allowed:
            raise BadUpstream(
                "realm not allowed: the upstream's token service is neither on its own host nor "
                "named in auth_hosts"
            )
        key = (caller.fingerprint, repository.text)
        held = self._tokens.get(key)
        if held is not None and held is not refused:
            return held
        self._tokens.pop(key, None)
        exchange = self._exchanges.get(key)
        if exchange is None:
            exchange = spawn(self._exchange(repository, caller, allowed[0]), name="token exchange")
            self._exchanges[key] = exchange
            exchange.add_done_callback(lambda _: self._exchanges.pop(key, None))
        return await asyncio.shield(exchange)

    async def _exchange(
        self, repository: RepositoryName, caller: Caller, challenge: Challenge
    ) -> Token | None:
        """One exchange; a token it buys is held before anybody sees the exchange end."""
        # The scope is ours, whatever the challenge names: no wider credential is ever asked for.
        query = token_query(
            service=challenge.parameters.get("service"), scope=f"repository:{repository}:pull"
        )
        realm = challenge.parameters["realm"]
        url = f"{realm}{'&' if '?' in realm else '?'}{query}"
        headers = {"Accept": "application/json", **OWN_REQUEST}
        if caller.authorization is not None:
            headers["Authorization"] = caller.authorization
        try:
            async with (
                asyncio.timeout(self._exchange_seconds),
                self._upstream.request("GET", url, headers, trusted=True) as answer,
            ):
                if answer.status in (400, 401, 403):
                    return None
                _refuse(answer, repository)
                body = await answer.read(TOKEN_ANSWER_LIMIT) if answer.status == 200 else None
        except TimeoutError as error:
            raise BadUpstream("the token service did not answer in time") from error
        if body is None:
            raise BadUpstream(
                f"expected 200 and at most {TOKEN_ANSWER_LIMIT} bytes from the token service, "
                f"found {answer.status}"
            )
        token = parse_token(body)
        self._tokens[caller.fingerprint, repository.text] = token
        return token


def _refuse(answer: UpstreamResponse, repository: RepositoryName) -> None:
    retry = answer.headers.get("Retry-After")
    headers = (("Retry-After", retry),) if retry and re.fullmatch(r"[\x20-\x7e]+", retry) else ()
    match answer.status:
        case 403:
            raise Denied(f"the upstream denies access to {repository}")
        case 429:
            raise TooManyRequests("the upstream limits requests", headers=headers)
        case 503:
            raise UpstreamUnreachable("the upstream is unavailable", headers=headers)
        case 508:
            raise LoopDetected(LOOP)
        case status if status >= 500:
            raise BadUpstream(f"the upstream failed with status {status}")


def _unauthorized(caller: Caller, repository: RepositoryName) -> Unauthorized:
    scheme = (caller.authorization or "").partition(" ")[0].lower()
    if not scheme:
        text = f"the registry wants a login for {repository}"
    elif scheme in ("basic", "bearer"):
        text = f"the registry refuses this login for {repository}"
    else:
        text = f"expected a Basic or Bearer login for {repository}, found {scheme[:20]!r}"
    return Unauthorized(text, headers=_CHALLENGE)
