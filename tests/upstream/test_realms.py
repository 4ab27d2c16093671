from __future__ import annotations

import pytest

from proxy.upstream.realms import RealmGuard

HTTPS = "https://registry.example"


@pytest.mark.parametrize(
    ("base_url", "realm"),
    [
        (HTTPS, "https://registry.example/token"),
        (HTTPS, "https://registry.example"),
        (HTTPS, "https://REGISTRY.example:443/service/token?account=x"),
        (HTTPS, "https://registry.example:8443/token"),
        (f"{HTTPS}:5000/base", "https://registry.example/token"),
        ("http://registry.example:5000", "http://registry.example:5000/token"),
        ("http://[::1]:5000", "http://[::1]:5000/token"),
        ("https://docker.io", "https://auth.docker.io/token"),
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://index.docker.io", "https://auth.docker.io/token"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://nvcr.io", "https://authn.nvidia.com/token"),
    ],
)
def test_B3_realm_bound_to_the_upstream_is_allowed(base_url: str, realm: str) -> None:
    assert RealmGuard(base_url, auth_hosts=()).allows(realm)


@pytest.mark.parametrize(
    ("base_url", "realm"),
    [
        # Not encrypted, though the upstream is.
        (HTTPS, "http://registry.example/token"),
        (HTTPS, "http://registry.example:443/token"),
        # Without TLS the port is all that tells two services apart.
        ("http://registry.example:5000", "http://registry.example/token"),
        ("http://registry.example:5000", "http://registry.example:5001/token"),
        ("http://registry.example:5000", "https://registry.example:5000/token"),
        # Another host, however alike.
        (HTTPS, "https://auth.example/token"),
        (HTTPS, "https://auth.registry.example/token"),
        (HTTPS, "https://registry.example.evil/token"),
        (HTTPS, "https://evilregistry.example/token"),
        (HTTPS, "https://registry.example./token"),
        ("https://a.azurecr.io", "https://b.azurecr.io/oauth2/token"),
        (HTTPS, "https://auth.docker.io/token"),
        ("http://docker.io", "http://auth.docker.io/token"),
        ("http://127.0.0.1:5000", "http://[::ffff:127.0.0.1]:5000/token"),
        ("http://127.0.0.1:5000", "http://localhost:5000/token"),
        ("http://127.0.0.1:5000", "http://2130706433:5000/token"),
        # Not an address that everybody reads alike.
        (HTTPS, "https://user:pw@registry.example/token"),
        (HTTPS, "https://user@registry.example/token"),
        (HTTPS, "https://registry.example@evil.example/token"),
        (HTTPS, "https://registry.example\\@evil.example/token"),
        (HTTPS, "https://registry.example/token\\x"),
        (HTTPS, "https://registry.example#@evil.example/token"),
        (HTTPS, "https://registry.example/token#x"),
        (HTTPS, "https://registry.example?@evil.example/token"),
        (HTTPS, "https://registry.example/to ken"),
        (HTTPS, "https://registry.example/token\r\nHost: evil.example"),
        (HTTPS, "https://registry.example/token\n"),
        (HTTPS, " https://registry.example/token"),
        (HTTPS, "https://registry.example\t/token"),
        (HTTPS, "https://registry%2eexample/token"),
        (HTTPS, "https://registr\u0443.example/token"),
        (HTTPS, "https://registry.example:99999/token"),
        (HTTPS, "https://registry.example:0/token"),
        (HTTPS, "https://registry.example:x/token"),
        (HTTPS, "https://[registry.example/token"),
        (HTTPS, "https:///token"),
        (HTTPS, "https:registry.example/token"),
        (HTTPS, "//registry.example/token"),
        (HTTPS, "/token"),
        (HTTPS, "registry.example/token"),
        (HTTPS, "file:///etc/passwd"),
        (HTTPS, "gopher://registry.example/token"),
        (HTTPS, "ftp://registry.example/token"),
        (HTTPS, "javascript:alert(1)"),
        (HTTPS, ""),
    ],
)
def test_B3_realm_elsewhere_is_refused(base_url: str, realm: str) -> None:
    assert not RealmGuard(base_url, auth_hosts=()).allows(realm)


@pytest.mark.parametrize(
    ("named", "realm", "allowed"),
    [
        ("auth.example", "https://auth.example/token", True),
        ("auth.example", "https://auth.example:443/token", True),
        ("AUTH.example", "https://auth.example/token", True),
        ("auth.example", "http://auth.example/token", False),
        ("auth.example", "https://auth.example:8443/token", False),
        ("auth.example:8443", "https://auth.example:8443/token", True),
        ("auth.example:8443", "https://auth.example/token", False),
        ("https://auth.example", "https://auth.example/token", True),
        ("http://auth.example:5001", "http://auth.example:5001/token", True),
        ("http://auth.example:5001", "https://auth.example:5001/token", False),
        ("http://auth.example:5001", "http://auth.example:5002/token", False),
        ("auth.example", "https://user@auth.example/token", False),
        ("auth.example", "https://sub.auth.example/token", False),
    ],
)
def test_B3_auth_hosts_allow_exactly_what_they_name(named: str, realm: str, allowed: bool) -> None:
    for base_url in (HTTPS, "http://registry.example:5000"):
        assert RealmGuard(base_url, auth_hosts=[named]).allows(realm) is allowed
