"""Files without a digest are verified by their type and structure."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from pytail.errors import DownloadInterrupted
from pytail.storage.archives import Structure
from tests.support.fakeindex import sdist, wheel


def zipped(comment=b"", entries=3):
    """Return a zip file with a `comment` at its end."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(entries):
            archive.writestr(f"file-{number}", b"content" * 100)
        archive.comment = comment
    return buffer.getvalue()


def tarred(mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:
        archive.addfile(tarfile.TarInfo("demo-1.0/PKG-INFO"), io.BytesIO())
    return buffer.getvalue()


def structure(filename, data, step=1000):
    """Return the `Structure` of `data`, added in chunks of `step` bytes."""
    found = Structure(filename)
    for start in range(0, len(data), step):
        found.add(data[start : start + step])
    return found


GOOD = [
    ("demo-1.0-py3-none-any.whl", wheel("demo").data),
    ("demo-1.0.tar.gz", sdist("demo").data),
    ("demo-1.0.zip", zipped()),
    ("demo-1.0.zip", zipped(b"a comment" * 1000)),
    ("demo-1.0.zip", zipped(b"PK\x05\x06 in the comment, which is no record")),
    ("demo-1.0.zip", zipped(entries=0)),
    ("demo-1.0.tar", tarred("")),
    ("demo-1.0.tar.bz2", tarred("bz2")),
    ("demo-1.0.tar.xz", tarred("xz")),
    ("demo-1.0.rpm", b"a type without a rule"),
]


@pytest.mark.parametrize(("filename", "data"), GOOD, ids=range(len(GOOD)))
@pytest.mark.parametrize("step", [1, 1000, 10**6])
def test_an_archive_is_right(filename, data, step):
    structure(filename, data, step).verify()


@pytest.mark.parametrize("filename", sorted({name for name, _ in GOOD} - {"demo-1.0.rpm"}))
@pytest.mark.parametrize(
    "data",
    [b"", b"<!DOCTYPE html><html>log in</html>" * 100, b'{"message": "busy"}', bytes(2000)],
    ids=["empty", "html", "json", "zeros"],
)
def test_another_type_is_wrong(filename, data):
    with pytest.raises(DownloadInterrupted, match=filename.replace(".", r"\.")):
        structure(filename, data).verify()


@pytest.mark.parametrize("cut", [1, 21, 22, 100])
def test_a_zip_file_without_its_end_is_wrong(cut):
    data = zipped()[:-cut]
    with pytest.raises(DownloadInterrupted, match="not complete"):
        structure("demo-1.0.zip", data).verify()
    assert not structure("demo-1.0.zip", data).has_end


def test_only_a_zip_file_shows_its_end():
    assert structure("demo-1.0.zip", zipped()).has_end
    assert not structure("demo-1.0.tar.gz", sdist("demo").data).has_end
