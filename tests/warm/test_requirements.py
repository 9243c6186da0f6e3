"""Requirements files, read as pip reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytail.model import File, ProjectPage
from pytail.warm.requirements import RequirementsFile
from pytail.warm.targets import Target

LINUX = Target.of("3.12", "manylinux_2_28_x86_64")


def read(tmp_path: Path, text: str, **more: str) -> RequirementsFile:
    """Read a file with that `text`, in a directory with more files."""
    for name, content in {"reqs": text, **more}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    found = RequirementsFile()
    found.read(tmp_path / "reqs.txt")
    return found


def required(found: RequirementsFile) -> list[str]:
    return [str(project) for project in found.projects()]


def versions(found: RequirementsFile) -> list[str]:
    """Return the selected ones of three versions of demo."""
    files = tuple(
        File(
            filename=f"demo-{version}.tar.gz",
            url="https://index.example.org/demo.tar.gz",
            directory=f"{digest * 3}/{digest * 13}",
            hashes={"sha256": digest * 64},
        )
        for version, digest in (("1.0", "a"), ("2.0", "b"), ("3.0a1", "c"))
    )
    (project,) = found.projects()
    selection = project.select(ProjectPage(name="demo", files=files), [LINUX])
    return [file.filename.removeprefix("demo-").removesuffix(".tar.gz") for file in selection.files.values()]  # fmt: skip


def test_comments_continuations_and_a_byte_order_mark_are_removed(tmp_path: Path):
    text = "\ufeff# a comment \\\ndemo >= 1, \\\n  < 3  # why\n\n  other[x,y]==1.0;python_version>'3'\n"
    assert required(read(tmp_path, text)) == [
        "demo >= 1,   < 3",
        "other[x,y]==1.0;python_version>'3'",
    ]


def test_included_files_count_once_and_may_include_each_other(tmp_path: Path):
    found = read(
        tmp_path, "-r a.txt\n--requirement=b.txt\n", a="demo\n-rb.txt\n", b="other\n-r a.txt\n"
    )
    assert sorted(required(found)) == ["demo", "other"]


def test_all_lines_about_one_project_count(tmp_path: Path):
    assert versions(read(tmp_path, "demo>=1\nDemo<2\n")) == ["1.0"]


def test_a_constraint_limits_versions_and_requires_nothing(tmp_path: Path):
    assert versions(read(tmp_path, "demo\n-c c.txt\n", c="demo<2\nother==1\n")) == ["1.0"]


def test_a_line_for_another_target_does_not_limit_versions(tmp_path: Path):
    assert versions(read(tmp_path, "demo\ndemo<2; os_name == 'nt'\n")) == ["2.0"]


def test_hashes_select_the_files(tmp_path: Path):
    hashes = f"--hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'0' * 64}"
    assert versions(read(tmp_path, f"demo \\\n    {hashes}\n")) == ["1.0"]
    assert versions(read(tmp_path, f"demo==2.0 {hashes}\n")) == []


def test_the_option_pre_allows_prereleases(tmp_path: Path):
    assert versions(read(tmp_path, "--pre\ndemo\n")) == ["3.0a1"]


def test_options_that_name_indexes_are_ignored(tmp_path: Path):
    text = "--index-url https://index.example.org/simple\n-f links --no-binary :all:\ndemo\n"
    found = read(tmp_path, f"{text}--require-hashes\n--trusted-host index.example.org\n")
    assert (required(found), found.skipped) == (["demo"], [])


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "-e git+https://user:secret@example.org/demo.git#egg=demo",
        "git+ssh://git@example.org/demo.git",
        "https://user:secret@example.org/demo-1.0.tar.gz --hash=sha256:00",
        "demo @ https://user:secret@example.org/demo-1.0.whl",
        "demo @ file:///srv/demo-1.0.whl ; os_name == 'posix'",
        "./demo",
        "../demo[fast]",
        "/srv/demo-1.0-py3-none-any.whl",
        "demo-1.0.tar.gz",
        "wheels/demo",
        "-r https://user:secret@example.org/reqs.txt",
    ],
)
def test_a_line_without_an_index_is_skipped_with_the_reason(tmp_path: Path, line: str):
    found = read(tmp_path, f"{line}\nother\n")
    assert required(found) == ["other"]
    assert len(found.skipped) == 1
    assert "secret" not in str(found.skipped)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("de mo", "'de mo' is not a requirement such as"),
        ("demo >= x y", "is not a requirement such as"),
        ("demo; nonsense == '1'", "is not a requirement such as"),
        ("-r", "expected one argument"),
        ("demo --hash 'x", "No closing quotation"),
        ("-r nowhere.txt", "nowhere.txt cannot be read: No such file"),
    ],
)
def test_an_invalid_line_is_refused_with_file_and_number(tmp_path: Path, line: str, reason: str):
    for text in (f"\n\n{line}\n", "-r more.txt\n"):
        with pytest.raises(ValueError, match="txt:") as caught:
            read(tmp_path, text, more=f"\n\n{line}\n")
        name = "more" if "more" in text else "reqs"
        assert str(caught.value).startswith(f"{tmp_path / name}.txt:3: ")
        assert reason in str(caught.value)
        assert str(caught.value).count(":3: ") == 1
