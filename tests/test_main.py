from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy import __version__
from proxy.__main__ import _announce, main
from proxy.embedded.disk import Folder
from proxy.settings import load

URL = "https://registry.example"


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings in the environment; the root logger's handlers as they were."""
    for name in ("CNAI_PROXY_LISTEN__PORT", "CNAI_PROXY_UPSTREAMS__0__URL"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def _file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_check_good_file_prints_the_effective_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNAI_PROXY_LISTEN__PORT", "9000")
    file = _file(tmp_path, f"listen: {{port: 1, host: 0.0.0.0}}\nupstreams: [{{url: {URL}/}}]\n")
    assert main(["check", "--config", file]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    effective = yaml.safe_load(printed.out)
    assert effective["listen"]["port"] == 9000  # the environment goes before the file
    assert effective["listen"]["host"] == "0.0.0.0"
    assert effective["listen"]["drain_seconds"] == 30.0  # defaults are shown as well
    assert effective["upstreams"][0]["url"] == URL


def test_check_output_is_a_file_that_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", "--config", _file(tmp_path, f"upstreams: [{{url: {URL}}}]")])
    first = capsys.readouterr().out
    assert main(["check", "--config", _file(tmp_path, first)]) == 0
    assert capsys.readouterr().out == first


def test_L1_check_bad_file_is_two_with_a_line_for_each_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _file(tmp_path, "listen: {prot: 1}\nlog: {level: loud}\n")
    assert main(["check", "--config", file]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"{file}: listen.prot: unknown key; did you mean 'port'?\n"
        f"{file}: log.level: expected 'debug', 'info', 'warning' or 'error', found 'loud'\n"
    )


def test_check_without_a_file_shows_the_defaults_and_notes_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["check"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["upstreams"] == []
    assert printed.err == "upstreams: none is set; serve will want --upstream or --embedded\n"


def test_check_without_a_file_takes_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNAI_PROXY_UPSTREAMS__0__URL", URL)
    assert main(["check"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["upstreams"][0]["url"] == URL
    assert printed.err == ""


def test_L1_check_missing_file_is_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory\n"
    )


def test_serve_without_an_upstream_is_two_and_names_the_three_ways(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for way in ("--upstream https://", "--config FILE", "--embedded DIR", "cnai-proxy demo"):
        assert way in printed.err


def test_B6_serve_with_credentials_in_the_address_is_two_and_hides_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--upstream", "https://user:CANARY@registry.example"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("command line: upstreams.0.url: expected no credentials")
    assert "CANARY" not in printed.err


@pytest.mark.parametrize(
    ("flag", "value", "fault"),
    [
        ("--port", "http", "command line: listen.port: expected a whole number, found 'http'"),
        ("--port", "99999", "command line: listen.port: expected at most 65535, found '99999'"),
        ("--host", "", "command line: listen.host: expected an address to listen on"),
        ("--upstream", "registry", "command line: upstreams.0.url: expected http://HOST[:PORT]"),
    ],
)
def test_L1_serve_bad_flag_is_two_and_named(
    capsys: pytest.CaptureFixture[str], flag: str, value: str, fault: str
) -> None:
    assert main(["serve", flag, value]) == 2
    assert capsys.readouterr().err.startswith(fault)


def _announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> tuple[list[str], list[str]]:
    """What is said of the settings ``text``: the warnings, and the lines on upstreams."""
    caplog.set_level("INFO")
    (tmp_path / "password").write_text("CANARY\n")
    file = _file(tmp_path, text.replace("TMP", str(tmp_path)))
    _announce(load(file=Path(file), environment={}, flags={}))
    assert "CANARY" not in caplog.text
    said: dict[str, list[str]] = {"WARNING": [], "INFO": []}
    for record in caplog.records:
        said[record.levelname].append(record.getMessage())
    return said["WARNING"], said["INFO"]


SEVERAL = """\
upstreams:
- {name: hub, url: https://registry-1.docker.io, prefix: hub, namespaces: [mirror.example]}
- name: own
  url: https://own.example
  hosts: [a.example, "b.example:8443"]
  credentials: {username: robot, password_file: TMP/password, anonymous: true}
- {name: shared, url: https://shared.example, prefix: team/shared, credentials: anonymous}
- {name: rest, url: https://rest.example, default: true, tls: {insecure: true}}
"""


def test_serve_names_each_upstream_and_how_it_is_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, lines = _announced(tmp_path, caplog, SEVERAL)
    assert [line.partition(" url=")[0] for line in lines] == [
        f"upstream name={name}" for name in ("hub", "own", "shared", "rest")
    ]
    assert lines[0].startswith("upstream name=hub url=https://registry-1.docker.io chosen_by=")
    assert [line.partition(" chosen_by=")[2] for line in lines] == [
        "prefix:hub,ns:mirror.example credentials=caller",
        "host:a.example,host:b.example:8443 credentials=account",
        "prefix:team/shared credentials=anonymous",
        "default credentials=caller",
    ]


def test_L2_serve_says_each_warning_with_the_path_of_its_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warnings, _ = _announced(tmp_path, caplog, "listen: {host: 0.0.0.0}\n" + SEVERAL)
    assert [warning.partition(": ")[0] for warning in warnings] == [
        "upstreams.0.prefix",
        "upstreams.1.credentials.anonymous",
        "upstreams.3.tls.insecure",
    ]


def test_serve_on_an_address_in_use_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--upstream", URL, "--port", port]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"cnai-proxy: cannot start: 127.0.0.1:{port} is in use; choose another port with --port or "
        "listen.port\n"
    )


def test_serve_on_an_unknown_name_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert main(["serve", "--upstream", URL, "--host", "nowhere.example", "--port", "0"]) == 1
    assert capsys.readouterr().err == (
        "cnai-proxy: cannot start: listen.host: 'nowhere.example' is no address and no name this "
        "machine knows\n"
    )


def test_serve_on_an_address_of_another_machine_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", "--upstream", URL, "--host", "192.0.2.1", "--port", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cnai-proxy: cannot start: listen.host, listen.port: 192.0.2.1:0: ")


def test_embedded_folder_of_another_process_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path)
    folder.open()
    try:
        assert main(["serve", "--embedded", str(tmp_path), "--port", "0"]) == 1
    finally:
        folder.close()
    expected = f"cnai-proxy: --embedded: another process serves {tmp_path}\n"
    assert capsys.readouterr().err == expected


def test_embedded_folder_that_is_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models"
    file.write_text("mine")
    assert main(["serve", "--embedded", str(file), "--port", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cnai-proxy: ")
    assert str(file) in line
    assert file.read_text() == "mine"


def test_check_into_a_full_disk_is_one_and_says_so() -> None:
    with open("/dev/full", "wb") as full:
        found = subprocess.run(
            [sys.executable, "-m", "proxy", "check"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert found.returncode == 1
    assert found.stderr.splitlines()[1:] == [
        "cnai-proxy: cannot write to standard output: No space left on device"
    ]


def test_check_into_a_closed_output_harms_nobody() -> None:
    found = subprocess.run(
        ["sh", "-c", 'exec "$0" -m proxy check >&-', sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert found.returncode == 0
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["serve", "--prot", "1"],
        ["serve", "--upstream", URL, "--embedded", "d"],
        ["serve", "--log-format", "xml"],
        ["serve", "--password", "x"],  # secrets never stand in a list of processes (row B8)
        ["demo", "--config", "x"],
    ],
)
def test_wrong_command_line_is_two_with_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: cnai-proxy" in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"cnai-proxy {__version__}\n"


def test_module_run_is_the_same_command() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "proxy", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout == f"cnai-proxy {__version__}\n"


def test_check_says_what_serve_would_warn_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("upstreams: [{url: 'https://registry.example', tls: {insecure: true}}]\n")
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr().err.startswith("warning: upstreams.0.tls.insecure: the upstream's")
