"""What tests of settings write, load and expect: YAML texts by their one interesting key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.settings import Settings, SettingsError, load

URL = "https://registry.example"
HASH = f"$2y$05${'a' * 21}O{'a' * 30}C"
PASSWORD = "CNAI_PROXY_UPSTREAMS__0__CREDENTIALS__PASSWORD"
ACCOUNT: Mapping[str, object] = {
    "upstreams.0.url": URL,
    "upstreams.0.credentials.username": "reader",
    "upstreams.0.credentials.anonymous": True,
}


def one_upstream(keys: str, url: str = URL) -> str:
    return f"upstreams: [{{url: '{url}', {keys}}}]"


def several_upstreams(*keys: str) -> str:
    """Several upstreams, the first at registry0.example."""
    entries = (f"{{url: 'https://registry{at}.example', {text}}}" for at, text in enumerate(keys))
    return f"upstreams: [{', '.join(entries)}]"


def one_account(keys: str, *, url: str = URL, anonymous: bool = True, keys_beside: str = "") -> str:
    """An upstream with an account."""
    account = f"{{username: reader, anonymous: {str(anonymous).lower()}, {keys}}}"
    return one_upstream(f"credentials: {account}, {keys_beside}", url)


def load_text(
    text: str | None = None,
    tmp_path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Settings from a file that holds ``text``, with no other source unless it is given."""
    file = None
    if text is not None:
        assert tmp_path is not None
        file = tmp_path / "settings.yaml"
        file.write_text(text, encoding="utf-8")
    return load(file=file, environment=environment or {}, flags=flags or {})


def only_fault(text: str, tmp_path: Path) -> str:
    """The one line that refuses a file that holds ``text``, behind the file's name."""
    with pytest.raises(SettingsError) as caught:
        load_text(text, tmp_path)
    (line,) = caught.value.faults
    source = f"{tmp_path / 'settings.yaml'}: "
    assert line.startswith(source)
    assert line.isprintable()
    assert "CANARY" not in line
    return line.removeprefix(source)
