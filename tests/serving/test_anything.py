"""Any request and any page of upstream: no 5xx of pytail's own, no file outside of the cache."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fakeindex import HTML, JSON, FakeIndex, reply, wheel
from tests.support.running import Client, Clock, serving

quickly = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Client, FakeIndex, Path, Clock]]:
    """Client, index, cache directory and clock; the directory is alone in its parent."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as parent, FakeIndex() as index:
        index.add(wheel("demo"))
        cache = Path(parent) / "cache"
        with serving(cache, index.url, clock) as client:
            client.get("/simple/demo/")
            yield client, index, cache, clock


#: Segments of paths: known names, special ones, and octets that clients should have escaped.
NAMES = [
    "simple",
    "root",
    "pypi",
    "+f",
    "+simple",
    "_url",
    "demo",
    "..",
    ".",
    "%2e%2e",
    "%2f",
    "%5c",
    "%00",
    "%0d%0a",
    "+",
    "%2B",
    "abc",
    "#",
    "?",
    "&",
    ";",
    "C:",
    "~",
    "%",
    "%zz",
    "demo-1.0.tar.gz",
    "demo-1.0-py3-none-any.whl.metadata",
    "x.asc",
]
segments = st.one_of(
    st.sampled_from([*NAMES, "a" * 300, "0" * 13, "0" * 64]),
    st.binary(max_size=12).map(lambda data: "".join(f"%{byte:02x}" for byte in data)),
)
paths = st.lists(segments, max_size=7).map(lambda found: "/" + "/".join(found))
headers = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))


def outside(cache: Path) -> list[str]:
    return [path.name for path in cache.parent.iterdir() if path != cache]


@quickly
@given(path=paths, accept=headers, method=st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]))
def test_any_path_gets_a_response_below_500(
    served: tuple[Client, FakeIndex, Path, Clock], path: str, accept: str, method: str
):
    client, index, cache, _ = served
    answer = client.request(method, path, {"Accept": accept.strip()})
    assert answer.status < 500, (path, answer.data)  # item 138
    assert outside(cache) == []
    for seen in index.seen:
        assert seen.path.startswith(("/simple/", "/packages/"))
        assert ".." not in seen.path


@quickly
@given(value=headers, name=st.sampled_from(["Accept", "Accept-Encoding", "Range", "If-None-Match"]))
def test_any_header_gets_a_valid_response(
    served: tuple[Client, FakeIndex, Path, Clock], name: str, value: str
):
    client, index, _, _ = served
    for path in ("/simple/", "/simple/demo/", f"/root/pypi/+f/{index.dists[0].key}"):
        answer = client.request("GET", path, {name: value.strip()})
        assert answer.status in (200, 206, 304, 406, 416)  # item 45


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
file_keys = ["filename", "url", "hashes", "size", "upload-time", "requires-python", "yanked"]
file_keys += ["core-metadata", "gpg-sig", "provenance"]
entries = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(file_keys, values) | {"filename": st.text(max_size=30)}
)
good = {"filename": "demo-1.0.zip", "url": "demo-1.0.zip", "hashes": {}}
bodies = st.fixed_dictionaries(
    {"files": st.lists(entries | entries.map(lambda entry: {**entry, **good}), max_size=4)},
    optional={"versions": values, "project-status": values, "meta": values, "x": values},
)


def check_page(served: tuple[Client, FakeIndex, Path, Clock], answer: Any) -> None:
    client, index, cache, clock = served
    index.answers["/simple/demo/"] = answer
    clock.now += 1000
    for accept in (JSON, HTML):
        got = client.get("/simple/demo/", Accept=accept)
        assert got.status == 200
        if accept == JSON:
            for file in got.json()["files"]:
                assert file["url"].startswith("../../root/pypi/+f/")
                assert set(file) >= {"filename", "url", "hashes"}
                assert None not in {file.get("size", 0), file.get("yanked", False)}
    assert outside(cache) == []


@quickly
@given(body=bodies)
def test_any_values_in_upstreams_page_become_a_valid_page(
    served: tuple[Client, FakeIndex, Path, Clock], body: dict[str, Any]
):
    check_page(served, reply(json.dumps(body).encode(), JSON))  # item 127


@quickly
@given(body=st.binary(max_size=300), kind=st.sampled_from([JSON, HTML, "text/html", "x/y", ""]))
def test_any_bytes_from_upstream_leave_a_valid_page(
    served: tuple[Client, FakeIndex, Path, Clock], body: bytes, kind: str
):
    check_page(served, reply(body, kind))  # item 124
