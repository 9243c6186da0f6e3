"""Digests: reading and hashing a file, and the verification of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytail.errors import DigestMismatch, DownloadInterrupted
from pytail.storage.digests import FileVerifier, chunks_of, expected_digest, hash_file
from tests.support.storage import DATA, DIRECTORY, SHA256, file

LARGE = bytes(range(256)) * 10_000


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file of `LARGE`, which is more than two chunks."""
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 10), (7, 2_000_000), (5, None), (9, 9), (0, 2**40)]
)
def test_chunks_are_the_bytes_between_start_and_stop(descriptor: int, start: int, stop: int | None):
    os.lseek(descriptor, 100, os.SEEK_SET)
    chunks = list(chunks_of(descriptor, start, stop))
    assert b"".join(chunks) == LARGE[start:stop]
    assert all(0 < len(chunk) <= 2**20 for chunk in chunks)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 100


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2b"])
def test_a_file_is_hashed_with_the_given_algorithm(descriptor: int, algorithm: str):
    advances: list[int] = []
    digest = hashlib.new(algorithm, LARGE, usedforsecurity=False).hexdigest()
    assert hash_file(descriptor, algorithm, advances.append) == (len(LARGE), digest)
    assert sum(advances) == len(LARGE)


def test_without_an_algorithm_only_the_size_is_counted(descriptor: int):
    assert hash_file(descriptor, None) == (len(LARGE), "")


def test_the_expected_digest_is_the_best_one_listed():
    listed = file(hashes={"md5": "0" * 32, "sha512": "1" * 128})
    assert expected_digest(listed) == ("sha512", "1" * 128)


def test_the_expected_digest_of_an_unlisted_file_begins_with_its_directory():
    assert expected_digest(file()) == ("sha256", SHA256[:16])


@pytest.mark.parametrize(
    ("filename", "directory"),
    [("demo-1.0.tar.gz", f"_url/{'0' * 64}"), ("demo-1.0-py3-none-any.whl.metadata", DIRECTORY)],
)
def test_an_unlisted_file_without_its_digest_in_the_directory_has_no_expected_digest(
    filename: str, directory: str
):
    assert expected_digest(file(filename, directory)) == (None, "")


def test_the_right_bytes_are_verified():
    verifier = FileVerifier(file(hashes={"sha256": SHA256}))
    for start in range(0, len(DATA), 300):
        assert not verifier.matches
        verifier.add(DATA[start : start + 300])
    assert verifier.matches
    verifier.verify(len(DATA))


def test_wrong_bytes_are_a_digest_mismatch():
    verifier = FileVerifier(file(hashes={"sha256": SHA256}))
    verifier.add(DATA[::-1])
    with pytest.raises(DigestMismatch, match=SHA256):
        verifier.verify(len(DATA))


def test_a_wrong_size_is_a_digest_mismatch():
    verifier = FileVerifier(file(directory=f"_url/{'0' * 64}"))
    assert not verifier.has_digest
    verifier.add(DATA)
    verifier.verify(None)
    with pytest.raises(DigestMismatch, match="bytes"):
        verifier.verify(len(DATA) + 1)


def test_no_bytes_are_an_interrupted_download_unless_the_file_is_empty():
    with pytest.raises(DownloadInterrupted):
        FileVerifier(file(size=None)).verify(None)
    FileVerifier(file(directory=f"_url/{'0' * 64}", size=0)).verify(0)


def test_the_start_of_a_file_is_added_up_to_a_size(descriptor: int):
    verifier = FileVerifier(file(hashes={"sha256": hashlib.sha256(LARGE).hexdigest()}))
    verifier.add(LARGE[:100])
    verifier.add_start(descriptor, 2_000_000)
    assert verifier.size == 2_000_000
    verifier.add_start(descriptor, len(LARGE))
    assert verifier.matches


def test_a_start_beyond_the_end_is_an_interrupted_download(descriptor: int):
    with pytest.raises(DownloadInterrupted, match="truncated"):
        FileVerifier(file()).add_start(descriptor, len(LARGE) + 1)
