"""Reading as the proxy's own routes do: the caller's names in, refusals in our words out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from proxy.errors import BadUpstream, Denied, Unauthorized
from proxy.oci.reference import RepositoryName
from proxy.oci.scope import pull_scope
from proxy.upstream.auth import AuthorizedClient
from proxy.upstream.bodies import UpstreamResponse
from proxy.upstream.failures import refuse_busy
from proxy.upstream.headers import OWN_REQUEST
from proxy.upstream.identity import Caller
from proxy.upstream.names import Names, Rules

logger = logging.getLogger(__name__)


class AuthorizedReader:
    """Reads for ``/cnai/``: repositories in the client's names, refusals in our words.

    ``identity`` is who the settings say to ask as; None asks as the caller.
    """

    def __init__(
        self,
        client: AuthorizedClient,
        *,
        names: Names | None = None,
        rules: Rules | None = None,
        identity: Caller | None = None,
    ) -> None:
        self._client = client
        self._names = names or Names()
        self._rules = rules or Rules()
        self._identity = identity

    def place(self, repository: RepositoryName) -> tuple[str, str]:
        """The upstream and what it calls ``repository``; raises as ``upstream_name`` does."""
        name = upstream_name(repository, names=self._names, rules=self._rules)
        return self._client.upstream_name, name

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
            NotFound: the name is none of this upstream's.
            Denied: the upstream knows the caller and says no, or the settings do.
            TooManyRequests: with the upstream's ``Retry-After``.
            BadUpstream: the challenge's realm is not bound to the upstream, or a 5xx answer.
            UpstreamUnreachable: the upstream itself answered 503.
            LoopDetected: the upstream answered 508.
        """
        name = upstream_name(repository, names=self._names, rules=self._rules)
        async with AsyncExitStack() as stack:
            try:
                answer = await stack.enter_async_context(
                    self._client.open(
                        method,
                        f"/v2/{name}/{path}",
                        scope=pull_scope(name),
                        caller=caller if self._identity is None else self._identity,
                        headers={**headers, **OWN_REQUEST},
                        follow=True,
                    )
                )
            except Unauthorized as error:
                if self._identity is not None:
                    raise account_refused(self._identity) from error
                raise _unauthorized(caller, repository) from error
            _refuse(answer, repository)
            yield answer


def upstream_name(repository: RepositoryName, *, names: Names, rules: Rules) -> str:
    """What the upstream calls ``repository``, where it may be asked for.

    Raises:
        NotFound: the name is none of this upstream's.
        Denied: the settings close it.
    """
    name = names.to_upstream(repository).text
    if not rules.permit(name):
        raise settings_deny(repository)
    return name


def settings_deny(repository: RepositoryName) -> Denied:
    """The answer where ``allow`` and ``deny`` close a repository."""
    return Denied(f"the proxy's settings deny access to {repository}")


def account_refused(identity: Caller) -> Denied:
    """The answer where the upstream refuses whom the settings say to ask as.

    No caller can mend that, so nobody is asked for a login.
    """
    if identity.authorization is None:
        return Denied(
            "the upstream wants a login here, and upstreams[].credentials is anonymous: none is "
            "sent"
        )
    logger.warning(
        "the upstream refuses the account of upstreams[].credentials: is its password right, and "
        "may it read this? a new password counts after SIGHUP"
    )
    return Denied("the upstream refuses the account that the proxy's settings have for it")


def _refuse(answer: UpstreamResponse, repository: RepositoryName) -> None:
    if answer.status == 403:
        raise Denied(f"the upstream denies access to {repository}")
    refuse_busy(answer.status, answer.headers.get("Retry-After"), who="the upstream")
    if answer.status >= 500:
        raise BadUpstream(f"the upstream failed with status {answer.status}")


def _unauthorized(caller: Caller, repository: RepositoryName) -> Unauthorized:
    scheme = (caller.authorization or "").partition(" ")[0].lower()
    if not scheme:
        text = f"the registry wants a login for {repository}"
    elif scheme in ("basic", "bearer"):
        text = f"the registry refuses this login for {repository}"
    else:
        text = f"expected a Basic or Bearer login for {repository}, found {scheme[:20]!r}"
    return Unauthorized.asking_basic(text)
