"""No command prints credentials or a query of a URL, for any answer of upstream or a proxy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import call_main, run_program
from tests.support.running import Clock, free_port, serving
from tests.support.secrets import PAGES, TROUBLES, SecretIndex, Secrets, found_in

NAMED = Secrets("5ecr3t-user", "5ecr3t-path", "5ecr3t-query", "5ecr3t-fragment")
#: The secrets that no command prints; paths of upstream may be in its output.
HIDDEN = (NAMED.userinfo, NAMED.query, NAMED.fragment)


def printed(out: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the secrets in the output of a command."""
    assert out.stdout + out.stderr
    return found_in((out.stdout + out.stderr).encode(), *HIDDEN)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache directory that a server has used."""
    index = SecretIndex(NAMED)
    with index.running() as url, serving(tmp_path / "cache", url, Clock()) as pytail:
        pytail.json("demo")
    return tmp_path / "cache"


@pytest.mark.parametrize("page", PAGES)
def test_refresh_and_warm_print_no_secret(cache: Path, page: str):
    index = SecretIndex(NAMED, page, "403")
    with index.running() as url:
        options = ("--cache-dir", str(cache), "--upstream-base-url", url, "-v")
        for command in (("refresh", "demo"), ("warm", "demo", "--jobs", "1")):
            assert printed(call_main(*options, *command)) == []


@pytest.mark.parametrize("command", [("status",), ("list", "demo"), ("verify",), ("config",)])
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_the_other_commands_print_no_secret(
    cache: Path, command: tuple[str, ...], json: tuple[str, ...]
):
    url = NAMED.base(f"http://127.0.0.1:{free_port()}")
    options = ("--cache-dir", str(cache), "--upstream-base-url", url, "--bind", "127.0.0.1:1")
    assert printed(call_main(*options, *command, *json)) == []


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
@pytest.mark.parametrize("tail", ["", "/", "/path", "?query", "#fragment"])
def test_a_proxy_whose_url_cannot_be_used_is_refused_without_its_secret(
    tmp_path: Path, variable: str, tail: str
):
    wrong = NAMED.url("http://proxy.example.org:0").partition("?")[0] + tail
    options = ("--cache-dir", str(tmp_path), "--bind", "127.0.0.1:1")
    out = call_main(*options, **{variable: wrong})
    assert out.returncode == 2
    assert printed(out) == []


def test_gunicorn_refuses_a_setting_without_its_secret(tmp_path: Path):
    worker = "from gevent import monkey; monkey.patch_all(); import pytail.wsgi"
    environ = {
        "HTTP_PROXY": f"http://proxy.example.org/?{NAMED.query}",
        "PYTAIL_CACHE_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", worker]
    out = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert "pytail: HTTP_PROXY" in out.stderr
    assert printed(out) == []


@pytest.mark.parametrize("answer", TROUBLES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_a_proxy_answers_gives_no_secret_away(cache: Path, answer: str, scheme: str):
    proxy = SecretIndex(NAMED, answer, answer)
    with proxy.running() as url:
        environ = {f"{scheme}_proxy": url.partition("/5ecr3t")[0]}
        base = NAMED.base(f"{scheme}://index.example.org")
        options = ("--cache-dir", str(cache), "--upstream-base-url", base, "-v")
        assert printed(call_main(*options, "refresh", "demo", **environ)) == []


@pytest.mark.parametrize(
    "url",
    [
        NAMED.url("https://index.example.org"),
        NAMED.url("ftp://index.example.org"),
        NAMED.base("https://index.example.org").replace("/repo", "/r@po"),
        NAMED.base("https://index.example.org:0"),
    ],
)
@pytest.mark.process
def test_an_upstream_url_that_cannot_be_used_is_refused_without_its_secret(url: str):
    for out in (run_program("--upstream-base-url", url), run_program(PYTAIL_UPSTREAM_BASE_URL=url)):
        assert out.returncode == 2
        assert printed(out) == []
