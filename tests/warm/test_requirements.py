"""``requirements.txt``, as pip reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytail.model import File, ProjectPage
from pytail.warm.requirements import Requirements
from pytail.warm.targets import Target

LINUX = Target.of("3.12", "manylinux_2_28_x86_64")


def read(tmp_path: Path, text: str, **more: str) -> Requirements:
    """What a file of that `text` wants, beside which others lie."""
    for name, content in {"reqs": text, **more}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    found = Requirements()
    found.add(tmp_path / "reqs.txt")
    return found


def wanted(found: Requirements) -> list[str]:
    return [str(each) for each in found.required()]


def versions(found: Requirements) -> list[str]:
    """Of a demo that has three, those that are wanted."""
    files = tuple(
        File(
            filename=f"demo-{version}.tar.gz",
            url="https://index.example.org/demo.tar.gz",
            directory=f"{digest * 3}/{digest * 13}",
            hashes={"sha256": digest * 64},
        )
        for version, digest in (("1.0", "a"), ("2.0", "b"), ("3.0a1", "c"))
    )
    (each,) = found.required()
    choice = each.choose(ProjectPage(name="demo", files=files), [LINUX])
    return [file.filename.removeprefix("demo-").removesuffix(".tar.gz") for file in choice.files.values()]  # fmt: skip


def test_comments_continuations_and_a_mark_at_the_start(tmp_path: Path):
    text = "\ufeff# a comment \\\ndemo >= 1, \\\n  < 3  # why\n\n  other[x,y]==1.0;python_version>'3'\n"
    assert wanted(read(tmp_path, text)) == [
        "demo >= 1,   < 3",
        "other[x,y]==1.0;python_version>'3'",
    ]


def test_files_that_are_included_count_once_and_may_include_each_other(tmp_path: Path):
    found = read(
        tmp_path, "-r a.txt\n--requirement=b.txt\n", a="demo\n-rb.txt\n", b="other\n-r a.txt\n"
    )
    assert sorted(wanted(found)) == ["demo", "other"]


def test_lines_about_one_project_hold_together(tmp_path: Path):
    assert versions(read(tmp_path, "demo>=1\nDemo<2\n")) == ["1.0"]


def test_a_constraint_limits_and_wants_nothing(tmp_path: Path):
    assert versions(read(tmp_path, "demo\n-c c.txt\n", c="demo<2\nother==1\n")) == ["1.0"]


def test_a_line_for_another_machine_does_not_limit(tmp_path: Path):
    assert versions(read(tmp_path, "demo\ndemo<2; os_name == 'nt'\n")) == ["2.0"]


def test_hashes_choose_the_files(tmp_path: Path):
    hashes = f"--hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'0' * 64}"
    assert versions(read(tmp_path, f"demo \\\n    {hashes}\n")) == ["1.0"]
    assert versions(read(tmp_path, f"demo==2.0 {hashes}\n")) == []


def test_versions_before_a_release_where_the_file_asks_for_them(tmp_path: Path):
    assert versions(read(tmp_path, "--pre\ndemo\n")) == ["3.0a1"]


def test_options_that_say_where_to_look_are_passed_over(tmp_path: Path):
    text = "--index-url https://index.example.org/simple\n-f links --no-binary :all:\ndemo\n"
    found = read(tmp_path, f"{text}--require-hashes\n--trusted-host index.example.org\n")
    assert (wanted(found), found.skipped) == (["demo"], [])


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
def test_what_is_from_no_index_is_left_out_and_told(tmp_path: Path, line: str):
    found = read(tmp_path, f"{line}\nother\n")
    assert wanted(found) == ["other"]
    assert len(found.skipped) == 1
    assert "secret" not in str(found.skipped)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("de mo", "'de mo' is no requirement such as"),
        ("demo >= x y", "is no requirement such as"),
        ("demo; nonsense == '1'", "is no requirement such as"),
        ("-r", "expected one argument"),
        ("demo --hash 'x", "No closing quotation"),
        ("-r nowhere.txt", "nowhere.txt cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, line: str, reason: str):
    for text in (f"\n\n{line}\n", "-r more.txt\n"):
        with pytest.raises(ValueError, match="txt:") as caught:
            read(tmp_path, text, more=f"\n\n{line}\n")
        name = "more" if "more" in text else "reqs"
        assert str(caught.value).startswith(f"{tmp_path / name}.txt:3: ")
        assert reason in str(caught.value)
        assert str(caught.value).count(":3: ") == 1
