"""The files that settings name in these tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.certificates import authority
from tests.settings.documents import HASH


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad files; "DIR" in the texts of these tests."""
    found = tmp_path_factory.mktemp("files")
    issuer = authority(found, name="ca")
    for name in "ab":
        issuer.issue(name)
    (found / "locked.key").write_bytes(
        issuer.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    for name, content in {
        "password": "s:ecret ü\n",
        "empty": "",
        "newline": "\n",
        "lines": "CANARY\n\n",
        "long": "CANARY" * 700,
        "htpasswd": f"# who reads\nreader:{HASH}\n",
        "md5": f"reader:{HASH}\n\nalice:$apr1$CANARY$\n",
    }.items():
        (found / name).write_text(content, encoding="utf-8")
    (found / "latin").write_bytes(b"CANARY\xe4")
    return found
