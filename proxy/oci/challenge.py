"""``WWW-Authenticate`` challenges and the token exchange they ask for, as values.

No HTTP here: ``token_query`` says what to ask, ``parse_token`` reads the answer.
Source: RFC 9110 §11.2 to §11.6; distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from proxy.errors import BadUpstream

TOKEN_ANSWER_LIMIT = 64 * 1024
# Of a token that is kept; those of large clouds have some thousand bytes.
TOKEN_LIMIT = 16 * 1024
# What holds for a token without "expires_in", or with less: the specification's default.
TOKEN_SECONDS_DEFAULT = 60
TOKEN_SECONDS_LIMIT = 3600

_TOKEN68_OR_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(
    r"""\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))\s*"""
)
_CHALLENGE_LIMIT = 16
_QUOTED_PAIR, _ESCAPED = r'(["\\])', r"\\\1"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: the scheme in lower case, its parameters with names in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The challenge as a header writes it, every value quoted."""
        quoted = (
            f'{name}="{re.sub(_QUOTED_PAIR, _ESCAPED, value)}"'
            for name, value in self.parameters.items()
        )
        return f"{self.scheme.capitalize()} {','.join(quoted)}".rstrip()


@dataclass(frozen=True, slots=True)
class Token:
    """A Bearer token and the seconds it may be used for, at least 60, at most 3600."""

    value: str
    seconds: int


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """All challenges of all ``WWW-Authenticate`` lines, in order, at most 16.

    Commas separate both challenges and parameters; a quoted comma (``scope="a:pull,push"``)
    separates nothing. Junk ends the line it stands in and never raises.
    """
    found: list[Challenge] = []
    for line in headers:
        position = 0
        while position < len(line) and len(found) < _CHALLENGE_LIMIT:
            while position < len(line) and line[position] in ", \t":
                position += 1
            scheme = _TOKEN68_OR_NAME.match(line, position)
            if scheme is None:
                break
            parameters, position = _parse_parameters(line, scheme.end())
            found.append(Challenge(scheme[0].lower(), parameters))
    return found


def _parse_parameters(line: str, position: int) -> tuple[dict[str, str], int]:
    parameters: dict[str, str] = {}
    while position < len(line):
        match = _PARAMETER.match(line, position)
        if match is None:
            break
        quoted = match["quoted"]
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match["plain"]
        parameters.setdefault(match["name"].lower(), value)
        position = match.end()
        if position >= len(line) or line[position] != ",":
            break
        position += 1
    return parameters, position


def token_query(*, service: str | None, scope: str | None) -> str:
    """The query of the GET to the realm; without a scope the token only proves a login."""
    pairs = {"service": service, "scope": scope}
    return urlencode([(name, value) for name, value in pairs.items() if value])


def parse_token(body: bytes) -> Token:
    """The realm's answer: ``token`` or ``access_token``, ``expires_in`` seconds.

    Raises:
        BadUpstream: no JSON object, or no token a header may carry.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadUpstream("expected a JSON object from the token service, found none") from error
    if not isinstance(answer, dict):
        raise BadUpstream("expected a JSON object from the token service, found another value")
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise BadUpstream("expected a token in the token service's answer, found none")
    if len(value) > TOKEN_LIMIT:
        raise BadUpstream(f"expected a token of at most {TOKEN_LIMIT} bytes, found {len(value)}")
    seconds = answer.get("expires_in")
    if type(seconds) is not int or seconds < TOKEN_SECONDS_DEFAULT:
        seconds = TOKEN_SECONDS_DEFAULT
    return Token(value, min(seconds, TOKEN_SECONDS_LIMIT))
