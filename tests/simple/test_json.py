"""The JSON form: parsing the pages of upstream, and rendering pages for clients."""

from __future__ import annotations

import json as stdlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.errors import PageUnreadable
from pytail.model import DIGEST_LENGTHS, File, ProjectPage, directory_of
from pytail.simple import json
from tests.support.pages import digests, distributions, filenames, files, pages

quickly = settings(max_examples=100, deadline=None)

URL = "https://index.example.org/simple/foo/"
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
    assert page == ProjectPage(name="foo")  # items 20, 126


@pytest.mark.parametrize("version", ["1", "1.0", "1.4", "1.5", "1.10", "1.999", 1, 1.0, None, ""])
def test_api_versions_1_x_are_accepted(version: object):
    assert parsed(entry(), meta={"api-version": version}).files  # item 126


@pytest.mark.parametrize("version", ["2.0", "2", "0.9", "10.0", "11", "v1", 2, {"a": 1}, True])
def test_other_api_versions_are_refused(version: object):
    with pytest.raises(PageUnreadable, match="api-version"):
        parsed(entry(), meta={"api-version": version})  # item 126


@pytest.mark.parametrize("meta", [None, "", "1.0", [], 1])
def test_an_invalid_meta_means_version_1_0(meta: object):
    assert parsed(entry(), meta=meta).files  # item 126


@pytest.mark.parametrize("name", ["foo", "Foo", "FOO", None, ""])
def test_the_page_of_the_project_is_accepted(name: object):
    assert parsed(entry(), name=name).name == "foo"


@pytest.mark.parametrize("name", ["bar", "foo-bar", "f", 1, ["foo"], {"foo": 1}, True])
def test_the_page_of_another_project_is_refused(name: object):
    with pytest.raises(PageUnreadable, match="not for 'foo'"):
        parsed(entry(), name=name)


@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"null", b"[]", b"1", b'"files"', b"{}", b'{"files": null}', b'{"files": {}}',
        b'{"error": "not found"}', b'{"files": []', b'{"files": [{"filename": "foo', b"<html></html>",
        b'{"files": [], "x": "\xff"}', b'{"files": [], "x": NaN}', b'{"files": [], "x": "\\ud800"}',
        b'{"files": [], "x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)  # fmt: skip
def test_json_that_is_no_page_is_refused(data: bytes):
    with pytest.raises(PageUnreadable):
        json.parse(data, URL, "foo")  # item 124


def test_a_byte_order_mark_is_ignored():
    assert json.parse(b"\xef\xbb\xbf" + body(entry()), URL, "foo").files


@pytest.mark.parametrize(
    "bad",
    [
        None, "foo-1.0.tar.gz", [], 1, {}, {"filename": "foo-1.0.tar.gz"}, {"url": "/f/foo-1.0.tar.gz"},
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


def test_the_version_of_a_file_is_added_to_the_versions():
    assert parsed(entry("foo-2.0.zip"), versions=["1.0"]).versions == ("1.0", "2.0")  # item 24


def test_without_versions_from_upstream_versions_are_none():
    assert parsed(entry()).versions is None


def test_of_two_entries_with_one_filename_the_one_with_a_hash_remains():
    page = parsed(entry(hashes={}), entry(hashes={"md5": MD5}))
    assert [file.hashes for file in page.files] == [{"md5": MD5}]  # item 135


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
    assert json.parse(json.render(page, lambda file: file.url), URL, page.name) == page


@quickly
@given(st.lists(distributions), st.lists(st.sampled_from(["1", "2", "007", "1.0.0"]), unique=True))
def test_completed_versions_stay_the_same_when_parsed_again(
    filenames: list[str], versions: list[str]
):
    once = parsed(*map(entry, filenames), versions=versions)
    again = json.parse(json.render(once, lambda file: file.url), URL, "foo")
    assert again.versions == once.versions


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
