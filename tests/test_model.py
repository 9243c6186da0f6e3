"""`ProjectPage` and `File`, and the layout of the files below ``+f``."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.model import (
    DIGEST_LENGTHS,
    File,
    ProjectPage,
    digest_prefix,
    directory_in,
    directory_of,
    is_directory,
)

quickly = settings(max_examples=100, deadline=None)

URL = "https://files.example.org/a/foo-1.0.zip"
SHA256 = hashlib.sha256(b"foo").hexdigest()
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


def file(url: str = URL, **known) -> File:
    hashes = {"sha256": SHA256}
    return File(
        filename="foo-1.0.zip", url=url, directory=directory_of(hashes, url), hashes=hashes, **known
    )


@pytest.mark.parametrize(("name", "length"), DIGEST_LENGTHS.items())
def test_the_digest_lengths_are_those_of_hashlib(name: str, length: int):
    assert len(hashlib.new(name, usedforsecurity=False).hexdigest()) == length  # item 31


def test_a_directory_is_3_and_13_digits_of_the_sha256():
    assert directory_of({"md5": "0" * 32, "sha256": SHA256}, URL) == f"{SHA256[:3]}/{SHA256[3:16]}"


@pytest.mark.parametrize("hashes", [{}, {"md5": "0" * 32}])
def test_a_directory_without_a_sha256_is_the_digest_of_the_url(hashes: dict[str, str]):
    assert (
        directory_of(hashes, URL) == f"_url/{hashlib.sha256(URL.encode()).hexdigest()}"
    )  # item 74


def test_a_directory_from_a_sha256_does_not_depend_on_the_url():
    hashes = {"sha256": SHA256}
    assert directory_of(hashes, URL) == directory_of(
        hashes, "https://mirror.example.net/x"
    )  # item 73


@quickly
@given(
    st.just({}) | digests.map(lambda digest: {"sha256": digest}),
    st.text(st.characters(codec="utf-8")),
)
def test_each_directory_has_the_form_of_a_directory(hashes: dict[str, str], url: str):
    assert is_directory(directory_of(hashes, url))  # item 138


@quickly
@given(
    st.just({}) | digests.map(lambda digest: {"sha256": digest}),
    st.text(st.characters(codec="utf-8")),
)
def test_a_directory_is_found_in_the_path_of_its_file(hashes: dict[str, str], url: str):
    directory = directory_of(hashes, url)
    assert directory_in(Path("/cache/+f") / directory / "foo-1.0.zip") == directory


def test_a_digest_prefix_is_16_digits_of_the_sha256():
    assert digest_prefix(directory_of({"sha256": SHA256}, URL)) == SHA256[:16]
    assert digest_prefix(directory_of({}, URL)) == ""


@quickly
@given(st.text(max_size=9), st.text(max_size=9))
def test_two_urls_without_a_digest_have_two_directories(one: str, other: str):
    directories = {directory_of({}, f"{URL}?{text!r}") for text in (one, other)}
    assert len(directories) == len({one, other})  # item 74


def test_a_key_is_directory_and_filename():
    assert file().key == f"{SHA256[:3]}/{SHA256[3:16]}/foo-1.0.zip"


def test_core_metadata_has_the_key_and_url_of_its_file_with_a_suffix():
    metadata = file(core_metadata={"sha256": "0" * 64}).metadata
    assert metadata is not None
    assert metadata.filename == "foo-1.0.zip.metadata"
    assert metadata.url == f"{URL}.metadata"
    assert metadata.key == f"{file().key}.metadata"  # item 56
    assert metadata.hashes == {"sha256": "0" * 64}
    assert metadata.size is None


def test_core_metadata_of_an_unknown_digest_has_no_hashes():
    metadata = file(core_metadata=True).metadata
    assert metadata is not None
    assert metadata.hashes == {}


@pytest.mark.parametrize("known", [None, False, {}])
def test_core_metadata_that_is_not_offered_is_none(known: object):
    assert file(core_metadata=known).metadata is None  # item 75


def test_a_signature_has_the_name_and_url_of_its_file_with_a_suffix():
    signature = file(gpg_sig=True).signature
    assert signature is not None
    assert (signature.filename, signature.url) == ("foo-1.0.zip.asc", f"{URL}.asc")  # item 62


@pytest.mark.parametrize("known", [None, False])
def test_a_signature_that_is_not_offered_is_none(known: bool | None):
    assert file(gpg_sig=known).signature is None  # items 62, 75


def test_the_suffix_is_put_before_the_query_of_a_url():
    metadata = file(f"{URL}?token=a/b", core_metadata=True).metadata
    assert metadata is not None
    assert metadata.url == f"{URL}.metadata?token=a/b"  # item 60


def test_only_core_metadata_and_signatures_are_sidecars():
    both = file(core_metadata=True, gpg_sig=True)
    assert not both.is_sidecar
    assert both.metadata is not None
    assert both.signature is not None
    assert both.metadata.is_sidecar
    assert both.signature.is_sidecar


@pytest.mark.parametrize(
    ("status", "quarantined"),
    [(None, False), ("active", False), ("archived", False), ("quarantined", True)],
)
def test_only_the_status_quarantined_is_a_quarantine(status: str | None, quarantined: bool):
    assert ProjectPage(name="foo", status=status).is_quarantined is quarantined


def test_with_serial_returns_another_page():
    page = ProjectPage(name="foo", files=(file(),), versions=("1.0",), status="active")
    assert page.with_serial(7) == dataclasses.replace(page, last_serial=7)
    assert page.last_serial is None


@pytest.mark.parametrize(("value", "name"), [(file(), "url"), (ProjectPage(name="foo"), "files")])
def test_values_cannot_be_changed(value: object, name: str):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, ())


def test_fields_that_upstream_does_not_give_have_empty_defaults():
    bare = File(filename="foo-1.0.zip", url=URL, directory="")
    assert (bare.hashes, bare.yanked, bare.size, bare.upload_time) == ({}, False, None, None)


def test_two_pages_do_not_share_a_default():
    assert ProjectPage(name="foo").other is not ProjectPage(name="foo").other
