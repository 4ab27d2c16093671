from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.oci.byterange import (
    ByteRange,
    Decision,
    NotModified,
    Part,
    Unsatisfiable,
    Whole,
    decide,
    parse_content_range,
)

ETAG = '"sha256:ab"'


def _decide(
    header: str | None,
    *,
    size: int = 10,
    if_range: str | None = None,
    if_none_match: str | None = None,
) -> Decision:
    return decide(
        size=size,
        etag=ETAG,
        range_header=header,
        if_range=if_range,
        if_none_match=if_none_match,
    )


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, Whole()),
        ("bytes=0-0", 10, Part(ByteRange(0, 0))),
        ("bytes=0-", 10, Part(ByteRange(0, 9))),
        ("bytes=9-", 10, Part(ByteRange(9, 9))),
        ("bytes=2-5", 10, Part(ByteRange(2, 5))),
        ("Bytes=2-5", 10, Part(ByteRange(2, 5))),
        ("bytes= 2-5 ", 10, Part(ByteRange(2, 5))),
        ("bytes=2-100", 10, Part(ByteRange(2, 9))),
        ("bytes=2-9223372036854775807", 10, Part(ByteRange(2, 9))),
        ("bytes=-1", 10, Part(ByteRange(9, 9))),
        ("bytes=-10", 10, Part(ByteRange(0, 9))),
        ("bytes=-11", 10, Part(ByteRange(0, 9))),
        ("bytes=-0", 10, Unsatisfiable()),
        ("bytes=10-", 10, Unsatisfiable()),
        ("bytes=10-20", 10, Unsatisfiable()),
        ("bytes=0-", 0, Unsatisfiable()),
        ("bytes=0-0", 0, Unsatisfiable()),
        ("bytes=-5", 0, Unsatisfiable()),
        ("bytes=5-2", 10, Whole()),
        ("bytes=50-20", 10, Whole()),
        ("bytes=0-1,3-4", 10, Whole()),
        ("bytes=", 10, Whole()),
        ("bytes=-", 10, Whole()),
        ("bytes=a-b", 10, Whole()),
        ("bytes=\u0662-\u0665", 10, Whole()),
        ("bytes=--1", 10, Whole()),
        ("bytes=+1-2", 10, Whole()),
        ("bytes=1-2\n3", 10, Whole()),
        ("bytes=" + "1" * 20 + "-", 10, Whole()),
        ("items=0-1", 10, Whole()),
        ("0-1", 10, Whole()),
        ("", 10, Whole()),
    ],
)
def test_decide_range_table(header: str | None, size: int, expected: Decision) -> None:
    assert _decide(header, size=size) == expected


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (ETAG, Part(ByteRange(0, 0))),
        (f" {ETAG} ", Part(ByteRange(0, 0))),
        (f"W/{ETAG}", Whole()),
        ('"other"', Whole()),
        ("Wed, 21 Oct 2015 07:28:00 GMT", Whole()),
        ("", Whole()),
    ],
)
def test_decide_if_range_counts_for_the_same_strong_etag_only(
    if_range: str, expected: Decision
) -> None:
    assert _decide("bytes=0-0", if_range=if_range) == expected


@pytest.mark.parametrize(
    "header", [ETAG, f"W/{ETAG}", "*", " * ", f'"x", {ETAG}', f'W/"x",W/{ETAG} , "y"']
)
def test_decide_if_none_match_names_the_etag_is_not_modified(header: str) -> None:
    assert _decide("bytes=0-0", if_none_match=header) == NotModified()


@pytest.mark.parametrize("header", ["", '"x"', "sha256:ab", '"sha256:ab', '"*"', '"x sha256:ab"'])
def test_decide_if_none_match_names_another_goes_on_to_the_range(header: str) -> None:
    assert _decide("bytes=0-0", if_none_match=header) == Part(ByteRange(0, 0))


def test_byte_range_knows_its_length_headers_and_place() -> None:
    part = ByteRange(2, 5)
    assert part.length == 4
    assert part.to_header() == "bytes=2-5"
    assert part.content_range(10) == "bytes 2-5/10"
    assert part.shifted(512) == ByteRange(514, 517)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-9/10", (ByteRange(0, 9), 10)),
        (" bytes 2-5/10 ", (ByteRange(2, 5), 10)),
        ("bytes 2-5/*", (ByteRange(2, 5), None)),
        ("Bytes 2-5/10", (ByteRange(2, 5), 10)),
        ("bytes */10", None),
        ("bytes 5-2/10", None),
        ("bytes 2-10/10", None),
        ("bytes 2-5", None),
        ("bytes 2-5/x", None),
        ("items 2-5/10", None),
        ("bytes \u0662-\u0665/10", None),
        ("2-5", None),
        ("", None),
    ],
)
def test_parse_content_range_table(
    value: str, expected: tuple[ByteRange, int | None] | None
) -> None:
    assert parse_content_range(value) == expected


NUMBERS = st.integers(min_value=0, max_value=2**64).map(str) | st.sampled_from(["", "-1", "x"])
HEADERS = st.one_of(
    st.none(),
    st.builds(lambda a, b: f"bytes={a}-{b}", NUMBERS, NUMBERS),
    st.text(max_size=30).map(lambda text: f"bytes={text}"),
    st.text(max_size=30),
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    header=HEADERS,
    size=st.integers(min_value=0, max_value=2**63) | st.integers(min_value=0, max_value=20),
    if_range=st.none() | st.just(ETAG) | st.text(max_size=10),
    if_none_match=st.none() | st.text(max_size=10),
)
def test_decide_part_lies_inside_the_whole(
    header: str | None, size: int, if_range: str | None, if_none_match: str | None
) -> None:
    decision = _decide(header, size=size, if_range=if_range, if_none_match=if_none_match)
    if isinstance(decision, Part):
        assert 0 <= decision.range.first <= decision.range.last < size
