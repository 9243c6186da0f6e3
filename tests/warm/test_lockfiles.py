"""Lock files: the packages of this index, and the packages that are skipped."""

from __future__ import annotations

import pytest

from pytail.warm.lockfiles import IndexUrls, Lockfile, read_lockfile
from pytail.warm.selection import LockedFile
from pytail.warm.targets import Target

LINUX = Target.of("3.12", "manylinux_2_28_x86_64")
OURS = IndexUrls.of(["https://user:secret@index.example.org"])
A, B = "a" * 64, "b" * 64

PYLOCK = f"""
lock-version = "1.0"
created-by = "test"
extras = ["fast"]
dependency-groups = ["dev"]
[[packages]]
name = "demo"
version = "1.0+x"
index = "https://index.example.org/simple/"
requires-python = ">=3.9"
marker = "'dev' in dependency_groups and 'fast' in extras"
wheels = [{{ url = "https://files.example.org/demo-1.0%2Bx-py3-none-any.whl", hashes = {{ sha256 = "{A}" }} }}]
sdist = {{ name = "demo-1.0+x.tar.gz", url = "https://files.example.org/x", hashes = {{ sha256 = "{B}" }} }}
[[packages]]
name = "elsewhere"
version = "1.0"
index = "https://user:secret@other.example.org/simple"
wheels = [{{ url = "https://other.example.org/elsewhere-1.0-py3-none-any.whl", hashes = {{ sha256 = "{A}" }} }}]
[[packages]]
name = "checkout"
vcs = {{ type = "git", url = "https://example.org/x.git", commit-id = "0" }}
[[packages]]
name = "archive"
archive = {{ url = "https://example.org/x.zip", hashes = {{ sha256 = "{A}" }} }}
[[packages]]
name = "local"
version = "1.0"
wheels = [{{ path = "local-1.0-py3-none-any.whl", hashes = {{ sha256 = "{A}" }} }}]
"""

UV = f"""
version = 1
revision = 3
requires-python = ">=3.9"
[[package]]
name = "mine"
source = {{ editable = "." }}
[[package]]
name = "demo"
version = "1.0"
source = {{ registry = "https://INDEX.example.org/simple" }}
resolution-markers = ["python_full_version < '3'", "sys_platform == 'linux'"]
sdist = {{ url = "https://files.example.org/demo-1.0%2Bx.tar.gz", hash = "sha256:{B}", size = 1 }}
wheels = [{{ url = "https://files.example.org/demo-1.0%2Bx-py3-none-any.whl#x", hash = "sha256:{A}" }}]
[[package]]
name = "elsewhere"
version = "1.0"
source = {{ registry = "https://user:secret@other.example.org/simple" }}
wheels = [{{ url = "https://other.example.org/elsewhere-1.0-py3-none-any.whl", hash = "sha256:{A}" }}]
[[package]]
name = "checkout"
version = "1.0"
source = {{ git = "https://example.org/x.git" }}
[[package]]
name = "archive"
version = "1.0"
source = {{ url = "https://example.org/x.zip" }}
[[package]]
name = "local"
version = "1.0"
source = {{ registry = "wheels" }}
wheels = [{{ path = "local-1.0-py3-none-any.whl" }}]
"""

POETRY = f"""
[[package]]
name = "Demo"
version = "1.0"
python-versions = ">=3.9"
markers = {{ main = "sys_platform == \\"win32\\"", dev = "extra == \\"fast\\"" }}
files = [
    {{file = "demo-1.0+x-py3-none-any.whl", hash = "sha256:{A}"}},
    {{file = "demo-1.0+x.tar.gz", hash = "sha256:{B}"}},
]
[package.source]
type = "legacy"
url = "https://index.example.org/simple"
reference = "ours"
[[package]]
name = "elsewhere"
version = "1.0"
files = []
[package.source]
type = "legacy"
url = "https://user:secret@other.example.org/simple"
reference = "other"
[[package]]
name = "checkout"
version = "1.0"
files = []
[package.source]
type = "git"
url = "https://example.org/x.git"
[[package]]
name = "archive"
version = "1.0"
files = []
[package.source]
type = "url"
url = "https://example.org/x.zip"
[[package]]
name = "local"
version = "1.0"
files = []
[package.source]
type = "file"
url = "x.whl"
[extras]
fast = ["demo"]
[metadata]
lock-version = "2.1"
content-hash = "x"
"""


@pytest.fixture(params=[PYLOCK, UV, POETRY], ids=["pylock", "uv", "poetry"])
def lockfile(request: pytest.FixtureRequest) -> Lockfile:
    return read_lockfile(request.param, OURS)


def test_a_lock_file_lists_packages_with_their_files(lockfile: Lockfile):
    (demo,) = lockfile.packages
    assert demo.project == "demo"
    assert demo.files == (
        LockedFile("demo-1.0+x-py3-none-any.whl", {"sha256": A}),
        LockedFile("demo-1.0+x.tar.gz", {"sha256": B}),
    )


def test_a_marker_matches_with_any_extra_and_group(lockfile: Lockfile):
    assert lockfile.packages[0].is_for([LINUX])


def test_packages_of_other_sources_are_skipped_with_the_reason(lockfile: Lockfile):
    projects = [package.partition(" ")[0] for package, _ in lockfile.skipped]
    assert projects == ["elsewhere", "checkout", "archive", "local"]
    assert "--index https://***@other.example.org/simple" in lockfile.skipped[0][1]
    assert "secret" not in str(lockfile.skipped)


def test_a_package_whose_marker_never_matches_is_for_no_target():
    for text in (
        PYLOCK.replace("'fast' in extras", "os_name == 'nt'"),
        UV.replace("'linux'", "'darwin'"),
        POETRY.replace("extra == ", "os_name == "),
    ):
        (demo,) = read_lockfile(text, OURS).packages
        assert not demo.is_for([LINUX])


def test_extras_that_uv_invents_for_conflicts_are_ignored():
    text = UV.replace("sys_platform == 'linux'", "extra == 'extra-4-mine-cpu'")
    (demo,) = read_lockfile(text, OURS).packages
    assert demo.is_for([LINUX])


def test_an_old_poetry_lock_lists_files_at_the_end_and_its_packages_come_from_this_index():
    text = (
        '[[package]]\nname = "demo"\nversion = "1.0"\n'
        '[metadata]\ncontent-hash = "x"\n[metadata.files]\n'
        f'demo = [{{file = "demo-1.0.tar.gz", hash = "md5:{"a" * 32}"}}]\n'
    )
    (demo,) = read_lockfile(text, OURS).packages
    assert demo.files == (LockedFile("demo-1.0.tar.gz", {"md5": "a" * 32}),)


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("https://index.example.org/simple/", True),
        ("http://someone@index.example.org", True),
        ("https://index.example.org/root/pypi/+simple/", True),
        ("https://index.example.org/team/simple", False),
        ("https://pytail.example.org/simple", False),
        ("wheels", False),
    ],
)
def test_an_index_is_recognized_by_host_and_path(url: str, is_ours: bool):
    assert OURS.include(url) is is_ours


@pytest.mark.parametrize("ours", ["/root/dev", "/root/dev/", "/root/dev/+simple/"])
@pytest.mark.parametrize("theirs", ["/root/dev", "/root/dev/+simple/", "/root/dev/+simple"])
def test_an_index_is_recognized_by_each_spelling_of_its_root(ours: str, theirs: str):
    host = "https://index.example.org"
    assert IndexUrls.of([host + ours]).include(host + theirs)
    assert not IndexUrls.of([host + ours]).include(f"{host}/root/prod/+simple/")


def test_pytail_is_recognized_by_the_urls_of_its_files():
    url = "https://pytail.example.org/x/root/pypi/+f/abc/0123456789abc/demo-1.0.tar.gz"
    assert OURS.include("https://pytail.example.org/x/simple", [url])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "cannot be read as TOML"),
        (f"a = {'[' * 9999}", "cannot be read as TOML"),
        ("[project]\nname = 'demo'\nversion = '1'\n", "is not a lock file that pytail can read"),
        ("[tool.poetry]\n", "give a requirements.txt, pylock.toml, uv.lock or poetry.lock"),
        ("metadata = 1\n", "is not a lock file"),
        ("lock-version = '1.0'\ncreated-by = 'x'\npackages = [1]\n", "is not a valid lock file"),
        ("lock-version = '9.0'\ncreated-by = 'x'\npackages = []\n", "is not a valid lock file"),
        ("version = 1\n[[package]]\nname = 'demo'\n", "is not a valid lock file"),
        ("version = 2\npackage = []\n", "is not a lock file that pytail can read"),
        (UV.replace("sys_platform", "sys-platform"), "is not a valid lock file"),
        (POETRY.replace("file = ", "fil = "), "is not a valid lock file"),
    ],
)
def test_an_invalid_lock_file_is_refused_with_the_reason(text: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        read_lockfile(text, OURS)
