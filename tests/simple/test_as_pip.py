"""Pages are read as pip reads them: both are given the same bytes.

Left out is what pytail reads in another way on purpose: ``data-yanked`` without a value (yanked, as the
standard says), spaces around a URL, links that end in a slash, and what pip itself reads in another way
from one Python to the next, such as ``<textarea>``.
"""

from __future__ import annotations

import json as stdlib
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pip._internal.index.collector import IndexContent, parse_links
from pip._internal.models.link import Link

from pytail.errors import PageUnreadable
from pytail.model import File
from pytail.simple import html, json, names
from tests.support.fakeindex import HTML, JSON

quickly = settings(max_examples=500, deadline=None)

URL = "https://index.example.org/simple/foo/"
SHA256, OTHER = "ab" * 32, "cd" * 32

#: What a client uses: URL without fragment, sha256, requires-python, whether it is yanked and why.
Seen: TypeAlias = "tuple[str, str | None, str | None, str | bool]"


def by_pip(body: bytes, kind: str) -> list[Seen]:
    """Return the distributions of "foo" that pip finds in `body`."""
    content = IndexContent(body, kind, None, URL, cache_link_parsing=False)
    return [_of_link(link) for link in parse_links(content) if _is_ours(link.filename)]


def by_pytail(body: bytes, kind: str) -> list[Seen]:
    """Return the files that pytail finds in `body`."""
    try:
        page = json.parse(body, URL, "foo") if kind == JSON else html.parse(body, URL, "foo")
    except PageUnreadable:
        return []
    return list(map(_of_file, page.files))


def _is_ours(filename: str) -> bool:
    return names.is_distribution(filename) and names.is_of_project(filename, "foo")


def _of_link(link: Link) -> Seen:
    sha256 = link.hash if link.hash_name == "sha256" else None
    yanked = False if link.yanked_reason is None else link.yanked_reason.strip() or True
    url = link.url_without_fragment.replace("%2B", "+")
    return url, sha256, (link.requires_python or "").strip() or None, yanked


def _of_file(file: File) -> Seen:
    wanted = (file.requires_python or "").strip() or None
    yanked = file.yanked.strip() if isinstance(file.yanked, str) else file.yanked
    return file.url.replace("%2B", "+"), file.hashes.get("sha256"), wanted, yanked


def link(number: int, more: str = "") -> str:
    return f'<a href="f/foo-{number}.0.zip#sha256={number:064x}"{more}>foo-{number}.0.zip</a>'


FIRST, SECOND, THIRD = map(link, (1, 2, 3))


@pytest.mark.parametrize(
    "markup",
    [
        f"<!DOCTYPE html><html><body>{FIRST}{SECOND}",
        f"<html><body>{FIRST}</body></html>{SECOND}\n<!--TIMESTAMP 1764230414-->\n",
        f"<html><head>{FIRST}</head><body>{SECOND}</body></html>{THIRD}",
        f"<p>1 < 2</p>{FIRST} < {SECOND} <3 {THIRD} <",
        f"<>{FIRST}</>{SECOND}</ {THIRD}>",
        f"<{FIRST}{SECOND}",
        f"{FIRST}{SECOND}<a href='foo-3.0.zip",
        f"{FIRST}<a href=foo-2.0.zip>{THIRD}",
        f"<b><i><u>{FIRST}</b><td>{SECOND}</i></table>{THIRD}",
        "<b>" * 5000 + FIRST + "<div>" * 5000 + SECOND,
        f"<script>document.write('{FIRST}')</script>{SECOND}",
        f"<script><!-- {FIRST} //--></script>{SECOND}<script>{THIRD}",
        f"<style>{FIRST}</style>{SECOND}<!-- {THIRD} -->",
        f"<!-- {FIRST} -- > --><!---->{SECOND}<!-- {THIRD}",
        f"<![CDATA[ {FIRST} ]]>{SECOND}<?php echo '{THIRD}' ?>",
        f"<!FOO {FIRST} >{SECOND}",
        f"<noscript>{FIRST}</noscript><svg>{SECOND}</svg><select>{THIRD}</select>",
        f"<frameset>{FIRST}</frameset><template>{SECOND}</template>",
        f"<BASE HREF='https://files.example.org/x/'>{FIRST.replace('a href', 'A HREF')}{SECOND}",
        f"{FIRST}<base href='https://files.example.org/x/'><base href='/y/'>{SECOND}",
        f"<base target=_blank><base href>{FIRST}",
        f"<base href=''>{FIRST}",
        "<a href=foo-1.0.zip data-requires-python=>=3.8>x</a>",
        "<a href=foo-1.0.zip data-requires-python='&gt;=3.8, &#60;4' data-yanked=''>x</a>",
        '<a href=foo-1.0.zip" data-yanked="no">x</a>',
        f'<a href="foo-1.0.zip>x</a>{SECOND}"x">{THIRD}',
        "<a\n\thref\r\n=\f'foo-1.0.zip'data-yanked=''>x</a>",
        "<a/href=foo-1.0.zip />x</a><a href='foo-2.0.zip'/>",
        f"<a =x href=foo-1.0.zip>x</a><a x<y href=foo-2.0.zip>{THIRD}",
        f"<a<b href=foo-1.0.zip>x</a>{SECOND}",
        f"</a href=foo-1.0.zip>{SECOND}",
        f"\0{FIRST}\0<p>\0{SECOND}",
        "<a href='foo-1.0.zip?a=1&amp;b=2&c=3#sha256=" + SHA256 + "'>x</a>",
        "<a href='foo&#45;1&#x2e;0.zip'>x</a><a href='foo-2&period;0.zip'>x</a>",
        "<a href='foo-1.0%2Bcu128.zip'>x</a><a href='foo-2.0+cu128.zip'>x</a>",
        f"{FIRST}<title>{FIRST.replace('<', '&lt;')}</title>",
    ],
)
def test_markup_is_read_as_pip_reads_it(markup: str):
    body = markup.encode()
    assert by_pytail(body, HTML) == by_pip(body, HTML)  # item 130


#: Pieces of markup of which no order makes pip and the HTML standard differ.
PIECES = [
    "<", ">", "</", "/>", "<p", "<p>", "</p>", "<b>", "</b>", "<td>", "</html>", "<html>", "<body>", "</body>",
    "<!DOCTYPE html>", "<!-- x -->", "<!-- > x -->", " ", "\n", "text", "&amp;", "&", "&#60;", "&lt", "=", "x=y",
    "<br/>", "<br>", "<script>", "</script>", "<style>", "</style>", "<h1>", "<div class=x>", "<a>", "</a>",
]  # fmt: skip
links = st.integers(1, 9).flatmap(
    lambda number: st.sampled_from(
        [
            link(number),
            link(number, " data-yanked=''"),
            link(number, ' data-yanked="&lt;b&gt; > x"'),
            link(number, ' data-requires-python=">=3.8"'),
            link(number).upper().replace("ZIP#SHA256", "zip#sha256"),
            f"<a href=foo-{number}.1.zip>",
        ]
    )
)


@quickly
@given(st.lists(st.sampled_from(PIECES) | links, max_size=12).map("".join))
def test_any_markup_is_read_as_pip_reads_it(markup: str):
    body = markup.encode()
    # A file that is there twice is listed once.
    listed = {seen[:2]: seen for seen in reversed(by_pip(body, HTML))}
    assert by_pytail(body, HTML) == sorted(listed.values(), key=by_pip(body, HTML).index)


def entry(number: int, **more: object) -> dict[str, object]:
    filename = f"foo-{number}.0.zip"
    return {"filename": filename, "url": f"f/{filename}", "hashes": {"sha256": SHA256}} | more


@pytest.mark.parametrize(
    "yanked", [True, False, None, "", "no", " ", 0, 1, 0.5, [], [1], {}, {"a": 1}]
)
def test_yanked_in_json_is_read_as_pip_reads_it(yanked: object):
    body = stdlib.dumps({"files": [entry(1, yanked=yanked)]}).encode()
    assert by_pytail(body, JSON) == by_pip(body, JSON)  # items 30, 127


@pytest.mark.parametrize("odd", ['"\\ud800"', "NaN", "-Infinity", "1e999", '{"\\udfff": [NaN]}'])
@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_key_that_nobody_reads_is_read_as_pip_reads_it(odd: str, charset: str):
    text = stdlib.dumps({"files": [entry(1, odd="ODD"), entry(2)], "odd": "ODD"})
    body = text.replace('"ODD"', odd).encode(charset)
    assert by_pytail(body, JSON) == by_pip(body, JSON) != []  # item 127


def test_a_filename_with_two_digests_is_listed_as_pip_lists_it():
    twice = [entry(1), entry(1, url="g/foo-1.0.zip", hashes={"sha256": OTHER})]
    body = stdlib.dumps({"files": twice}).encode()
    assert by_pytail(body, JSON) == by_pip(body, JSON)  # item 135
    markup = f"<a href=foo-1.0.zip#sha256={SHA256}>x</a><a href=b/foo-1.0.zip#sha256={OTHER}>x</a>"
    assert by_pytail(markup.encode(), HTML) == by_pip(markup.encode(), HTML)
