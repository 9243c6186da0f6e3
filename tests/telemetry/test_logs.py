"""What a line of the log looks like, and when it is written."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytail.telemetry import logs
from pytail.telemetry.access import AccessRecord
from tests.support.running import clean_environ
from tests.support.watching import until


class Written(io.StringIO):
    """A stream that counts how often it was written to."""

    times = 0

    def write(self, text: str) -> int:
        self.times += 1
        return super().write(text)


@pytest.fixture
def out() -> Written:
    return Written()


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest, out: Written) -> Iterator[logging.Logger]:
    """A logger and the access log, both written to `out`."""
    handler = logs.BatchingHandler(
        out, logs.JsonFormatter() if request.param == "json" else logs.TextFormatter()
    )
    logger = logging.getLogger("pytail.test")
    loggers = (logger, logs.log)
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.INFO)
        each.propagate = False
    yield logger
    for each in loggers:
        each.removeHandler(handler)
        each.setLevel(logging.NOTSET)
        each.propagate = True


text_only = pytest.mark.parametrize("log", ["text"], indirect=True)
json_only = pytest.mark.parametrize("log", ["json"], indirect=True)


def exchange(path: str = "/simple/demo/") -> AccessRecord:
    made = AccessRecord("GET", path, "the-id")
    made.status = "200"
    return made


@text_only
def test_a_line_for_people_has_time_level_and_room(log: logging.Logger, out: Written):
    log.info("%s: %s", "demo", "MISS")
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO pytail.test: demo: MISS\n"
    assert re.fullmatch(pattern, out.getvalue())


@json_only
def test_a_line_for_machines_is_an_object(log: logging.Logger, out: Written):
    log.warning("%s: %s", "demo", "STALE")
    line = json.loads(out.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "pytail.test",
        "request_id": None,
        "message": "demo: STALE",
    }


@json_only
def test_a_fault_is_one_line_for_machines(log: logging.Logger, out: Written):
    log.error("it failed", exc_info=ValueError("https://user:secret@index.example.org"))
    (line,) = out.getvalue().splitlines()
    assert "ValueError" in json.loads(line)["traceback"]


def test_no_line_tells_credentials(log: logging.Logger, out: Written):
    log.info("asked https://user:secret@index.example.org/simple/")
    log.error("it failed", exc_info=ValueError("https://user:secret@index.example.org"))
    logs.access(exchange("/https://user:secret@index.example.org"))
    logging.getLogger("pytail.access").handlers[0].flush()
    assert out.getvalue().count("https://***@index.example.org") >= 2
    assert "secret" not in out.getvalue()


@json_only
def test_an_access_line_for_machines_has_the_facts(log: logging.Logger, out: Written):
    logs.access(exchange())
    until(out.getvalue)
    line = json.loads(out.getvalue())
    assert (line["level"], line["logger"]) == ("info", "pytail.access")
    assert (line["request_id"], line["path"], line["status"]) == ("the-id", "/simple/demo/", 200)


def test_access_lines_are_written_together(log: logging.Logger, out: Written):
    for _ in range(10):
        logs.access(exchange())
    assert out.times == 0
    until(out.getvalue)
    assert (out.times, len(out.getvalue().splitlines())) == (1, 10)


def test_many_access_lines_are_not_waited_for(log: logging.Logger, out: Written):
    for _ in range(logs.BATCH_LINES):
        logs.access(exchange())
    assert len(out.getvalue().splitlines()) == logs.BATCH_LINES


def test_another_line_comes_after_the_access_lines_before_it(log: logging.Logger, out: Written):
    logs.access(exchange())
    log.info("later")
    access, other = out.getvalue().splitlines()
    assert "/simple/demo/" in access
    assert "later" in other


def test_watching_pytail_does_not_fill_its_log(log: logging.Logger, out: Written):
    logs.access(exchange("/+health"))
    logs.log.handlers[0].flush()
    assert out.getvalue() == ""
    logs.log.setLevel(logging.DEBUG)
    logs.access(exchange("/+health"))
    logs.log.handlers[0].flush()
    assert "/+health" in out.getvalue()


def test_a_level_above_leaves_out_the_access_lines(log: logging.Logger, out: Written):
    logs.log.setLevel(logging.WARNING)
    logs.access(exchange())
    logs.log.handlers[0].flush()
    assert out.getvalue() == ""


def test_a_log_that_nobody_takes_does_not_stop_a_response(log: logging.Logger, out: Written):
    logs.access(exchange())
    out.close()
    for _ in range(logs.BATCH_LINES):
        logs.access(exchange())


def test_access_lines_are_written_before_the_end_of_the_program():
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from pytail.telemetry import logs; from pytail.telemetry.access import AccessRecord\n"
        "logs.configure('info', 'text')\n"
        "logs.access(AccessRecord('GET', '/simple/demo/', 'the-id'))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_environ(),
        check=True,
    )
    assert out.stderr.count("GET /simple/demo/") == 1
