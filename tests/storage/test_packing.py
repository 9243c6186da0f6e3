"""Packs: the files of a page as rows of the catalog."""

import dataclasses

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytail.model import File
from pytail.storage import packing

DIRECTORY = "abc/0123456789abc"
FILES = [
    File(
        filename=f"demo-{number}.zip",
        url=f"https://files.example.org/{number}",
        directory=DIRECTORY,
    )
    for number in range(5)
]


def lines_of(files):
    """Return the lines of the only pack of `files`."""
    ((_, lines),) = packing.packs(files)
    return lines


def test_no_files_make_no_pack():
    assert list(packing.packs([])) == []


@pytest.mark.parametrize("count", [1, 200, 201, 999])
def test_all_files_are_read_in_their_order(count):
    files = [dataclasses.replace(FILES[0], filename=f"demo-{n}.zip") for n in range(count)]
    made = list(packing.packs(files))
    assert [file for _, lines in made for file in packing.files(lines)] == files
    assert len(made) == -(-count // 200)


def test_a_pack_has_the_fingerprints_of_its_files_and_no_others():
    files = [dataclasses.replace(FILES[0], directory=f"{n:03}/{'0' * 13}") for n in range(500)]
    for place, (fingerprints, _) in enumerate(packing.packs(files)):
        for number, file in enumerate(files):
            is_in_pack = packing.fingerprint(file.directory) in fingerprints
            assert is_in_pack == (number // 200 == place)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts, texts, st.dictionaries(texts, texts | st.lists(texts), max_size=3))
def test_any_text_in_a_file_is_read_as_it_was_written(url, reason, other):
    odd = File(filename="demo-9.zip", url=url, directory=DIRECTORY, yanked=reason, other=other)
    lines = lines_of([FILES[0], odd, FILES[1]])
    assert list(packing.files(lines)) == [FILES[0], odd, FILES[1]]
    for file in (FILES[0], odd, FILES[1]):
        assert packing.file(lines, DIRECTORY, file.filename) == file


def test_a_file_is_found_by_its_whole_directory_and_filename():
    lines = lines_of(FILES[:3])
    for file in FILES[:3]:
        assert packing.file(lines, DIRECTORY, file.filename) == file
    assert packing.file(lines, DIRECTORY, "demo-3.zip") is None
    assert packing.file(lines, DIRECTORY, "demo-1") is None
    assert packing.file(lines, DIRECTORY[:-1], "demo-1.zip") is None


def test_text_within_a_line_is_not_taken_for_another_line():
    (line,) = orjson.loads(b"[%b]" % lines_of([FILES[1]]))
    text = lines_of([FILES[1]]).decode()
    hostile = dataclasses.replace(FILES[0], other={"x": [line, text]}, yanked=text)
    assert packing.file(lines_of([hostile]), DIRECTORY, FILES[1].filename) is None


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("core_metadata", [{"sha256": "a" * 64}, False])
def test_new_core_metadata_changes_one_line(place, core_metadata):
    filename = FILES[place].filename
    lines = packing.with_core_metadata(lines_of(FILES), DIRECTORY, filename, core_metadata)
    expected = [*FILES]
    expected[place] = dataclasses.replace(FILES[place], core_metadata=core_metadata)
    assert list(packing.files(lines)) == expected


def test_core_metadata_of_a_file_that_is_not_in_the_pack_changes_nothing():
    lines, filename = lines_of(FILES[:2]), FILES[2].filename
    changed = packing.with_core_metadata(lines, DIRECTORY, filename, core_metadata=False)
    assert changed is None


@pytest.mark.parametrize("damage", [b"", b"\n", b'{"a":', b"\xff"])
def test_damaged_lines_are_an_error(damage):
    lines = lines_of(FILES[:1])[:-3] + damage
    with pytest.raises(orjson.JSONDecodeError):
        list(packing.files(lines))
    with pytest.raises(orjson.JSONDecodeError):
        packing.file(lines, DIRECTORY, FILES[0].filename)
