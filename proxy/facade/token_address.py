"""Where our token endpoints are, for who serves them and who sends clients there."""

from __future__ import annotations


def token_address(upstream: str = "") -> str:
    """The path of the token endpoint for one upstream, or of the one that chooses by scope."""
    return f"/-/token/{upstream}".rstrip("/")
