"""`ProjectPage` and `File`, and the layout of the files below ``+f``."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.model import (
    DIGEST_LENGTHS,
    File,
    ProjectPage,
    digest_in,
    digest_prefix,
    directory_in,
    directory_of,
    former_directories,
    is_directory,
    is_directory_of,
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


def test_a_directory_without_a_digest_is_that_of_the_url_without_query_and_fragment():
    expected = f"_url/{hashlib.sha256(URL.encode()).hexdigest()}"
    for url in (URL, f"{URL}?signature=1", f"{URL}?a#b", f"{URL}#b?c"):
        assert directory_of({}, url) == expected  # item 74


@pytest.mark.parametrize("name", DIGEST_LENGTHS.keys() - {"sha256", "md5", "sha1"})
def test_a_directory_without_a_sha256_has_the_whole_digest(name: str):
    digest = "a" * DIGEST_LENGTHS[name]
    assert directory_of({name: digest}, URL, 7) == f"_{name}/{digest}"


@pytest.mark.parametrize("name", ["md5", "sha1"])
def test_a_directory_from_a_weak_digest_has_the_size_too(name: str):
    digest = "a" * DIGEST_LENGTHS[name]
    assert directory_of({name: digest}, URL) == f"_{name}/{digest}"
    assert directory_of({name: digest}, URL, 7) == f"_{name}/{digest}-7"


def test_the_strongest_digest_decides():
    names = ["sha256", "sha512", "sha384", "sha1", "md5"]
    hashes = {name: "a" * DIGEST_LENGTHS[name] for name in reversed(names)}
    for name in names:
        assert digest_in(directory_of(hashes, URL, 7)) is not None
        assert digest_in(directory_of(hashes, URL, 7))[0] == name  # type: ignore[index]
        del hashes[name]
    assert digest_in(directory_of(hashes, URL, 7)) is None


sizes = st.none() | st.integers(0, 2**63 - 1)


def hashes_of(data: bytes, names: Iterable[str]) -> dict[str, str]:
    return {name: hashlib.new(name, data, usedforsecurity=False).hexdigest() for name in names}


algorithms = st.sets(st.sampled_from(list(DIGEST_LENGTHS)), min_size=1)


@quickly
@given(st.binary(), st.binary(), algorithms, algorithms, st.text(max_size=9))
def test_two_contents_never_share_a_directory(
    one: bytes, other: bytes, of_one: set[str], of_other: set[str], query: str
):
    first = directory_of(hashes_of(one, of_one), f"{URL}?{query}", len(one))
    second = directory_of(hashes_of(other, of_other), URL, len(other))
    is_same = one == other and strongest(of_one) == strongest(of_other)
    assert (first == second) == is_same
    assert is_directory(first)


def strongest(names: set[str]) -> str:
    return next(name for name in DIGEST_LENGTHS if name in names)


@quickly
@given(st.binary(), algorithms, sizes, st.text(max_size=9), st.text(max_size=9))
def test_one_content_at_two_urls_has_one_directory(
    data: bytes, names: set[str], size: int | None, one: str, other: str
):
    hashes = hashes_of(data, names)
    first = directory_of(hashes, f"https://one.example.org/{one}", size)
    assert first == directory_of(hashes, f"{URL}?{other}", size)


@quickly
@given(st.binary(), st.sets(st.sampled_from(list(DIGEST_LENGTHS))), sizes, st.text(max_size=9))
def test_a_file_has_the_directories_that_fewer_digests_gave(
    data: bytes, names: set[str], size: int | None, query: str
):
    url = f"{URL}?{query}"
    hashes = hashes_of(data, names)
    listed = File(
        filename="foo-1.0.zip",
        url=url,
        directory=directory_of(hashes, url, size),
        hashes=hashes,
        size=size,
    )
    whole_url = f"_url/{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"
    weaker = [dict(list(hashes.items())[:count]) for count in range(len(hashes) + 1)]
    former = {directory_of(some, url, known) for some in weaker for known in (size, None)}
    for directory in former | {whole_url}:
        assert is_directory_of(directory, listed)
        assert directory in {listed.directory, *former_directories(listed)}
        assert is_directory(directory)
    assert not is_directory_of("000/0000000000000", listed)
    assert not is_directory_of(f"_url/{'0' * 64}", listed)


def test_core_metadata_has_the_former_directories_of_its_file():
    signed = file(f"{URL}?signature=1", core_metadata=True)
    assert signed.metadata is not None
    assert former_directories(signed.metadata) == former_directories(signed)[-2:]


def test_a_file_has_a_digest_by_its_page_or_by_its_directory():
    by_url = File(filename="foo-1.0.zip", url=URL, directory=directory_of({}, URL))
    assert not by_url.has_digest
    assert not by_url.is_immutable
    unlisted = File(filename="foo-1.0.zip", url="", directory=file().directory)
    assert unlisted.has_digest
    assert unlisted.is_immutable


@pytest.mark.parametrize("hashes", [{}, {"sha256": SHA256}])
def test_core_metadata_is_immutable_with_a_digest_beside_a_file_with_one(hashes: dict[str, str]):
    known = {"core_metadata": hashes or True}
    beside_digest = file(**known).metadata
    beside_url = File(
        filename="foo-1.0.zip", url=URL, directory=directory_of({}, URL), **known
    ).metadata
    assert beside_digest is not None
    assert beside_url is not None
    assert beside_digest.has_digest == beside_url.has_digest == bool(hashes)
    assert beside_digest.is_immutable == bool(hashes)
    assert not beside_url.is_immutable


@pytest.mark.parametrize(
    "text",
    [
        f"_sha256/{'0' * 64}",
        f"_sha512/{'0' * 127}",
        f"_sha512/{'0' * 128}-1",
        f"_md5/{'0' * 32}-",
        f"_md5/{'0' * 32}-x",
        f"_md5/{'0' * 32}-{'1' * 20}",
        f"_md5/{'A' * 32}",
        f"_md5/{'0' * 32}-\N{ARABIC-INDIC DIGIT ONE}",
        f"_crc32/{'0' * 8}",
        "_md5/../x",
    ],
)
def test_other_text_is_no_directory(text: str):
    assert not is_directory(text)


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
    assert digest_prefix(directory_of({"sha512": "0" * 128}, URL)) == ""


@quickly
@given(st.text("abc/.%"), st.text("abc/.%"))
def test_two_urls_without_a_digest_have_two_directories(one: str, other: str):
    directories = {directory_of({}, f"{URL}{text}") for text in (one, other)}
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
