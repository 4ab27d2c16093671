"""Takes credentials out of text that a person may read: log lines, error messages.

The last line of defence: code does not put secrets into messages in the first place, but libraries
do (aiohttp logs the start of an over-long header). Every pattern takes linear time: the text may
be a stranger's.
"""

from __future__ import annotations

import re

MASK = "***"

# Words that also mean something harmless count only in a query, behind "?" or "&".
_HIDDEN_KEYS = (
    r"(?:[a-z]{1,20}_)?token|sig|signature|password|x-amz-(?:signature|credential|security-"
    r"token)|x-goog-(?:signature|credential)|awsaccesskeyid"
)
_HIDDEN_HEADERS = r"authorization|x-registry-auth|cookie"
_QUERY_KEYS = (
    rf"{_HIDDEN_KEYS}|x-amz-[a-z-]+|x-goog-[a-z-]+|_state|state|code|se|sv|sp|skoid|key|policy|"
    r"key-pair-id|verify"
)
# A parameter of a challenge, which is no secret, or one plain word: "basic authentication".
_NO_CREDENTIAL = (
    r"(?:realm|service|scope|charset|error|error_description)\s*=|[a-z]{1,16}[.,;:!?)]*(?:\s|$)"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # aiohttp, of a header or request line over its limit.
    (re.compile(r"(Got more than \d+ bytes[^\r\n:]{0,60}: ?)[^\r\n]+"), rf"\1{MASK}"),
    # A header in JSON or in a repr, up to the closing quote.
    (
        re.compile(
            rf"""((?i:{_HIDDEN_HEADERS})['"]\s*[:=,]\s*)"""
            r"""b?(?:'(?:[^'\\\r\n]|\\.)*'?|"(?:[^"\\\r\n]|\\.)*"?)"""
        ),
        rf"\1{MASK}",
    ),
    # A header as it is sent, up to the end of the line.
    (re.compile(rf"((?i:{_HIDDEN_HEADERS})\s*[:=]\s*)[^\r\n]+"), rf"\1{MASK}"),
    # In quotes it is a header's value, whatever it looks like.
    (
        re.compile(rf"(['\"](?i:bearer|basic)[ :]+)(?!(?i:{_NO_CREDENTIAL}))[^\s'\",]+"),
        rf"\1{MASK}",
    ),
    (re.compile(rf"(\b(?i:bearer|basic)[ :]+)(?!{_NO_CREDENTIAL})[^\s'\",]+"), rf"\1{MASK}"),
    (re.compile(rf"((?i:[?&](?:{_QUERY_KEYS})|\b(?:{_HIDDEN_KEYS}))=)[^&\s'\"]+"), rf"\1{MASK}"),
    (
        re.compile(r"(['\"](?i:(?:[a-z]{1,20}_)?token|password)['\"]\s*:\s*['\"])[^'\"]+"),
        rf"\1{MASK}",
    ),
    (re.compile(r"(\b(?i:[a-z][a-z0-9+.-]{0,19})://)[^/?#\s'\"]{1,1024}@"), rf"\1{MASK}@"),
    (re.compile(r"\bhf_[A-Za-z0-9_-]+"), f"hf_{MASK}"),
)


def redact(text: str) -> str:
    """``text`` with credentials, signed query values and user info replaced by ``***``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
