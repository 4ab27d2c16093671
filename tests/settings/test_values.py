from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import SettingsError
from tests.settings.documents import URL, load_text, one_upstream, only_fault

REFUSED = [
    ("listen: {host: ''}", "listen.host: expected an address to listen on"),
    ("listen: {host: 'a b'}", "listen.host: expected an address to listen on"),
    (
        one_upstream("name: Team_A"),
        "upstreams.0.name: expected at most 63 lower-case letters, digits and '-', found 'Team_A'",
    ),
    (
        one_upstream("", "registry.example"),
        "upstreams.0.url: expected http://HOST[:PORT][/PATH] or",
    ),
    (one_upstream("", "ftp://registry.example"), "upstreams.0.url: expected http://HOST[:PORT][/P"),
    (
        one_upstream("", "https://"),
        "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https://",
    ),
    (
        one_upstream("", "https://a b"),
        "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https",
    ),
    (
        one_upstream("", "https://a:x"),
        "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https",
    ),
    (
        one_upstream("", "https://a:0"),
        "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https",
    ),
    (one_upstream("", "https://a:65536"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (one_upstream("", "https://[::1"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (one_upstream("", "https://[:::]"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (one_upstream("", f"{URL}/?"), "upstreams.0.url: expected a plain base path without query"),
    (one_upstream("", f"{URL}/#x"), "upstreams.0.url: expected a plain base path without query"),
    (one_upstream("", f"{URL}/a%2fb"), "upstreams.0.url: expected a plain base path without query"),
    (one_upstream("", f"{URL}//a"), "upstreams.0.url: expected a plain base path without query"),
    (
        one_upstream("", f"{URL}/a/../b"),
        "upstreams.0.url: expected a base path without dot segments",
    ),
    (
        one_upstream("", f"{URL}/v2/"),
        "upstreams.0.url: expected the registry's address without its /",
    ),
    (
        one_upstream("redirect_hosts: ['https://a']"),
        "upstreams.0.redirect_hosts.0: expected HOST or HOST:PORT, found 'https://a'",
    ),
    (
        one_upstream("redirect_hosts: ['a', 'a:99999']"),
        "upstreams.0.redirect_hosts.1: expected HOST or HOST:PORT, found 'a:99999'",
    ),
    (
        one_upstream("auth_hosts: ['a/token']"),
        "upstreams.0.auth_hosts.0: expected HOST (https), or",
    ),
    (one_upstream("auth_hosts: ['http://a:0']"), "upstreams.0.auth_hosts.0: expected HOST (https)"),
    ("listen: {public_url: models.example}", "listen.public_url: expected http://HOST[:PORT] or"),
    ("listen: {public_url: 'https://a/b'}", "listen.public_url: expected http://HOST[:PORT] or"),
    ("listen: {public_url: 'https://a?b'}", "listen.public_url: expected http://HOST[:PORT] or"),
    ("listen: {public_url: 'https://a:0'}", "listen.public_url: expected http://HOST[:PORT] or"),
    ("listen: {public_url: 'https://u@a'}", "listen.public_url: expected http://HOST[:PORT] or"),
    *(
        (
            f"listen: {{public_url: '{URL}', trusted_proxies: ['{network}']}}",
            "listen.trusted_proxies.0: expected an address, or a network such as 10.0.0.0/8, found",
        )
        for network in ("10.0.0.1/8", "10.0.0.0/33", "proxy.example", "10.0.0", "")
    ),
    (
        one_upstream("credentials: {username: 'a:CANARY', password_file: DIR/password}"),
        "upstreams.0.credentials.username: expected a name without ':' and control characters",
    ),
    *(
        (
            one_upstream(f"prefix: '{prefix}'"),
            "upstreams.0.prefix: expected the beginning of a repository name, such as hub or team/",
        )
        for prefix in ("", "Hub", "hub/", "/hub", "a//b", "a..b", "x" * 129)
    ),
    (
        one_upstream("hosts: ['*.example']"),
        "upstreams.0.hosts.0: expected HOST or HOST:PORT, found",
    ),
    (
        one_upstream(f"hosts: ['{URL}']"),
        f"upstreams.0.hosts.0: expected HOST or HOST:PORT, found '{URL}",
    ),
    (
        one_upstream("namespaces: [a, 'b/c']"),
        "upstreams.0.namespaces.1: expected HOST or HOST:PORT, f",
    ),
    (
        one_upstream("default_namespace: Library"),
        "upstreams.0.default_namespace: expected the beginning of a repository name",
    ),
    *(
        (
            one_upstream(f"{key}: [ok/**, '{glob}']"),
            f"upstreams.0.{key}.1: expected a pattern of the upstream's repository names",
        )
        for key in ("allow", "deny")
        for glob in ("", "Team/*", "/team", "team/", "a//b", "a/***", "[ab]")
    ),
    (
        one_upstream("proxy: 'http://user:CANARY@proxy:3128'"),
        "upstreams.0.proxy: expected no credentials in the address; a proxy that wants them comes",
    ),
    *(
        (
            one_upstream(f"proxy: '{proxy}'"),
            "upstreams.0.proxy: expected none, or http://HOST[:PORT] of an HTTP proxy",
        )
        for proxy in ("proxy:3128", "socks5://proxy", "http://proxy/path", "http://", "None", "")
    ),
]


@pytest.mark.parametrize(("text", "fault"), REFUSED)
def test_L1_value_of_another_form_is_one_line_that_names_its_path(
    tmp_path: Path, folder: Path, text: str, fault: str
) -> None:
    assert only_fault(text.replace("DIR", str(folder)), tmp_path).startswith(fault)


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "::/64", "::ffff:0:0/96"])
def test_L2_trust_in_everybody_is_one_line_that_names_its_path(
    tmp_path: Path, network: str
) -> None:
    text = f"listen: {{public_url: '{URL}', trusted_proxies: [10.0.0.1, '{network}']}}"
    assert only_fault(text, tmp_path).startswith(
        "listen.trusted_proxies.1: expected the reverse proxies before this one, not everybody"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://user:CANARY@registry.example",
        "https://CANARY@registry.example",
        "https://@registry.example",
        "https://:CANARY@registry.example/",
        "https://registry.example/CANARY@x",
        "user:CANARY@registry.example",
    ],
)
def test_B6_credentials_in_the_address_are_refused_and_not_shown(url: str) -> None:
    for flags in ({"upstreams": [{"url": url}]}, {}):
        environment = {} if flags else {"CNAI_PROXY_UPSTREAMS__0__URL": url}
        with pytest.raises(SettingsError) as caught:
            load_text(environment=environment, flags=flags)
        (line,) = caught.value.faults
        assert "upstreams.0.url: expected no credentials in the address" in line
        assert "CANARY" not in line


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, URL),
        (f"{URL}/", URL),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/", "http://[::1]:5000"),
        ("http://my_registry:5000", "http://my_registry:5000"),
        ("https://Registry.Example/team/x~1/", "https://Registry.Example/team/x~1"),
        ("https://a/v2/b", "https://a/v2/b"),
        ("https://a/myv2", "https://a/myv2"),
    ],
)
def test_upstream_address_is_kept_without_its_last_slash(url: str, expected: str) -> None:
    assert load_text(flags={"upstreams": [{"url": url}]}).upstreams[0].url == expected


def test_hosts_are_kept_in_lower_case(tmp_path: Path) -> None:
    keys = "redirect_hosts: [Minio.Local:9000, '[::1]'], auth_hosts: [A.example, 'http://B:81']"
    more = "hosts: [Hub.Example], namespaces: [GHCR.io]"
    (found,) = load_text(one_upstream(f"{keys}, {more}", "http://registry"), tmp_path).upstreams
    assert found.redirect_hosts == ("minio.local:9000", "[::1]")
    assert found.auth_hosts == ("a.example", "http://b:81")
    assert (found.hosts, found.namespaces) == (("hub.example",), ("ghcr.io",))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://Models.Example", "https://models.example"),
        ("https://models.example:443/", "https://models.example"),
        ("http://models.example:443", "http://models.example:443"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_public_url_is_kept_as_an_origin(given: str, expected: str) -> None:
    assert load_text(flags={"listen.public_url": given}).listen.public_url == expected


def test_trusted_proxies_are_kept_as_networks() -> None:
    flags = {"listen.public_url": URL, "listen.trusted_proxies": ["10.0.0.1", "FE80::/10"]}
    assert load_text(flags=flags).listen.trusted_proxies == ("10.0.0.1/32", "fe80::/10")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("none", "none"), ("http://proxy:3128/", "http://proxy:3128"), ("https://p", "https://p")],
)
def test_proxy_of_an_upstream_is_kept(tmp_path: Path, given: str, expected: str) -> None:
    (found,) = load_text(one_upstream(f"proxy: '{given}'"), tmp_path).upstreams
    assert found.proxy == expected
