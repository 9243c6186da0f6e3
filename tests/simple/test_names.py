"""Names of projects and files: their validation, and the project of a filename."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytail.simple import names

quickly = settings(max_examples=200, deadline=None)

PROJECTS = ["a", "7", "foo", "Foo.Bar", "zope.interface", "a_b-c.d", "x--y", "2to3"]
NOT_PROJECTS = [
    "", ".", "..", "-", "-foo", "foo-", ".foo", "foo.", "_foo", "foo_", "foo bar", "foo\n", "\nfoo",
    "foo\0", "fo/o", "fo\\o", "foo%20", "%2e%2e", "föö", "\u212a", "\u017f", "foo\u0661", "foo+bar",
]  # fmt: skip


@pytest.mark.parametrize("name", PROJECTS)
def test_project_names_of_pep_503_are_valid(name: str):
    assert names.is_project_name(name)  # item 53


@pytest.mark.parametrize("name", NOT_PROJECTS)
def test_other_project_names_are_invalid(name: str):
    assert not names.is_project_name(name)  # item 53


def test_a_project_name_has_at_most_200_characters():
    assert names.is_project_name("a" * 200)
    assert not names.is_project_name("a" * 201)


@pytest.mark.parametrize("name", ["friendly-bard", "Friendly-._.-Bard", "FRIENDLY_bard"])
def test_every_spelling_of_a_project_has_one_normalized_name(name: str):
    assert names.normalized(name) == "friendly-bard"  # item 49


@pytest.mark.parametrize(
    "name",
    [
        "foo-1.0.tar.gz",
        "torch-2.0.0+cu121-cp311-cp311-linux_x86_64.whl",
        "foo-1!2.0.zip",
        "foo-1.0~x.tar.gz",
        "foo bar-1.0.tar.gz",
        "föö-1.0.tar.gz",
        "foo-100%.tar.gz",
        "...",
        ".foo",
    ],
)
def test_unusual_but_safe_filenames_are_valid(name: str):
    assert names.is_filename(name)  # items 76, 135


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a/b", "/a", "../a", "a\\b", "..\\a", "C:a", "c:\\a", "1:a", "a\0b", "a\nb",
        "a\rb", "a\x7fb", "a\x85b", "a\u2028b", "a\ud800b", "a#b", "a?b",
        "%2e%2e", "%2E%2E%2Fa", "a%2fb", "a%2Fb", "a%5cb", "a%5Cb", "a%00b", "a%0d%0ab", "a%7fb",
        "a%252fb", "%25252e", "%43:a", "torch-2.0%2Bcu121.whl",
    ],
)  # fmt: skip
def test_filenames_unsafe_in_a_path_or_a_header_are_invalid(name: str):
    assert not names.is_filename(name)  # items 138, 143


@pytest.mark.parametrize(("letter", "count"), [("a", 240), ("ö", 120)])
def test_a_filename_has_at_most_240_bytes(letter: str, count: int):
    assert names.is_filename(letter * count)
    assert not names.is_filename(letter * count + "a")


@pytest.mark.parametrize("suffix", [".metadata", ".asc"])
def test_metadata_and_signature_may_exceed_240_bytes_by_their_suffix(suffix: str):
    assert names.is_filename("a" * 240 + suffix)  # item 56
    assert not names.is_filename("a" * 241 + suffix)


@quickly
@given(st.text() | st.from_regex(r"[.%/\\:A-C0-9ef]{0,9}", fullmatch=True))
@example("%2e%2e")
@example("a:b")
def test_no_filename_leads_out_of_its_directory_even_decoded_twice(name: str):
    if not names.is_filename(name):
        return
    for spelling in (name, unquote(name), unquote(unquote(name))):  # item 138
        for pure in (PurePosixPath("/files"), PureWindowsPath("C:/files")):
            assert (pure / spelling).parent == pure
            assert (pure / spelling).name == spelling


@quickly
@given(st.text())
def test_a_filename_is_the_same_after_quoting_and_has_one_line(name: str):
    if names.is_filename(name):
        assert unquote(quote(name)) == name  # item 76
        assert len(name.splitlines()) == 1  # item 143


@pytest.mark.parametrize(
    "name",
    [
        "foo-1.0-py3-none-any.whl", "foo-1.0.tar.gz", "foo-1.0.TAR.GZ", "foo-1.0.zip", "foo-1.0.tgz",
        "foo-1.0.tar.bz2", "foo-1.0.tar.xz", "foo-1.0.txz", "foo-1.0.tar.lzma", "foo-1.0.tar",
        "foo-1.0-py2.7.egg", "foo-1.0.win32-py2.7.exe", "foo-1.0.win32.msi", "foo-1.0-1.src.rpm",
    ],
)  # fmt: skip
def test_each_kind_of_distribution_is_known(name: str):
    assert names.is_distribution(name)  # item 135


@pytest.mark.parametrize(
    "name",
    [
        "",
        "foo",
        "foo-1.0",
        "foo-1.0.whl.metadata",
        "foo-1.0.tar.gz.asc",
        "index.html",
        "foo.whl/",
        "foo.whl\n",
    ],
)
def test_other_filenames_are_no_distributions(name: str):
    assert not names.is_distribution(name)  # item 131


@pytest.mark.parametrize(
    ("filename", "projects"),
    [
        ("foo-1.0-py3-none-any.whl", ["foo"]),
        ("Foo_Bar-1.0-py3-none-any.whl", ["foo-bar"]),
        ("foo.bar-1.0-py2.7.egg", ["foo-bar"]),
        ("foo-1.0.tar.gz", ["foo"]),
        ("python-dateutil-2.8.2.tar.gz", ["python-dateutil", "python"]),
        ("foo-1.0-2.zip", ["foo-1-0", "foo"]),
        ("foo-2-bar-1.0.tar.gz", ["foo-2-bar", "foo", "foo-2"]),
        (
            "MySQL-python-1.2.5.win32-py2.7.exe",
            ["mysql-python", "mysql-python-1-2-5-win32", "mysql"],
        ),
        ("foo-dev.tar.gz", ["foo"]),
        ("foo.tar.gz", []),
        ("-1.0.tar.gz", []),
        ("../x-1.0.tar.gz", []),
    ],
)
def test_a_filename_has_its_likeliest_project_first(filename: str, projects: list[str]):
    assert names.projects_of(filename) == projects  # item 72


def test_a_filename_has_at_most_six_projects():
    assert names.projects_of("a-b-c-d-e-f-g-h-1.0.zip")[:2] == ["a-b-c-d-e-f-g-h", "a-b-c-d-e-f-g"]
    assert len(names.projects_of("a-b-c-d-e-f-g-h-1.0.zip")) == 6


@quickly
@given(
    st.from_regex(r"[aA0_.-]{0,9}\.(whl|tar\.gz|exe|egg|zip|x)", fullmatch=True),
    st.from_regex(r"[a0]([a0-]{0,4}[a0])?", fullmatch=True),
)
def test_may_belong_to_agrees_with_projects_of(filename: str, project: str):
    assert names.may_belong_to(filename, project) == (project in names.projects_of(filename))
    for other in names.projects_of(filename):
        assert names.may_belong_to(filename, other)


@pytest.mark.parametrize(
    ("filename", "project"),
    [
        ("friendly_bard-1.0-py3-none-any.whl", "friendly-bard"),
        ("Friendly.Bard-1.0.tar.gz", "friendly-bard"),
        ("friendly-bard-1.0.tar.gz", "friendly-bard"),
        ("foo-1.0-2.tar.gz", "foo"),
        ("ll-core-1.0-beta.tar.gz", "ll-core"),
        ("foo-dev.tar.gz", "foo"),
        ("foo-v1.tar.gz", "foo"),
        ("MySQL-python-1.2.5.win32-py2.7.exe", "mysql-python"),
        ("foo-1.0.linux-x86_64.tar.gz", "foo"),
    ],
)
def test_a_file_belongs_to_its_project(filename: str, project: str):
    assert names.is_of_project(filename, project)


@pytest.mark.parametrize(
    ("filename", "project"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "foo"),
        ("foo-bar-1.0.tar.gz", "foo"),
        ("foo-1.0.tar.gz", "foo-bar"),
        ("foo.tar.gz", "foo"),
        ("foobar-1.0.tar.gz", "foo"),
    ],
)
def test_a_file_does_not_belong_to_another_project(filename: str, project: str):
    assert not names.is_of_project(filename, project)  # item 131


@pytest.mark.parametrize(
    ("filename", "version"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "1.0"),
        ("foo_bar-1.0-1-py3-none-any.whl", "1.0"),
        ("foo_bar-2.0+cu121-py3-none-any.whl", "2.0+cu121"),
        ("foo-bar-1.0.tar.gz", "1.0"),
        ("foo-bar-1.0-2.tar.gz", "1.0-2"),
        ("foo_bar-1.0-py2.7.egg", "1.0"),
        ("foo-bar-dev.tar.gz", "dev"),
    ],
)
def test_a_filename_has_a_version(filename: str, version: str):
    assert names.version_text(filename, "foo-bar") == version


@pytest.mark.parametrize(
    "filename", ["other-1.0.tar.gz", "foo_bar-1.0.tar.gz.sig", "foo_bar.whl", "foo_bar"]
)
def test_a_filename_of_another_project_or_kind_has_no_version(filename: str):
    assert names.version_text(filename, "foo-bar") is None


@quickly
@given(
    st.text(max_size=60) | st.from_regex(r"[a-c0-9._-]{1,20}\.(whl|tar\.gz|exe)", fullmatch=True)
)
def test_the_projects_of_a_filename_are_valid_and_normalized(filename: str):
    for project in names.projects_of(filename):
        assert names.is_project_name(project)
        assert names.normalized(project) == project


@quickly
@given(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,12}[A-Za-z0-9])?", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}((a|b|rc|\.post|\.dev)[0-9])?", fullmatch=True),
)
def test_an_sdist_has_its_project_and_version(project: str, version: str):
    filename, project = f"{project}-{version}.tar.gz", names.normalized(project)
    assert names.is_of_project(filename, project)
    assert project in names.projects_of(filename)
    assert names.version_text(filename, project) == version
