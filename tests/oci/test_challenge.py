from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import BadUpstream
from proxy.oci.challenge import (
    TOKEN_LIMIT,
    Challenge,
    Token,
    parse_challenges,
    parse_token,
    token_query,
)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([""], []),
        (["Basic"], [Challenge("basic")]),
        (['Basic realm="x"'], [Challenge("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/t",service="a",scope="repository:x:pull,push"'],
            [
                Challenge(
                    "bearer",
                    {"realm": "https://a/t", "service": "a", "scope": "repository:x:pull,push"},
                )
            ],
        ),
        (
            ['BASIC Realm = "x" , Bearer REALM=y;z, , scope=s'],
            [
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": "y;z"}),
                Challenge("scope"),
            ],
        ),
        (
            ['Basic realm="x",Bearer realm="y"'],
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})],
        ),
        (
            ['Negotiate, Basic realm="x"'],
            [Challenge("negotiate"), Challenge("basic", {"realm": "x"})],
        ),
        (
            ['Negotiate YWJj==, Basic realm="x"'],
            [Challenge("negotiate", {"ywjj": "="}), Challenge("basic", {"realm": "x"})],
        ),
        ([r'Basic realm="a\"b\\c, d"'], [Challenge("basic", {"realm": 'a"b\\c, d'})]),
        (['Basic realm="x", realm="y"'], [Challenge("basic", {"realm": "x"})]),
        (
            ['Basic realm="x"', 'Bearer realm="y"'],
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})],
        ),
        (['Basic realm="unclosed'], [Challenge("basic", {"realm": ""})]),
        (['Basic realm="x" junk="y"'], [Challenge("basic", {"realm": "x"}), Challenge("junk")]),
        (["Basic realm=x,"], [Challenge("basic", {"realm": "x"})]),
        (['"quoted", Basic realm=x'], []),
        (["Basic/x", "Bearer realm=y"], [Challenge("basic"), Challenge("bearer", {"realm": "y"})]),
    ],
)
def test_parse_challenges_table(lines: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(lines) == expected


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        (Challenge("basic"), "Basic"),
        (Challenge("basic", {"realm": 'a"b\\c, d'}), r'Basic realm="a\"b\\c, d"'),
        (
            Challenge("bearer", {"realm": "https://a/t", "scope": "repository:x:pull,push"}),
            'Bearer realm="https://a/t",scope="repository:x:pull,push"',
        ),
    ],
)
def test_challenge_is_written_as_it_is_read(challenge: Challenge, expected: str) -> None:
    assert str(challenge) == expected
    assert parse_challenges([expected]) == [challenge]


def test_parse_challenges_many_are_cut_at_sixteen() -> None:
    assert len(parse_challenges([", ".join(["Basic realm=x"] * 40)] * 2)) == 16


LINES = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet='Bearer Basic ,="\\;\t\n/realm:', max_size=80),
        st.lists(
            st.sampled_from(['Basic realm="x"', "Bearer a=b", ",", '"', "=", "\\", " ", "x"])
        ).map("".join),
    ),
    max_size=4,
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(LINES)
def test_parse_challenges_anything_never_raises(lines: list[str]) -> None:
    found = parse_challenges(lines)
    assert len(found) <= 16
    assert all(challenge.scheme == challenge.scheme.lower() != "" for challenge in found)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), st.text(alphabet="abc,= "))
def test_parse_challenges_quoted_value_comes_back_whole(realm: str, scope: str) -> None:
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    found = parse_challenges([f'Bearer realm="{quoted}",scope="{scope}",Basic realm="z"'])
    assert found == [
        Challenge("bearer", {"realm": realm, "scope": scope}),
        Challenge("basic", {"realm": "z"}),
    ]


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (None, "scope=repository%3Aa%2Fb%3Apull"),
        ("", "scope=repository%3Aa%2Fb%3Apull"),
        ("r&x=y", "service=r%26x%3Dy&scope=repository%3Aa%2Fb%3Apull"),
    ],
)
def test_token_query_escapes_what_the_upstream_named(service: str | None, expected: str) -> None:
    assert token_query(service=service, scope="repository:a/b:pull") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"token": "t"}, Token("t", 60)),
        ({"access_token": "t"}, Token("t", 60)),
        ({"token": "t", "access_token": "u"}, Token("t", 60)),
        ({"token": "", "access_token": "u"}, Token("u", 60)),
        ({"token": "t", "expires_in": 300}, Token("t", 300)),
        ({"token": "t", "expires_in": 60}, Token("t", 60)),
        ({"token": "t", "expires_in": 59}, Token("t", 60)),
        ({"token": "t", "expires_in": -1}, Token("t", 60)),
        ({"token": "t", "expires_in": 3600}, Token("t", 3600)),
        ({"token": "t", "expires_in": 3601}, Token("t", 3600)),
        ({"token": "t", "expires_in": 10**30}, Token("t", 3600)),
        ({"token": "t", "expires_in": "300"}, Token("t", 60)),
        ({"token": "t", "expires_in": 300.5}, Token("t", 60)),
        ({"token": "t", "expires_in": True}, Token("t", 60)),
        ({"token": "t", "expires_in": None}, Token("t", 60)),
    ],
)
def test_parse_token_table(answer: dict[str, object], expected: Token) -> None:
    assert parse_token(json.dumps(answer).encode()) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"null",
        b'"t"',
        b"{}",
        b'{"token": 1}',
        b'{"token": ["t"]}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "\\u00e9"}',
        b'{"token": "\\ud800"}',
        b"[" * 60_000,
        b"1" * 60_000,
    ],
)
def test_parse_token_answer_without_a_usable_token_is_bad_upstream(body: bytes) -> None:
    with pytest.raises(BadUpstream, match="token service"):
        parse_token(body)


def test_parse_token_is_bounded() -> None:
    assert parse_token(b'{"token":"' + b"t" * TOKEN_LIMIT + b'"}').value == "t" * TOKEN_LIMIT
    with pytest.raises(BadUpstream, match=f"at most {TOKEN_LIMIT} bytes"):
        parse_token(b'{"token":"' + b"t" * (TOKEN_LIMIT + 1) + b'"}')


def test_B5_parse_token_message_holds_nothing_of_the_answer() -> None:
    with pytest.raises(BadUpstream) as caught:
        parse_token(b'{"token": "CANARY s3cr3t"}')
    assert "CANARY" not in caught.value.message
