"""The JSON form: parsing the pages of upstream, and rendering pages for clients."""

from __future__ import annotations

import json as stdlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.errors import PageUnreadable
from pytail.model import DIGEST_LENGTHS, File, ProjectPage, directory_of
from pytail.simple import json
from tests.support.pages import digests, filenames, files, pages

quickly = settings(max_examples=100, deadline=None)

URL = "https://index.example.org/simple/foo/"
NAN = float("nan")
SHA256, MD5 = "ab" * 32, "cd" * 16


def entry(filename: str = "foo-1.0.tar.gz", **more: Any) -> dict[str, Any]:
    return {"filename": filename, "url": f"/f/{filename}", "hashes": {"sha256": SHA256}} | more


def body(*entries: object, **more: Any) -> bytes:
    data = {"meta": {"api-version": "1.4"}, "name": "foo", "files": entries} | more
    return stdlib.dumps(data).encode()


def parsed(*entries: object, **more: Any) -> ProjectPage:
    return json.parse(body(*entries, **more), URL, "foo")


def file(filename: str = "foo-1.0.tar.gz", **known: Any) -> File:
    url = f"https://files.example.org/{filename}"
    known = {"hashes": {"sha256": SHA256}} | known
    directory = directory_of(known["hashes"], url, known.get("size"))
    return File(filename=filename, url=url, directory=directory, **known)


def rendered(*files: File, **known: Any) -> dict[str, Any]:
    page = ProjectPage(name="foo", files=files, **known)
    return stdlib.loads(json.render(page, lambda file: f"../../root/pypi/+f/{file.key}"))


def rendered_entry(**known: Any) -> dict[str, Any]:
    (one,) = rendered(file(**known))["files"]
    return one


# Parsing


def test_every_field_of_a_file_is_parsed():
    page = parsed(
        entry(
            **{
                "size": 7,
                "upload-time": "2024-05-06T07:08:09.123456Z",
                "requires-python": ">=3.8",
                "yanked": "broken",
                "core-metadata": {"sha256": SHA256},
                "gpg-sig": False,
                "provenance": "https://index.example.org/p",
                "x-new": [1],
            }
        )
    )
    assert page.files == (
        File(
            filename="foo-1.0.tar.gz",
            url="https://index.example.org/f/foo-1.0.tar.gz",
            directory="aba/babababababab",
            hashes={"sha256": SHA256},
            size=7,
            upload_time="2024-05-06T07:08:09.123456Z",
            requires_python=">=3.8",
            yanked="broken",
            core_metadata={"sha256": SHA256},
            gpg_sig=False,
            provenance="https://index.example.org/p",
            other={"x-new": [1]},
        ),
    )


def test_every_field_of_a_project_is_parsed():
    page = parsed(
        meta={"api-version": "1.4", "_last-serial": 12},
        versions=["1.0", "2.0"],
        **{"project-status": {"status": "archived", "reason": "old"}, "x-new": {"a": None}},
    )
    assert page == ProjectPage(
        name="foo",
        versions=("1.0", "2.0"),
        status="archived",
        status_reason="old",
        last_serial=12,
        other={"x-new": {"a": None}},
    )


def test_a_list_of_files_alone_is_a_page():
    page = json.parse(b'{"files": []}', URL, "foo")
    assert page == ProjectPage(name="foo", versions=())  # items 20, 126


@pytest.mark.parametrize(
    "version", ["1", "1.0", "1.4", "1.5", "1.10", "1.999", 1, 1.0, None, "", {"a": 1}, [2], True]
)
def test_api_versions_1_x_are_accepted(version: object):
    assert parsed(entry(), meta={"api-version": version}).files  # item 126


@pytest.mark.parametrize("version", ["2.0", "2", "0.9", "10.0", "11", "v1", 2, 2.5])
def test_other_api_versions_are_refused(version: object):
    with pytest.raises(PageUnreadable, match="api-version"):
        parsed(entry(), meta={"api-version": version})  # item 126


@pytest.mark.parametrize("meta", [None, "", "1.0", [], 1])
def test_an_invalid_meta_means_version_1_0(meta: object):
    assert parsed(entry(), meta=meta).files  # item 126


@pytest.mark.parametrize(
    "name", ["foo", "Foo", "FOO", None, "", " ", 1, ["bar"], {"bar": 1}, True, "\ud800"]
)
def test_the_page_of_the_project_is_accepted(name: object):
    assert parsed(entry(), name=name).name == "foo"


@pytest.mark.parametrize("name", ["bar", "foo-bar", "f", "foo bar"])
def test_the_page_of_another_project_is_refused(name: object):
    with pytest.raises(PageUnreadable, match="not for 'foo'"):
        parsed(entry(), name=name)


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"null", b"[]", b"1", b'"files"', b"{}", b'{"files": null}', b'{"files": {}}',
        b'{"error": "not found"}', b'{"files": []', b'{"files": [{"filename": "foo', b"<html></html>",
        b'{"files": [], "x": "\xff"}', b'{"files": [], "x": nan}', b'{"files": [], "x": "\\ud800}',
        b'{"files": [], "x":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    ],
)  # fmt: skip
def test_json_that_is_no_page_is_refused(data: bytes):
    with pytest.raises(PageUnreadable):
        json.parse(data, URL, "foo")  # item 124


#: What the json module of Python reads, and so pip, but not orjson.
ODD_JSON = [
    '"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800": 1}', "NaN", "-Infinity", "[Infinity]", "1e999", "-1e999",
    "1" * 400, "1" * 5000, '{"a": [{"b": NaN}]}',
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_JSON)
@pytest.mark.parametrize("place", ["page", "meta", "file"])
@pytest.mark.parametrize("count", [1, 3000])
def test_a_value_that_only_pip_reads_loses_no_file(odd: str, place: str, count: int):
    data: dict[str, Any] = {"meta": {"api-version": "1.4"}, "name": "foo"}
    data["files"] = [entry(f"foo-{number}.zip", filler="x" * 50) for number in range(count)]
    where = {"page": data, "meta": data["meta"], "file": data["files"][count // 2]}[place]
    where["x-odd"], where["x-even"] = "ODD", "even"
    text = stdlib.dumps(data).replace('"ODD"', odd)
    page = json.parse(text.encode(), URL, "foo")
    assert len(page.files) == count  # item 127
    sent = stdlib.loads(json.render(page, lambda file: file.url))
    kept = {"page": sent, "meta": {"x-even": "even"}, "file": sent["files"][count // 2]}[place]
    assert kept["x-even"] == "even"


@pytest.mark.parametrize("key", ["requires-python", "upload-time", "provenance", "url", "hashes"])
def test_half_of_a_surrogate_pair_in_a_known_key_loses_that_field_only(key: str):
    page = parsed(entry(**{key: "/f/\ud800"}), entry("foo-2.0.zip"))
    assert page.files[-1].filename == "foo-2.0.zip"  # item 127
    assert len(page.files) == (1 if key == "url" else 2)
    assert json.render(page, lambda file: file.url)


def test_half_of_a_surrogate_pair_in_a_filename_loses_that_file_only():
    page = parsed(entry(filename="foo-\udfff.zip"), entry("foo-2.0.zip"))
    assert [file.filename for file in page.files] == ["foo-2.0.zip"]  # items 127, 138


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
def test_json_is_read_in_each_unicode_encoding(charset: str):
    assert json.parse(body(entry()).decode().encode(charset), URL, "foo").files


def test_of_a_key_that_is_there_twice_the_last_counts():
    text = body(entry(size=7)).replace(b'"size": 7', b'"size": 8, "size": 7')
    assert json.parse(text, URL, "foo").files[0].size == 7


def test_a_byte_order_mark_is_ignored():
    assert json.parse(b"\xef\xbb\xbf" + body(entry()), URL, "foo").files


@pytest.mark.parametrize(
    "bad",
    [
        None, "foo-1.0.tar.gz", [], 1, {}, {"filename": "foo-1.0.tar.gz"}, {"url": "/f/foo-1.0.tar.gz"},
        [[entry()]], True, NAN, entry(filename=["foo-3.0.zip"]), entry(url=["/f/x"]), entry(url={}),
        entry(filename=None), entry(filename=""), entry(filename="../foo"), entry(filename="a\0b"),
        entry(filename="..%2f..%2fetc%2fpasswd"), entry(filename="C:foo"), entry(filename="a\\b"),
        entry(url=None), entry(url=""), entry(url="javascript:x"), entry(url="file:///etc/passwd"),
    ],
)  # fmt: skip
def test_a_bad_file_is_dropped_and_the_others_stay(bad: object):
    page = parsed(bad, entry("foo-2.0.tar.gz"))
    assert [file.filename for file in page.files] == ["foo-2.0.tar.gz"]  # items 127, 138, 139


@pytest.mark.parametrize("value", [None, "", [], {}, 1.5, "\ud7ff", [None], {"a": {}}])
@pytest.mark.parametrize(
    "key",
    [
        "hashes", "size", "upload-time", "requires-python", "yanked", "core-metadata", "gpg-sig",
        "dist-info-metadata", "data-dist-info-metadata", "provenance",
    ],
)  # fmt: skip
def test_a_bad_field_never_loses_its_file(key: str, value: object):
    assert parsed(entry(**{key: value})).files[0].filename == "foo-1.0.tar.gz"  # item 127


@pytest.mark.parametrize("key", ["size", "upload-time", "requires-python", "yanked", "provenance"])
@pytest.mark.parametrize("value", [None, "", [], {}])
def test_an_empty_field_counts_as_absent(key: str, value: object):
    assert parsed(entry(**{key: value})) == parsed(entry())  # item 127


@pytest.mark.parametrize(
    "value", [None, "", "gone", 1, True, [], {}, {"status": None}, {"reason": "x"}]
)
def test_a_bad_project_status_is_dropped(value: object):
    page = parsed(entry(), **{"project-status": value})
    assert (page.status, page.status_reason, len(page.files)) == (None, None, 1)  # items 34, 127


@pytest.mark.parametrize("reason", [None, "", 1, ["x"]])
def test_a_bad_reason_of_a_status_is_dropped(reason: object):
    page = parsed(**{"project-status": {"status": "archived", "reason": reason}})
    assert (page.status, page.status_reason) == ("archived", None)


@pytest.mark.parametrize(
    "more",
    [
        {"project-status": {"status": "archived", "reason": "old"}},
        {"meta": {"project-status": {"status": "archived", "reason": "old"}}},
        {"meta": {"project-status": "archived", "project-status-reason": "old"}},
        {
            "project-status": None,
            "meta": {"project-status": {"status": "archived", "reason": "old"}},
        },
    ],
)
def test_a_status_is_found_at_every_place_where_indexes_put_it(more: dict[str, Any]):
    page = parsed(**more)
    assert (page.status, page.status_reason) == ("archived", "old")


def test_a_quarantined_project_has_no_files():
    page = parsed(entry(), versions=["1.0"], **{"project-status": {"status": "quarantined"}})
    assert page.is_quarantined
    assert page.files == ()  # items 16, 77


def test_links_are_relative_to_the_url_of_the_response():
    body = stdlib.dumps({"files": [entry(url="../f/foo-1.0.tar.gz")]}).encode()
    page = json.parse(body, "https://mirror.example.net/a/simple/foo/", "foo")
    assert page.files[0].url == "https://mirror.example.net/a/simple/f/foo-1.0.tar.gz"  # item 129


@pytest.mark.parametrize(
    "versions", [["1.0"], ["2.0", "1.10.0", "1.0"], ["1.0", "legacy"], ["2"], ["3.0"]]
)
def test_the_versions_of_upstream_stay_as_they_are(versions: list[str]):
    page = parsed(entry("foo-2.0.zip"), entry("foo-1.10.0.post2.zip"), versions=versions)
    assert page.versions == tuple(versions)  # item 24
    assert stdlib.loads(json.render(page, lambda file: file.url))["versions"] == versions


@pytest.mark.parametrize("versions", [None, [], "1.0", {"1.0": {}}, [None, 2]])
def test_versions_are_made_of_the_files_where_upstream_gives_none(versions: object):
    page = parsed(entry("foo-2.0.zip"), entry("foo-1.0.zip"), versions=versions)
    assert page.versions == ("1.0", "2.0")  # item 24


def test_a_filename_with_two_digests_is_listed_twice():
    page = parsed(entry(hashes={"sha256": SHA256}), entry(hashes={"sha256": "cd" * 32}))
    data = stdlib.loads(json.render(page, lambda file: f"../{file.key}"))
    assert [one["url"] for one in data["files"]] == [
        "../aba/babababababab/foo-1.0.tar.gz",
        "../cdc/dcdcdcdcdcdcd/foo-1.0.tar.gz",
    ]  # item 135


def test_of_two_entries_with_one_filename_the_one_with_a_hash_remains():
    page = parsed(entry(hashes={}), entry(hashes={"md5": MD5}))
    assert [file.hashes for file in page.files] == [{"md5": MD5}]  # item 135


@pytest.mark.parametrize("hashes", [{}, None, "", {"shake_128": "00"}, {"sha256": "short"}])
def test_a_hash_in_the_fragment_counts_where_hashes_lacks_it(hashes: object):
    (found,) = parsed(entry(url=f"/f/foo-1.0.tar.gz#sha256={SHA256}", hashes=hashes)).files
    assert found.hashes == {"sha256": SHA256}
    assert found.url == "https://index.example.org/f/foo-1.0.tar.gz"


def test_a_hash_in_the_fragment_is_added_to_hashes_but_replaces_none():
    url = f"/f/foo-1.0.tar.gz#egg=foo&sha256={SHA256}"
    assert parsed(entry(url=url, hashes={"md5": MD5})).files[0].hashes == {
        "md5": MD5,
        "sha256": SHA256,
    }
    other = {"sha256": "cd" * 32}
    assert parsed(entry(url=url, hashes=other)).files[0].hashes == other


@pytest.mark.parametrize("value", [1, True, " ", ["x"]])
def test_a_yanked_file_is_never_listed_as_usable(value: object):
    data = stdlib.loads(json.render(parsed(entry(yanked=value)), lambda file: file.url))
    assert data["files"][0]["yanked"] is True  # items 12, 30


@pytest.mark.parametrize("key", ["dist-info-metadata", "data-dist-info-metadata"])
def test_core_metadata_is_parsed_from_its_older_keys(key: str):
    (found,) = parsed(entry(**{key: {"sha256": SHA256}})).files
    assert found.core_metadata == {"sha256": SHA256}  # item 32


def test_an_older_key_that_is_null_does_not_hide_the_oldest():
    keys = {"dist-info-metadata": None, "data-dist-info-metadata": True}
    assert parsed(entry(**keys)).files[0].core_metadata is True


def test_core_metadata_overrides_its_older_keys():
    keys = {"core-metadata": False, "dist-info-metadata": True}
    assert parsed(entry(**keys)).files[0].core_metadata is None  # item 32


@pytest.mark.parametrize("depth", [200, 300, 1000])
def test_unknown_keys_nested_too_deeply_to_encode_are_dropped(depth: int):
    deep = b"[" * depth + b"]" * depth
    one = stdlib.dumps(entry()).encode()[:-1] + b', "x":' + deep + b"}"
    page = json.parse(b'{"files": [' + one + b'], "y": ' + deep + b"}", URL, "foo")
    data = stdlib.loads(json.render(page, lambda file: file.url))
    assert data["files"][0]["filename"] == "foo-1.0.tar.gz"
    assert ("x" in data["files"][0], "y" in data) == (
        (True, True) if depth == 200 else (False,) * 2
    )


def test_a_page_of_20_000_files_has_all_of_them():
    page = parsed(*(entry(f"foo-{number}.0.tar.gz") for number in range(20_000)))
    assert len(page.files) == 20_000  # item 137


# Rendering


def test_a_page_without_files_has_an_empty_list():
    assert rendered() == {"meta": {"api-version": "1.0"}, "name": "foo", "files": []}  # item 20


def test_a_page_with_sizes_and_versions_has_version_1_4():
    data = rendered(file(size=7), versions=("1.0",))
    assert data["meta"] == {"api-version": "1.4"}  # items 22, 23
    assert data["versions"] == ["1.0"]  # item 24


def test_a_page_with_an_unknown_size_has_version_1_0():
    data = rendered(file(size=7), file("foo-2.0.zip"), versions=("1.0", "2.0"))
    assert data["meta"] == {"api-version": "1.0"}  # item 23


def test_a_page_with_unknown_versions_has_version_1_0():
    data = rendered(file(size=7))
    assert data["meta"] == {"api-version": "1.0"}  # item 23
    assert "versions" not in data


def test_a_page_has_the_normalized_name():
    page = json.parse(body(name="FOO"), URL, "foo")
    assert stdlib.loads(json.render(page, lambda file: file.url))["name"] == "foo"  # item 22


def test_a_file_without_optional_fields_has_four_keys():
    assert rendered_entry(hashes={}) == {
        "filename": "foo-1.0.tar.gz",
        "url": f"../../root/pypi/+f/{file(hashes={}).key}",
        "hashes": {},
        "yanked": False,
    }  # items 25, 26, 27, 29, 33, 35


def test_null_fields_are_not_rendered():
    page = parsed(entry(**{"size": None, "upload-time": None, "yanked": None}))
    data = stdlib.loads(json.render(page, lambda file: file.url))
    assert data["files"][0].keys() == {"filename", "url", "hashes", "yanked"}  # items 26, 27, 30


@pytest.mark.parametrize("size", [0, 7, 2**40])
def test_a_known_size_is_rendered(size: int):
    assert rendered_entry(size=size)["size"] == size


def test_an_upload_time_is_rendered_as_it_is():
    time = "2024-05-06T07:08:09.123456Z"
    assert rendered_entry(upload_time=time)["upload-time"] == time  # items 27, 28


@pytest.mark.parametrize("yanked", [False, True, 'a "b" <c>'])
def test_yanked_is_always_rendered(yanked: bool | str):
    assert rendered_entry(yanked=yanked)["yanked"] == yanked  # item 30


def test_all_hashes_are_rendered():
    hashes = {"sha256": SHA256, "md5": MD5}
    assert rendered_entry(hashes=hashes)["hashes"] == hashes  # item 31


@pytest.mark.parametrize("known", [True, {"sha256": SHA256}])
def test_core_metadata_is_rendered_under_one_name(known: object):
    one = rendered_entry(core_metadata=known)
    assert one["core-metadata"] == known  # item 32
    assert not one.keys() & {"dist-info-metadata", "data-dist-info-metadata"}


@pytest.mark.parametrize("signed", [True, False])
def test_gpg_sig_is_rendered_where_known(signed: bool):
    assert rendered_entry(gpg_sig=signed)["gpg-sig"] is signed  # item 62


def test_requires_python_and_provenance_are_rendered_as_they_are():
    one = rendered_entry(requires_python=">=3.8, <4", provenance="https://index.example.org/p")
    assert one["requires-python"] == ">=3.8, <4"  # item 33
    assert one["provenance"] == "https://index.example.org/p"


@pytest.mark.parametrize(("reason", "more"), [(None, {}), ("too old", {"reason": "too old"})])
def test_a_status_is_an_object_at_the_top_level(reason: str | None, more: dict[str, str]):
    data = rendered(status="archived", status_reason=reason)
    assert data["project-status"] == {"status": "archived", **more}  # item 34


def test_a_serial_is_rendered_in_meta():
    assert rendered(last_serial=12)["meta"]["_last-serial"] == 12  # item 6


@pytest.mark.parametrize("key", ["namespaces", "tracks", "alternate-locations"])
def test_keys_that_promise_endpoints_pytail_lacks_are_dropped(key: str):
    page = parsed(entry(size=1), versions=[], meta={"api-version": "1.5"}, **{key: ["x"]})
    data = stdlib.loads(json.render(page, lambda file: file.url))
    assert data["meta"]["api-version"] == "1.4"  # item 36
    assert key not in data


def test_unknown_keys_are_rendered_as_they_are():
    page = parsed(entry(**{"x-file": {"a": [1, None]}}), **{"x-page": [True]})
    data = stdlib.loads(json.render(page, lambda file: file.url))
    assert data["x-page"] == [True]
    assert data["files"][0]["x-file"] == {"a": [1, None]}


def test_an_unknown_key_never_replaces_a_known_key():
    one = rendered_entry(size=7, other={"size": None, "url": "https://evil.example.net/"})
    assert one["size"] == 7
    assert one["url"].startswith("../../root/")


def test_files_have_the_order_of_upstream():
    filenames = ["foo-3.0.zip", "foo-1.0.zip", "foo-2.0.zip"]
    data = rendered(*map(file, filenames))
    assert [one["filename"] for one in data["files"]] == filenames  # item 37


def test_the_project_list_has_an_object_for_each_name():
    data = stdlib.loads(json.render_projects(["bar", "foo"], None))
    assert data == {"meta": {"api-version": "1.4"}, "projects": [{"name": "bar"}, {"name": "foo"}]}


def test_the_project_list_has_a_serial_where_upstream_has_one():
    assert stdlib.loads(json.render_projects([], 12))["meta"]["_last-serial"] == 12  # item 6


# Both ways

#: Without the characters of a URL, which is dropped.
words = st.characters(codec="utf-8", exclude_characters="/?\\")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(words)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(words, max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
unknown = st.dictionaries(st.sampled_from(["x-a", "x-b", "_c"]), json_values, max_size=2)
moments = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")
listed = files(
    filenames,
    st.just({}) | digests(DIGEST_LENGTHS),
    size=st.none() | st.integers(0, 2**63 - 1),
    upload_time=st.none() | moments,
    other=unknown,
)


@quickly
@given(pages(listed, last_serial=st.none() | st.integers(0, 2**63 - 1), other=unknown))
def test_a_rendered_page_parses_to_the_same_page(page: ProjectPage):
    again = json.parse(json.render(page, lambda file: file.url), URL, page.name)
    assert again == replace(page, versions=again.versions)
    assert json.parse(json.render(again, lambda file: file.url), URL, page.name) == again


@quickly
@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data: bytes):
    _parse_or_refuse(data)


@quickly
@given(st.dictionaries(st.sampled_from(sorted(json._PAGE_KEYS)), json_values), st.data())
def test_no_values_break_the_parser(page: dict[str, Any], data: st.DataObject):
    keys = st.sampled_from(sorted(json._FILE_KEYS))
    page["files"] = data.draw(st.lists(json_values | st.dictionaries(keys, json_values)))
    _parse_or_refuse(stdlib.dumps(page).encode())


def _parse_or_refuse(data: bytes) -> None:
    try:
        page = json.parse(data, URL, "foo")
    except PageUnreadable:
        return
    # A parsed page can be rendered, and parses to the same page.
    assert json.parse(json.render(page, lambda file: file.url), URL, "foo") == page


@pytest.mark.parametrize(
    "value",
    [
        "https://index.example.org/t0ken/x", "see //index.example.org", "/t0ken/x", "../x", "?t0ken",
        ["a", {"b": "http://user@index.example.org"}], {"//index.example.org": 1}, "\\\\index\\t0ken",
    ],
)  # fmt: skip
def test_an_unknown_key_with_a_url_is_dropped(value: object):
    page = parsed(entry(**{"x-a": value, "x-b": "text/html"}), **{"x-c": value, "x-d": [1]})
    assert page.files[0].other == {"x-b": "text/html"}
    assert page.other == {"x-d": [1]}
