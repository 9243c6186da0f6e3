"""Conditional requests and range requests."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytail.model import ByteRange
from pytail.web.conditional import RangeNotSatisfiable, etag_matches, requested_range

quickly = settings(max_examples=300, deadline=None)

ETAG = '"abc"'


@pytest.mark.parametrize(
    "header",
    [
        '"abc"', 'W/"abc"', ' "abc" ', '"x", "abc"', '"x",W/"y",W/"abc"', '"abc" , "x"', "*", " * ",
        '"a,b", "abc"', '"", "abc"',
    ],
)  # fmt: skip
def test_an_etag_matches_in_a_list_weak_or_by_a_star(header: str):
    assert etag_matches(header, ETAG)  # item 96


@pytest.mark.parametrize(
    "header", [None, "", "abc", '"abcd"', '"ABC"', 'W/"x"', '"x", "y"', "'abc'", '"*"', "**", ","]
)
def test_other_etags_do_not_match(header: str | None):
    assert not etag_matches(header, ETAG)  # item 96


def test_an_etag_may_have_a_comma():
    assert etag_matches('"x", "a,b"', '"a,b"')


@pytest.mark.parametrize(
    ("header", "range_"),
    [
        ("bytes=0-0", ByteRange(0, 1, 10)),
        ("bytes=0-9", ByteRange(0, 10, 10)),
        ("bytes=3-5", ByteRange(3, 6, 10)),
        ("bytes=9-9", ByteRange(9, 10, 10)),
        ("bytes=0-", ByteRange(0, 10, 10)),
        ("bytes=9-", ByteRange(9, 10, 10)),
        ("bytes=-1", ByteRange(9, 10, 10)),
        ("bytes=-10", ByteRange(0, 10, 10)),
        ("Bytes = 3 - 5 ", ByteRange(3, 6, 10)),
        ("bytes=003-005", ByteRange(3, 6, 10)),
    ],
)
def test_one_byte_range_is_parsed(header: str, range_: ByteRange):
    assert requested_range(header, None, ETAG, 10) == range_  # items 81, 82, 83


@pytest.mark.parametrize(
    "header", ["bytes=4-10", "bytes=4-99", f"bytes=4-{2**63}", "bytes=4-" + "9" * 30]
)
def test_a_range_beyond_the_end_stops_at_the_end(header: str):
    assert requested_range(header, None, ETAG, 10) == ByteRange(4, 10, 10)  # item 82


@pytest.mark.parametrize("count", [11, 10_000, 2**64])
def test_a_suffix_longer_than_the_file_is_the_whole_file(count: int):
    assert requested_range(f"bytes=-{count}", None, ETAG, 10) == ByteRange(0, 10, 10)  # item 83


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", f"bytes={2**64}-", "bytes=-0"])
def test_a_range_that_begins_after_the_end_is_not_satisfiable(header: str):
    with pytest.raises(RangeNotSatisfiable):
        requested_range(header, None, ETAG, 10)  # item 84


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_no_range_of_an_empty_file_is_satisfiable(header: str):
    with pytest.raises(RangeNotSatisfiable):
        requested_range(header, None, ETAG, 0)  # item 84


@pytest.mark.parametrize(
    "header", ["lines=0-1", "items=0-1", "byte=0-1", "=0-1", "0-1", "bytes 0-1"]
)
def test_another_unit_is_ignored(header: str):
    assert requested_range(header, None, ETAG, 10) is None  # item 85


@pytest.mark.parametrize(
    "header",
    [
        None, "", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=5-4", "bytes=99-2", "bytes=x", "bytes=1-x",
        "bytes=--1", "bytes=1--2", "bytes=+1-2", "bytes=1.0-2", "bytes=0x1-2", "bytes=1_0-20",
        "bytes=\u0661-\u0662", "bytes=0-1=2", "bytes=" + "1" * 9999 + "-", "bytes=1 2-3",
    ],
)  # fmt: skip
def test_an_invalid_range_is_ignored(header: str | None):
    assert requested_range(header, None, ETAG, 10) is None  # item 85


@pytest.mark.parametrize("header", ["bytes=0-0,-1", "bytes=0-1, 4-5", "bytes=0-1,", "bytes=,0-1"])
def test_several_ranges_are_ignored(header: str):
    assert requested_range(header, None, ETAG, 10) is None  # item 86


@pytest.mark.parametrize("if_range", [None, ETAG, f" {ETAG} "])
def test_a_range_with_a_matching_if_range_counts(if_range: str | None):
    assert requested_range("bytes=3-5", if_range, ETAG, 10) == ByteRange(3, 6, 10)  # item 87


@pytest.mark.parametrize(
    "if_range",
    ['"x"', f"W/{ETAG}", "abc", "", "*", f"{ETAG}, {ETAG}", "Wed, 01 May 2024 00:00:00 GMT"],
)
def test_a_range_with_another_if_range_is_ignored(if_range: str):
    assert requested_range("bytes=3-5", if_range, ETAG, 10) is None  # item 87


def test_an_unsatisfiable_range_with_another_if_range_is_ignored():
    assert requested_range("bytes=99-", '"x"', ETAG, 10) is None  # item 87


headers = (
    st.none() | st.text() | st.from_regex(r"bytes=[0-9]{0,25} ?- ?[0-9]{0,25}", fullmatch=True)
)


@quickly
@given(headers, st.none() | st.text() | st.just(ETAG), st.integers(0, 2**40))
@example("bytes=" + "9" * 5000 + "-", None, 10)
def test_every_range_is_within_the_file(header: str | None, if_range: str | None, size: int):
    try:
        range_ = requested_range(header, if_range, ETAG, size)
    except RangeNotSatisfiable:
        return
    assert range_ is None or 0 <= range_.start < range_.stop <= size


@quickly
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20))
def test_a_range_selects_the_same_bytes_as_a_slice(first: int, length: int, size: int):
    whole = bytes(range(size))
    selected = whole[first : first + length + 1]
    try:
        range_ = requested_range(f"bytes={first}-{first + length}", None, ETAG, size)
    except RangeNotSatisfiable:
        assert not selected
    else:
        assert range_ is not None
        assert whole[range_.start : range_.stop] == selected  # item 81


@quickly
@given(st.none() | st.text() | st.text('"W/*, ab'))
def test_no_if_none_match_header_raises(header: str | None):
    assert etag_matches(header, ETAG) in (True, False)
