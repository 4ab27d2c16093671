from __future__ import annotations

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadUpstream
from proxy.upstream.redirects import AddressNotAllowed, PublicResolver, RedirectGuard, is_public

BASE = "https://registry.example"


def _resolve(location: str | None, *, base_url: str = BASE, allowed: tuple[str, ...] = ()) -> str:
    guard = RedirectGuard(base_url, allowed_hosts=allowed)
    return guard.resolve(location, current_url=f"{base_url}/v2/a/blobs/x")


@pytest.mark.parametrize(
    "location",
    [
        "https://169.254.169.254/latest/meta-data/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://0/",
        "https://0.0.0.0/",
        "https://127.0.0.1./",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "http://storage.example/",
        "https://storage.example:6379/",
        "https://storage.example:0/",
        "https://storage.example:99999/",
        "https://storage.example:/x",
        "https://user:pw@storage.example/",
        "https://registry.example@evil.example/",
        "https://registry.example\\@evil.example/",
        "https://evil.example#@registry.example/",
        "https://evil.example/\\..",
        "https://evil.example/a b",
        "https://evil.example/a\r\nX: y",
        "https://[::1%25eth0]/",
        "https://[storage.example]/",
        "https://ev%69l.example/",
        "https://évil.example/",
        "https:///x",
        "https:evil.example",
        "http:evil",
        "//evil.example/x",
        "/\\evil.example/x",
        "\\\\evil.example\\x",
        "/v2/a\\b",
        "evil.example/x",
        "../x",
        "?x",
        "",
        "file:///etc/passwd",
        "gopher://storage.example/",
        "javascript:alert(1)",
        " https://storage.example/",
        None,
    ],
)
def test_C1_resolve_target_that_may_be_inside_is_refused(location: str | None) -> None:
    with pytest.raises(BadUpstream, match="redirect") as caught:
        _resolve(location)
    assert location is None or len(location) < 3 or location not in caught.value.message


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://storage.example/b?sig=a%2Fb%3D", "https://storage.example/b?sig=a%2Fb%3D"),
        ("https://storage.example", "https://storage.example"),
        ("https://storage.example?x", "https://storage.example?x"),
        ("HTTPS://storage.example:443/x", "HTTPS://storage.example:443/x"),
        ("https://storage.example:80/x", "https://storage.example:80/x"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]/x"),
        ("https://[64:ff9b::808:808]/x", "https://[64:ff9b::808:808]/x"),
        ("/v2/a/blobs/y?_state=%3D", f"{BASE}/v2/a/blobs/y?_state=%3D"),
        (f"{BASE}/v2/b", f"{BASE}/v2/b"),
    ],
)
def test_C1_resolve_public_target_comes_back_byte_for_byte(location: str, expected: str) -> None:
    assert _resolve(location) == expected


@pytest.mark.parametrize(
    ("base_url", "allowed", "location"),
    [
        ("http://127.0.0.1:5000", (), "http://127.0.0.1:5000/v2/x"),
        ("http://127.0.0.1:5000", (), "/v2/x"),
        ("http://registry.example", (), "http://storage.example/x"),
        ("http://registry.example:5000", (), "http://storage.example:5000/x"),
        (BASE, ("minio.local:9000",), "http://minio.local:9000/x"),
        (BASE, ("Minio.Local",), "http://MINIO.local:9000/x"),
        (BASE, ("127.0.0.1",), "http://127.0.0.1:1234/x"),
        (BASE, ("[::1]",), "http://[::1]:9000/x"),
        (BASE, ("[::1]:9000",), "http://[::1]:9000/x"),
    ],
)
def test_C1_resolve_upstream_itself_or_named_by_the_operator_is_allowed(
    base_url: str, allowed: tuple[str, ...], location: str
) -> None:
    found = _resolve(location, base_url=base_url, allowed=allowed)
    assert found.endswith(location)


@pytest.mark.parametrize(
    ("base_url", "allowed", "location"),
    [
        ("http://127.0.0.1:5000", (), "http://127.0.0.1:5001/x"),
        ("http://127.0.0.1:5000", (), "https://127.0.0.1:5000/x"),
        (BASE, ("minio.local:9000",), "http://minio.local:9001/x"),
        (BASE, ("minio.local",), "http://evil.minio.local:9000/x"),
        (BASE, ("[::1]:9000",), "http://[::1]:9001/x"),
    ],
)
def test_C1_resolve_beside_what_the_operator_named_is_refused(
    base_url: str, allowed: tuple[str, ...], location: str
) -> None:
    with pytest.raises(BadUpstream):
        _resolve(location, base_url=base_url, allowed=allowed)


def test_C1_resolve_refusal_says_which_setting_would_allow_it() -> None:
    with pytest.raises(BadUpstream, match="port 9000; name the host in redirect_hosts"):
        _resolve("https://storage.example:9000/x")
    with pytest.raises(BadUpstream, match="name it in redirect_hosts"):
        _resolve("https://10.0.0.1/x")


@pytest.mark.parametrize(
    ("url", "own"),
    [
        (f"{BASE}/x", True),
        ("HTTPS://REGISTRY.example:443/x", True),
        ("http://registry.example/x", False),
        (f"{BASE}:8443/x", False),
        ("https://minio.local/x", False),
    ],
)
def test_B1_is_own_origin_wants_scheme_host_and_port_alike(url: str, own: bool) -> None:
    assert RedirectGuard(BASE, allowed_hosts=("minio.local",)).is_own_origin(url) is own


class FakeResolver(AbstractResolver):
    """Answers every name with the given addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


async def test_C1_public_resolver_hands_on_exactly_what_it_checked() -> None:
    found = await PublicResolver(FakeResolver("8.8.8.8", "2606:4700::1111")).resolve("h", 443)
    assert [(entry["host"], entry["port"]) for entry in found] == [
        ("8.8.8.8", 443),
        ("2606:4700::1111", 443),
    ]


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("8.8.8.8", "127.0.0.1"),  # rebinding: the second answer is ours
        ("8.8.8.8", "::1"),
        ("169.254.169.254",),
        ("fe80::1%eth0",),
        ("::ffff:10.0.0.1",),
        ("64:ff9b::a9fe:a9fe",),
        ("not an address",),
        ("",),
    ],
)
async def test_C1_public_resolver_one_private_address_refuses_the_name(
    addresses: tuple[str, ...],
) -> None:
    with pytest.raises(AddressNotAllowed, match="non-public"):
        await PublicResolver(FakeResolver(*addresses)).resolve("storage.example", 443)


async def test_public_resolver_closes_the_one_behind() -> None:
    resolver = FakeResolver()
    await PublicResolver(resolver).close()
    assert resolver.closed


async def test_C1_public_resolver_of_its_own_refuses_this_very_host() -> None:
    resolver = PublicResolver()
    with pytest.raises(AddressNotAllowed):
        await resolver.resolve("localhost", 80)
    await resolver.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::1.1.1.1", True),
        ("2002:101:101::", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("240.0.0.1", False),
        ("239.1.1.1", False),
        ("2001:db8::1", False),
        ("2001:0:7f00:1::", False),
        ("64:ff9b:1::1", False),
        ("ff0e::1", False),
        ("x", False),
    ],
)
def test_C1_is_public_sees_through_v4_in_v6(address: str, expected: bool) -> None:
    assert is_public(address) is expected


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.text(max_size=40)
    | st.text(alphabet="htps:/[]@:0.1af\\?#x%", max_size=40)
    | st.text(alphabet="[]@:0.1af\\?#x%", max_size=30).map(lambda text: f"https://{text}")
)
def test_C1_resolve_anything_is_refused_by_name_or_an_absolute_address(location: str) -> None:
    try:
        found = _resolve(location)
    except BadUpstream:
        return
    assert found.lower().startswith("https://")
    assert found.endswith(location)
