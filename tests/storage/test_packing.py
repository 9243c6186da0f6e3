"""The files of a page as the catalog has them."""

import dataclasses

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytail.model import File
from pytail.storage import packing

SHELF = "abc/0123456789abc"
FILES = [
    File(filename=f"demo-{number}.zip", url=f"https://files.example.org/{number}", directory=SHELF)
    for number in range(5)
]


def only(files):
    ((_, lines),) = packing.packs(files)
    return lines


def test_no_files_are_no_part():
    assert list(packing.packs([])) == []


@pytest.mark.parametrize("count", [1, 200, 201, 999])
def test_all_files_come_back_in_their_order(count):
    files = [dataclasses.replace(FILES[0], filename=f"demo-{n}.zip") for n in range(count)]
    made = list(packing.packs(files))
    assert [file for _, lines in made for file in packing.files(lines)] == files
    assert len(made) == -(-count // 200)


def test_a_part_has_the_keys_of_its_files_and_no_others():
    files = [dataclasses.replace(FILES[0], directory=f"{n:03}/{'0' * 13}") for n in range(500)]
    for place, (keys, _) in enumerate(packing.packs(files)):
        for number, file in enumerate(files):
            assert (packing.fingerprint(file.directory) in keys) == (number // 200 == place)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts, texts, st.dictionaries(texts, texts | st.lists(texts), max_size=3))
def test_whatever_is_said_of_a_file_comes_back(url, reason, other):
    odd = File(filename="demo-9.zip", url=url, directory=SHELF, yanked=reason, other=other)
    lines = only([FILES[0], odd, FILES[1]])
    assert list(packing.files(lines)) == [FILES[0], odd, FILES[1]]
    for file in (FILES[0], odd, FILES[1]):
        assert packing.file(lines, SHELF, file.filename) == file


def test_only_the_file_asked_for_is_found():
    lines = only(FILES[:3])
    for file in FILES[:3]:
        assert packing.file(lines, SHELF, file.filename) == file
    assert packing.file(lines, SHELF, "demo-3.zip") is None
    assert packing.file(lines, SHELF, "demo-1") is None
    assert packing.file(lines, SHELF[:-1], "demo-1.zip") is None


def test_what_looks_like_a_line_within_another_is_none():
    (line,) = orjson.loads(b"[%b]" % only([FILES[1]]))
    text = only([FILES[1]]).decode()
    liar = dataclasses.replace(FILES[0], other={"x": [line, text]}, yanked=text)
    assert packing.file(only([liar]), SHELF, FILES[1].filename) is None


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("learnt", [{"sha256": "a" * 64}, False])
def test_what_is_learnt_changes_one_line(place, learnt):
    lines = packing.with_core_metadata(only(FILES), SHELF, FILES[place].filename, learnt)
    expected = [*FILES]
    expected[place] = dataclasses.replace(FILES[place], core_metadata=learnt)
    assert list(packing.files(lines)) == expected


def test_of_a_file_that_is_not_there_nothing_is_learnt():
    assert (
        packing.with_core_metadata(only(FILES[:2]), SHELF, FILES[2].filename, core_metadata=False)
        is None
    )


@pytest.mark.parametrize("damage", [b"", b"\n", b'{"a":', b"\xff"])
def test_damage_is_an_error(damage):
    lines = only(FILES[:1])[:-3] + damage
    with pytest.raises(orjson.JSONDecodeError):
        list(packing.files(lines))
    with pytest.raises(orjson.JSONDecodeError):
        packing.file(lines, SHELF, FILES[0].filename)
