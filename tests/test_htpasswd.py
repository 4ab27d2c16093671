from __future__ import annotations

import shutil
import subprocess

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.htpasswd import PASSWORD_BYTES, matches, parse

# Made by htpasswd 2.4 with -B -C 4: of b"alice", and of 80 digits.
ALICE = "$2y$04$6pLyf2CAwO3BbP63wsFJse4/fODMBX4CRT4JKA9zNC7pFgYJBHQg."
LONG = "$2y$04$Qd/fAGBNvmOSE5ruepSJduOqzalbWBpPpz3/ghhQUutKEua2vBFsC"
EIGHTY = b"1234567890" * 8


def _hash(password: bytes) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).decode("ascii")


def test_parse_users_comments_and_blank_lines() -> None:
    text = f"# people\r\n\r\nalice:{ALICE}\r\n   \n  # more\nü.b@c d:{LONG}"
    assert parse(text) == {"alice": ALICE, "ü.b@c d": LONG}


@pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
def test_parse_every_bcrypt_that_programs_write(kind: str) -> None:
    hashed = ALICE.replace("2y", kind, 1)
    assert parse(f"alice:{hashed}")["alice"] == hashed
    assert matches(hashed, b"alice")
    assert not matches(hashed, b"Alice")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("secretname", "line 2: expected NAME:HASH"),
        (f":{ALICE}", "line 2: expected NAME:HASH"),
        (ALICE, "line 2: expected NAME:HASH"),
        (f"secret\tname:{ALICE}", "line 2: expected NAME:HASH"),
        (f"\ufeffsecretname:{ALICE}", "line 2: expected NAME:HASH"),
        (f"secretname\u2028:{ALICE}", "line 2: expected NAME:HASH"),
        ("secretname:", "line 2: expected a bcrypt hash"),
        ("secretname:secretword", "line 2: expected a bcrypt hash"),
        ("secretname:$apr1$bfY3lW4H$R165kywnA5A9FqoS5NF420", "line 2: expected a bcrypt hash"),
        ("secretname:{SHA}UWuXg/ylF+7L0dBk2i0WUxCxl1k=", "line 2: expected a bcrypt hash"),
        ("secretname:Mqro7X4zyiKBI", "line 2: expected a bcrypt hash"),
        ("secretname:$6$abc$def", "line 2: expected a bcrypt hash"),
        (f"secretname:{ALICE[:-1]}", "line 2: expected a whole bcrypt hash"),
        (f"secretname:{ALICE}.", "line 2: expected a whole bcrypt hash"),
        (f"secretname:{ALICE}:comment", "line 2: expected a whole bcrypt hash"),
        (f"secretname:{ALICE[:-1]}1", "line 2: expected a whole bcrypt hash"),
        (f"secretname:{ALICE.replace('2y', '2x', 1)}", "line 2: expected a whole bcrypt hash"),
        (f"secretname:{ALICE.replace('$04', '$03')}", "line 2: expected a whole bcrypt hash"),
        (f"secretname:{ALICE.replace('$04', '$18')}", "line 2: expected a whole bcrypt hash"),
        (f"alice:{LONG}", "line 2: expected each name once, found the one of line 1 again"),
    ],
)
def test_B5_parse_fault_names_the_line_and_nothing_of_it(line: str, fault: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(f"alice:{ALICE}\n{line}\nbob:{ALICE}\n")
    text = str(raised.value)
    assert text.startswith(fault)
    assert not any(part in text for part in ("secret", "alice", "bob", ALICE[7:20]))


@pytest.mark.parametrize("found", ["$apr1$a$b", "{SHA}abc=", "plain", "abJnggxhB/yWI"])
def test_parse_other_hash_says_how_to_make_the_right_one(found: str) -> None:
    with pytest.raises(ValueError, match="htpasswd -B"):
        parse(f"alice:{found}")


@pytest.mark.parametrize("text", ["", "\n \n", "# nobody\n"])
def test_parse_file_without_users_is_a_fault(text: str) -> None:
    with pytest.raises(ValueError, match="at least one line"):
        parse(text)


@given(st.text())
def test_parse_any_text_gives_users_or_a_value_error(text: str) -> None:
    try:
        users = parse(text)
    except ValueError as error:
        assert "expected" in str(error)  # noqa: PT017  either outcome is right
    else:
        assert users


@pytest.mark.parametrize("password", [b"", b"a:b", "pä ß".encode(), b"\xff\xfe", b"x" * 72])
def test_matches_the_password_alone(password: bytes) -> None:
    hashed = _hash(password)
    assert matches(hashed, password)
    assert not matches(hashed, (password[:-1] or b"x") + b"\x01")


def test_matches_long_password_by_its_first_72_bytes_as_htpasswd_hashed_it() -> None:
    assert matches(LONG, EIGHTY)
    assert matches(LONG, EIGHTY[:PASSWORD_BYTES])
    assert not matches(LONG, EIGHTY[: PASSWORD_BYTES - 1])
    assert not matches(LONG, b"x" + EIGHTY[1:])


@pytest.mark.parametrize("password", [b"alice\0", b"alice\0alice", b"\0", b"alice" + b"\0" * 80])
def test_matches_no_password_with_a_zero_byte(password: bytes) -> None:
    assert not matches(ALICE, password)


@pytest.mark.skipif(shutil.which("htpasswd") is None, reason="apt-get install apache2-utils")
def test_matches_what_htpasswd_writes() -> None:
    command = ["htpasswd", "-niBC", "4", "ü"]
    made = subprocess.run(command, input="pä:ss".encode(), capture_output=True, check=True)
    users = parse(made.stdout.decode())
    assert matches(users["ü"], "pä:ss".encode())
    assert not matches(users["ü"], b"pass")
