from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import SettingsError
from tests.certificates import authority
from tests.settings.documents import ACCOUNT, load_text, one_account, one_upstream, only_fault

REFUSED = [
    ("listen: {tls: {cert_file: DIR/a.pem}}", "listen.tls.key_file: expected the private key of"),
    ("listen: {tls: {key_file: DIR/a.key}}", "listen.tls.key_file: expected cert_file as well"),
    (
        one_upstream("tls: {client_cert_file: DIR/a.pem}"),
        "upstreams.0.tls.client_key_file: expected the private key of client_cert_file, found none",
    ),
    (
        one_upstream("tls: {client_key_file: DIR/a.key}"),
        "upstreams.0.tls.client_key_file: expected client_cert_file as well",
    ),
    (
        one_upstream("tls: {ca_file: /no/such/file}"),
        "upstreams.0.tls.ca_file: expected a file that can be read (No such file or directory), fo",
    ),
    (
        one_upstream("tls: {ca_file: /}"),
        "upstreams.0.tls.ca_file: expected a file that can be read (Is a directory), found '/'",
    ),
    (
        "listen: {tls: {cert_file: DIR/a.pem, key_file: DIR/b.key}}",
        "listen.tls.key_file: expected the private key that belongs to cert_file, found",
    ),
    (
        "listen: {tls: {cert_file: DIR/a.pem, key_file: DIR/a.pem}}",
        "listen.tls.key_file: expected a private key in PEM without a passphrase, found",
    ),
    (
        "listen: {tls: {cert_file: DIR/a.pem, key_file: DIR/locked.key}}",
        "listen.tls.key_file: expected a private key in PEM without a passphrase, found",
    ),
    (
        "listen: {tls: {cert_file: DIR/none, key_file: DIR/a.key}}",
        "listen.tls.cert_file: expected a file that can be read (No such file or directory), found",
    ),
    (
        "listen: {tls: {cert_file: DIR/a.pem, key_file: DIR/none}}",
        "listen.tls.key_file: expected a file that can be read (No such file or directory), found",
    ),
    (
        "listen: {tls: {cert_file: DIR/a.key, key_file: DIR/a.key}}",
        "listen.tls.cert_file: expected a file of PEM certificates, found",
    ),
    (
        "listen: {auth: {htpasswd: DIR/none}}",
        "listen.auth.htpasswd: expected a file that can be read (No such file or directory), found",
    ),
    ("listen: {auth: {htpasswd: DIR/md5}}", "listen.auth.htpasswd: line 3: expected a bcrypt hash"),
    ("listen: {auth: {htpasswd: DIR/empty}}", "listen.auth.htpasswd: expected at least one line N"),
    ("listen: {auth: {htpasswd: DIR/latin}}", "listen.auth.htpasswd: expected UTF-8, found other"),
    (
        one_account("password_file: DIR/empty"),
        "upstreams.0.credentials.password_file: expected a password, found none",
    ),
    (
        one_account("password_file: DIR/newline"),
        "upstreams.0.credentials.password_file: expected a password, found none",
    ),
    (
        one_account("password_file: DIR/lines"),
        "upstreams.0.credentials.password_file: expected a password on one line, without control",
    ),
    (
        one_account("password_file: DIR/latin"),
        "upstreams.0.credentials.password_file: expected UTF-8, found other bytes",
    ),
    (
        one_account("password_file: DIR/long"),
        "upstreams.0.credentials.password_file: expected a file of at most 4096 bytes",
    ),
    (
        one_account("password_file: CANARY"),
        "upstreams.0.credentials.password_file: expected a file that can be read (No such file or",
    ),
    (
        one_upstream("tls: {client_cert_file: DIR/a.pem, client_key_file: DIR/b.key}"),
        "upstreams.0.tls.client_key_file: expected the private key that belongs to client_cert_fil",
    ),
    (
        one_upstream('tls: {ca_file: "-----BEGIN PRIVATE KEY-----\\nCANARY"}'),
        "upstreams.0.tls.ca_file: expected a file that can be read",
    ),
]


@pytest.mark.parametrize(("text", "fault"), REFUSED)
def test_L1_file_of_no_use_is_one_line_that_names_its_path(
    tmp_path: Path, folder: Path, text: str, fault: str
) -> None:
    assert only_fault(text.replace("DIR", str(folder)), tmp_path).startswith(fault)


def test_ca_file_that_can_be_read_is_kept(tmp_path: Path) -> None:
    file = authority(tmp_path).ca_file
    (found,) = load_text(one_upstream(f"tls: {{ca_file: '{file}'}}"), tmp_path).upstreams
    assert found.tls.ca_file == file


@pytest.mark.parametrize("content", ["", "no certificate\n"])
def test_L1_ca_file_without_a_certificate_is_refused_by_its_key(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_text(one_upstream(f"tls: {{ca_file: '{file}'}}"), tmp_path)
    (line,) = caught.value.faults
    key = "upstreams.0.tls.ca_file"
    assert f"{key}: expected a file of PEM certificates, found {str(file)[:80]!r}" in line


def test_L2_expired_listener_certificate_is_no_fault(tmp_path: Path) -> None:
    # It is a warning when it is used: a restart at night must not fail for it.
    old = authority(tmp_path).issue("old", expired=True)
    flags = {"listen.tls.cert_file": str(old.cert_file), "listen.tls.key_file": str(old.key_file)}
    assert load_text(flags=flags).listen.tls.cert_file == old.cert_file


def test_password_file_is_read_without_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "password"
    flags = {**ACCOUNT, "upstreams.0.credentials.password_file": str(file)}
    for content in ("pass:wörd ", "pass:wörd \n", "pass:wörd \r\n"):
        file.write_text(content, encoding="utf-8", newline="")
        account = load_text(flags=flags).upstreams[0].account
        assert account is not None
        assert account.password_text() == "pass:wörd "
