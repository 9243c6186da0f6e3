"""Conditional and range requests: what a header asks of a file."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytail.model import ByteRange
from pytail.web.conditional import Unsatisfiable, matches, span

quickly = settings(max_examples=300, deadline=None)

ETAG = '"abc"'


@pytest.mark.parametrize(
    "header",
    [
        '"abc"', 'W/"abc"', ' "abc" ', '"x", "abc"', '"x",W/"y",W/"abc"', '"abc" , "x"', "*", " * ",
        '"a,b", "abc"', '"", "abc"',
    ],
)  # fmt: skip
def test_an_etag_is_found_in_a_list_weakly_or_by_a_star(header: str):
    assert matches(header, ETAG)  # item 96


@pytest.mark.parametrize(
    "header", [None, "", "abc", '"abcd"', '"ABC"', 'W/"x"', '"x", "y"', "'abc'", '"*"', "**", ","]
)
def test_other_etags_do_not_match(header: str | None):
    assert not matches(header, ETAG)  # item 96


def test_an_etag_with_a_comma_is_one():
    assert matches('"x", "a,b"', '"a,b"')


@pytest.mark.parametrize(
    ("header", "part"),
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
def test_one_range_of_bytes_is_that_part(header: str, part: ByteRange):
    assert span(header, None, ETAG, 10) == part  # items 81, 82, 83


@pytest.mark.parametrize(
    "header", ["bytes=4-10", "bytes=4-99", f"bytes=4-{2**63}", "bytes=4-" + "9" * 30]
)
def test_a_range_that_ends_behind_the_end_ends_with_the_file(header: str):
    assert span(header, None, ETAG, 10) == ByteRange(4, 10, 10)  # item 82


@pytest.mark.parametrize("count", [11, 10_000, 2**64])
def test_the_last_bytes_of_a_shorter_file_are_all_of_it(count: int):
    assert span(f"bytes=-{count}", None, ETAG, 10) == ByteRange(0, 10, 10)  # item 83


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", f"bytes={2**64}-", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str):
    with pytest.raises(Unsatisfiable):
        span(header, None, ETAG, 10)  # item 84


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_file_has_no_part(header: str):
    with pytest.raises(Unsatisfiable):
        span(header, None, ETAG, 0)  # item 84


@pytest.mark.parametrize(
    "header", ["lines=0-1", "items=0-1", "byte=0-1", "=0-1", "0-1", "bytes 0-1"]
)
def test_another_unit_is_ignored(header: str):
    assert span(header, None, ETAG, 10) is None  # item 85


@pytest.mark.parametrize(
    "header",
    [
        None, "", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=5-4", "bytes=99-2", "bytes=x", "bytes=1-x",
        "bytes=--1", "bytes=1--2", "bytes=+1-2", "bytes=1.0-2", "bytes=0x1-2", "bytes=1_0-20",
        "bytes=\u0661-\u0662", "bytes=0-1=2", "bytes=" + "1" * 9999 + "-", "bytes=1 2-3",
    ],
)  # fmt: skip
def test_what_is_no_range_is_ignored(header: str | None):
    assert span(header, None, ETAG, 10) is None  # item 85


@pytest.mark.parametrize("header", ["bytes=0-0,-1", "bytes=0-1, 4-5", "bytes=0-1,", "bytes=,0-1"])
def test_several_ranges_are_answered_with_the_whole(header: str):
    assert span(header, None, ETAG, 10) is None  # item 86


@pytest.mark.parametrize("if_range", [None, ETAG, f" {ETAG} "])
def test_a_range_of_this_version_is_given(if_range: str | None):
    assert span("bytes=3-5", if_range, ETAG, 10) == ByteRange(3, 6, 10)  # item 87


@pytest.mark.parametrize(
    "if_range",
    ['"x"', f"W/{ETAG}", "abc", "", "*", f"{ETAG}, {ETAG}", "Wed, 01 May 2024 00:00:00 GMT"],
)
def test_a_range_of_another_version_is_answered_with_the_whole(if_range: str):
    assert span("bytes=3-5", if_range, ETAG, 10) is None  # item 87


def test_a_range_of_another_version_is_not_unsatisfiable_either():
    assert span("bytes=99-", '"x"', ETAG, 10) is None  # item 87


headers = (
    st.none() | st.text() | st.from_regex(r"bytes=[0-9]{0,25} ?- ?[0-9]{0,25}", fullmatch=True)
)


@quickly
@given(headers, st.none() | st.text() | st.just(ETAG), st.integers(0, 2**40))
@example("bytes=" + "9" * 5000 + "-", None, 10)
def test_every_part_lies_within_the_file(header: str | None, if_range: str | None, size: int):
    try:
        part = span(header, if_range, ETAG, size)
    except Unsatisfiable:
        return
    assert part is None or 0 <= part.start < part.stop <= size


@quickly
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20))
def test_a_range_is_what_slicing_gives(first: int, length: int, size: int):
    whole = bytes(range(size))
    wanted = whole[first : first + length + 1]
    try:
        part = span(f"bytes={first}-{first + length}", None, ETAG, size)
    except Unsatisfiable:
        assert not wanted
    else:
        assert part is not None
        assert whole[part.start : part.stop] == wanted  # item 81


@quickly
@given(st.none() | st.text() | st.text('"W/*, ab'))
def test_no_header_breaks_the_comparison(header: str | None):
    assert matches(header, ETAG) in (True, False)
