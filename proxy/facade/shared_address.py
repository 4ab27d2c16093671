"""An address that several upstreams share: what ``/v2/`` and the catalogue say there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from aiohttp import hdrs, web

from proxy.content.sites import Choice, Site
from proxy.errors import MethodNotAllowed, NotFound, Unauthorized
from proxy.facade.caching import REVALIDATED
from proxy.facade.forwarding import Forwarding
from proxy.facade.responses import NO_SNIFFING
from proxy.facade.token_address import token_address
from proxy.oci.endpoint import READS
from proxy.tasks import spawn

_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


def catalogue_choice(choices: Sequence[Choice]) -> Choice:
    """Whose catalogue is meant at an address that ``choices`` share.

    Raises:
        NotFound: it is not one alone, nor is one the default.
    """
    found = [choice for choice in choices if not choice.site.names.prefix] or choices
    if len(found) != 1:
        raise NotFound(
            "several upstreams share this address, and none is the default: a catalogue of "
            "all of them would need a login for each"
        )
    return found[0]


async def answer_ping(
    request: web.Request, choices: Sequence[Choice], forwarding: Forwarding
) -> web.Response:
    """Our own answer at ``/v2/``, for all upstreams that share the address.

    Raises:
        NotFound: there are none.
        MethodNotAllowed: the request is no read.
        Unauthorized: a login may be wanted, and there is none; ``/-/token`` takes it.
    """
    if not choices:
        raise NotFound("no upstream at this address: expected a host of the settings")
    if request.method not in READS:
        raise MethodNotAllowed.of(", ".join(READS), request.method)
    # docker asks here once whether to log in at all, and keeps to it for every repository.
    has_login = hdrs.AUTHORIZATION in request.headers
    if not has_login and await _any_may_want_login(choice.site for choice in choices):
        challenge = f'Bearer realm="{forwarding.base(request)}{token_address()}"'
        raise Unauthorized(
            "a login is wanted here, anonymous ones included: ask the realm for a token",
            headers=(
                ("WWW-Authenticate", f'{challenge},service="cnai-proxy"'),
                *_VERSION.items(),
            ),
        )
    return web.json_response({}, headers={**_VERSION, **NO_SNIFFING, **REVALIDATED})


async def _any_may_want_login(sites: Iterable[Site]) -> bool:
    asking = [spawn(site.may_want_login(), name="ping") for site in sites]
    try:
        for answer in asyncio.as_completed(asking):
            if await answer:
                return True  # whatever a slower one may say
        return False
    finally:
        for task in asking:
            task.cancel()
