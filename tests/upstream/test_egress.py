from __future__ import annotations

import pytest

from proxy.errors import BadUpstream
from proxy.upstream.egress import Egress

REGISTRY = "https://registry.example/v2/"
PROXY = "http://proxy.example:3128"


def chosen(url: str, setting: str | None = None, **environment: str) -> str | None:
    found = Egress(setting, environment).proxy_for(url)
    return found.url if found is not None else None


def test_nothing_is_set_and_requests_go_directly() -> None:
    assert chosen(REGISTRY) is None


def test_setting_none_switches_the_environment_off() -> None:
    assert chosen(REGISTRY, "none", HTTPS_PROXY=PROXY, ALL_PROXY=PROXY) is None


def test_setting_is_for_every_address() -> None:
    environment = {"HTTPS_PROXY": "http://other.example", "NO_PROXY": "*"}
    for url in (REGISTRY, "http://registry.example/v2/", "http://127.0.0.1:5000/v2/"):
        assert chosen(url, PROXY, **environment) == PROXY


@pytest.mark.parametrize(
    ("environment", "http", "https"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http://p:1", None),
        ({"HTTPS_PROXY": "http://p:2"}, None, "http://p:2"),
        ({"ALL_PROXY": "http://p:3"}, "http://p:3", "http://p:3"),
        ({"ALL_PROXY": "http://p:3", "HTTPS_PROXY": "http://p:2"}, "http://p:3", "http://p:2"),
        ({"http_proxy": "http://p:1", "https_proxy": "http://p:2"}, "http://p:1", "http://p:2"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:2"}, None, "http://p:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://p:2"}, None, None),
        ({"HTTPS_PROXY": "p:2"}, None, "http://p:2"),
        ({"HTTPS_PROXY": "p"}, None, "http://p"),
        ({"HTTPS_PROXY": "HTTP://P:2/"}, None, "http://P:2"),
        ({"HTTPS_PROXY": "http://[2001:db8::1]:3128"}, None, "http://[2001:db8::1]:3128"),
    ],
)
def test_environment_names_a_proxy_for_each_scheme(
    environment: dict[str, str], http: str | None, https: str | None
) -> None:
    assert chosen("http://registry.example/", None, **environment) == http
    assert chosen("https://registry.example/", None, **environment) == https


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "registry.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_C1_loopback_never_goes_through_the_environments_proxy(host: str) -> None:
    assert chosen(f"http://{host}:5000/v2/", ALL_PROXY=PROXY) is None


@pytest.mark.parametrize("host", ["localhost.example", "notlocalhost", "128.0.0.1", "[::2]"])
def test_what_only_looks_like_loopback_goes_through_the_proxy(host: str) -> None:
    assert chosen(f"http://{host}:5000/v2/", ALL_PROXY=PROXY) == PROXY


@pytest.mark.parametrize(
    ("exempt", "direct", "proxied"),
    [
        ("*", ["https://registry.example", "https://10.0.0.1"], []),
        (" a , * ", ["https://registry.example"], []),
        (
            "registry.example",
            [
                "https://registry.example",
                "https://eu.REGISTRY.example:8443",
                "https://registry.example.",
            ],
            ["https://myregistry.example", "https://registry.example.org", "https://example"],
        ),
        (
            ".registry.example",
            ["https://eu.registry.example", "https://a.b.registry.example"],
            ["https://registry.example", "https://euregistry.example"],
        ),
        ("*.registry.example", ["https://eu.registry.example"], ["https://registry.example"]),
        (
            "registry.example:8443",
            ["https://registry.example:8443", "https://eu.registry.example:8443"],
            ["https://registry.example"],
        ),
        ("registry.example:443", ["https://registry.example"], ["http://registry.example"]),
        ("10.1.2.3", ["https://10.1.2.3", "https://10.1.2.3:5000"], ["https://10.1.2.4"]),
        ("10.1.2.3:5000", ["https://10.1.2.3:5000"], ["https://10.1.2.3"]),
        (
            "10.0.0.0/8, 2001:db8::/32",
            ["https://10.255.0.1:5000", "https://[2001:db8::7]", "https://[::ffff:10.0.0.1]"],
            ["https://11.0.0.1", "https://[2001:db9::7]", "https://10.example"],
        ),
        ("10.0.0.7/8", ["https://10.1.1.1"], ["https://11.1.1.1"]),
        ("2001:db8::7", ["https://[2001:db8::7]:5000"], ["https://[2001:db8::8]"]),
        ("[2001:db8::7]", ["https://[2001:db8::7]:5000"], ["https://[2001:db8::8]"]),
        ("[2001:db8::7]:5000", ["https://[2001:db8::7]:5000"], ["https://[2001:db8::7]"]),
        ("a,,  ,b.example ", ["https://b.example", "https://a"], ["https://c.example"]),
        ("10.0.0.0/99, :5000", [], ["https://10.0.0.1:5000", "https://registry.example:5000"]),
        ("", [], ["https://registry.example"]),
    ],
)
def test_no_proxy_is_read_as_go_reads_it(
    exempt: str, direct: list[str], proxied: list[str]
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        environment = {"ALL_PROXY": PROXY, name: exempt}
        for url in direct:
            assert chosen(f"{url}/v2/", None, **environment) is None, url
        for url in proxied:
            assert chosen(f"{url}/v2/", None, **environment) == PROXY, url


@pytest.mark.parametrize(
    ("userinfo", "sent"),
    [
        ("anna:s3cr3t", "Basic YW5uYTpzM2NyM3Q="),
        ("anna", "Basic YW5uYTo="),
        ("an%20na:p%40ss%3Aw%C3%B6rd", "Basic YW4gbmE6cEBzczp3w7ZyZA=="),
        ("anna:s3@cr3t", "Basic YW5uYTpzM0BjcjN0"),
    ],
)
def test_B5_login_of_the_environment_is_apart_from_the_address(userinfo: str, sent: str) -> None:
    egress = Egress(None, {"HTTPS_PROXY": f"http://{userinfo}@proxy.example:3128/"})
    found = egress.proxy_for(REGISTRY)
    assert found is not None
    assert found.url == PROXY
    assert found.authorization == sent
    assert repr(found) == f"HttpProxy(url={PROXY!r})"
    assert repr(egress).startswith("<")


@pytest.mark.parametrize(
    "address",
    [
        "socks5://anna:s3cr3t@proxy.example",
        "https://anna:s3cr3t@proxy.example",
        "http://anna:s3cr3t@",
        "http://anna:s3cr3t@proxy.example:port",
        "http://anna:s3cr3t@proxy.example/path",
        "http://anna:s3cr3t@proxy.example\r\nX: y",
        "http://anna:s3cr3t@proxy example",
    ],
)
def test_B6_address_that_cannot_be_used_is_refused_without_being_shown(address: str) -> None:
    egress = Egress(None, {"HTTPS_PROXY": address, "NO_PROXY": "direct.example"})
    with pytest.raises(BadUpstream) as found:
        egress.proxy_for(REGISTRY)
    assert "s3cr3t" not in found.value.message
    assert "HTTPS_PROXY" in found.value.message
    # It is nobody's business where it is not used.
    assert egress.proxy_for("https://direct.example/v2/") is None
