"""Takes credentials out of text that a person may read: log lines, error messages.

The last line of defence: code does not put secrets into messages in the first place, but libraries
do (aiohttp logs the start of an over-long header).
"""

from __future__ import annotations

import re

MASK = "***"

_QUERY_KEYS = (
    r"token|access_token|refresh_token|sig|signature|x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|"
    r"_state|state|password|code|se|sv|sp|skoid|key|policy|key-pair-id|verify"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)(\b(?:bearer|basic)[ :]+)[^\s'\",]+"), rf"\1{MASK}"),
    (
        re.compile(
            r"(?i)(\b(?:proxy-)?authorization|x-registry-auth|(?:set-)?cookie)"
            r"(['\"]?\s*[:=,]\s*b?['\"]?)[^\r\n'\"]+"
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(rf"(?i)([?&](?:{_QUERY_KEYS})=)[^&\s'\"]*"), rf"\1{MASK}"),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@"), rf"\1{MASK}@"),
    (re.compile(r"\bhf_[A-Za-z0-9_-]+"), f"hf_{MASK}"),
)


def redact(text: str) -> str:
    """``text`` with credentials, signed query values and user info replaced by ``***``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
