"""Files that settings name: certificates and keys, passwords, users.

They are opened while the settings are read, so that a wrong one is a fault of its key at the start
and not a failure of the first request. Each refusal is a ``ValueError`` worded for the operator.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from proxy import htpasswd
from proxy.settings.values import check_password

# Bytes of a file; more is another kind of file.
_PASSWORD_LIMIT = 4096
_HTPASSWD_LIMIT = 4 * 1024 * 1024


def read_password(file: Path) -> str:
    """The password in ``file``, without the newline that editors put behind it.

    Raises:
        ValueError: no password, or more than 4096 bytes; the text has nothing of them.
    """
    text = _text_of(file, limit=_PASSWORD_LIMIT).removesuffix("\n").removesuffix("\r")
    check_password(text)
    return text


def read_users(file: Path) -> Mapping[str, str]:
    """Names and bcrypt hashes of an htpasswd file of at most 4 MiB.

    Raises:
        ValueError: the text has nothing of the file's lines.
    """
    return htpasswd.parse(_text_of(file, limit=_HTPASSWD_LIMIT))


def check_pair(certificate: Path | None, key: Path | None, *, beside: str) -> None:
    """See that ``key`` belongs to ``certificate`` of the field ``beside``, unless both are unset.

    Raises:
        ValueError: worded for the field of the key.
    """
    if certificate is None and key is None:
        return
    if key is None:
        raise ValueError(f"expected the private key of {beside}, found none")
    if certificate is None:
        raise ValueError(f"expected {beside} as well, the certificate this key belongs to")
    try:
        for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            # A password of its own keeps OpenSSL from asking for one on the terminal.
            ssl.SSLContext(protocol).load_cert_chain(certificate, key, password="-")  # noqa: S106
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ValueError(f"expected the private key that belongs to {beside}") from error
        raise ValueError("expected a private key in PEM without a passphrase") from error


def _text_of(file: Path, *, limit: int) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(limit + 1)
    except OSError as error:
        raise _unreadable(error) from error
    if len(content) > limit:
        raise ValueError(f"expected a file of at most {limit} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("expected UTF-8, found other bytes") from error


def _unreadable(error: OSError) -> ValueError:
    return ValueError(f"expected a file that can be read ({error.strerror})")


def _readable(value: Path) -> Path:
    try:
        value.open("rb").close()
    except OSError as error:
        raise _unreadable(error) from error
    return value


def _certificates(value: Path) -> Path:
    _readable(value)
    try:
        ssl.create_default_context(cafile=value)
    except (ssl.SSLError, OSError) as error:
        raise ValueError("expected a file of PEM certificates") from error
    return value


def _users(value: Path) -> Path:
    read_users(value)
    return value


ReadableFile = Annotated[Path, AfterValidator(_readable)]
CertificateFile = Annotated[Path, AfterValidator(_certificates)]
HtpasswdFile = Annotated[Path, AfterValidator(_users)]
