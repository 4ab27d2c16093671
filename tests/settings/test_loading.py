from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from proxy.settings import Settings, SettingsError
from tests.settings.documents import load_text, one_account, several_upstreams


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    text = "listen: {port: 1, host: file, body_seconds: 11}\nlog: {level: error}\n"
    environment = {"CNAI_PROXY_LISTEN__PORT": "2", "CNAI_PROXY_LISTEN__HOST": "environment"}
    found = load_text(text, tmp_path, environment=environment, flags={"listen.port": "3"})
    assert found.listen.port == 3
    assert found.listen.host == "environment"
    assert found.listen.body_seconds == 11
    assert found.log.level == "error"
    assert found.listen.drain_seconds == Settings().listen.drain_seconds


def test_L1_broken_flag_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(flags={"listen.port": "x", "upstreams": [{"url": "registry.example"}]})
    assert sorted(line.partition(": expected")[0] for line in caught.value.faults) == [
        "command line: listen.port",
        "command line: upstreams.0.url",
    ]


def test_L1_fault_names_who_set_the_value_last() -> None:
    environment = {"CNAI_PROXY_LISTEN__PORT": "1", "CNAI_PROXY_LISTEN": "{port: 2}"}
    with pytest.raises(SettingsError) as caught:
        load_text(environment=environment, flags={"listen.port": "x"})
    assert caught.value.faults[0].startswith("command line: listen.port")


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            one_account("password_file: DIR/password", anonymous=False),
            "upstreams.0.credentials.anon",
        ),
        (one_account("password: CANARY"), "upstreams.0.credentials.password: "),
        ("listen: {auth: {htpasswd: DIR/md5}}", "listen.auth.htpasswd: line 3: "),
        (
            "listen: {tls: {cert_file: DIR/a.pem, key_file: DIR/locked.key}}",
            "listen.tls.key_file: ",
        ),
        (several_upstreams("name: a", ""), "upstreams.1.prefix: "),
    ],
)
def test_L2_dangerous_setting_refuses_the_start(
    tmp_path: Path, folder: Path, command: str, text: str, fault: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text.replace("DIR", str(folder)), encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-m", "proxy", command, "--config", str(file)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert (found.returncode, found.stdout) == (2, "")
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"{file}: {fault}")
    assert "CANARY" not in line


def _faults(environment: Mapping[str, str]) -> list[str]:
    try:
        load_text(environment=environment)
    except SettingsError as error:
        return error.faults
    return []


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["listen", "upstreams", "url", "port", "tls", "log", "level", "x\n"])
            | st.sampled_from(["credentials", "username", "password", "password_file", "auth"])
            | st.integers(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@hypothesis_settings(derandomize=True, max_examples=200, deadline=None)
@given(
    key=st.sampled_from(
        ["LISTEN", "UPSTREAMS__0", "UPSTREAMS__0__CREDENTIALS", "LISTEN__AUTH", "LOG__LEVEL", "X"]
    ),
    value=VALUES,
)
def test_L1_any_value_gives_settings_or_lines_of_text(key: str, value: object) -> None:
    faults = _faults({f"CNAI_PROXY_{key}": yaml.safe_dump(value)})
    assert all(line.isprintable() for line in faults)


@hypothesis_settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.text(alphabet="a:-{}[]&*!|>?,#%@`'\"\n\t 0.", max_size=30))
def test_L1_any_text_gives_settings_or_lines_of_text(text: str) -> None:
    faults = _faults({"CNAI_PROXY_LISTEN": text})
    assert all(line.isprintable() for line in faults)
