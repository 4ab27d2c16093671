from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import SettingsError
from proxy.settings.rules import is_loopback, warnings
from tests.settings.documents import (
    URL,
    load_text,
    one_account,
    one_upstream,
    only_fault,
    several_upstreams,
)

DANGEROUS = [
    ("listen: {trusted_proxies: [10.0.0.1]}", "listen.public_url: expected the address clients us"),
    (
        "listen: {auth: {htpasswd: DIR/htpasswd}}\n" + one_upstream(""),
        "listen.auth.htpasswd: expected an upstream with credentials of its own",
    ),
    (
        "listen: {auth: {htpasswd: DIR/htpasswd}}\n"
        + one_upstream("credentials: {username: a, password_file: DIR/password, anonymous: true}"),
        "listen.auth.htpasswd: expected an upstream with credentials of its own",
    ),
    (
        "listen: {registry_api: false}\nmodels: {enabled: false}",
        "listen.registry_api: expected true, or models.enabled: true",
    ),
    (
        one_account("password_file: DIR/password", anonymous=False),
        "upstreams.0.credentials.anonymous: expected true, or a login in listen.auth.htpasswd",
    ),
    (
        one_account("password_file: DIR/password", url="http://registry.example"),
        "upstreams.0.url: expected https:// for an account, or tls.insecure: true",
    ),
    (
        several_upstreams("namespaces: [a]", "prefix: b"),
        "upstreams.1.name: expected a name of its own, as upstreams.0.name is 'default' too",
    ),
    (
        several_upstreams("name: a, prefix: team/x", "prefix: team/x"),
        "upstreams.1.prefix: expected a prefix of its own, as upstreams.0.prefix is 'team/x' too",
    ),
    (
        several_upstreams("name: a, hosts: [c, x]", "hosts: [d, X]"),
        "upstreams.1.hosts.1: expected a host of its own, as upstreams.0.hosts.1 is 'x' too",
    ),
    (
        several_upstreams("name: a, namespaces: [x]", "namespaces: [y, x]"),
        "upstreams.1.namespaces.1: expected a namespace of its own, as upstreams.0.namespaces.0 is",
    ),
    (
        several_upstreams("name: a, namespaces: [registry1.example]", "prefix: b"),
        "upstreams.0.namespaces.0: expected a namespace of its own, as upstreams.1.url is known as",
    ),
    (
        one_upstream("hosts: [a, a]"),
        "upstreams.0.hosts.1: expected a host of its own, as upstreams.0.hosts.0 is 'a' too",
    ),
    (
        several_upstreams("name: a, default: true, prefix: a", "default: true"),
        "upstreams.1.default: expected one default, found upstreams.0.default to be true as well",
    ),
    (
        several_upstreams("name: a", ""),
        "upstreams.1.prefix: expected a prefix, hosts or namespaces, as upstreams.0 has none",
    ),
    (
        several_upstreams("name: a, default: true", ""),
        "upstreams.1.prefix: expected a prefix, hosts, namespaces or default: true; nothing",
    ),
    (
        one_upstream("default: false"),
        "upstreams.0.default: expected a prefix, hosts, namespaces or default: true; nothing",
    ),
    (
        one_upstream("auth_hosts: [a, 'http://a']"),
        "upstreams.0.auth_hosts.1: expected https as for the url",
    ),
    (
        one_upstream("tls: {client_cert_file: DIR/a.pem, client_key_file: DIR/a.key}", "http://a"),
        "upstreams.0.tls.client_cert_file: expected none, as the url is http://",
    ),
]


@pytest.mark.parametrize(("text", "fault"), DANGEROUS)
def test_L2_dangerous_setting_is_one_line_that_names_its_path(
    tmp_path: Path, folder: Path, text: str, fault: str
) -> None:
    assert only_fault(text.replace("DIR", str(folder)), tmp_path).startswith(fault)


def test_L2_every_danger_has_its_line(tmp_path: Path, folder: Path) -> None:
    text = f"""\
listen: {{trusted_proxies: [10.0.0.1], registry_api: false, auth: {{htpasswd: {folder}/htpasswd}}}}
models: {{enabled: false}}
upstreams:
- {{url: '{URL}', auth_hosts: ['http://a', b, 'http://c'], default: false}}
- {{url: '{URL}', default: true}}
- {{url: '{URL}', default: true}}
"""
    with pytest.raises(SettingsError) as caught:
        load_text(text, tmp_path)
    assert [line.split(": ")[1] for line in caught.value.faults] == [
        "listen.public_url",
        "listen.auth.htpasswd",
        "listen.registry_api",
        "upstreams.0.auth_hosts.0",
        "upstreams.0.auth_hosts.2",
        "upstreams.1.name",
        "upstreams.2.name",
        "upstreams.0.default",
        "upstreams.2.default",
    ]


def test_upstreams_may_share_a_registry(tmp_path: Path) -> None:
    text = several_upstreams("name: a, prefix: a", "name: b, prefix: b").replace(
        "registry1", "registry0"
    )
    first, second = load_text(text, tmp_path).upstreams
    assert first.known_namespaces == second.known_namespaces


def test_account_over_http_is_taken_where_the_danger_is_accepted(
    tmp_path: Path, folder: Path
) -> None:
    text = one_account(
        "password_file: DIR/password", url="http://a", keys_beside="tls: {insecure: true}"
    )
    account = load_text(text.replace("DIR", str(folder)), tmp_path).upstreams[0].account
    assert account is not None
    assert account.password_text() == "s:ecret ü"


def _warned(text: str, tmp_path: Path, folder: Path, *, listen: str = "") -> list[str]:
    """What is said at the start of a proxy that listens for everybody."""
    listen = f"listen: {{{listen or 'host: 0.0.0.0'}}}\n"
    settings = load_text(listen + text.replace("DIR", str(folder)), tmp_path)
    return [f"{path}: {warning}" for path, warning in warnings(settings)]


ACCOUNT = "credentials: {username: robot, password_file: DIR/password, anonymous: true}"
SEVERAL = several_upstreams(
    "name: a, prefix: a",
    f"name: b, prefix: b, {ACCOUNT}",
    "name: c, prefix: c, credentials: anonymous",
    "name: d, tls: {insecure: true}",
)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "proxy.example"])
def test_L2_warnings_beyond_this_machine_name_what_is_dangerous(
    tmp_path: Path, folder: Path, host: str
) -> None:
    prefix, account, insecure = _warned(SEVERAL, tmp_path, folder, listen=f"host: '{host}'")
    assert prefix.startswith("upstreams.0.prefix: clients are sent to a token service of the prox")
    assert prefix.endswith("; set listen.public_url to what they call this proxy")
    assert account == (
        f"upstreams.1.credentials.anonymous: everybody who reaches {host} reads as robot"
    )
    assert insecure.startswith(
        "upstreams.3.tls.insecure: the upstream's certificate is NOT checked"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_L2_warnings_on_loopback_name_no_reader(tmp_path: Path, folder: Path, host: str) -> None:
    (warning,) = _warned(SEVERAL, tmp_path, folder, listen=f"host: '{host}'")
    assert warning.startswith("upstreams.3.tls.insecure: ")


def test_warnings_with_a_public_url_have_none_for_names(tmp_path: Path, folder: Path) -> None:
    listen = "host: 0.0.0.0, public_url: 'https://proxy.example'"
    assert [
        line.partition(": ")[0] for line in _warned(SEVERAL, tmp_path, folder, listen=listen)
    ] == [
        "upstreams.1.credentials.anonymous",
        "upstreams.3.tls.insecure",
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (one_upstream("", "https://registry-1.docker.io"), "default_namespace"),
        (one_upstream("default_namespace: team"), "default_namespace"),
        (one_upstream("default_namespace: team, prefix: a"), "prefix"),
    ],
    ids=["docker hub", "written", "behind a prefix"],
)
def test_warnings_of_names_that_differ_want_a_public_url(
    tmp_path: Path, folder: Path, text: str, key: str
) -> None:
    """Docker Hub has ``library`` by itself, and so a token service of ours before it."""
    (warning,) = _warned(text, tmp_path, folder)
    assert warning.startswith(f"upstreams.0.{key}: clients are sent to a token service")
    assert _warned(text, tmp_path, folder, listen="host: 127.0.0.1") == []


@pytest.mark.parametrize(
    "text",
    [
        one_upstream(""),
        one_upstream("default_namespace: ''", "https://registry-1.docker.io"),
        one_upstream("credentials: anonymous", "https://registry-1.docker.io"),
    ],
    ids=["same names", "no library", "no login of callers"],
)
def test_warnings_where_no_token_service_is_ours_have_none(
    tmp_path: Path, folder: Path, text: str
) -> None:
    assert _warned(text, tmp_path, folder) == []


def test_L2_warnings_of_an_account_over_http_name_the_password(
    tmp_path: Path, folder: Path
) -> None:
    text = one_account(
        "password_file: DIR/password", url="http://a", keys_beside="tls: {insecure: true}"
    )
    (warning,) = _warned(text, tmp_path, folder, listen="host: 127.0.0.1")
    assert warning.startswith("upstreams.0.tls.insecure: the account's password goes over http://")


def test_is_loopback_name_of_a_host_is_not() -> None:
    assert is_loopback("localhost")
    assert not is_loopback("localhost.example")
