"""Which token services may see a credential: those bound to the upstream, nobody else.

A realm is an address the upstream names; whoever may name one could collect passwords.
Source: CVE-2026-33540 for unbound realms; the registries' own 401 answers for their services.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from proxy.upstream.addresses import origin_of

# Registries whose token service stands on another host.
WELL_KNOWN_AUTH_HOSTS: Mapping[str, tuple[str, ...]] = {
    "docker.io": ("auth.docker.io",),
    "index.docker.io": ("auth.docker.io",),
    "registry-1.docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
    "nvcr.io": ("authn.nvidia.com",),
}


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
