from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from proxy.settings import Settings, SettingsError, load
from tests.flows.test_tls import make_authority

URL = "https://registry.example"


def _load(
    text: str | None = None,
    tmp_path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    file = None
    if text is not None:
        assert tmp_path is not None
        file = tmp_path / "settings.yaml"
        file.write_text(text, encoding="utf-8")
    return load(file=file, environment=environment or {}, flags=flags or {})


def _upstream(keys: str, url: str = URL) -> str:
    return f"upstreams: [{{url: '{url}', {keys}}}]"


BROKEN = [
    # Unknown keys at each level, also empty ones.
    ("listne: {port: 1}", "listne: unknown key; did you mean 'listen'?"),
    ("authttl: 60", "authttl: unknown key; known keys: listen, upstreams, models, log, metrics"),
    ("upsteams:", "upsteams: unknown key; did you mean 'upstreams'?"),
    ("listen: {prot: 80}", "listen.prot: unknown key; did you mean 'port'?"),
    ("log: {colour: red}", "log.colour: unknown key; known keys: format, level"),
    (_upstream("redirect: follow"), "upstreams.0.redirect: unknown key; did you mean 'redirects'?"),
    (_upstream("tls: {ca: x}"), "upstreams.0.tls.ca: unknown key; known keys: ca_file, insecure"),
    (
        _upstream("timeouts: {connect: 1}"),
        "upstreams.0.timeouts.connect: unknown key; did you mean 'connect_seconds'?",
    ),
    ("listen: {8080: yes}", "listen.8080: expected a key that is text, found 8080"),
    # Wrong types.
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
    (_upstream("tls: {insecure: 7}"), "upstreams.0.tls.insecure: expected true or false, found 7"),
    (
        _upstream("auth_hosts: a.example"),
        "upstreams.0.auth_hosts: expected a list, one '- …' line for each entry, found 'a.example'",
    ),
    # Ranges and choices.
    ("listen: {port: 65536}", "listen.port: expected at most 65535, found 65536"),
    ("listen: {port: -1}", "listen.port: expected at least 0, found -1"),
    (f"listen: {{port: {'9' * 30}}}", "listen.port: expected at most 65535, found 9"),
    ("listen: {host: ''}", "listen.host: expected an address to listen on"),
    ("listen: {host: 'a b'}", "listen.host: expected an address to listen on"),
    ("listen: {header_seconds: 0}", "listen.header_seconds: expected more than 0, found 0"),
    ("listen: {body_seconds: -1}", "listen.body_seconds: expected more than 0, found -1"),
    ("listen: {body_seconds: .nan}", "listen.body_seconds: expected more than 0, found nan"),
    ("listen: {body_seconds: .inf}", "listen.body_seconds: expected at most 86400, found inf"),
    ("log: {level: loud}", "log.level: expected 'debug', 'info', 'warning' or 'error', found 'lo"),
    ("log: {format: xml}", "log.format: expected 'text' or 'json', found 'xml'"),
    (
        _upstream("redirects: both"),
        "upstreams.0.redirects: expected 'relay' or 'follow', found 'both'",
    ),
    (_upstream("connections: 0"), "upstreams.0.connections: expected at least 1, found 0"),
    (_upstream("connections: 4097"), "upstreams.0.connections: expected at most 4096, found 4097"),
    (
        _upstream("name: Team_A"),
        "upstreams.0.name: expected at most 63 lower-case letters, digits and '-', found 'Team_A'",
    ),
    # Addresses.
    ("upstreams: [{name: a}]", "upstreams.0.url: expected a value, found none"),
    ("upstreams: [{url: }]", "upstreams.0.url: expected a value, found none"),
    (_upstream("", "registry.example"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (_upstream("", "ftp://registry.example"), "upstreams.0.url: expected http://HOST[:PORT][/P"),
    (_upstream("", "https://"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https://"),
    (_upstream("", "https://a b"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https"),
    (_upstream("", "https://a:x"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https"),
    (_upstream("", "https://a:0"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or https"),
    (_upstream("", "https://a:65536"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (_upstream("", "https://[::1"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (_upstream("", "https://[:::]"), "upstreams.0.url: expected http://HOST[:PORT][/PATH] or"),
    (_upstream("", f"{URL}/?"), "upstreams.0.url: expected a plain base path without query"),
    (_upstream("", f"{URL}/#x"), "upstreams.0.url: expected a plain base path without query"),
    (_upstream("", f"{URL}/a%2fb"), "upstreams.0.url: expected a plain base path without query"),
    (_upstream("", f"{URL}//a"), "upstreams.0.url: expected a plain base path without query"),
    (_upstream("", f"{URL}/a/../b"), "upstreams.0.url: expected a base path without dot segments"),
    (_upstream("", f"{URL}/v2/"), "upstreams.0.url: expected the registry's address without its /"),
    (
        f"upstreams: [{{url: '{URL}'}}, {{url: '{URL}'}}]",
        "upstreams: expected one upstream, found 2",
    ),
    (
        _upstream("redirect_hosts: ['https://a']"),
        "upstreams.0.redirect_hosts.0: expected HOST or HOST:PORT, found 'https://a'",
    ),
    (
        _upstream("redirect_hosts: ['a', 'a:99999']"),
        "upstreams.0.redirect_hosts.1: expected HOST or HOST:PORT, found 'a:99999'",
    ),
    (_upstream("auth_hosts: ['a/token']"), "upstreams.0.auth_hosts.0: expected HOST (https), or"),
    (_upstream("auth_hosts: ['http://a:0']"), "upstreams.0.auth_hosts.0: expected HOST (https)"),
    (
        _upstream("tls: {ca_file: /no/such/file}"),
        "upstreams.0.tls.ca_file: expected a file that can be read (No such file or directory), fo",
    ),
    (
        _upstream("tls: {ca_file: /}"),
        "upstreams.0.tls.ca_file: expected a file that can be read (Is a directory), found '/'",
    ),
    (_upstream("tls: {ca_file: 7}"), "upstreams.0.tls.ca_file: expected the path of a file, fou"),
]


@pytest.mark.parametrize(("text", "fault"), BROKEN)
def test_L1_broken_setting_is_one_line_that_names_its_path(
    tmp_path: Path, text: str, fault: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        _load(text, tmp_path)
    (line,) = caught.value.faults
    assert line.startswith(f"{tmp_path / 'settings.yaml'}: {fault}")
    assert "\n" not in line


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
        ("a: *b", ":1:4: not YAML: found undefined alias 'b'"),
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
        _load(text, tmp_path)
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


def test_L1_every_fault_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        _load("listen: {port: x, prot: 1}\nlog: {level: loud}\n", tmp_path)
    assert len(caught.value.faults) == 3
    assert str(caught.value) == "; ".join(caught.value.faults)


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
            _load(environment=environment, flags=flags)
        (line,) = caught.value.faults
        assert "upstreams.0.url: expected no credentials in the address" in line
        assert "CANARY" not in line


@pytest.mark.parametrize("value", ["https://a.example/?sig=CANARY", "CANARY@a", "a#CANARY"])
def test_B6_what_could_be_a_credential_is_not_shown_in_any_fault(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _load(flags={"upstreams": [{"url": URL, "auth_hosts": [value], "name": value}]})
    assert len(caught.value.faults) == 2
    assert "CANARY" not in str(caught.value)


def test_empty_file_and_empty_sections_mean_the_defaults(tmp_path: Path) -> None:
    assert _load("", tmp_path) == _load("listen:\nlog:\nupstreams:\n", tmp_path) == Settings()
    found = _load(f"upstreams:\n- url: {URL}\n  tls:\n  timeouts:\n  name:\n", tmp_path)
    assert found == Settings().with_upstream(URL)


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
    assert _load(flags={"upstreams": [{"url": url}]}).upstreams[0].url == expected


def test_hosts_are_kept_in_lower_case(tmp_path: Path) -> None:
    keys = "redirect_hosts: [Minio.Local:9000, '[::1]'], auth_hosts: [A.example, 'http://B:81']"
    (found,) = _load(_upstream(keys), tmp_path).upstreams
    assert found.redirect_hosts == ("minio.local:9000", "[::1]")
    assert found.auth_hosts == ("a.example", "http://b:81")


def test_ca_file_that_can_be_read_is_kept(tmp_path: Path) -> None:
    file = make_authority().write(tmp_path)
    (found,) = _load(_upstream(f"tls: {{ca_file: '{file}'}}"), tmp_path).upstreams
    assert found.tls.ca_file == file


@pytest.mark.parametrize("content", ["", "no certificate\n"])
def test_L1_ca_file_without_a_certificate_is_refused_by_its_key(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        _load(_upstream(f"tls: {{ca_file: '{file}'}}"), tmp_path)
    (line,) = caught.value.faults
    key = "upstreams.0.tls.ca_file"
    assert f"{key}: expected a file of PEM certificates, found {str(file)[:80]!r}" in line


def test_environment_replaces_what_is_broken_in_the_file(tmp_path: Path) -> None:
    environment = {"CNAI_PROXY_UPSTREAMS__0__URL": URL, "CNAI_PROXY_LOG__LEVEL": "debug"}
    found = _load("upstreams: [registry.example]\nlog: debug\n", tmp_path, environment=environment)
    assert found.upstreams[0].url == URL
    assert found.log.level == "debug"


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "listen: {port: 1, host: file, body_seconds: 11}\nlog: {level: error}\n"
    environment = {"CNAI_PROXY_LISTEN__PORT": "2", "CNAI_PROXY_LISTEN__HOST": "environment"}
    found = _load(text, tmp_path, environment=environment, flags={"listen.port": "3"})
    assert found.listen.port == 3
    assert found.listen.host == "environment"
    assert found.listen.body_seconds == 11
    assert found.log.level == "error"
    assert found.listen.drain_seconds == Settings().listen.drain_seconds


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
    assert _load(environment=environment) == expected
    in_file = f"listen:\nupstreams: [{{url: {URL}, tls: }}]"
    assert _load(in_file, tmp_path, environment=environment) == expected


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
        _load(environment={f"CNAI_PROXY_{variable}": value})
    (line,) = caught.value.faults
    place = "settings" if "found none" in fault else f"CNAI_PROXY_{variable}"
    assert line.startswith(f"{place}: {fault}")


@pytest.mark.parametrize(
    "value", ["{", "a: b: c", "\x01", "2026-13-45", "[" * 5000, "{a: 1, a: 2}"]
)
def test_L1_variable_that_is_no_yaml_is_named(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        _load(environment={"CNAI_PROXY_LISTEN__HOST": value})
    (line,) = caught.value.faults
    assert line.startswith("CNAI_PROXY_LISTEN__HOST:")


def test_L1_broken_flag_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        _load(flags={"listen.port": "x", "upstreams": [{"url": "registry.example"}]})
    assert sorted(line.partition(": expected")[0] for line in caught.value.faults) == [
        "command line: listen.port",
        "command line: upstreams.0.url",
    ]


def test_L1_fault_names_who_set_the_value_last() -> None:
    environment = {"CNAI_PROXY_LISTEN__PORT": "1", "CNAI_PROXY_LISTEN": "{port: 2}"}
    with pytest.raises(SettingsError) as caught:
        _load(environment=environment, flags={"listen.port": "x"})
    assert caught.value.faults[0].startswith("command line: listen.port")


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
    assert _load(environment=environment) == Settings()


def test_to_yaml_gives_the_same_settings_again(tmp_path: Path) -> None:
    settings = _load(_upstream("redirects: follow, redirect_hosts: [a]"), tmp_path)
    assert _load(settings.to_yaml(), tmp_path) == settings
    assert yaml.safe_load(settings.to_yaml())["listen"]["port"] == 8080


def test_with_upstream_leaves_the_rest() -> None:
    settings = _load(flags={"listen.port": 1}).with_upstream(URL)
    assert (settings.listen.port, settings.upstreams[0].url) == (1, URL)


def _faults(environment: Mapping[str, str]) -> list[str]:
    try:
        _load(environment=environment)
    except SettingsError as error:
        return error.faults
    return []


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["listen", "upstreams", "url", "port", "tls", "log", "level", "x\n"])
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis_settings(derandomize=True, max_examples=200, deadline=None)
@given(key=st.sampled_from(["LISTEN", "UPSTREAMS__0", "LOG__LEVEL", "X"]), value=VALUES)
def test_L1_any_value_gives_settings_or_lines_of_text(key: str, value: object) -> None:
    faults = _faults({f"CNAI_PROXY_{key}": yaml.safe_dump(value)})
    assert all(line.isprintable() for line in faults)


@hypothesis_settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet="a:-{}[]&*!|>?,#%@`'\"\n\t 0.", max_size=30))
def test_L1_any_text_gives_settings_or_lines_of_text(text: str) -> None:
    faults = _faults({"CNAI_PROXY_LISTEN": text})
    assert all(line.isprintable() for line in faults)
