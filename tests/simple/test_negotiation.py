"""Which form and which coding of a page a client gets."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytail.errors import NotAcceptable
from pytail.simple.negotiation import Coding, Form, coding_for, form_for

quickly = settings(max_examples=300, deadline=None)

JSON = "application/vnd.pypi.simple.v1+json"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
LATEST_JSON = "application/vnd.pypi.simple.latest+json"
LATEST_HTML = "application/vnd.pypi.simple.latest+html"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

CLIENTS = {
    "pip": f"{JSON}, {HTML_V1}; q=0.1, text/html; q=0.01",
    "uv": f"{JSON}, {HTML_V1};q=0.2, text/html;q=0.01",
    "poetry": f"{JSON}, */*;q=0.1",
    "pdm": f"{JSON}, {HTML_V1}; q=0.1, text/html; q=0.01",
    "renovate": f"{JSON}, {HTML_V1};q=0.1, text/html;q=0.01",
    "without spaces": f"{JSON},{HTML_V1};q=0.1,text/html;q=0.01",
    "with more spaces": f"{JSON} , {HTML_V1} ; q = 0.1 ,text/html ;q= 0.01",
}
OLD_CLIENTS = {
    "pip before 22.2": "text/html",
    "pipenv, which parses HTML": "*/*",
    "dependabot": "text/html",
    "a browser": BROWSER,
    "none": None,
    "empty": "",
}


@pytest.mark.parametrize("accept", CLIENTS.values(), ids=CLIENTS)
def test_installers_get_json(accept: str):
    assert form_for(accept) is Form.JSON  # item 40


@pytest.mark.parametrize("accept", OLD_CLIENTS.values(), ids=OLD_CLIENTS)
def test_others_get_html(accept: str | None):
    assert form_for(accept) is Form.HTML  # items 38, 43


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (JSON, Form.JSON),
        (HTML_V1, Form.HTML_V1),
        ("text/html", Form.HTML),
        (JSON.upper(), Form.JSON),
        ("Text/HTML; charset=utf-8", Form.HTML),
        (LATEST_JSON, Form.JSON),
        (LATEST_HTML, Form.HTML_V1),
    ],
)
def test_a_form_is_given_by_name(accept: str, form: Form):
    assert form_for(accept) is form  # items 39, 42
    assert form_for("application/xml", accept.partition(";")[0]) is form  # item 46


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (f"{JSON}, {HTML_V1}, text/html", Form.JSON),
        (f"text/html, {HTML_V1}, {JSON}", Form.JSON),
        (f"text/html, {HTML_V1}", Form.HTML_V1),
        (f"{HTML_V1}, {JSON};q=0.5", Form.HTML_V1),
        (f"{JSON};q=0.5, text/html;q=0.6", Form.HTML),
        (f"{JSON} ; q = 0.5 , text/html ; q = 0.6", Form.HTML),
        (f"{JSON};q=0.001, text/html;q=0", Form.JSON),
        (f"{JSON};q=0, text/html", Form.HTML),
        (f"{JSON};q=0, */*", Form.HTML),
        ("text/html;q=0, */*", Form.HTML_V1),
        ("text/*;q=0, */*", Form.HTML_V1),
        (f"*/*, {JSON}", Form.JSON),
        (f"*/*;q=0.9, {JSON};q=0.1", Form.HTML),
        (f"*/*;q=0, {JSON}", Form.JSON),
        ("text/*", Form.HTML),
        ("text/*;q=0.5, application/*;q=0.6", Form.JSON),
        ("application/*", Form.JSON),
        (f"application/*, {HTML_V1}", Form.HTML_V1),
        (f"application/xml, {HTML_V1};q=0.1", Form.HTML_V1),
        (f"{JSON};q=0.5, {JSON};q=0.9, text/html;q=0.7", Form.JSON),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", Form.HTML),
    ],
)
def test_the_best_of_several_is_given(accept: str, form: Form):
    assert form_for(accept) is form  # items 41, 43


@pytest.mark.parametrize(
    "accept",
    [
        "application/xml", "application/json", "application/vnd.pypi.simple.v2+json", "image/*",
        "text/html;q=0", "*/*;q=0", f"{JSON};q=0, text/html;q=0.000", "application/xml, image/png",
        "nonsense", "*", "text/plain", "text /html",
    ],
)  # fmt: skip
def test_a_client_that_takes_nothing_offered_gets_nothing(accept: str):
    with pytest.raises(NotAcceptable) as caught:
        form_for(accept)
    assert caught.value.wanted == accept  # item 44


@pytest.mark.parametrize(
    "accept", [";q=x", ",", " , ,", ";", ";;q=1", "application/xml;q=x", "text/html;q=2", " "]
)
def test_a_wholly_malformed_header_is_as_good_as_none(accept: str):
    assert form_for(accept) is Form.HTML  # item 45


@pytest.mark.parametrize(
    "quality", ["x", "-1", "2", "1.5", "nan", "inf", "1e0", "0.1234", "\u0661"]
)
def test_a_member_with_a_weight_that_is_none_does_not_count(quality: str):
    assert form_for(f"{JSON};q={quality}, {HTML_V1};q=0.1") is Form.HTML_V1  # item 45


def test_a_header_is_read_up_to_a_length():
    assert form_for(f"{JSON}, " + "application/x, " * 100_000) is Form.JSON  # item 45


@pytest.mark.parametrize("wanted", [JSON, JSON.replace("+", " "), f" {JSON.upper()} ", LATEST_JSON])
def test_a_wanted_format_goes_before_the_header(wanted: str):
    assert form_for("text/html", wanted) is Form.JSON  # item 46


@pytest.mark.parametrize("wanted", ["json", "application/json", "*/*", "text/*", "\0", "x" * 9999])
def test_an_unknown_format_is_not_acceptable(wanted: str):
    with pytest.raises(NotAcceptable):
        form_for(JSON, wanted)  # item 46


@pytest.mark.parametrize("wanted", [None, ""])
def test_no_wanted_format_leaves_it_to_the_header(wanted: str | None):
    assert form_for(JSON, wanted) is Form.JSON


def test_content_types_are_spelled_as_clients_compare_them():
    assert Form.JSON.value == JSON  # item 21
    assert Form.HTML_V1.value == f"{HTML_V1}; charset=utf-8"  # item 19
    assert Form.HTML.value == "text/html; charset=utf-8"


@pytest.mark.parametrize("form", Form)
def test_a_form_is_html_if_its_media_type_says_so(form: Form):
    assert form.is_html is form.media_type.endswith("html")
    assert ";" not in form.media_type


@pytest.mark.parametrize(
    "header",
    [
        "gzip", "gzip, deflate", "gzip, zstd;q=0.9", "GZIP", "x-gzip", "*", "*, zstd;q=0",
        "gzip;q=0.5", "gzip;q=1.0, identity; q=0.5, *;q=0", "br, *;q=0.1", "deflate, gzip;q=0.001",
    ],
)  # fmt: skip
def test_gzip_is_given_where_it_is_welcome(header: str):
    assert coding_for(header) is Coding.GZIP  # item 102


@pytest.mark.parametrize(
    "header", ["zstd", "gzip, deflate, zstd", "zstd,gzip,deflate", "br, zstd", "*;q=0.5, zstd"]
)
def test_zstd_is_given_where_it_is_as_welcome_as_any(header: str):
    assert coding_for(header) is Coding.ZSTD  # item 102


@pytest.mark.parametrize(
    "header",
    [
        None, "", "identity", "Identity", "gzip;q=0", "gzip;q=0, *", "*;q=0", "br", "deflate",
        "identity, gzip;q=0.5", "gzip;q=x", ";q=1", "identity;q=0", "gzipped",
    ],
)  # fmt: skip
def test_elsewhere_a_page_is_given_plain(header: str | None):
    assert coding_for(header) is Coding.IDENTITY  # item 102


ranges = st.lists(
    st.sampled_from(
        [
            JSON, HTML_V1, LATEST_JSON, "text/html", "text/*", "application/*", "*/*", "*", "gzip", "/",
            ";", ",", "q=", ";q=0", ";q=0.5", ";q=1", ";Q=.5", "=", " ", "\t", '"', "identity",
        ]
    )
    | st.text(max_size=3)
).map("".join)  # fmt: skip


@quickly
@given(st.none() | st.text() | ranges, st.none() | st.text() | ranges)
@example("\u0130;q=\u0661", None)
def test_no_header_does_worse_than_not_acceptable(accept: str | None, wanted: str | None):
    try:
        form = form_for(accept, wanted)
    except NotAcceptable as error:
        assert str(error)  # noqa: PT017
    else:
        assert form in Form  # item 45


@quickly
@given(st.text() | ranges)
def test_no_header_breaks_the_choice_of_a_coding(header: str):
    assert coding_for(header) in Coding


@quickly
@given(st.permutations([f"{JSON};q=0.3", f"{HTML_V1};q=0.2", "text/html;q=0.1", "*/*;q=0.9"]))
def test_the_order_of_a_header_says_nothing(members: list[str]):
    assert form_for(",".join(members)) is Form.JSON
