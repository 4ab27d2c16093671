from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from proxy.settings import Settings, SettingsError, load
from tests.settings.documents import ACCOUNT, PASSWORD, URL, load_text, one_account, only_fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("listen:\n  port: 1\n  port: 2\n", ":3:3: not YAML: the key 'port' stands twice"),
        ("listen: {}\nlisten: {}\n", ":2:1: not YAML: the key 'listen' stands twice"),
        ("listen: {port: 1", ":1:17: not YAML: expected ',' or '}', but got '<stream end>'"),
        ("listen:\n\tport: 1\n", ":2:1: not YAML: found character '\\t' that cannot start any"),
        ("a: b: c", ":1:5: not YAML: mapping values are not allowed here"),
        ("? [a]\n: b\n", ":1:3: not YAML: found unhashable key"),
        ("a: &a {b: *a}", ":1:4: not YAML: found unconstructable recursive node"),
        ("a: *b", ":1:4: not YAML: found undefined alias"),
        ("a: 1\n---\nb: 1\n", ":2:1: not YAML: but found another document"),
        ("a: !!python/name:os.system x", ":1:4: not YAML: could not determine a constructor"),
        ("a: \x01", ": not YAML: special characters are not allowed (character 4)"),
        ("a: 2026-13-45", ": expected plain YAML text and numbers"),
        ("a: !!bool maybe", ": expected plain YAML text and numbers"),
        ("a: !!timestamp x", ": expected plain YAML text and numbers"),
        ("[" * 5000, ": expected plain YAML text and numbers"),
        ("- listen", ": expected keys such as 'listen:', found another YAML value"),
        ("listen", ": expected keys such as 'listen:', found another YAML value"),
    ],
)
def test_L1_broken_file_is_one_line_that_names_the_place(
    tmp_path: Path, text: str, fault: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(text, tmp_path)
    (line,) = caught.value.faults
    assert line.startswith(f"{tmp_path / 'settings.yaml'}{fault}")


def test_L1_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    missing, latin = tmp_path / "missing.yaml", tmp_path / "latin.yaml"
    latin.write_bytes(b"a: \xe4")
    for file, fault in (
        (missing, f"{missing}: cannot be read: No such file or directory"),
        (tmp_path, f"{tmp_path}: cannot be read: Is a directory"),
        (latin, f"{latin}: expected UTF-8, found other bytes"),
    ):
        with pytest.raises(SettingsError) as caught:
            load(file=file, environment={}, flags={})
        assert caught.value.faults == [fault]


def test_L2_password_in_the_file_is_one_line_that_names_its_path(tmp_path: Path) -> None:
    assert only_fault(one_account("password: CANARY"), tmp_path).startswith(
        "upstreams.0.credentials.password: expected no password in a settings file; use password_f"
    )


def test_L2_written_password_is_told_beside_other_faults(tmp_path: Path) -> None:
    text = "listen: {port: x}\n" + one_account("password: CANARY") + "\n"
    environment = {"CNAI_PROXY_UPSTREAMS__0__CREDENTIALS__PASSWORD": "better"}
    with pytest.raises(SettingsError) as caught:
        load_text(text, tmp_path, environment=environment)
    file = tmp_path / "settings.yaml"
    first, second = caught.value.faults
    assert first.startswith(f"{file}: upstreams.0.credentials.password: expected no password in a")
    assert first.endswith("variable CNAI_PROXY_UPSTREAMS__0__CREDENTIALS__PASSWORD")
    assert second.startswith(f"{file}: listen.port: ")


@pytest.mark.parametrize("value", ["*CANARY", "!CANARY x", "!CANARY!x y", "{password: *CANARY}"])
@pytest.mark.parametrize("key", ["CREDENTIALS", "CREDENTIALS__PASSWORD_FILE"])
def test_B6_yaml_repeats_no_secret(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(SettingsError) as of_variable:
        load_text(environment={f"CNAI_PROXY_UPSTREAMS__0__{key}": value})
    with pytest.raises(SettingsError) as of_file:
        load_text(f"{key}: {value}", tmp_path)
    assert "CANARY" not in f"{of_variable.value}{of_file.value}"


@pytest.mark.parametrize("text", ["12345", "null", "*abc", "{a: b}", "a: b", " #", "ü", "'x'"])
def test_password_variable_stands_as_it_is(text: str) -> None:
    found = load_text(flags=ACCOUNT, environment={PASSWORD: text})
    account = found.upstreams[0].account
    assert account is not None
    assert account.password_text() == text
    assert "upstreams" in yaml.safe_load(found.to_yaml())


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "found none"), ("CANARY\n", "on one line"), ("CANARY\udcff", "on one line")],
)
def test_L1_password_variable_that_is_no_password_is_named(text: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(flags=ACCOUNT, environment={PASSWORD: text})
    (line,) = caught.value.faults
    assert line.startswith(f"{PASSWORD}: upstreams.0.credentials.password: expected a password")
    assert fault in line
    assert "CANARY" not in line


def test_environment_reaches_into_lists_and_sections(tmp_path: Path) -> None:
    environment = {
        "CNAI_PROXY_UPSTREAMS__0__URL": "http://other.example:5000",
        "CNAI_PROXY_UPSTREAMS__0__TLS__INSECURE": "true",
        "CNAI_PROXY_UPSTREAMS__0__REDIRECT_HOSTS": "[a, b:1]",
        "CNAI_PROXY_UPSTREAMS__0__AUTH_HOSTS__0": "auth.example",
        "CNAI_PROXY_METRICS": "{enabled: false}",
        "CNAI_PROXY_LISTEN__PORT": "",
        "OTHER_LISTEN__PORT": "x",
    }
    expected = Settings.model_validate(
        {
            "upstreams": [
                {
                    "url": "http://other.example:5000",
                    "tls": {"insecure": True},
                    "redirect_hosts": ["a", "b:1"],
                    "auth_hosts": ["auth.example"],
                }
            ],
            "metrics": {"enabled": False},
        }
    )
    assert load_text(environment=environment) == expected
    in_file = f"listen:\nupstreams: [{{url: {URL}, tls: }}]"
    assert load_text(in_file, tmp_path, environment=environment) == expected


def test_environment_replaces_what_is_broken_in_the_file(tmp_path: Path) -> None:
    environment = {"CNAI_PROXY_UPSTREAMS__0__URL": URL, "CNAI_PROXY_LOG__LEVEL": "debug"}
    found = load_text(
        "upstreams: [registry.example]\nlog: debug\n", tmp_path, environment=environment
    )
    assert found.upstreams[0].url == URL
    assert found.log.level == "debug"


def test_variables_kubernetes_makes_of_a_service_are_no_settings() -> None:
    environment = {
        "CNAI_PROXY_SERVICE_HOST": "10.0.0.1",
        "CNAI_PROXY_SERVICE_PORT": "80",
        "CNAI_PROXY_SERVICE_PORT_HTTP": "80",
        "CNAI_PROXY_PORT": "tcp://10.0.0.1:80",
        "CNAI_PROXY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CNAI_PROXY_PORT_80_TCP_ADDR": "10.0.0.1",
        "CNAI_PROXY_PORT_80_TCP_PORT": "80",
        "CNAI_PROXY_PORT_80_TCP_PROTO": "tcp",
    }
    assert load_text(environment=environment) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("LISTEN__PORT", "x", "listen.port: expected a whole number, found 'x'"),
        ("LISTEN__PROT", "1", "listen.prot: unknown key; did you mean 'port'?"),
        (
            "LISTEN_PORT",
            "1",
            "listen_port: unknown key; did you mean 'listen.port', as a variable CNAI_PROXY_LIST",
        ),
        ("PORT", "8080", "port: unknown key; known keys: listen"),
        ("LISTEN", "{port: x}", "listen.port: expected a whole number, found 'x'"),
        ("LISTEN", "8080", "listen: expected keys and values below this key, found 8080"),
        ("LISTEN__PORT__X", "1", "listen.port: expected a whole number, found keys and values"),
        ("UPSTREAMS__0__NAME", "a", "upstreams.0.url: expected a value, found none"),
        ("UPSTREAMS__1__URL", URL, "upstreams.1.url: no such place; lists count from 0 without"),
        ("UPSTREAMS__²__URL", URL, "upstreams: expected a list, one '- …' line for each entry"),
        ("", "x", ": unknown key; known keys: listen"),
    ],
)
def test_L1_broken_variable_is_named(variable: str, value: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(environment={f"CNAI_PROXY_{variable}": value})
    (line,) = caught.value.faults
    place = "settings" if "found none" in fault else f"CNAI_PROXY_{variable}"
    assert line.startswith(f"{place}: {fault}")


@pytest.mark.parametrize(
    "value", ["{", "a: b: c", "\x01", "2026-13-45", "[" * 5000, "{a: 1, a: 2}"]
)
def test_L1_variable_that_is_no_yaml_is_named(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(environment={"CNAI_PROXY_LISTEN__HOST": value})
    (line,) = caught.value.faults
    assert line.startswith("CNAI_PROXY_LISTEN__HOST:")
