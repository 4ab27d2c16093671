from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from proxy import logs


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """The root logger as it was: ``configure`` replaces its handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


logger = logging.getLogger("proxy.test")


def test_text_line_has_time_level_logger_message_and_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(style="text", level="info")
    logger.info("request done n=%d", 1, extra={"fields": {"status": 200, "reason": "a b", "x": ""}})
    line = capsys.readouterr().err
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO proxy\.test request done n=1 "
        r'status=200 reason="a b" x=""\n',
        line,
    )


def test_json_line_is_one_object_with_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style="json", level="info")
    fields = {"status": 200, "seconds": 0.5, "ok": True, "none": None, "place": ("a", "b")}
    logger.info("request done n=%d", 1, extra={"fields": fields})
    entry = json.loads(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "INFO",
        "logger": "proxy.test",
        "message": "request done n=1",
        **fields,
        "place": "('a', 'b')",
    }


@pytest.mark.parametrize("style", ["text", "json"])
def test_level_below_the_setting_is_silent(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure(style="json" if style == "json" else "text", level="warning")
    logger.info("quiet")
    logger.warning("loud")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "loud" in lines[0]


def test_configure_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style="text", level="info")
    logs.configure(style="json", level="info")
    logger.info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("style", ["text", "json"])
def test_B5_no_part_of_a_record_shows_a_credential(
    capsys: pytest.CaptureFixture[str], style: str
) -> None:
    logs.configure(style="json" if style == "json" else "text", level="debug")
    fields = {
        "reason": "Bearer CANARY-1",
        "url": "https://u:CANARY-2@h/?sig=CANARY-3",
        "headers": {"Authorization": "CANARY-4"},
        "pair": (b"Cookie", b"sid=CANARY-5"),
    }
    for name in ("aiohttp.server", "aiohttp.access", "asyncio", "proxy.access"):
        error = ValueError("Got more than 8190 bytes when reading: b'Bearer CANARY-6'.")
        logging.getLogger(name).error(
            "Authorization: CANARY-7", exc_info=error, extra={"fields": fields}
        )
    text = capsys.readouterr().err
    assert "CANARY" not in text
    assert "ValueError" in text


@pytest.mark.parametrize("style", ["text", "json"])
def test_H6_foreign_control_bytes_forge_no_second_line(
    capsys: pytest.CaptureFixture[str], style: str
) -> None:
    logs.configure(style="json" if style == "json" else "text", level="info")
    hostile = "a\n2026-01-01T00:00:00Z INFO proxy forged\r\x1b[2J\u2028\x85\udcff\x00"
    logger.info("name=%s", hostile, extra={"fields": {"reference": hostile}})
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        (200, "200"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('a"b', '"a\\"b"'),
        ("ä", '"\\u00e4"'),
        ("a\tb", '"a\\tb"'),
    ],
)
def test_text_value_that_could_be_read_as_two_is_quoted(
    capsys: pytest.CaptureFixture[str], value: object, shown: str
) -> None:
    logs.configure(style="text", level="info")
    logger.info("m", extra={"fields": {"k": value}})
    assert capsys.readouterr().err.endswith(f" m k={shown}\n")


def test_text_fields_stand_before_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(style="text", level="info")
    logger.error("failed", exc_info=ValueError("why"), extra={"fields": {"id": "1"}})
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith(" failed id=1")
    assert rest[-1] == "ValueError: why"


def test_json_fields_that_are_no_mapping_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    for style in ("text", "json"):
        logs.configure(style="json" if style == "json" else "text", level="info")
        logger.info("m", extra={"fields": "no mapping"})
        assert "no mapping" not in capsys.readouterr().err
