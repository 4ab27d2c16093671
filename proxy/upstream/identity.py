"""Who asks: a credential as it came, and the tokens of our own that stand in for one.

Clients that were offered our token endpoint send what they got there as Bearer, also to upstreams
that take Basic or nothing. Such a token is the caller's own credential in another spelling: it
needs no memory here, holds after a restart and on every replica, and says no more than the
``Authorization`` it came from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

_SECRET = secrets.token_bytes(32)
_OWN_TOKEN = re.compile(r"Bearer +cnai-proxy\.(.*)", re.IGNORECASE)
# A secret of huggingface.co; no registry's business.
_HUB_TOKEN = re.compile(r"(?:[a-z]+ +)?hf_", re.IGNORECASE)
_BASIC = re.compile(r"Basic [\x21-\x7e]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: an ``Authorization`` value, or None for anonymous."""

    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, authorization: str | None) -> Caller:
        """The caller behind a client's header: our own tokens unwrapped, foreign ones dropped."""
        if authorization is None or _HUB_TOKEN.match(authorization):
            return cls(None)
        own = _OWN_TOKEN.fullmatch(authorization)
        return cls(authorization) if own is None else cls(_unwrap(own[1]))

    @classmethod
    def account(cls, username: str, password: str) -> Caller:
        """The caller who logs in by name and password."""
        pair = base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
        return cls(f"Basic {pair}")

    @property
    def fingerprint(self) -> bytes:
        """A key for caches that holds no credential; differs from one start to the next."""
        value = (self.authorization or "").encode("utf-8", "surrogateescape")
        return hmac.digest(_SECRET, value, hashlib.sha256)

    @property
    def holds_basic(self) -> bool:
        """Whether the credential is one a token service takes."""
        return (self.authorization or "")[:6].lower() == "basic "

    def to_token(self) -> str:
        """A Bearer token that ``of`` reads back; only Basic and nothing survive."""
        value = self.authorization or "" if self.holds_basic else ""
        return f"cnai-proxy.{base64.urlsafe_b64encode(value.encode()).decode('ascii').rstrip('=')}"


ANONYMOUS = Caller(None)


def _unwrap(text: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        return None  # none that we gave, and no registry's either
    try:
        value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return value if _BASIC.fullmatch(value) else None
