"""Files of users and bcrypt hashes, as ``htpasswd -B`` writes them. Pure.

Only bcrypt is read: the format's other hashes are either fast to guess (MD5, SHA-1, crypt) or not
portable.
Source: Apache's "Password Formats"; the limits are those of ``htpasswd -C``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import bcrypt

# What bcrypt reads of a password, in bytes.
PASSWORD_BYTES = 72

# The last characters of salt and hash have unused bits, which are zero. A cost over 17 would keep
# every login waiting for longer than 10 s; htpasswd makes none.
_BCRYPT = re.compile(
    r"\$2[aby]\$(?:0[4-9]|1[0-7])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]"
)
_BCRYPT_START = re.compile(r"\$2[a-z]?\$")


def parse(text: str) -> Mapping[str, str]:
    """User names and their bcrypt hashes; blank lines and lines that begin with ``#`` are skipped.

    Raises:
        ValueError: a line that is no ``NAME:HASH``, another kind of hash, a name that stands twice,
            or no user at all. The text has the line's number and nothing of the line.
    """
    users: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, found = entry.partition(":")
        if not colon or not name or not name.isprintable():
            raise ValueError(f"line {number}: expected NAME:HASH, as `htpasswd -B` writes it")
        if not _BCRYPT.fullmatch(found):
            raise ValueError(f"line {number}: {_explain(found)}")
        if name in users:
            raise ValueError(
                f"line {number}: expected each name once, found the one of line {lines[name]} again"
            )
        users[name], lines[name] = found, number
    if not users:
        raise ValueError(
            "expected at least one line NAME:HASH, found none; add it by `htpasswd -B`"
        )
    return MappingProxyType(users)


def matches(hashed: str, password: bytes) -> bool:
    """Whether ``password`` is the one of ``hashed``, which ``parse`` let pass.

    Takes as long as the hash's cost says, without holding the interpreter's lock: from 2 ms
    at htpasswd's own cost of 5 to seconds at 17.
    """
    # bcrypt reads no more, bcrypt 5 raises; htpasswd cuts a longer password without a word, so who
    # has one typed all of it and must be let in.
    is_same = bcrypt.checkpw(password[:PASSWORD_BYTES], hashed.encode("ascii"))
    # bcrypt repeats the password behind a zero byte, so that b"a\0a" is b"a" to it.
    return is_same and b"\0" not in password


def _explain(found: str) -> str:
    if _BCRYPT_START.match(found):
        return "expected a whole bcrypt hash ($2y$…, cost 04 to 17), found none"
    return "expected a bcrypt hash ($2y$…), found another kind; make it anew by `htpasswd -B`"
