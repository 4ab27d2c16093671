from __future__ import annotations

import base64

import pytest

from proxy.upstream.identity import ANONYMOUS, Caller


def test_caller_fingerprint_tells_callers_apart_and_holds_no_credential() -> None:
    values = [None, "Basic YTpi", "basic YTpi", "Basic YTpj", "Bearer YTpi", "Basic YTpi "]
    prints = [Caller(value).fingerprint for value in values]
    assert len(set(prints)) == len(values)
    assert Caller("Basic YTpi").fingerprint == prints[1]
    assert all(len(found) == 32 for found in prints)
    assert not any(b"YTpi" in found for found in prints)


def test_B5_caller_is_not_printed_with_its_credential() -> None:
    assert "YTpi" not in repr(Caller("Basic YTpi"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, False),
        ("", False),
        ("Basic YTpi", True),
        ("bAsIc YTpi", True),
        ("Basic", False),
        ("BasicYTpi", False),
        ("Bearer x", False),
    ],
)
def test_caller_holds_basic(value: str | None, expected: bool) -> None:
    assert Caller(value).holds_basic is expected


@pytest.mark.parametrize("value", ["Bearer hf_abc", "bearer hf_abc", "BEARER  hf_x"])
def test_B4_secret_of_huggingface_is_no_credential_here(value: str) -> None:
    assert Caller.of(value) == ANONYMOUS


@pytest.mark.parametrize("value", [None, "Basic YTpi", "Bearer x", "bearer cnai", "Digest x"])
def test_caller_of_any_other_header_is_the_header(value: str | None) -> None:
    assert Caller.of(value).authorization == value


@pytest.mark.parametrize("value", ["Basic YTpi", "basic YTpi", None])
def test_own_token_is_read_back(value: str | None) -> None:
    assert Caller.of(f"Bearer {Caller(value).to_token()}").authorization == value


def test_own_token_of_a_foreign_bearer_is_an_anonymous_one() -> None:
    assert Caller.of(f"Bearer {Caller('Bearer x').to_token()}") == ANONYMOUS


@pytest.mark.parametrize(
    "text",
    [
        *("a", "!!!", base64.urlsafe_b64encode(b"\xff\xfe").decode()),
        *(
            base64.urlsafe_b64encode(v).decode()
            for v in (b"Bearer x", b"Basic a\r\nX: y", b"Basic ")
        ),
    ],
)
def test_own_token_that_holds_no_login_is_anonymous_or_foreign(text: str) -> None:
    found = Caller.of(f"Bearer cnai-proxy.{text}")
    assert found.authorization in (None, f"Bearer cnai-proxy.{text}")
    assert not found.holds_basic


@pytest.mark.parametrize(
    "value",
    [
        "Bearer  cnai-proxy.QmFzaWMgWVRwaQ",
        "Bearer cnai-proxy.QmFzaWMgWVRwaQ==",
        "Bearer cnai-proxy.!",
    ],
)
def test_B3_own_token_in_an_odd_spelling_reaches_nobody(value: str) -> None:
    found = Caller.of(value)
    assert found.authorization in (None, "Basic YTpi")


def test_account_is_a_basic_login() -> None:
    found = Caller.account("üser", "p:w")
    assert found.authorization is not None
    assert base64.b64decode(found.authorization.removeprefix("Basic ")) == "üser:p:w".encode()
