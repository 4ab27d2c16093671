"""Requests below ``/v2/`` that answer the upstream's challenges themselves.

``/v2/`` clients with a credential of their own do that on their side; this is for the proxy's own
routes, whose callers (browsers, curl) speak Basic at most, and for upstreams that the settings hold
an account for.
Source: distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from multidict import CIMultiDict

from proxy.errors import BadUpstream, ProxyError, Unauthorized
from proxy.oci.challenge import Challenge, Token, parse_challenges
from proxy.tasks import spawn
from proxy.upstream.bodies import UpstreamResponse
from proxy.upstream.client import Upstream
from proxy.upstream.failures import refuse_busy
from proxy.upstream.headers import OWN_REQUEST
from proxy.upstream.identity import Caller
from proxy.upstream.tokens import Tokens

# For how long it is believed what login the upstream wants at all.
CHALLENGES_SECONDS = 300.0
# And that it did not say: whoever comes next must not wait for it again.
CHALLENGES_FAILED_SECONDS = 5.0
# How long anybody waits to learn it.
CHALLENGES_PATIENCE_SECONDS = 5.0


class AuthorizedClient:
    """Requests as a caller whose credential is at hand, token exchange included."""

    def __init__(
        self,
        upstream: Upstream,
        tokens: Tokens,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self.tokens = tokens
        self._clock = clock
        # What was learnt last, else why nothing was, and until when that is believed.
        self._challenges: list[Challenge] | ProxyError | None = None
        self._challenges_until = -math.inf
        self._asking: asyncio.Task[None] | None = None

    @property
    def upstream_name(self) -> str:
        """What the settings call the upstream."""
        return self._upstream.name

    @asynccontextmanager
    async def open(
        self,
        method: str,
        target: str,
        *,
        scope: str,
        caller: Caller,
        headers: Mapping[str, str],
        follow: bool,
    ) -> AsyncIterator[UpstreamResponse]:
        """Send GET or HEAD for ``target`` and hand over any answer but 401.

        A token is bought for ``scope`` when the upstream asks for one, and once more when it
        refuses one held.

        Raises:
            Unauthorized: the upstream refuses this caller.
            ProxyError: what ``Upstream.open`` and ``Tokens.obtain`` raise.
        """
        token = self.tokens.held(caller, scope)
        async with AsyncExitStack() as stack:
            answer = await self._ask(stack, method, target, caller, token, headers, follow)
            if answer.status == 401:
                challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
                await stack.aclose()
                token = await self.tokens.obtain(caller, scope, challenges, refused=token)
                if token is None:
                    raise Unauthorized("the upstream refuses this login")
                answer = await self._ask(stack, method, target, caller, token, headers, follow)
                if answer.status == 401:
                    raise Unauthorized("the upstream refuses this login")
            yield answer

    async def challenges(self) -> list[Challenge]:
        """What login the upstream asks an anonymous caller for at ``/v2/``; empty for none.

        Raises:
            ProxyError: what ``Upstream.open`` raises.
            BadUpstream: no answer within 5 s.
        """
        if self._clock() >= self._challenges_until:
            if self._asking is None:
                self._asking = spawn(self._ask_for_challenges(), name="login wanted")
                self._asking.add_done_callback(self._asked)
            await asyncio.shield(self._asking)
        if isinstance(self._challenges, ProxyError):
            raise self._challenges
        return self._challenges or []

    def _asked(self, _: asyncio.Task[None]) -> None:
        self._asking = None

    async def _ask_for_challenges(self) -> None:
        try:
            self._challenges, seconds = await self._wanted(), CHALLENGES_SECONDS
        except ProxyError as error:
            seconds = CHALLENGES_FAILED_SECONDS
            if not isinstance(self._challenges, list):  # else what was known stays known
                self._challenges = error
        self._challenges_until = self._clock() + seconds

    async def _wanted(self) -> list[Challenge]:
        url = f"{self._upstream.base_url}/v2/"
        try:
            async with (
                asyncio.timeout(CHALLENGES_PATIENCE_SECONDS),
                # Not by ``open``: what some anonymous caller has spoilt for others of its kind must
                # not hold for those with a login.
                self._upstream.request("GET", url, OWN_REQUEST, trusted=True) as answer,
            ):
                refuse_busy(answer.status, answer.headers.get("Retry-After"), who="the upstream")
                if answer.status >= 500:
                    # Nothing is known by that, and nothing to be believed for minutes.
                    raise BadUpstream(f"the upstream failed with status {answer.status}")
                if answer.status != 401:
                    return []
                return parse_challenges(answer.headers.getall("WWW-Authenticate", ()))
        except TimeoutError as error:
            raise BadUpstream("the upstream did not say in time what login it wants") from error

    def close(self) -> None:
        """Stop what is under way for nobody or for several."""
        self.tokens.close()
        if self._asking is not None:
            self._asking.cancel()

    async def accepts(self, caller: Caller) -> bool:
        """Whether the upstream takes this login at ``/v2/``."""
        try:
            async with self.open(
                "GET", "/v2/", scope="", caller=caller, headers=OWN_REQUEST, follow=False
            ) as answer:
                refuse_busy(answer.status, answer.headers.get("Retry-After"), who="the upstream")
                return answer.status != 403
        except Unauthorized:
            return False

    async def _ask(
        self,
        stack: AsyncExitStack,
        method: str,
        target: str,
        caller: Caller,
        token: Token | None,
        headers: Mapping[str, str],
        follow: bool,
    ) -> UpstreamResponse:
        authorization = f"Bearer {token.value}" if token else caller.authorization
        sent = CIMultiDict(headers)
        if authorization is not None:
            sent["Authorization"] = authorization
        return await stack.enter_async_context(
            self._upstream.open(method, target, headers=sent, follow=follow)
        )
