"""The fields of a page, normalized or dropped."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.model import DIGEST_LENGTHS, File, directory_of
from pytail.simple import fields

quickly = settings(max_examples=200, deadline=None)

BASE = "https://index.example.org/simple/foo/"
SHA256, MD5 = "ab" * 32, "cd" * 16

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def file(filename: str, **known) -> File:
    return File(filename=filename, url=f"{BASE}{filename}", directory="", **known)


@pytest.mark.parametrize("value", ["x", " x ", "\N{SNOWMAN}"])
def test_text_stays_as_it_is(value: str):
    assert fields.text(value) == value


@pytest.mark.parametrize(
    "value", ["", "  \n", "\ud800", "x\udfff", None, 0, 1, True, [], ["x"], {}, b"x"]
)
def test_blank_text_and_other_values_are_dropped(value: object):
    assert fields.text(value) is None  # item 127


@pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
def test_a_size_stays_as_it_is(value: int):
    assert fields.size(value) == value


@pytest.mark.parametrize("value", [None, "", "12", -1, 2**63, 1.0, True, False, [1], {}])
def test_an_invalid_size_is_dropped(value: object):
    assert fields.size(value) is None  # items 26, 127


@pytest.mark.parametrize(("name", "length"), DIGEST_LENGTHS.items())
def test_every_algorithm_that_clients_know_stays(name: str, length: int):
    assert fields.hashes({name: "0" * length}) == {name: "0" * length}  # item 31


def test_algorithms_and_digests_become_lower_case():
    assert fields.hashes({"SHA256": SHA256.upper()}) == {"sha256": SHA256}  # item 31


@pytest.mark.parametrize("name", ["blake2b_256", "shake_128", "shake_256", "sha512_256", "crc32"])
def test_algorithms_that_clients_do_not_know_are_dropped(name: str):
    assert fields.hashes({name: SHA256, "md5": MD5}) == {"md5": MD5}  # item 31


@pytest.mark.parametrize(
    "digest",
    [
        "", SHA256[:-1], SHA256 + "0", "g" * 64, " " + SHA256[1:], SHA256[:-1] + "\n", "../" * 21 + "a",
        "\u0661" * 64, None, 1, ["ab"], {},
    ],
)  # fmt: skip
def test_an_invalid_digest_is_dropped(digest: object):
    assert fields.hashes({"sha256": digest, "md5": MD5}) == {"md5": MD5}  # items 132, 138


@pytest.mark.parametrize("value", [None, "", SHA256, [], [["sha256", SHA256]], 1, True])
def test_hashes_that_are_no_mapping_are_dropped(value: object):
    assert fields.hashes(value) == {}  # item 127


@pytest.mark.parametrize(
    ("expression", "hashes"),
    [
        (f"sha256={SHA256}", {"sha256": SHA256}),
        (f"SHA256={SHA256.upper()}", {"sha256": SHA256}),
        (f"md5={MD5}", {"md5": MD5}),
        (f"sha256={SHA256}&egg=foo-1.0", {"sha256": SHA256}),
        (f"egg=foo-1.0&sha256={SHA256}", {"sha256": SHA256}),
        ("egg=foo-1.0", {}),
        ("sha256=", {}),
        ("sha256", {}),
        (f"sha256={SHA256}0", {}),
        ("", {}),
    ],
)
def test_a_fragment_has_one_hash(expression: str, hashes: dict[str, str]):
    assert fields.hash_in(expression) == hashes  # item 132


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.123456Z", "2024-05-06T07:08:09.123456Z"),
        ("2024-05-06T07:08:09.5Z", "2024-05-06T07:08:09.500000Z"),
        ("2024-05-06T07:08:09.123Z", "2024-05-06T07:08:09.123000Z"),
        ("2024-05-06T07:08:09.123456789Z", "2024-05-06T07:08:09.123456Z"),
        ("2024-05-06 07:08:09+00:00", "2024-05-06T07:08:09Z"),
        ("2024-05-06t07:08:09z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T01:08:09.5+02:30", "2024-05-05T22:38:09.500000Z"),
        ("2024-12-31T23:30:00-0100", "2025-01-01T00:30:00Z"),
        (" 2024-05-06T07:08:09Z\n", "2024-05-06T07:08:09Z"),
    ],
)
def test_an_upload_time_is_converted_to_utc(value: str, normal: str):
    assert fields.upload_time(value) == normal  # items 27, 28


@pytest.mark.parametrize(
    "value",
    [
        None, "", " ", 0, 1714979289, 1714979289.5, True, [], {},
        "2024-05-06", "2024-05-06T07:08:09", "2024-05-06T07:08:09.5", "yesterday", "Z",
        "2024-02-30T07:08:09Z", "2024-05-06T25:08:09Z", "2024-05-06T07:08:60Z",
        "2024-05-06T07:08:09.Z", "2024-05-06T07:08:09+99:00", "2024-05-06T07:08:09+00:60",
        "2024-05-06T07:08:09.\u0665Z", "\u0662\u0660\u0662\u0664-05-06T07:08:09Z",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
    ],
)  # fmt: skip
def test_an_invalid_upload_time_is_dropped(value: object):
    assert fields.upload_time(value) is None  # items 27, 127


@quickly
@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_an_upload_time_stays_the_same_instant(moment: datetime, minutes: int):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    found = fields.upload_time(moment.isoformat())
    assert found is not None
    assert datetime.fromisoformat(found.removesuffix("Z") + "+00:00") == moment  # item 28


@pytest.mark.parametrize("value", ["broken", 'a "b" <c>', "false"])
def test_a_reason_stays_as_it_is(value: str):
    assert fields.yanked(value) == value


@pytest.mark.parametrize("value", [True, 1, -1, 0.5, " ", "\ud800", ["x"], {"reason": "x"}])
def test_each_other_value_that_is_not_empty_means_yanked(value: object):
    assert fields.yanked(value) is True  # items 30, 127


@pytest.mark.parametrize("value", [False, None, "", 0, 0.0, [], {}])
def test_an_empty_value_means_not_yanked(value: object):
    assert fields.yanked(value) is False  # items 30, 127


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (True, True),
        ({"sha256": SHA256}, {"sha256": SHA256}),
        ({"SHA256": SHA256.upper(), "shake_128": "00"}, {"sha256": SHA256}),
        ({}, True),
        ({"sha256": "short"}, True),
        (False, None),
        (None, None),
        ("", None),
        ("true", None),
        (1, None),
        ([SHA256], None),
    ],
)
def test_core_metadata_is_hashes_or_true_or_none(value: object, known: object):
    assert fields.core_metadata(value) == known  # items 32, 127


@pytest.mark.parametrize("value", ["active", "archived", "deprecated", "quarantined"])
def test_the_statuses_of_pep_792_stay(value: str):
    assert fields.status(value) == value  # item 34


@pytest.mark.parametrize("value", [None, "", "Archived", "gone", 1, True, [], {}, {"status": "x"}])
def test_other_statuses_are_dropped(value: object):
    assert fields.status(value) is None  # items 34, 127


def test_each_version_is_listed_once_in_upstreams_order():
    assert fields.versions(["2.0", "1.0", "2.0", "legacy-1"]) == ("2.0", "1.0", "legacy-1")


def test_versions_that_are_no_text_are_dropped():
    assert fields.versions(["1.0", None, "", 2, ["3"], {}]) == ("1.0",)


@pytest.mark.parametrize("value", [None, "", "1.0", {"1.0": {}}, 1, True])
def test_versions_that_are_no_list_are_none(value: object):
    assert fields.versions(value) is None


@pytest.mark.parametrize("value", [7, "7", "007", "0" * 17 + "7"])
def test_a_serial_is_a_number_in_json_and_in_a_header(value: object):
    assert fields.serial(value) == 7  # item 6


@pytest.mark.parametrize("value", [None, "", "-1", "1.5", "\u0667", "9" * 19, "9" * 5000, -1, True])
def test_an_invalid_serial_is_dropped(value: object):
    assert fields.serial(value) is None


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_a_decimal_is_a_number(value: str, number: int):
    assert fields.decimal(value) == number


@pytest.mark.parametrize("value", [None, "", " 7", "-1", "1.5", "\u0667", "\xb2", "9" * 19, 7, [7]])
def test_other_text_and_values_are_no_decimal(value: object):
    assert fields.decimal(value) is None


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://files.example.org/foo.provenance", "https://files.example.org/foo.provenance"),
        ("/foo.provenance", "https://index.example.org/foo.provenance"),
        ("foo.provenance", "https://index.example.org/simple/foo/foo.provenance"),
    ],
)
def test_provenance_is_an_absolute_url(value: str, url: str):
    assert fields.provenance(value, BASE) == url  # item 33


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        " http://files.example.org/p",
        "http://files.example.org/p",
        "javascript:x",
        "https://[",
        "https://files.example.org/\ud800",
        1,
        [],
        {},
    ],
)
def test_provenance_that_is_not_https_is_dropped(value: object):
    assert fields.provenance(value, BASE) is None  # items 15, 139


@pytest.mark.parametrize("value", ["/foo.provenance", "foo.provenance", "//files.example.org/p"])
def test_relative_provenance_of_a_page_over_http_is_dropped(value: str):
    assert fields.provenance(value, "http://index.example.org/simple/foo/") is None  # items 15, 33


def file_with(hashes: dict[str, str], filename: str = "foo-1.0.zip", **known) -> File:
    url = f"{BASE}{known.pop('place', '')}{filename}"
    directory = directory_of(hashes, url, known.get("size"))
    return File(filename=filename, url=url, directory=directory, hashes=hashes, **known)


def test_a_filename_with_two_digests_stays_listed_twice():
    one, other = file_with({"sha256": SHA256}), file_with({"sha256": "cd" * 32})
    third, weak = file_with({"sha256": SHA256}, "foo-2.0.zip"), file_with({"md5": MD5})
    listed = (one, third, other, weak)
    assert fields.unique(listed) == listed  # item 135


def test_of_entries_with_one_filename_and_digest_the_first_remains():
    one = file_with({"sha256": SHA256})
    again = [file_with({"sha256": SHA256}, place=place) for place in ("a/", "b/")]
    assert fields.unique([one, *again]) == (one,)  # item 135


def test_a_weak_digest_with_and_without_the_size_is_one_digest():
    one, other = file_with({"md5": MD5}, size=7), file_with({"md5": MD5})
    assert fields.unique([one, other]) == (one,)  # item 135


def test_an_entry_without_a_digest_gives_way_to_one_with_a_digest():
    bare, better = file_with({}), file_with({"md5": MD5})
    other = file_with({}, "foo-2.0.zip")
    assert fields.unique([bare, other, better]) == (other, better)  # item 135


def test_of_entries_with_one_filename_and_no_digest_the_first_remains():
    one, other = file_with({}, place="a/"), file_with({}, place="b/")
    assert fields.unique([one, other]) == (one,)  # item 135


@pytest.mark.parametrize(
    "value",
    [
        "foo.provenance", "../../../integrity/foo", "https://index.example.org/t0ken/foo",
        "https://cdn.example.org/%740ken/foo",
    ],
)  # fmt: skip
def test_provenance_below_the_path_of_a_private_index_is_dropped(value: str):
    assert fields.provenance(value, "https://index.example.org/t0ken/python/simple/foo/") is None


def test_provenance_beside_a_private_index_is_kept():
    page = "https://index.example.org/t0ken/simple/foo/"
    url = "https://index.example.org/integrity/foo?a=1"
    assert fields.provenance(url, page) == url


@pytest.mark.parametrize(
    ("filenames", "versions"),
    [
        ([], ()),
        (["foo-2.0.tar.gz", "foo-1.0.tar.gz"], ("1.0", "2.0")),
        (["foo-10.0.zip", "foo-9.0.zip", "foo-9.0rc1.zip"], ("9.0rc1", "9.0", "10.0")),
        (["foo-1.0.tar.gz", "foo-1.0-py3-none-any.whl"], ("1.0",)),
        (["foo-1.0.tar.gz", "foo-1.0.0.tar.gz"], ("1.0",)),
        (["foo-1.0.0.tar.gz", "foo-1.0.tar.gz"], ("1.0.0",)),
        (["foo-1.0-1.tar.gz", "foo-1.0_1-py3-none-any.whl"], ("1.0.post1",)),
    ],
)
def test_versions_are_made_of_filenames_each_once_the_lowest_first(
    filenames: list[str], versions: tuple[str, ...]
):
    assert fields.versions_of(map(file, filenames), "foo") == versions  # item 24


@pytest.mark.parametrize(
    "filename",
    [
        "foo-1.0.win32-py2.7.exe", "foo-1.0.win-amd64-py2.7.exe", "foo-1.0.linux-x86_64.tar.gz",
        "foo-1.0-1.noarch.rpm", "foo-1.0.tar.gz.asc", "foo-1.0-variants.json", "foo-dev.tar.gz",
    ],
)  # fmt: skip
def test_text_in_a_filename_that_is_no_version_is_no_version(filename: str):
    listed = [file(filename), file("foo-1.0.zip")]
    assert fields.versions_of(listed, "foo") == ("1.0",)  # item 135


@quickly
@given(anything)
def test_no_value_raises(value: object):
    for read in (
        fields.text, fields.size, fields.hashes, fields.upload_time, fields.yanked,
        fields.core_metadata, fields.status, fields.versions, fields.serial, fields.decimal,
    ):  # fmt: skip
        read(value)
    fields.provenance(value, BASE)
