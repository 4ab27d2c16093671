from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from proxy.errors import BadRequest
from proxy.facade.credentials import authorization_of, caller_of
from proxy.upstream.identity import ANONYMOUS, Caller


@pytest.mark.parametrize("value", [None, "Basic YTpi", "Bearer x", "Digest x", ""])
def test_authorization_is_read_as_it_came(value: str | None) -> None:
    headers = CIMultiDict({} if value is None else {"authorization": value})
    assert authorization_of(make_mocked_request("GET", "/", headers=headers)) == value


@pytest.mark.parametrize(
    "values",
    [
        ["Basic YTpi", "Basic YTpj"],
        ["Basic YTpi", "Basic YTpi"],
        ["Basic \xe9"],
        ["Basic a\tb"],
        ["Basic a\x01"],
    ],
)
def test_A8_authorization_that_two_readers_could_read_differently_is_400(
    values: list[str],
) -> None:
    headers = CIMultiDict([("Authorization", value) for value in values])
    with pytest.raises(BadRequest) as refused:
        authorization_of(make_mocked_request("GET", "/", headers=headers))
    assert "YT" not in refused.value.message


def test_B4_caller_is_who_the_header_says_and_no_secret_of_huggingface() -> None:
    own = Caller("Basic YTpi").to_token()
    for value, expected in (
        ("Basic YTpi", Caller("Basic YTpi")),
        (f"Bearer {own}", Caller("Basic YTpi")),
        ("Bearer hf_canary", ANONYMOUS),
    ):
        headers = CIMultiDict({"Authorization": value})
        assert caller_of(make_mocked_request("GET", "/", headers=headers)) == expected
    assert caller_of(make_mocked_request("GET", "/")) == ANONYMOUS
