from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from proxy.settings import Settings, SettingsError, UpstreamSettings
from tests.settings.documents import (
    ACCOUNT,
    HASH,
    PASSWORD,
    URL,
    load_text,
    one_account,
    one_upstream,
    only_fault,
    several_upstreams,
)

REFUSED = [
    ("listen: {port: 65536}", "listen.port: expected at most 65535, found 65536"),
    ("listen: {port: -1}", "listen.port: expected at least 0, found -1"),
    (f"listen: {{port: {'9' * 30}}}", "listen.port: expected at most 65535, found 9"),
    ("listen: {header_seconds: 0}", "listen.header_seconds: expected more than 0, found 0"),
    ("listen: {body_seconds: -1}", "listen.body_seconds: expected more than 0, found -1"),
    ("listen: {body_seconds: .nan}", "listen.body_seconds: expected more than 0, found nan"),
    ("listen: {body_seconds: .inf}", "listen.body_seconds: expected at most 86400, found inf"),
    (
        "models: {families: [{name: ollama, config_types: [a/b]}]}",
        "models.families.0.name: expected a name that no",
    ),
    (
        "models: {families: [{name: A, config_types: [a/b]}]}",
        "models.families.0.name: expected at most 63",
    ),
    (
        "models: {families: [{name: a}]}",
        "models.families.0.config_types: expected a type here or in artifact_types",
    ),
    (
        "models: {families: [{name: a, artifact_types: ['*']}]}",
        "models.families.0.artifact_types.0: expected a media type without parameters",
    ),
    *(
        (f"models: {{families: [{{name: a, artifact_types: [a/b], {keys}}}]}}", fault)
        for keys, fault in (
            ("layers: [{media_type: a/b, name: a/b}]", "models.families.0.layers.0.name: expected"),
            (
                "layers: [{media_type: a/b, packing: zip}]",
                "models.families.0.layers.0.packing: expected 'type', 'sniff', 'raw'",
            ),
            ("path_annotations: ['']", "models.families.0.path_annotations.0: expected the key of"),
        )
    ),
    (
        "models: {families: [{name: a, artifact_types: [a/b]}, {name: a, artifact_types: [a/c]}]}",
        "models.families: expected families of distinct names",
    ),
    ("log: {level: loud}", "log.level: expected 'debug', 'info', 'warning' or 'error', found 'lo"),
    ("log: {format: xml}", "log.format: expected 'text' or 'json', found 'xml'"),
    (
        one_upstream("redirects: both"),
        "upstreams.0.redirects: expected 'relay' or 'follow', found 'both'",
    ),
    (one_upstream("connections: 0"), "upstreams.0.connections: expected at least 1, found 0"),
    (
        one_upstream("connections: 4097"),
        "upstreams.0.connections: expected at most 4096, found 4097",
    ),
    ("upstreams: [{name: a}]", "upstreams.0.url: expected a value, found none"),
    ("upstreams: [{url: }]", "upstreams.0.url: expected a value, found none"),
    ("listen: {auth: {}}", "listen.auth.htpasswd: expected a value, found none"),
    (
        one_account(""),
        "upstreams.0.credentials.password_file: expected the file that holds the account's",
    ),
    (
        one_upstream("credentials: {password_file: DIR/password, anonymous: true}"),
        "upstreams.0.credentials.username: expected a value, found none",
    ),
    *(
        (
            one_upstream(f"credentials: {value}"),
            "upstreams.0.credentials: expected 'caller' or 'anonymous', or username and password_f",
        )
        for value in ("Caller", "'alice:CANARY'", "[alice, CANARY]", "7")
    ),
]


@pytest.mark.parametrize(("text", "fault"), REFUSED)
def test_L1_value_out_of_bounds_is_one_line_that_names_its_path(
    tmp_path: Path, folder: Path, text: str, fault: str
) -> None:
    assert only_fault(text.replace("DIR", str(folder)), tmp_path).startswith(fault)


def test_L2_insecure_beside_a_ca_file_is_one_line_that_names_its_path(
    tmp_path: Path, folder: Path
) -> None:
    text = one_upstream(f"tls: {{ca_file: {folder}/ca.pem, insecure: true}}")
    assert only_fault(text, tmp_path).startswith(
        "upstreams.0.tls.insecure: expected false beside ca_file"
    )


def test_L1_password_and_its_file_at_once_are_refused(folder: Path) -> None:
    flags = {**ACCOUNT, "upstreams.0.credentials.password_file": str(folder / "password")}
    with pytest.raises(SettingsError) as caught:
        load_text(flags=flags, environment={PASSWORD: "CANARY"})
    (line,) = caught.value.faults
    assert "upstreams.0.credentials.password_file: expected no file beside the variable" in line


def test_empty_file_and_empty_sections_mean_the_defaults(tmp_path: Path) -> None:
    assert (
        load_text("", tmp_path) == load_text("listen:\nlog:\nupstreams:\n", tmp_path) == Settings()
    )
    found = load_text(f"upstreams:\n- url: {URL}\n  tls:\n  credentials:\n  name:\n", tmp_path)
    assert found == Settings(upstreams=(UpstreamSettings(url=URL),))


def test_B6_secrets_are_in_no_form_of_the_settings(folder: Path) -> None:
    flags = {**ACCOUNT, "listen.auth.htpasswd": str(folder / "htpasswd")}
    flags["upstreams.0.credentials.anonymous"] = False
    found = load_text(flags=flags, environment={PASSWORD: "CANARY"})
    assert yaml.safe_load(found.to_yaml())["upstreams"][0]["credentials"] == {
        "username": "reader",
        "password": "********",
        "password_file": None,
        "anonymous": False,
    }
    for text in (found.to_yaml(), repr(found), str(found), str(found.upstreams[0].credentials)):
        assert "CANARY" not in text
        assert HASH not in text
    assert found.own_users() == {"reader": HASH}


def test_changed_password_makes_other_settings(tmp_path: Path) -> None:
    file = tmp_path / "password"
    flags = {**ACCOUNT, "upstreams.0.credentials.password_file": str(file)}
    file.write_text("old")
    before, same = load_text(flags=flags), load_text(flags=flags)
    file.write_text("new")
    assert before == same
    assert before != load_text(flags=flags)


@pytest.mark.parametrize(
    ("upstreams", "expected"),
    [
        ([], None),
        (["{}"], 0),
        (["namespaces: [x]"], 0),
        (["prefix: a"], None),
        (["prefix: a, default: true"], 0),
        (["hosts: [a]"], None),
        (["namespaces: [x], default: false"], None),
        (["prefix: a", "name: b"], 1),
        (["namespaces: [x]", "name: b, namespaces: [y]"], None),
        (["namespaces: [x]", "name: b"], 1),
        (["namespaces: [x], default: true", "name: b, prefix: b"], 0),
    ],
)
def test_default_upstream_is_declared_or_the_only_one_left(
    tmp_path: Path, upstreams: list[str], expected: int | None
) -> None:
    found = load_text(several_upstreams(*[text.strip("{}") for text in upstreams]), tmp_path)
    position = None if expected is None else found.upstreams[expected]
    assert found.default_upstream is position


@pytest.mark.parametrize(
    ("url", "keys", "expected"),
    [
        ("https://Registry.Example/base", "", ("registry.example",)),
        ("https://registry.example:443", "", ("registry.example",)),
        ("http://registry.example:80", "", ("registry.example",)),
        ("http://registry.example:443", "", ("registry.example:443",)),
        ("http://[::1]:5000", "namespaces: [a:1, b]", ("[::1]:5000", "a:1", "b")),
        (
            "https://registry-1.docker.io",
            "namespaces: [docker.io, mirror]",
            ("docker.io", "index.docker.io", "registry-1.docker.io", "mirror"),
        ),
    ],
)
def test_known_namespaces_are_the_url_s_and_the_named_ones(
    tmp_path: Path, url: str, keys: str, expected: tuple[str, ...]
) -> None:
    (found,) = load_text(one_upstream(keys, url), tmp_path).upstreams
    assert found.known_namespaces == expected


@pytest.mark.parametrize(
    ("url", "keys", "expected"),
    [
        (URL, "", ""),
        (URL, "default_namespace: team/x", "team/x"),
        ("https://docker.io", "", "library"),
        ("https://Index.Docker.io:443/", "", "library"),
        ("https://registry-1.docker.io", "default_namespace: mine", "mine"),
        ("https://registry-1.docker.io", "default_namespace: ''", ""),
        ("https://hub.docker.io.example", "", ""),
    ],
)
def test_default_namespace_is_library_at_docker_hub(
    tmp_path: Path, url: str, keys: str, expected: str
) -> None:
    (found,) = load_text(one_upstream(keys, url), tmp_path).upstreams
    assert found.effective_default_namespace == expected


def test_login_is_asked_where_the_account_does_not_read_for_everybody(
    tmp_path: Path, folder: Path
) -> None:
    account = "credentials: {username: a, password_file: DIR/password"
    text = "listen: {auth: {htpasswd: DIR/htpasswd}}\n" + several_upstreams(
        "name: a, prefix: a, credentials: anonymous",
        "name: b, prefix: b, credentials: caller",
        f"name: c, prefix: c, {account}}}",
        f"name: d, prefix: d, {account}, anonymous: true}}",
    )
    found = load_text(text.replace("DIR", str(folder)), tmp_path).upstreams
    assert [one.asks_login for one in found] == [True, False, True, False]


def test_to_yaml_gives_the_same_settings_again(tmp_path: Path) -> None:
    settings = load_text(one_upstream("redirects: follow, redirect_hosts: [a]"), tmp_path)
    assert load_text(settings.to_yaml(), tmp_path) == settings
    assert yaml.safe_load(settings.to_yaml())["listen"]["port"] == 8080


def test_with_upstream_leaves_the_rest() -> None:
    settings = load_text(flags={"listen.port": 1}).with_upstream(URL)
    assert (settings.listen.port, settings.upstreams[0].url) == (1, URL)
    assert settings.default_upstream is settings.upstreams[0]
    assert (settings.upstreams[0].proxy, settings.upstreams[0].credentials) == ("none", "caller")


def test_L2_with_upstream_keeps_a_login_in_force(folder: Path) -> None:
    settings = load_text(flags={"listen.auth.htpasswd": str(folder / "htpasswd")}).with_upstream(
        URL
    )
    assert settings.upstreams[0].asks_login


def test_declared_families_have_the_form_of_the_built_in_ones(tmp_path: Path) -> None:
    text = (
        "models: {families: [{name: acme, artifact_types: [application/vnd.ACME.*], layers: "
        "[{media_type: application/x, file_class: weight, packing: tar+zstd, name: net}, "
        "{media_type: application/*, packing: sniff}]}]}"
    )
    families = load_text(text, tmp_path).models.known_families()
    acme = families[-2]
    assert (acme.name, acme.artifact_types) == (
        "acme",
        frozenset(("application/vnd.acme.*",)),
    )
    first, second = acme.layer_rules
    assert (str(first.packing), first.trusted, first.name) == ("tar+zstd", True, "net")
    assert (second.packing, second.trusted) == (None, False)
