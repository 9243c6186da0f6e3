"""Content negotiation: the form and the content coding of a page."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytail.errors import NotAcceptable
from pytail.simple.negotiation import _MAX_CACHED, Coding, Form, _cached_form, coding_for, form_for

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
def test_old_clients_and_browsers_get_html(accept: str | None):
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
def test_a_media_type_names_its_form(accept: str, form: Form):
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
def test_the_form_with_the_highest_weight_is_chosen(accept: str, form: Form):
    assert form_for(accept) is form  # items 41, 43


@pytest.mark.parametrize(
    "accept",
    [
        "application/xml", "application/json", "application/vnd.pypi.simple.v2+json", "image/*",
        "text/html;q=0", "*/*;q=0", f"{JSON};q=0, text/html;q=0.000", "application/xml, image/png",
        "nonsense", "*", "text/plain", "text /html",
    ],
)  # fmt: skip
def test_a_client_that_accepts_no_form_is_an_error(accept: str):
    with pytest.raises(NotAcceptable) as caught:
        form_for(accept)
    assert caught.value.wanted == accept  # item 44


@pytest.mark.parametrize(
    "accept", [";q=x", ",", " , ,", ";", ";;q=1", "application/xml;q=x", "text/html;q=2", " "]
)
def test_a_header_without_a_valid_member_accepts_every_form(accept: str):
    assert form_for(accept) is Form.HTML  # item 45


@pytest.mark.parametrize(
    "quality", ["x", "-1", "2", "1.5", "nan", "inf", "1e0", "0.1234", "\u0661"]
)
def test_a_member_with_an_invalid_weight_is_ignored(quality: str):
    assert form_for(f"{JSON};q={quality}, {HTML_V1};q=0.1") is Form.HTML_V1  # item 45


def test_a_header_is_read_up_to_a_maximum_length():
    assert form_for(f"{JSON}, " + "application/x, " * 100_000) is Form.JSON  # item 45


@pytest.mark.parametrize(
    "format_", [JSON, JSON.replace("+", " "), f" {JSON.upper()} ", LATEST_JSON]
)
def test_the_format_parameter_overrides_the_header(format_: str):
    assert form_for("text/html", format_) is Form.JSON  # item 46


@pytest.mark.parametrize("format_", ["json", "application/json", "*/*", "text/*", "\0", "x" * 9999])
def test_an_unknown_format_is_not_acceptable(format_: str):
    with pytest.raises(NotAcceptable):
        form_for(JSON, format_)  # item 46


@pytest.mark.parametrize("format_", [None, ""])
def test_without_a_format_parameter_the_header_counts(format_: str | None):
    assert form_for(JSON, format_) is Form.JSON


def test_content_types_have_the_spelling_that_clients_compare():
    assert Form.JSON.value == JSON  # item 21
    assert Form.HTML_V1.value == f"{HTML_V1}; charset=utf-8"  # item 19
    assert Form.HTML.value == "text/html; charset=utf-8"


@pytest.mark.parametrize("form", Form)
def test_a_form_is_html_where_its_media_type_is_html(form: Form):
    assert form.is_html is form.media_type.endswith("html")
    assert ";" not in form.media_type


@pytest.mark.parametrize(
    "header",
    [
        "gzip", "gzip, deflate", "gzip, zstd;q=0.9", "GZIP", "x-gzip", "*", "*, zstd;q=0",
        "gzip;q=0.5", "gzip;q=1.0, identity; q=0.5, *;q=0", "br, *;q=0.1", "deflate, gzip;q=0.001",
    ],
)  # fmt: skip
def test_gzip_is_chosen_where_it_has_the_highest_weight(header: str):
    assert coding_for(header) is Coding.GZIP  # item 102


@pytest.mark.parametrize(
    "header", ["zstd", "gzip, deflate, zstd", "zstd,gzip,deflate", "br, zstd", "*;q=0.5, zstd"]
)
def test_zstd_is_chosen_among_codings_of_equal_weight(header: str):
    assert coding_for(header) is Coding.ZSTD  # item 102


@pytest.mark.parametrize(
    "header",
    [
        None, "", "identity", "Identity", "gzip;q=0", "gzip;q=0, *", "*;q=0", "br", "deflate",
        "identity, gzip;q=0.5", "gzip;q=x", ";q=1", "identity;q=0", "gzipped",
    ],
)  # fmt: skip
def test_identity_is_chosen_where_no_other_coding_is_accepted(header: str | None):
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
def test_any_header_gives_a_form_or_not_acceptable(accept: str | None, format_: str | None):
    try:
        form = form_for(accept, format_)
    except NotAcceptable as error:
        assert str(error)  # noqa: PT017
    else:
        assert form in Form  # item 45


@quickly
@given(st.text() | ranges)
def test_any_header_gives_a_coding(header: str):
    assert coding_for(header) in Coding


@quickly
@given(st.permutations([f"{JSON};q=0.3", f"{HTML_V1};q=0.2", "text/html;q=0.1", "*/*;q=0.9"]))
def test_the_order_of_the_members_does_not_matter(members: list[str]):
    assert form_for(",".join(members)) is Form.JSON


def test_the_result_for_a_repeated_header_is_cached():
    before = _cached_form.cache_info()
    header = f"{JSON}, x/repeated"
    assert {form_for(header) for _ in range(3)} == {Form.JSON}
    after = _cached_form.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (2, 1)


def test_the_result_for_a_long_header_is_not_cached():
    before = _cached_form.cache_info()
    assert form_for(f"{JSON}, {'x' * _MAX_CACHED}") is Form.JSON
    assert coding_for(f"gzip, {'x' * _MAX_CACHED}") is Coding.GZIP
    assert _cached_form.cache_info() == before
