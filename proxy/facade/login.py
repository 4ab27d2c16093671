"""The proxy's own login: names and passwords of an htpasswd file, asked for by Basic.

bcrypt is slow by design. So it runs in threads, few at once and with a bounded queue, what was
right is remembered for a minute, and identical checks share one run. Passwords stay in no memory
of ours: what is remembered is an HMAC under a key that dies with the process.
Source: RFC 7617 (Basic, ``charset``).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cachetools import TTLCache

from proxy.errors import Unauthorized, UpstreamUnreachable
from proxy.htpasswd import matches
from proxy.tasks import spawn

REMEMBERED_SECONDS = 60.0
REMEMBERED_LIMIT = 10_000
# Threads that hash at the same time: they would take the processor from those who transfer.
AT_ONCE = 2
# Different checks that wait for one of them.
QUEUE_LIMIT = 64
# A queue of that length is done by then at the usual costs, 10 to 12.
RETRY_AFTER_SECONDS = 5

# Neither a name nor a password may hold control characters (RFC 7617 §2).
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# Compared with where there is no user at all; no password has this hash.
_NOBODY = "$2b$10$" + "." * 53


@dataclass(slots=True)
class _Flight:
    """One run of bcrypt, and how many requests wait for it."""

    waiting: int = 0
    has_begun: bool = False
    task: asyncio.Task[bool] = field(init=False)


class Login:
    """Who may use the proxy; ``users`` are names and bcrypt hashes (``htpasswd.parse``).

    ``compare`` tells of a hash and a password, in a thread, whether they belong together.
    """

    def __init__(
        self,
        users: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        compare: Callable[[str, bytes], bool] = matches,
    ) -> None:
        self._users = dict(users)
        self._decoys = tuple(self._users.values()) or (_NOBODY,)
        self._key = secrets.token_bytes(32)
        self._remembered: TTLCache[bytes, None] = TTLCache(
            REMEMBERED_LIMIT, REMEMBERED_SECONDS, timer=clock
        )
        self._foreign: TTLCache[bytes, None] = TTLCache(
            REMEMBERED_LIMIT, REMEMBERED_SECONDS, timer=clock
        )
        self._flights: dict[bytes, _Flight] = {}
        self._compare = compare
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def check(self, authorization: str | None) -> None:
        """Let a request pass whose ``Authorization`` header is ``authorization``.

        An unknown name takes as long as a known one. Once the hashes of the settings have changed,
        a new ``Login`` takes the place of this one: a right password is remembered for 60 s.

        Raises:
            Unauthorized: no login, or not one of ours; the answer asks for Basic.
            UpstreamUnreachable: too many others are being checked; the answer says when to retry.
        """
        credentials = _credentials(authorization)
        name, _, password = credentials.partition(b":")
        key = self._fingerprint(credentials)
        if key in self._remembered:
            return
        hashed = self._users.get(name.decode("utf-8"))
        if not await self._shared(key, hashed or self._decoy(name), password) or hashed is None:
            raise Unauthorized.asking_basic("wrong user name or password for this proxy")
        self._remembered[key] = None

    async def is_ours(self, authorization: str | None) -> bool:
        """Whether a header, meant for somebody else, is a right login of this proxy.

        Raises:
            UpstreamUnreachable: as ``check``.
        """
        try:
            credentials = _credentials(authorization)
        except Unauthorized:
            return False
        key = self._fingerprint(credentials)
        name = credentials.partition(b":")[0].decode("utf-8")
        if name not in self._users or key in self._foreign:
            return False
        try:
            await self.check(authorization)
        except Unauthorized:
            # Somebody has one name here and there: each of their requests comes by this way.
            self._foreign[key] = None
            return False
        return True

    def _fingerprint(self, credentials: bytes) -> bytes:
        return hmac.digest(self._key, credentials, hashlib.sha256)

    def _decoy(self, name: bytes) -> str:
        # Hashes may differ in cost, and so in time: each unknown name is as slow as some known one.
        number = int.from_bytes(self._fingerprint(name)[:8])
        return self._decoys[number % len(self._decoys)]

    async def _shared(self, key: bytes, hashed: str, password: bytes) -> bool:
        """Whether ``password`` is right, by the one run for all that ask the same right now."""
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= AT_ONCE + QUEUE_LIMIT:
                raise UpstreamUnreachable(
                    "the proxy is busy with other logins",
                    headers=(("Retry-After", str(RETRY_AFTER_SECONDS)),),
                )
            flight = self._flights[key] = _Flight()
            flight.task = spawn(self._run(key, flight, hashed, password), name="login check")
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.has_begun:
                # All of them left: the place in the queue is for others.
                del self._flights[key]
                flight.task.cancel()

    async def _run(self, key: bytes, flight: _Flight, hashed: str, password: bytes) -> bool:
        async with self._turns:
            # A thread cannot be stopped: from here on the run goes to its end.
            flight.has_begun = True
            try:
                return await asyncio.to_thread(self._compare, hashed, password)
            finally:
                del self._flights[key]


def _credentials(authorization: str | None) -> bytes:
    """``name:password`` of a Basic header, the name in UTF-8.

    Raises:
        Unauthorized: there is none, or not one that any client writes.
    """
    if not authorization:
        raise Unauthorized.asking_basic("the proxy wants a login")
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise Unauthorized.asking_basic("expected a Basic login for this proxy, found another kind")
    try:
        sent = text.strip(" ").encode("ascii")
        found = base64.b64decode(sent, validate=True)
        found.partition(b":")[0].decode("utf-8")
    except (UnicodeError, binascii.Error) as error:
        raise Unauthorized.asking_basic("expected base64 of NAME:PASSWORD in UTF-8") from error
    if base64.b64encode(found) != sent or b":" not in found or _CONTROL.search(found):
        raise Unauthorized.asking_basic(
            "expected base64 of NAME:PASSWORD without control characters"
        )
    return found
