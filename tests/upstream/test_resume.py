"""A file is read on over a second connection where the first one breaks."""

from __future__ import annotations

import hashlib

import pytest

from pytail.cache.cache import Upstream
from pytail.errors import UpstreamRefused, UpstreamUnreachable
from pytail.model import File
from pytail.upstream import resume
from pytail.upstream.resume import ResumingSource
from tests.support.fakeindex import FakeIndex, reply
from tests.support.sending import Breaking

DATA = bytes(range(256)) * 400
HASHES = {"sha256": hashlib.sha256(DATA).hexdigest()}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "PAUSES", (0.001, 0.001))


def file_of(index: FakeIndex, hashes: dict[str, str] = HASHES, name: str = "demo-1.0.zip") -> File:
    return File(filename=name, url=f"{index.url}/file", directory="d", hashes=hashes)


def read(source: ResumingSource) -> bytes:
    """The bytes of `source`, which is closed."""
    try:
        return b"".join(iter(source.read, b""))
    finally:
        source.close()


def test_the_rest_is_requested_from_the_last_byte_on(
    index: FakeIndex, upstream: Upstream, caplog: pytest.LogCaptureFixture
):
    answer = index.answers["/file"] = Breaking(DATA, lengths=(1000, 2000))
    assert read(ResumingSource.open(upstream.files, file_of(index))) == DATA
    assert answer.asked == [None, "bytes=1000-", "bytes=2000-"]
    assert "requesting the rest from byte 1000 on" in caplog.text


def test_bytes_that_come_again_are_skipped(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = Breaking(DATA, lengths=(1000, 50_000), ranges=False)
    assert read(ResumingSource.open(upstream.files, file_of(index))) == DATA


def test_a_range_is_continued_within_its_bounds(index: FakeIndex, upstream: Upstream):
    answer = index.answers["/file"] = Breaking(DATA, lengths=(1040,))
    source = ResumingSource.open_range(upstream.files, file_of(index), 1000, 1100, len(DATA))
    assert read(source) == DATA[1000:1100]
    assert answer.asked == ["bytes=1000-1099", "bytes=1040-1099"]


@pytest.mark.parametrize("etag", ['"one"', None])
def test_a_file_without_digest_is_continued_only_with_the_same_etag(
    index: FakeIndex, upstream: Upstream, etag: str | None
):
    index.answers["/file"] = Breaking(DATA, lengths=(1000,), etag=etag)
    source = ResumingSource.open(upstream.files, file_of(index, {}))
    if etag is not None:
        assert read(source) == DATA
    else:
        with pytest.raises(UpstreamUnreachable):
            read(source)


def test_no_further_request_follows_an_error_that_will_not_pass(
    index: FakeIndex, upstream: Upstream
):
    index.answers["/file"] = Breaking(DATA, lengths=(1000,))
    source = ResumingSource.open(upstream.files, file_of(index))
    assert source.read()
    index.answers["/file"] = reply(b"", None, "404 Not Found")
    with pytest.raises(UpstreamUnreachable, match="1000"):
        read(source)
    assert index.count("/file") == 2


def test_the_first_request_is_not_repeated(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = reply(b"", None, "500 Oops")
    with pytest.raises(UpstreamRefused):
        ResumingSource.open(upstream.files, file_of(index))
    assert index.count("/file") == 1


def test_core_metadata_takes_a_slot_of_pages(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = reply(b"Name: demo", None)
    file = file_of(index, {}, "demo-1.0-py3-none-any.whl.metadata")
    source = ResumingSource.open(upstream.files, file)
    slots = {kind: limiter.in_progress for kind, limiter in upstream.client.limiters.items()}
    assert slots == {"page": 1, "file": 0, "part": 0}
    source.close()
