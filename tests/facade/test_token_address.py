from __future__ import annotations

from proxy.facade.token_address import token_address


def test_token_address_of_all_and_of_one() -> None:
    assert token_address() == "/-/token"
    assert token_address("hub") == "/-/token/hub"
