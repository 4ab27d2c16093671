from __future__ import annotations

import pytest

from proxy.redact import redact

CANARY = "CANARY-s3cr3t"


@pytest.mark.parametrize(
    "line",
    [
        # aiohttp's text about an over-long header, cut at 100 bytes, quotes and all.
        f"Got more than 8190 bytes when reading: b'Bearer {CANARY}aaaaaaaaaaaa'.",
        f"Got more than 8190 bytes when reading: b'{CANARY}'.",
        f"400, message: Got more than 65536 bytes when reading: b\"sid={CANARY}; it's",
        f"Authorization: Bearer {CANARY}",
        f"authorization: bearer {CANARY}",
        f"AUTHORIZATION: Basic {CANARY}",
        f'Authorization:Digest username="x", response="{CANARY}"',
        f"Proxy-Authorization: {CANARY}",
        f"X-Registry-Auth: {CANARY}",
        f"Authorization = {CANARY}",
        f"{{'Authorization': 'Bearer {CANARY}', 'Accept': '*/*'}}",
        f'{{"authorization": "{CANARY}"}}',
        f"(b'Authorization', b'Token {CANARY}')",
        f"<CIMultiDict('Authorization': \"it's {CANARY}\")>",
        f"{{'Authorization': 'a\\'{CANARY}'}}",
        f"Caller(authorization='Basic {CANARY}')",
        f"Bearer {CANARY}",
        f"bearer: {CANARY}",
        "Basic dXNlcjpDQU5BUlktczNjcjN0",
        f"sent 'Basic {CANARY}' twice",
        f'b"bearer {CANARY.lower()}"',
        f"Cookie: sid={CANARY}",
        f'Cookie: a="x"; sid={CANARY}',
        f"Set-Cookie: sid={CANARY}; Path=/; HttpOnly",
        f"{{'Set-Cookie': 'sid={CANARY}'}}",
        f"GET /v2/?token={CANARY} HTTP/1.1",
        f"https://r.example/t?service=x&access_token={CANARY}&scope=y",
        f"https://s.example/b?X-Amz-Signature={CANARY}",
        f"https://s.example/b?x-amz-security-token={CANARY}&X-Amz-Credential={CANARY}",
        f"https://s.example/b?X-Goog-Signature={CANARY}",
        f"https://s.example/b?sv=2020&se=2030&sig={CANARY}",
        f"https://s.example/b?AWSAccessKeyId={CANARY}&Signature={CANARY}",
        f"https://s.example/b?Key-Pair-Id=K&Policy={CANARY}&Signature={CANARY}",
        f"/v2/a/blobs/uploads/1?_state={CANARY}%3D%3D",
        f"https://a.example/cb?code={CANARY}&state={CANARY}",
        f"token={CANARY}&service=x",
        f"password={CANARY}",
        f"upload_token={CANARY}",
        f'{{"token": "{CANARY}", "expires_in": 60}}',
        f'{{"access_token":"{CANARY}"}}',
        f"https://user:{CANARY}@registry.example/v2/",
        f"HTTPS://{CANARY}@registry.example",
        f"http://user:p@{CANARY}@registry.example/",
        f"cannot connect to redis://:{CANARY}@host:6379/0",
        f"hf_{CANARY}",
        f"Bearer hf_{CANARY}",
    ],
)
def test_B5_redact_credential_leaves_the_line(line: str) -> None:
    found = redact(line)
    assert "***" in found
    for part in ("CANARY", "canary", "s3cr3t", "dXNlcjp"):
        assert part not in found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET /v2/?token=abc&n=1", "GET /v2/?token=***&n=1"),
        ("{'Authorization': 'Bearer x', 'Accept': 'y'}", "{'Authorization': ***, 'Accept': 'y'}"),
        ("see https://u:p@h.example/v2/ for more", "see https://***@h.example/v2/ for more"),
        ("token hf_abcDEF0123 refused", "token hf_*** refused"),
        ("Authorization: x\nAccept: y", "Authorization: ***\nAccept: y"),
    ],
)
def test_B5_redact_leaves_what_stands_beside_a_credential(line: str, expected: str) -> None:
    assert redact(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "request id=1 method=GET route=/v2/ status=200 origin=upstream sent=12 seconds=0.0012",
        "basic authentication failed",
        "the upstream wants basic or bearer authentication.",
        "Basic, then Bearer",
        'Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull"',
        'WWW-Authenticate: Basic realm="r", charset="UTF-8"',
        "expected the header 'authorization' once, found it twice",
        "expected hop-by-hop names in Connection, found 'authorization'",
        "authorization is relayed, cookies are not",
        "the token service did not answer in time",
        "state=running code=404 key=listen.port policy=relay",
        "GET https://registry.example:5000/v2/a/b/manifests/v1?n=10&last=x",
        "https://registry.example/v2/a?x=b@c",
        "mail to someone@registry.example",
        "a/b@sha256:0123456789abcdef",
        "signature of a model, its tokenizer.json, a password prompt",
        "half_open shelf_life",
        "ünïcode ✓",
    ],
)
def test_B5_redact_plain_words_stay(line: str) -> None:
    assert redact(line) == line


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "a.",
            "bearer ",
            "basic:",
            "x://",
            "authorization",
            "cookie'",
            "token=",
            '"token" ',
            "&a",
        ),
        *("Got more than 1 bytes", "hf_", "'bearer ", "a_", "\\'", "cookie='\\"),
    ],
)
def test_redact_long_hostile_text_ends_at_once(unit: str) -> None:
    # The test's own time limit is the assertion: a quadratic pattern takes minutes here.
    redact(unit * (512 * 1024 // len(unit)))
