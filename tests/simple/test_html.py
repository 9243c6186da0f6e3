"""The HTML form: parsing the pages of many indexes, and rendering pages for clients."""

from __future__ import annotations

import contextlib
import json as stdlib
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from pytail.errors import PageUnreadable
from pytail.model import File, ProjectPage, directory_of
from pytail.simple import html, json
from tests.support.pages import FRAGMENT_HASHES, digests, distributions, filenames, files, pages

quickly = settings(max_examples=100, deadline=None)

URL = "https://index.example.org/simple/foo/"
SHA256, MD5 = "ab" * 32, "cd" * 16
LINK = '<a href="foo-1.0.tar.gz">foo-1.0.tar.gz</a>'
#: All tags of a rendered page.
TAGS = {"html", "head", "meta", "title", "body", "h1", "a", "br"}


def parsed(
    markup: str | bytes, charset: str | None = None, url: str = URL, **more: bool
) -> ProjectPage:
    body = markup.encode() if isinstance(markup, str) else markup
    return html.parse(body, url, "foo", charset, **more)


def only(markup: str | bytes, **more: Any) -> File:
    (file,) = parsed(markup, **more).files
    return file


def refused(markup: str | bytes, **more: bool) -> bool:
    try:
        parsed(markup, **more)
    except PageUnreadable:
        return True
    return False


def file(filename: str = "foo-1.0.tar.gz", **known: Any) -> File:
    url = f"https://files.example.org/{filename}"
    known = {"hashes": {"sha256": SHA256}} | known
    return File(filename=filename, url=url, directory=directory_of(known["hashes"], url), **known)


def href(file: File) -> str:
    return f"../../root/pypi/+f/{quote(file.key)}"


def rendered(*files: File, **known: Any) -> str:
    return html.render(ProjectPage(name="foo", files=files, **known), href).decode()


def tree(body: str | bytes) -> etree._Element:
    data = body.encode() if isinstance(body, str) else body
    return etree.fromstring(data, etree.HTMLParser(encoding="utf-8"))


def anchor(**known: Any) -> Mapping[str, str]:
    (one,) = tree(rendered(file(**known))).iter("a")
    return dict(one.attrib)


def metas(body: str) -> dict[str, str]:
    found = (meta for meta in tree(body).iterfind("head/meta") if "name" in meta.attrib)
    return {meta.get("name"): meta.get("content") for meta in found}


# Parsing pages


def test_every_field_of_a_page_is_parsed():
    page = parsed(
        f"""<!DOCTYPE html>
        <html><head>
        <meta name="pypi:repository-version" content="1.4">
        <meta name="pypi:project-status" content="archived">
        <meta name="pypi:project-status-reason" content="too &lt;old&gt;">
        <title>Links for foo</title></head><body><h1>Links for foo</h1>
        <a href="/f/foo-1.0.tar.gz#sha256={SHA256}" data-requires-python="&gt;=3.8"
           data-core-metadata="sha256={SHA256}" data-yanked="broken" data-gpg-sig="true"
           data-upload-time="2024-05-06T07:08:09+02:00" data-size="7"
           data-provenance="https://index.example.org/p">foo-1.0.tar.gz</a><br>
        </body></html>"""
    )
    listed = File(
        filename="foo-1.0.tar.gz",
        url="https://index.example.org/f/foo-1.0.tar.gz",
        directory="aba/babababababab",
        hashes={"sha256": SHA256},
        size=7,
        upload_time="2024-05-06T05:08:09Z",
        requires_python=">=3.8",
        yanked="broken",
        core_metadata={"sha256": SHA256},
        gpg_sig=True,
        provenance="https://index.example.org/p",
    )
    assert page == ProjectPage(
        name="foo",
        files=(listed,),
        versions=("1.0",),
        status="archived",
        status_reason="too <old>",
    )


@pytest.mark.parametrize("version", ["1", "1.0", "1.4", "1.10", "1.999"])
def test_repository_versions_1_x_are_accepted(version: str):
    assert parsed(f'<meta name="pypi:repository-version" content="{version}">{LINK}').files


@pytest.mark.parametrize("version", ["2.0", "2", "0.9", "10.0", "v1"])
def test_other_repository_versions_are_refused(version: str):
    with pytest.raises(PageUnreadable, match="repository version"):
        parsed(f'<meta name="pypi:repository-version" content="{version}">{LINK}')  # item 126


def test_the_case_of_meta_names_does_not_matter():
    with pytest.raises(PageUnreadable, match="repository version"):
        parsed(f"<META NAME=PyPI:Repository-Version CONTENT=2.0>{LINK}")  # items 126, 130


def test_a_page_without_a_repository_version_is_accepted():
    assert parsed(LINK).files  # item 126


@pytest.mark.parametrize("status", ["", "gone", "Archived"])
def test_an_unknown_status_is_dropped_with_its_reason(status: str):
    page = parsed(
        f'<meta name="pypi:project-status" content="{status}">'
        f'<meta name="pypi:project-status-reason" content="x">{LINK}'
    )
    assert (page.status, page.status_reason, len(page.files)) == (None, None, 1)  # items 34, 127


def test_a_quarantined_project_has_no_files():
    page = parsed(f'<meta name="pypi:project-status" content="quarantined">{LINK}')
    assert page.is_quarantined
    assert page.files == ()  # items 16, 77


@pytest.mark.parametrize(
    "markup",
    [
        '<meta name="pypi:repository-version" content="1.0"><title>Links for bar</title>',
        "<title>Links for foo</title><h1>Links for foo</h1>",
        "<h1>Index of /simple/Foo/</h1><a href='../'>../</a>",
        "<!DOCTYPE html><html><head></head><body>\n</body></html>",
        "\ufeff<!DOCTYPE html><html><head></head><body>\n</body></html>",
        "<!DOCTYPE html><html><head></head><body><!-- made by hand --></body></html>",
    ],
)
def test_an_empty_listing_is_a_page(markup: str):
    assert parsed(markup) == ProjectPage(name="foo", versions=())  # item 20


@pytest.mark.parametrize(
    "markup",
    [
        "<html><head><title>Welcome to our Wi-Fi</title></head><body><a href=/>Go on</a></body></html>",
        "<html><title>foo</title><form action=/login><input name=user></form></html>",
        "<html><title>foo</title><script>location='https://login.example.org'</script></html>",
        "<html><body><iframe src=https://login.example.org></iframe></body></html>",
        "<title>404 Not Found</title><h1>Not Found</h1>",
        "<title>Links for bar</title><a href=bar-1.0.tar.gz>bar-1.0.tar.gz</a>",
        '{"message": "not found"}',
        "not found",
        "",
        " \n",
        "\0",
        "<!-- nothing -->",
        "<!DOCTYPE html>",
    ],
)  # fmt: skip
def test_a_page_that_is_no_listing_is_refused(markup: str):
    assert refused(markup)  # item 124


@pytest.mark.parametrize("cut", [1, 8, 20, 40, 60])
def test_a_truncated_listing_is_refused(cut: int):
    whole = f"<!DOCTYPE html><HTML><BODY>{LINK}<br>{LINK.replace('1.0', '2.0')}</BODY></HTML>"
    assert parsed(whole, is_delimited=False).files
    assert refused(whole[:-cut], is_delimited=False)  # item 124
    assert parsed(whole[:-cut]).files


@pytest.mark.parametrize("cut", [1, 3, 20, 40])
def test_a_listing_without_html_tags_truncated_within_a_tag_is_refused(cut: int):
    part = (LINK + LINK.replace("1.0", "2.0"))[:-cut]
    assert refused(part, is_delimited=False)  # item 124
    assert parsed(part).files


@pytest.mark.parametrize("tag", ["b", "div", "table", "a", "font"])
def test_tags_nested_to_any_depth_lose_no_file(tag: str):
    markup = "".join(f"<{tag}><a href=foo-{number}.0.zip>x</a>" for number in range(10_000))
    assert len(parsed(markup).files) == 10_000  # item 130


def test_a_page_with_a_huge_text_is_parsed_to_its_end():
    markup = f"<p>{'x' * 11_000_000}</p>{LINK}"
    assert parsed(markup).files  # item 137


def test_a_page_of_20_000_files_has_all_of_them():
    links = (f'<a href="foo-{number}.0.zip#md5={number:032x}">x</a>' for number in range(20_000))
    assert len(parsed("\n".join(links)).files) == 20_000  # item 137


# Parsing links


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("/x/", "https://index.example.org/x/foo-1.0.tar.gz"),
        ("../files/", "https://index.example.org/simple/files/foo-1.0.tar.gz"),
        ("//files.example.org/x/", "https://files.example.org/x/foo-1.0.tar.gz"),
        ("https://files.example.org/x/", "https://files.example.org/x/foo-1.0.tar.gz"),
        ("https://files.example.org/x/page.html", "https://files.example.org/x/foo-1.0.tar.gz"),
        ("javascript:alert(1)", "https://index.example.org/simple/foo/foo-1.0.tar.gz"),
        ("file:///etc/", "https://index.example.org/simple/foo/foo-1.0.tar.gz"),
        ("", "https://index.example.org/simple/foo/foo-1.0.tar.gz"),
    ],
)
def test_links_are_relative_to_the_base(base: str, url: str):
    assert only(f'<html><head><base href="{base}"></head>{LINK}</html>').url == url  # item 128


def test_a_base_without_href_is_ignored():
    assert only(f"<base target=_blank><base href=/x/>{LINK}").url.endswith("/x/foo-1.0.tar.gz")


def test_of_two_bases_the_first_counts():
    assert only(f"<base href=/x/><base href=/y/>{LINK}").url.endswith("/x/foo-1.0.tar.gz")


def test_links_are_relative_to_the_url_of_the_response():
    found = only('<a href="../f/foo-1.0.zip">x</a>', url="https://mirror.example.net/a/simple/foo/")
    assert found.url == "https://mirror.example.net/a/simple/f/foo-1.0.zip"  # item 129


@pytest.mark.parametrize(
    "markup",
    [
        '<A HREF="/f/foo-1.0.zip?a=1&amp;b=2" DATA-REQUIRES-PYTHON="&gt;=3.8" Data-Yanked="">x</A>',
        "<a href='/f/foo-1.0.zip?a=1&amp;b=2' data-requires-python='>=3.8' data-yanked>x</a>",
        "<a href=/f/foo-1.0.zip?a=1&amp;b=2 data-requires-python=&gt;=3.8 data-yanked>x</a>",
        '<a\nhref = "/f/foo-1.0.zip?a=1&b=2"\tdata-requires-python=">=3.8"\ndata-yanked>x',
        '<td><a href=" /f/foo-1.0.zip?a=1&#38;b=2 " data-requires-python="&#x3E;=3.8" data-yanked="" >',
    ],
)  # fmt: skip
def test_every_way_to_write_an_anchor_is_parsed(markup: str):
    found = only(markup)
    assert found.url == "https://index.example.org/f/foo-1.0.zip?a=1&b=2"  # item 130
    assert (found.requires_python, found.yanked) == (">=3.8", True)


REASON = '<a href="foo-1.0.zip" data-yanked="brök">x</a>'
META = '<meta charset="{0}">'
OLD_META = '<META HTTP-EQUIV=Content-Type CONTENT="text/html; charset={0}">'


@pytest.mark.parametrize(
    "charset", ["utf-8", "iso-8859-1", "windows-1252", "UTF-16", "shift_jisx0213"]
)
def test_the_charset_of_the_content_type_is_used(charset: str):
    assert only(REASON.encode(charset), charset=charset).yanked == "brök"  # item 130


@pytest.mark.parametrize("meta", [META, OLD_META, "<meta charset={0}>", "<meta charset='{0}'/>"])
@pytest.mark.parametrize("charset", ["utf-8", "ISO-8859-1", "windows-1252"])
def test_the_charset_of_the_document_is_used(meta: str, charset: str):
    assert only((meta.format(charset) + REASON).encode(charset)).yanked == "brök"  # item 130


def test_the_charset_of_the_content_type_overrides_the_document():
    body = (META.format("utf-8") + REASON).encode("iso-8859-1")
    assert only(body, charset="iso-8859-1").yanked == "brök"


@pytest.mark.parametrize("title", ["", "Links for charset-normalizer", "charset=iso-8859-1"])
def test_without_a_charset_a_page_is_utf_8(title: str):
    assert only(f"<title>{title}</title>{REASON}").yanked == "brök"


@pytest.mark.parametrize("charset", [None, "utf-8", "iso-8859-1"])
@pytest.mark.parametrize("written", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_overrides_the_charset(written: str, charset: str | None):
    body = (META.format("iso-8859-1") + REASON).encode(written)
    assert only(body, charset=charset).yanked == "brök"  # item 130


def test_a_byte_order_mark_is_ignored():
    assert only(f"\ufeff<!DOCTYPE html>{REASON}").yanked == "brök"


@pytest.mark.parametrize("charset", ["", "x-unknown", "x\0y", "é", "base64", "idna", "undefined"])
def test_with_an_unknown_charset_a_page_is_utf_8(charset: str):
    assert only(REASON, charset=charset).yanked == "brök"


@pytest.mark.parametrize("charset", ["utf-7", "shift_jis", "utf-16", "utf-32", "ascii", "cp037"])
@pytest.mark.parametrize("body", [REASON.encode(), b"+2AA-" + REASON.encode(), b"\xff" * 50])
def test_bytes_that_are_not_of_the_charset_never_break_the_parser(charset: str, body: bytes):
    with contextlib.suppress(PageUnreadable):
        parsed(body, charset=charset)


@pytest.mark.parametrize(
    "other",
    [
        "<a>foo-2.0.zip</a>",
        '<a name="foo-2.0.zip">x</a>',
        '<a href="">foo-2.0.zip</a>',
        '<a href="../">../</a>',
        '<a href="?C=M;O=A">Last modified</a>',
        '<a href="#top">foo-2.0.zip</a>',
        '<a href="https://foo.example.org">foo</a>',
        '<a href="https://foo.example.org/foo-2.0">home page</a>',
        '<a href="foo-2.0.zip/">foo-2.0.zip</a>',
        '<a href="foo-2.0-py3-none-any.whl.metadata">x</a>',
        '<a href="foo-2.0.tar.gz.asc">x</a>',
        '<a href="mailto:foo-2.0.zip@example.org">x</a>',
        '<a href="mailto:foo-2.0.zip">x</a>',
        '<a href="javascript:foo-2.0.zip">x</a>',
        '<a href="data:x/foo-2.0.zip">x</a>',
        '<a href="file:///foo-2.0.zip">x</a>',
        '<a href="ftp://files.example.org/foo-2.0.zip">x</a>',
        '<a href="https://[/foo-2.0.zip">x</a>',
        '<a href="bar-2.0.zip">x</a>',
        '<a href="foo_bar-2.0-py3-none-any.whl">foo-2.0.zip</a>',
        '<a href="foo%2F..%2Ffoo-2.0.zip">x</a>',
        '<a href="..%5Cfoo-2.0.zip">x</a>',
        '<a href="..\\foo-2.0.zip">x</a>',
        '<a href="foo-2.0%00.zip">x</a>',
        '<a href="foo-2.0%0D%0A.zip">x</a>',
        '<a href="foo-2.0%252F.zip">x</a>',
        f'<a href="foo-{"2" * 300}.zip">x</a>',
        '<!-- <a href="foo-2.0.zip">x</a> -->',
        "<script>'<a href=\"foo-2.0.zip\">x</a>'</script>",
        "<SCRIPT type=x>document.write('<a href=\"foo-2.0.zip\">x</a>')</SCRIPT>",
        "<style>/* <a href=foo-2.0.zip>x</a> */</style>",
        "<title><a href=foo-2.0.zip>x</a></title>",
        "<textarea><a href=foo-2.0.zip>x</a></textarea>",
        "<!-- > <a href=foo-2.0.zip>x</a> -- > -->",
        "<p title='<a href=foo-2.0.zip>x</a>'>",
        "</a href=foo-2.0.zip>",
        '<link href="foo-2.0.zip">',
    ],
)
def test_other_links_are_not_files(other: str):
    assert only(f"{other}{LINK}{other}").filename == "foo-1.0.tar.gz"  # items 131, 138, 139


@pytest.mark.parametrize("suffix", [".whl", ".tar.gz", ".egg", ".win32-py2.7.exe"])
def test_a_long_link_with_many_dashes_takes_little_memory(suffix: str):
    markup = f'{LINK}<a href="foo-1{"-1" * 5000}{suffix}">x</a>'
    tracemalloc.start()
    try:
        assert len(parsed(markup).files) == 1
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # item 144
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("fragment", "hashes"),
    [
        ("", {}),
        ("#", {}),
        (f"#sha256={SHA256}", {"sha256": SHA256}),
        (f"#sha256={SHA256.upper()}", {"sha256": SHA256}),
        (f"#sha256={SHA256}&amp;egg=foo-1.0", {"sha256": SHA256}),
        (f"#sha256={SHA256}&egg=foo-1.0", {"sha256": SHA256}),
        (f"#egg=foo-1.0&amp;md5={MD5}", {"md5": MD5}),
        (f"#md5={MD5}", {"md5": MD5}),
        ("#egg=foo-1.0", {}),
        (f"#sha256={SHA256[1:]}", {}),
        (f"#sha256=../{SHA256[3:]}", {}),
        ("#sha256=", {}),
    ],
)
def test_the_fragment_is_the_hash_and_not_in_the_url(fragment: str, hashes: dict[str, str]):
    found = only(f'<a href="foo-1.0.zip{fragment}">x</a>')
    assert found.hashes == hashes  # items 132, 138
    assert found.url == "https://index.example.org/simple/foo/foo-1.0.zip"


def test_a_quoted_plus_sign_in_a_link_is_a_plus_sign_in_the_filename():
    found = html.parse(
        b'<a href="/whl/torch-2.0.0%2Bcu121-cp311-cp311-linux_x86_64.whl">'
        b"torch-2.0.0+cu121-cp311-cp311-linux_x86_64.whl</a>",
        URL,
        "torch",
    )
    assert found.files[0].filename == "torch-2.0.0+cu121-cp311-cp311-linux_x86_64.whl"  # item 133
    assert found.files[0].url.endswith("/torch-2.0.0%2Bcu121-cp311-cp311-linux_x86_64.whl")


def test_a_plain_plus_sign_in_a_link_is_a_plus_sign_in_the_filename():
    assert only('<a href="foo-2.0+cu121.zip">x</a>').filename == "foo-2.0+cu121.zip"  # item 133


def test_of_two_links_to_a_filename_the_one_with_a_hash_remains():
    found = only(f'{LINK}<a href="/b/foo-1.0.tar.gz#md5={MD5}">foo-1.0.tar.gz</a>')
    assert found.hashes == {"md5": MD5}  # item 135


@pytest.mark.parametrize(
    "filename", ["foo-dev.tar.gz", "foo-1.0-py2.7.egg", "foo-1.0.win32-py2.7.exe", "Foo-2004b.tgz"]
)
def test_unusual_versions_and_kinds_of_files_are_listed(filename: str):
    assert only(f'<a href="{filename}">x</a>').filename == filename  # item 135


@pytest.mark.parametrize(
    ("attributes", "known"),
    [
        (f"data-core-metadata=sha256={SHA256}", {"sha256": SHA256}),
        (f"data-dist-info-metadata=sha256={SHA256}", {"sha256": SHA256}),
        ("data-core-metadata=true", True),
        ("data-core-metadata=sha256=short", True),
        ("data-core-metadata=false", None),
        ("data-core-metadata=False", None),
        ("data-core-metadata=' false '", None),
        ("data-core-metadata", None),
        ("data-core-metadata=false data-dist-info-metadata=true", None),
        ("", None),
    ],
)
def test_core_metadata_is_a_hash_or_true_or_none(attributes: str, known: object):
    assert only(f"<a href=foo-1.0.zip {attributes}>x</a>").core_metadata == known  # item 14


@pytest.mark.parametrize(
    ("attributes", "yanked"),
    [
        ("", False),
        ("data-yanked", True),
        ("data-yanked=''", True),
        ("data-yanked=' '", True),
        ("data-yanked=false", "false"),
        ("data-yanked='a &quot;b&quot; &lt;c&gt;'", 'a "b" <c>'),
    ],
)
def test_a_file_with_the_attribute_is_yanked(attributes: str, yanked: bool | str):
    assert only(f"<a href=foo-1.0.zip {attributes}>x</a>").yanked == yanked  # items 12, 13


@pytest.mark.parametrize(
    ("value", "signed"), [("true", True), ("True", True), ("false", False), ("", None)]
)
def test_gpg_sig_is_true_false_or_none(value: str, signed: bool | None):
    assert only(f"<a href=foo-1.0.zip data-gpg-sig='{value}'>x</a>").gpg_sig is signed


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://index.example.org/p", "https://index.example.org/p"),
        ("/p", "https://index.example.org/p"),
        ("http://index.example.org/p", None),
        ("javascript:x", None),
        ("", None),
    ],
)
def test_provenance_is_an_absolute_https_url(value: str, url: str | None):
    assert only(f"<a href=foo-1.0.zip data-provenance='{value}'>x</a>").provenance == url  # item 15


def test_relative_provenance_of_a_page_over_http_is_dropped():
    markup, url = "<a href=foo-1.0.zip data-provenance='/p'>x</a>", "http://index.example.org/foo/"
    assert only(markup, url=url).provenance is None  # item 15


@pytest.mark.parametrize("size", ["", "-1", "7.0", "7 bytes", "x", "9" * 19])
def test_a_size_that_is_no_number_is_dropped(size: str):
    assert only(f"<a href=foo-1.0.zip data-size='{size}'>x</a>").size is None  # item 127


@pytest.mark.parametrize("time", ["", "2024", "2024-05-06", "2024-05-06T07:08:09", "yesterday"])
def test_an_upload_time_that_is_none_is_dropped(time: str):
    found = only(f"<a href=foo-1.0.zip data-upload-time='{time}'>x</a>")
    assert found.upload_time is None  # items 27, 127


def test_json_of_html_with_sizes_and_times_has_them():
    time = "2026-04-05T06:07:08.123456Z"
    markup = f'<a href="foo-1.0.zip" data-upload-time="{time}" data-size="7">x</a>'
    data = stdlib.loads(json.render(parsed(markup), href))
    assert data["meta"] == {"api-version": "1.4"}  # item 23
    assert (data["files"][0]["size"], data["files"][0]["upload-time"]) == (7, time)  # item 28


def test_a_filename_with_two_digests_is_listed_twice():
    one, other = (f"foo-1.0.tar.gz#sha256={digest * 32}" for digest in ("ab", "cd"))
    page = parsed(f"<a href='{one}'>x</a>{LINK}<a href='b/{other}'>x</a>")
    assert [file.url.rpartition("/simple/foo/")[2] for file in page.files] == [
        "foo-1.0.tar.gz",
        "b/foo-1.0.tar.gz",
    ]  # item 135
    anchors = [a.get("href") for a in tree(html.render(page, href)).iter("a")]
    assert [link.partition("#")[2][:9] for link in anchors] == ["sha256=ab", "sha256=cd"]


def test_an_empty_requires_python_is_none():
    assert only("<a href=foo-1.0.zip data-requires-python>x</a>").requires_python is None


def test_json_of_an_html_page_has_no_fields_beyond_the_html():
    page = parsed(f'<a href="foo-1.0.zip#sha256={SHA256}">foo-1.0.zip</a>')
    data = stdlib.loads(json.render(page, href))
    assert data["meta"] == {"api-version": "1.0"}  # item 134
    assert data["versions"] == ["1.0"]  # item 24
    (entry,) = data["files"]
    assert entry.keys() == {"filename", "url", "hashes", "yanked"}
    assert entry["hashes"] == {"sha256": SHA256}


# Rendering


def test_a_page_begins_with_exactly_this_doctype():
    assert rendered().startswith("<!DOCTYPE html>\n<html")  # item 7


def test_a_rendered_page_has_version_1_4_for_every_upstream_version():
    page = json.parse(b'{"meta": {"api-version": "1.5"}, "files": []}', URL, "foo")
    assert metas(html.render(page, href).decode()) == {"pypi:repository-version": "1.4"}  # item 17


def test_a_page_without_files_is_rendered_and_parsed():
    assert not list(tree(rendered()).iter("a"))  # item 20
    assert parsed(rendered()) == ProjectPage(name="foo", versions=())


def test_a_page_never_has_a_base():
    assert tree(rendered(file())).find(".//base") is None  # item 18


def test_a_page_has_its_charset_within_100_characters():
    assert rendered().index('<meta charset="utf-8">') < 100


def test_each_file_is_one_anchor_with_the_end_of_the_url_as_text():
    body = tree(rendered(file(), file("foo-2.0+cu121.zip"), file("foo-3.0.tar.gz")))
    anchors = [(a.get("href").partition("#")[0].rpartition("/")[2], a.text) for a in body.iter("a")]
    assert anchors == [
        ("foo-1.0.tar.gz", "foo-1.0.tar.gz"),
        ("foo-2.0%2Bcu121.zip", "foo-2.0+cu121.zip"),
        ("foo-3.0.tar.gz", "foo-3.0.tar.gz"),
    ]  # items 8, 37, 76


@pytest.mark.parametrize(
    ("hashes", "fragment"),
    [
        ({"sha256": SHA256}, f"#sha256={SHA256}"),
        ({"md5": MD5, "sha256": SHA256}, f"#sha256={SHA256}"),
        ({"sha1": "0" * 40, "md5": MD5}, f"#md5={MD5}"),
        ({"sha1": "0" * 40, "sha224": "0" * 56, "sha384": "0" * 96}, f"#sha384={'0' * 96}"),
        ({"sha1": "0" * 40, "sha512": "0" * 128}, f"#sha512={'0' * 128}"),
        ({"sha1": "0" * 40}, f"#sha1={'0' * 40}"),
        ({"sha224": "0" * 56, "blake2b": "0" * 128}, ""),
        ({}, ""),
    ],
)
def test_the_fragment_is_the_hash_that_most_clients_read(hashes: dict[str, str], fragment: str):
    url, sign, rest = anchor(hashes=hashes)["href"].partition("#")
    assert sign + rest == fragment  # items 9, 10
    assert url == href(file(hashes=hashes))


def test_a_file_without_optional_fields_has_only_an_href():
    assert anchor(core_metadata=None, yanked=False, requires_python=None).keys() == {
        "href"
    }  # 11-14


def test_requires_python_is_escaped():
    body = rendered(file(requires_python=">=3.8,<4"))
    assert 'data-requires-python="&gt;=3.8,&lt;4"' in body  # item 11


@pytest.mark.parametrize(("yanked", "value"), [(True, ""), ('a "b" <c>', 'a "b" <c>')])
def test_a_yanked_file_has_its_reason(yanked: bool | str, value: str):
    assert anchor(yanked=yanked)["data-yanked"] == value  # item 12


def test_a_reason_is_escaped():
    body = rendered(file(yanked='a "b" <c>'))
    assert 'data-yanked="a &quot;b&quot; &lt;c&gt;"' in body  # item 12


@pytest.mark.parametrize(
    ("known", "value"),
    [
        (True, "true"),
        ({"sha256": SHA256}, f"sha256={SHA256}"),
        ({"md5": MD5, "sha256": SHA256}, f"sha256={SHA256}"),
        ({"blake2b": "0" * 128}, "true"),
    ],
)
def test_core_metadata_is_rendered_under_both_names(known: object, value: str):
    attributes = anchor(core_metadata=known)
    assert attributes["data-core-metadata"] == value  # item 14
    assert attributes["data-dist-info-metadata"] == value


@pytest.mark.parametrize(("signed", "value"), [(True, "true"), (False, "false"), (None, None)])
def test_gpg_sig_is_rendered_where_known(signed: bool | None, value: str | None):
    assert anchor(gpg_sig=signed).get("data-gpg-sig") == value  # item 62


def test_provenance_is_rendered_as_it_is():
    url = "https://index.example.org/p?a=1&b=2"
    assert anchor(provenance=url)["data-provenance"] == url  # item 15


def test_a_status_is_rendered_in_the_head():
    found = metas(rendered(status="archived", status_reason='too "old"'))
    assert found["pypi:project-status"] == "archived"  # item 16
    assert found["pypi:project-status-reason"] == 'too "old"'


def test_a_status_without_reason_is_rendered_alone():
    assert metas(rendered(status="deprecated")).keys() == {
        "pypi:repository-version",
        "pypi:project-status",
    }  # item 16


def test_the_project_list_has_a_relative_link_for_each_project():
    body = tree(html.render_projects(["bar", "foo"]))
    anchors = [(a.get("href"), a.text) for a in body.iter("a")]
    assert anchors == [("bar/", "bar"), ("foo/", "foo")]  # items 1, 3


def test_the_project_list_is_html_5_of_version_1_4():
    body = html.render_projects([]).decode()
    assert body.startswith("<!DOCTYPE html>")
    assert metas(body) == {"pypi:repository-version": "1.4"}  # item 1


def test_a_project_name_is_escaped():
    name = "\"'><script>"
    for body in (html.render_projects([name]), html.render(ProjectPage(name=name), href)):
        assert {element.tag for element in tree(body).iter()} <= TAGS  # item 139


# Both ways

HASHES = st.just({}) | digests(FRAGMENT_HASHES)


@quickly
@given(pages(files(distributions, HASHES)))
def test_a_rendered_page_parses_to_the_same_page(page: ProjectPage):
    again = html.parse(html.render(page, lambda file: file.url), URL, page.name)
    assert again == replace(page, versions=again.versions)


@quickly
@given(pages(files(distributions, HASHES)))
def test_both_forms_of_a_page_parse_to_the_same_page(page: ProjectPage):
    from_html = html.parse(html.render(page, lambda file: file.url), URL, page.name)
    from_json = json.parse(json.render(page, lambda file: file.url), URL, page.name)
    assert from_html == from_json  # item 37


@quickly
@given(pages(files(filenames, HASHES)))
def test_every_field_of_a_page_is_escaped(page: ProjectPage):
    root = tree(html.render(page, href))
    tags = [element.tag for element in root.iter()]
    assert set(tags) <= TAGS  # item 139
    assert (tags.count("a"), tags.count("br")) == (len(page.files),) * 2
    for one, listed in zip(root.iter("a"), page.files, strict=True):
        assert one.text == listed.filename
        assert one.get("href").partition("#")[0] == href(listed)
        assert one.get("data-requires-python") == listed.requires_python
        assert one.get("data-provenance") == listed.provenance
        assert all(name == "href" or name.startswith("data-") for name in one.attrib)


markup = st.lists(
    st.sampled_from(
        [
            "<html>", "</html>", "<a href=", "'foo-1.0.zip", "#sha256=" + SHA256, "'>", "</a>", "<base href=",
            "<meta charset=utf-16>", "<meta charset=", "<!--", "-->", "<![CDATA[", "&#xD800;", "&amp", "\0",
            "<title>foo</title>", "<svg><a xlink:href=x>", "<template>", "<?pi", "<table><tr>",
        ]
    )
    | st.text(max_size=5),
    max_size=12,
).map("".join)  # fmt: skip
charsets = st.none() | st.text(max_size=8) | st.sampled_from(
    ["utf-8", "utf-16", "utf-16-le", "utf-7", "shift_jis", "iso-2022-jp", "cp037", "hz", "gb18030"]
)  # fmt: skip


@quickly
@given(
    st.binary(max_size=200) | markup.map(lambda text: text.encode("utf-8", "surrogatepass")),
    charsets,
)
def test_no_bytes_break_the_parser(body: bytes, charset: str | None):
    try:
        page = html.parse(body, URL, "foo", charset)
    except PageUnreadable:
        return
    # A parsed page can be rendered in both forms.
    assert json.parse(json.render(page, lambda file: file.url), URL, "foo") == page
    html.render(page, href)
