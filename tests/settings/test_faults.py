from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import SettingsError
from tests.settings.documents import URL, load_text, one_account, one_upstream, only_fault

MISTAKEN = [
    ("listne: {port: 1}", "listne: unknown key; did you mean 'listen'?"),
    ("authttl: 60", "authttl: unknown key; known keys: listen, upstreams, models, log, metrics"),
    ("upsteams:", "upsteams: unknown key; did you mean 'upstreams'?"),
    ("listen: {prot: 80}", "listen.prot: unknown key; did you mean 'port'?"),
    ("log: {colour: red}", "log.colour: unknown key; known keys: format, level"),
    (
        one_upstream("redirect: follow"),
        "upstreams.0.redirect: unknown key; did you mean 'redirects'?",
    ),
    (
        one_upstream("tls: {ca: x}"),
        "upstreams.0.tls.ca: unknown key; known keys: ca_file, insecure",
    ),
    (
        one_upstream("timeouts: {connect: 1}"),
        "upstreams.0.timeouts.connect: unknown key; did you mean 'connect_seconds'?",
    ),
    ("listen: {8080: yes}", "listen.8080: expected a key that is text, found 8080"),
    ("listen: 8080", "listen: expected keys and values below this key, found 8080"),
    ("listen: [8080]", "listen: expected keys and values below this key, found a list"),
    (
        "upstreams: {url: x}",
        "upstreams: expected a list, one '- …' line for each entry, found keys and values",
    ),
    (f"upstreams: [{URL}]", f"upstreams.0: expected keys and values below this key, found '{URL}'"),
    ("listen: {port: http}", "listen.port: expected a whole number, found 'http'"),
    ("listen: {port: 80.5}", "listen.port: expected a whole number, found 80.5"),
    ("listen: {port: yes}", "listen.port: expected a number, found true"),
    ("listen: {port: [80]}", "listen.port: expected a whole number, found a list"),
    ("listen: {host: 127}", "listen.host: expected text, in quotes if it looks like a number, f"),
    ("listen: {host: 2026-01-01}", "listen.host: expected text, in quotes if it looks like a"),
    ("listen: {drain_seconds: soon}", "listen.drain_seconds: expected a number, found 'soon'"),
    ("listen: {drain_seconds: on}", "listen.drain_seconds: expected a number, found true"),
    ("metrics: {enabled: maybe}", "metrics.enabled: expected true or false, found 'maybe'"),
    ("metrics: {enabled: {}}", "metrics.enabled: expected true or false, found keys and values"),
    (
        one_upstream("tls: {insecure: 7}"),
        "upstreams.0.tls.insecure: expected true or false, found 7",
    ),
    (
        one_upstream("auth_hosts: a.example"),
        "upstreams.0.auth_hosts: expected a list, one '- …' line for each entry, found 'a.example'",
    ),
    (
        one_upstream("tls: {ca_file: 7}"),
        "upstreams.0.tls.ca_file: expected the path of a file, fou",
    ),
    ("listen: {tls: {certfile: x}}", "listen.tls.certfile: unknown key; did you mean 'cert_file'?"),
    ("listen: {auth: htpasswd}", "listen.auth: expected keys and values below this key, found 'ht"),
    ("listen: {auth: {htpasswd: DIR/htpasswd, file: x}}", "listen.auth.file: unknown key; known k"),
    (
        one_account("password_file: DIR/password, pasword: CANARY"),
        "upstreams.0.credentials.pasword: unknown key; did you mean 'password'?",
    ),
    (
        one_account("password_file: DIR/password, account: CANARY"),
        "upstreams.0.credentials.account: unknown key; known keys: username, password,",
    ),
    (
        one_account("password_file: DIR/password, alice:CANARY"),
        "upstreams.0.credentials.…: unknown key; known keys: username, password,",
    ),
    (one_upstream("default: maybe"), "upstreams.0.default: expected true or false, found 'maybe'"),
    (
        one_upstream("proxy: false"),
        "upstreams.0.proxy: expected text, in quotes if it looks like a",
    ),
]


@pytest.mark.parametrize(("text", "fault"), MISTAKEN)
def test_L1_broken_setting_is_one_line_that_names_its_path(
    tmp_path: Path, folder: Path, text: str, fault: str
) -> None:
    assert only_fault(text.replace("DIR", str(folder)), tmp_path).startswith(fault)


def test_L1_every_fault_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text("listen: {port: x, prot: 1}\nlog: {level: loud}\n", tmp_path)
    assert len(caught.value.faults) == 3
    assert str(caught.value) == "; ".join(caught.value.faults)


@pytest.mark.parametrize("value", ["https://a.example/?sig=CANARY", "CANARY@a", "a#CANARY"])
def test_B6_what_could_be_a_credential_is_not_shown_in_any_fault(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(flags={"upstreams": [{"url": URL, "auth_hosts": [value], "name": value}]})
    assert len(caught.value.faults) == 2
    assert "CANARY" not in str(caught.value)
