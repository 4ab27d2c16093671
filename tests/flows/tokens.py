"""A token service that a test controls, and the credentials it knows."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, urlsplit

from tests.faulty_upstream import FaultyUpstream, Seen


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ANNA = basic("anna", "canary-s3cr3t")
BERT = basic("bert", "canary-0th3r")


class TokenService:
    """Gives ``accounts`` (Authorization values, None for anonymous) tokens that ``registry`` takes.

    A token names its account and its number, so that mixing up two callers shows.
    """

    def __init__(self, registry: FaultyUpstream, *accounts: str | None) -> None:
        self.accounts = list(accounts)
        self.registry = registry
        self.asked: list[Seen] = []
        self.expires_in: object = 300
        registry.tokens = set()

    def __call__(self, seen: Seen) -> tuple[int, bytes]:
        self.asked.append(seen)
        account = seen.get("Authorization")
        if account not in self.accounts:
            return 401, b'{"errors":[{"code":"UNAUTHORIZED"}]}'
        token = f"token-{self.accounts.index(account)}-{len(self.asked)}"
        assert self.registry.tokens is not None
        self.registry.tokens.add(f"Bearer {token}")
        return 200, json.dumps({"token": token, "expires_in": self.expires_in}).encode()

    def queries(self) -> list[dict[str, list[str]]]:
        """The queries of the exchanges."""
        return [parse_qs(urlsplit(seen.target).query) for seen in self.asked]

    def revoke(self) -> None:
        """Forget every token given so far."""
        assert self.registry.tokens is not None
        self.registry.tokens.clear()


def bearer(realm: str, *, scope: str = "repository:team/model:pull") -> str:
    """A challenge as registries write it."""
    return f'Bearer realm="{realm}",service="registry.example",scope="{scope}"'
