"""``/cnai/-/login``: where a page sends a person who wants to log in.

A browser asks for a password only when an answer tells it to, and a page that anyone may see never
does. This address always does, then leads back.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from aiohttp import web

from proxy.errors import Unauthorized
from proxy.facade.client import expect
from proxy.facade.credentials import authorization_of
from proxy.facade.login import Login
from proxy.facade.trace import trace_of

PATH = "/cnai/-/login"
_HOME = "/cnai/"

# One slash: two, or a backslash that browsers read as one, would name another host. Browsers drop
# tabs and line breaks before they look.
_LOCAL = re.compile(r"/(?![/\\])[^\\\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
_SAFE = "/?#%:@!$&'()*+,;=-._~[]"


class LoginApi:
    """``login`` is None where the upstream judges what the browser sends from then on."""

    def __init__(self, login: Login | None) -> None:
        self._login = login

    def routes(self) -> list[web.RouteDef]:
        """One fixed path; aiohttp prefers it to the catch-all of ``/cnai/``, in either order."""
        return [web.get(PATH, self.handle, expect_handler=expect)]

    async def handle(self, request: web.Request) -> web.Response:
        """Ask for a login, then lead to the local address in ``?return=``, else to ``/cnai/``."""
        trace_of(request).route = PATH
        authorization = authorization_of(request)
        if authorization is None:
            raise Unauthorized.asking_basic("log in to see more")
        if self._login is not None:
            await self._login.check(authorization)
        return web.Response(
            status=303,
            headers={"Location": _return_address(request), "Cache-Control": "no-store"},
        )


def _return_address(request: web.Request) -> str:
    wanted = request.query.getall("return", [])
    if len(wanted) != 1 or not _LOCAL.fullmatch(wanted[0]):
        return _HOME
    return quote(wanted[0], safe=_SAFE)
