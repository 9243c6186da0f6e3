"""The formats of log lines, and their batches."""

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
    """A stream that counts its writes."""

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


def record_of(path: str = "/simple/demo/") -> AccessRecord:
    made = AccessRecord("GET", path, "the-id")
    made.status = "200"
    return made


@text_only
def test_text_line_has_time_level_logger_and_message(log: logging.Logger, out: Written):
    log.info("%s: %s", "demo", "MISS")
    pattern = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO pytail.test: demo: MISS\n"
    assert re.fullmatch(pattern, out.getvalue())


@json_only
def test_json_line_is_an_object(log: logging.Logger, out: Written):
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
def test_json_line_includes_the_traceback(log: logging.Logger, out: Written):
    log.error("it failed", exc_info=ValueError("https://user:secret@index.example.org"))
    (line,) = out.getvalue().splitlines()
    assert "ValueError" in json.loads(line)["traceback"]


def test_no_line_has_credentials(log: logging.Logger, out: Written):
    log.info("asked https://user:secret@index.example.org/simple/")
    log.error("it failed", exc_info=ValueError("https://user:secret@index.example.org"))
    logs.access(record_of("/https://user:secret@index.example.org"))
    logging.getLogger("pytail.access").handlers[0].flush()
    assert out.getvalue().count("https://***@index.example.org") >= 2
    assert "secret" not in out.getvalue()


@json_only
def test_json_access_line_has_the_facts_of_its_record(log: logging.Logger, out: Written):
    logs.access(record_of())
    until(out.getvalue)
    line = json.loads(out.getvalue())
    assert (line["level"], line["logger"]) == ("info", "pytail.access")
    assert (line["request_id"], line["path"], line["status"]) == ("the-id", "/simple/demo/", 200)


def test_access_lines_are_written_in_one_batch(log: logging.Logger, out: Written):
    for _ in range(10):
        logs.access(record_of())
    assert out.times == 0
    until(out.getvalue)
    assert (out.times, len(out.getvalue().splitlines())) == (1, 10)


def test_full_batch_is_written_at_once(log: logging.Logger, out: Written):
    for _ in range(logs.BATCH_LINES):
        logs.access(record_of())
    assert len(out.getvalue().splitlines()) == logs.BATCH_LINES


def test_other_line_is_written_after_the_batch_before_it(log: logging.Logger, out: Written):
    logs.access(record_of())
    log.info("later")
    access, other = out.getvalue().splitlines()
    assert "/simple/demo/" in access
    assert "later" in other


def test_access_lines_of_monitoring_are_debug_lines(log: logging.Logger, out: Written):
    logs.access(record_of("/+health"))
    logs.log.handlers[0].flush()
    assert out.getvalue() == ""
    logs.log.setLevel(logging.DEBUG)
    logs.access(record_of("/+health"))
    logs.log.handlers[0].flush()
    assert "/+health" in out.getvalue()


def test_level_warning_leaves_out_the_access_lines(log: logging.Logger, out: Written):
    logs.log.setLevel(logging.WARNING)
    logs.access(record_of())
    logs.log.handlers[0].flush()
    assert out.getvalue() == ""


def test_unwritable_log_raises_no_error(log: logging.Logger, out: Written):
    logs.access(record_of())
    out.close()
    for _ in range(logs.BATCH_LINES):
        logs.access(record_of())


def test_access_lines_are_written_before_the_process_ends():
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


def test_a_full_pool_of_connections_is_not_logged():
    # More connections than the pool keeps, all of them at once.
    code = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import gevent, urllib3\n"
        "from gevent.pywsgi import WSGIServer\n"
        "from pytail.telemetry import logs\n"
        "logs.configure('info', 'text')\n"
        "together = gevent.event.Event()\n"
        "def answer(environ, start_response):\n"
        "    together.wait()\n"
        "    start_response('200 OK', [('Content-Length', '0')])\n"
        "    return []\n"
        "server = WSGIServer(('127.0.0.1', 0), answer, log=None); server.start()\n"
        "pool = urllib3.PoolManager(maxsize=1)\n"
        "url = f'http://127.0.0.1:{server.server_port}/'\n"
        "asked = [gevent.spawn(pool.request, 'GET', url) for _ in range(3)]\n"
        "gevent.spawn_later(0.1, together.set)\n"
        "gevent.joinall(asked, raise_error=True)\n"
        "print('done')\n"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, env=clean_environ(), check=True)
    assert (out.stdout, "pool" in out.stderr) == ("done\n", False)


def test_no_line_has_a_query(log: logging.Logger, out: Written):
    log.info("asked https://index.example.org/a?sig=51gn")
    log.error("it failed", exc_info=ValueError("https://index.example.org/a?sig=51gn"))
    logs.access(record_of("/simple/x?sig=51gn"))
    logging.getLogger("pytail.access").handlers[0].flush()
    assert "51gn" not in out.getvalue()
    assert out.getvalue().count("?***") == 3


@json_only
def test_a_masked_line_is_json(log: logging.Logger, out: Written):
    log.info('//"a?b="c@d //')
    assert json.loads(out.getvalue())["level"] == "info"
