"""Checks across sections: what is good by itself but dangerous or without effect together.

Settings with ``conflicts`` must not start; with ``warnings`` they start, and it is said. Both see
values that are all valid. Where pydantic found a fault they are not asked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from proxy.settings.faults import Fault
from proxy.settings.model import ListenSettings, Settings, UpstreamSettings


def conflicts(settings: Settings) -> Iterator[Fault]:
    """Every combination that must not start, by the key that would mend it."""
    yield from _of_listener(settings)
    for at, upstream in enumerate(settings.upstreams):
        for key, text in _of_upstream(upstream, settings.listen):
            yield Fault(f"upstreams.{at}.{key}", text)
    yield from _duplicates(settings.upstreams)
    yield from _of_choice(settings)


def warnings(settings: Settings) -> Iterator[Fault]:
    """Every combination that is dangerous, and yet what somebody may want."""
    for at, upstream in enumerate(settings.upstreams):
        for key, text in _dangers(upstream, settings.listen):
            yield Fault(f"upstreams.{at}.{key}", text)


def is_loopback(host: str) -> bool:
    """Whether a ``listen.host`` is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _of_listener(settings: Settings) -> Iterator[Fault]:
    listen, upstreams = settings.listen, settings.upstreams
    if listen.trusted_proxies and listen.public_url is None:
        yield Fault(
            "listen.public_url",
            "expected the address clients use, as trusted_proxies stand before this proxy",
        )
    if listen.auth is not None and upstreams and not any(one.asks_login for one in upstreams):
        yield Fault(
            "listen.auth.htpasswd",
            "expected an upstream with credentials of its own; with 'caller', or an account that "
            "says anonymous: true, nobody is asked for this login",
        )
    if not (listen.registry_api or settings.models.enabled):
        yield Fault(
            "listen.registry_api",
            "expected true, or models.enabled: true; else there is nothing to serve",
        )


def _of_upstream(upstream: UpstreamSettings, listen: ListenSettings) -> Iterator[Fault]:
    """Faults of one upstream, with paths that begin below it."""
    is_plain_http = upstream.url.startswith("http://")
    account = upstream.account
    if account is not None and not account.anonymous and listen.auth is None:
        yield Fault(
            "credentials.anonymous",
            "expected true, or a login in listen.auth.htpasswd; else whoever reaches the proxy "
            "would have this account's rights unawares",
        )
    if account is not None and is_plain_http and not upstream.tls.insecure:
        yield Fault(
            "url",
            "expected https:// for an account, or tls.insecure: true; over http:// its password "
            "can be read on the way",
        )
    if upstream.tls.client_cert_file and is_plain_http:
        yield Fault(
            "tls.client_cert_file",
            "expected none, as the url is http:// and shows no certificate",
        )
    for index, host in enumerate(upstream.auth_hosts):
        if host.startswith("http://") and not is_plain_http:
            yield Fault(
                f"auth_hosts.{index}",
                "expected https as for the url; passwords would be readable on their way there",
            )


def _dangers(upstream: UpstreamSettings, listen: ListenSettings) -> Iterator[Fault]:
    """Warnings of one upstream, with paths that begin below it."""
    if upstream.tls.insecure and upstream.url.startswith("http://"):
        yield Fault("tls.insecure", "the account's password goes over http://, readable on the way")
    elif upstream.tls.insecure:
        yield Fault(
            "tls.insecure",
            "the upstream's certificate is NOT checked; anyone between can read credentials and "
            "change bytes",
        )
    if is_loopback(listen.host):
        return
    account = upstream.account
    if account is not None and account.anonymous:
        yield Fault(
            "credentials.anonymous",
            f"everybody who reaches {listen.host} reads as {account.username}",
        )
    if upstream.has_other_names and upstream.credentials == "caller" and not listen.public_url:
        yield Fault(
            "default_namespace" if upstream.prefix is None else "prefix",
            "clients are sent to a token service of the proxy's, at the address their connection "
            "came in on; set listen.public_url to what they call this proxy",
        )


def _duplicates(upstreams: Sequence[UpstreamSettings]) -> Iterator[Fault]:
    """What two upstreams claim, or one of them twice."""
    for key, word in (
        ("name", "name"),
        ("prefix", "prefix"),
        ("hosts", "host"),
        ("namespaces", "namespace"),
    ):
        owners: dict[str, str] = {}
        for path, value in _values(upstreams, key):
            owner = owners.setdefault(value, path)
            if owner != path:
                yield Fault(path, f"expected a {word} of its own, as {owner} is {value!r} too")
    for path, value in _values(upstreams, "namespaces"):
        for at, upstream in enumerate(upstreams):
            if value in upstream.own_namespaces and not path.startswith(f"upstreams.{at}."):
                text = f"expected a namespace of its own, as upstreams.{at}.url is known as"
                yield Fault(path, f"{text} {value!r}")


def _values(upstreams: Sequence[UpstreamSettings], key: str) -> Iterator[tuple[str, str]]:
    """What the upstreams have at ``key``, text or a list of it, and the path of each."""
    for at, upstream in enumerate(upstreams):
        value = getattr(upstream, key)
        if isinstance(value, str):
            yield f"upstreams.{at}.{key}", value
        for index, entry in enumerate(value if isinstance(value, tuple) else ()):
            yield f"upstreams.{at}.{key}.{index}", entry


def _of_choice(settings: Settings) -> Iterator[Fault]:
    """Where a request could belong to several upstreams, or to one never."""
    claimed = settings.claimed_defaults
    for at, upstream in enumerate(settings.upstreams):
        if at in claimed[1:] and upstream.default:
            yield Fault(
                f"upstreams.{at}.default",
                f"expected one default, found upstreams.{claimed[0]}.default to be true as well",
            )
        elif at in claimed[1:]:
            yield Fault(
                f"upstreams.{at}.prefix",
                f"expected a prefix, hosts or namespaces, as upstreams.{claimed[0]} has none "
                "either and names without a prefix can belong to one upstream only",
            )
        elif at not in claimed and not (upstream.prefix or upstream.hosts or upstream.namespaces):
            key = "prefix" if upstream.default is None else "default"
            yield Fault(
                f"upstreams.{at}.{key}",
                "expected a prefix, hosts, namespaces or default: true; nothing chooses this "
                "upstream",
            )
