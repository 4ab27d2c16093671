from __future__ import annotations

import hashlib

import pytest

from proxy.errors import DigestInvalid
from proxy.oci.digest import Digest, Hasher, is_unregistered

HEX = "ab" * 32


@pytest.mark.parametrize("text", [f"sha256:{HEX}", f"sha512:{HEX}{HEX}"])
def test_parse_registered_algorithm_is_written_back_unchanged(text: str) -> None:
    assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        HEX,
        "sha256:",
        "sha256:../../etc/passwd",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[1:]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f"sha256:{HEX[:-1]}\n",
        f"sha256%3A{HEX}",
        f" sha256:{HEX}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}",
        f"md5:{HEX[:32]}",
        f"sha256:{chr(0x663) * 64}",
        f"sha256:{HEX[:-2]}/.",
        f"sha256:sha256:{HEX}",
    ],
)
def test_E2_parse_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid, match="expected sha256"):
        Digest.parse(text)


def test_E2_parse_long_text_is_quoted_short() -> None:
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse("sha256:" + "z" * 100_000)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sha384:{HEX}", True),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", True),
        ("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8", True),
        ("a:b", True),
        (f"sha256:{HEX}", False),
        ("sha256:short", False),
        ("sha512:short", False),
        ("SHA384:abc", False),
        ("sha384:", False),
        ("sha384:a/b", False),
        ("sha384:abc\n", False),
        ("sha384", False),
    ],
)
def test_is_unregistered_only_for_the_general_grammar(text: str, expected: bool) -> None:
    assert is_unregistered(text) is expected


def test_of_content_hashes_with_the_named_algorithm() -> None:
    assert str(Digest.of(b"x")) == "sha256:" + hashlib.sha256(b"x").hexdigest()
    assert str(Digest.of(b"x", "sha512")) == "sha512:" + hashlib.sha512(b"x").hexdigest()


def test_short_is_twelve_hex_digits() -> None:
    assert Digest.parse(f"sha256:{HEX}").short == "abababababab"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_hasher_right_bytes_in_pieces_match(algorithm: str) -> None:
    expected = Digest.of(b"one two", algorithm)
    hasher = Hasher(algorithm)
    hasher.update(b"one ")
    assert hasher.digest() != expected
    hasher.update(b"two")
    assert hasher.digest() == expected


def test_hasher_wrong_byte_does_not_match() -> None:
    hasher = Hasher()
    hasher.update(b"onf")
    assert hasher.digest() != Digest.of(b"one")


def test_hasher_copy_goes_on_apart_from_the_original() -> None:
    hasher = Hasher("sha512")
    hasher.update(b"one")
    copy = hasher.copy()
    hasher.update(b" two")
    assert copy.digest() == Digest.of(b"one", "sha512")
    copy.update(b" three")
    assert copy.digest() == Digest.of(b"one three", "sha512")
    assert hasher.digest() == Digest.of(b"one two", "sha512")
