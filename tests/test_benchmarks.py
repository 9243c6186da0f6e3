"""``benchmarks/``: calculations, refused responses, report and charts; nothing is measured."""

from __future__ import annotations

import gzip
import json
from xml.etree import ElementTree as ET

import pytest

from benchmarks import load, report
from benchmarks.charts import Plot, svg
from benchmarks.peers import Server
from benchmarks.results import Bound, Row, interleaved, judged, log_spaced, percentile
from benchmarks.upstream import MIX, Site
from tests.support.fakeindex import JSON, FakeIndex, sdist, wheel
from tests.support.running import serving

GZIP = {"Accept": JSON, "Accept_Encoding": "gzip"}
FASTER = Bound(0.5, at_least=True, against=("peer",))


def test_contestants_are_measured_in_turn():
    measured = []
    interleaved(2, {name: lambda name=name: measured.append(name) or 1.0 for name in "ab"})
    assert measured == ["a", "b", "a", "b"]


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    verdict = judged(FASTER, {"pytail": [10, 50, 40], "peer": [10, 100, 400]})
    assert (verdict.measured, verdict.lowest, verdict.highest) == (0.5, 0.1, 1.0)
    assert verdict.holds


def test_a_rate_below_its_bound_does_not_hold():
    assert not judged(FASTER, {"pytail": [49.0], "peer": [100.0]}).holds


def test_a_time_is_compared_with_the_fastest_peer():
    bound = Bound(1.0, at_least=False, against=("slow", "fast"))
    verdict = judged(bound, {"pytail": [2.0], "slow": [4.0], "fast": [1.0]})
    assert verdict.measured == 2.0
    assert not verdict.holds


def test_an_absolute_bound_is_in_the_unit_of_its_row():
    assert judged(Bound(70, at_least=False), {"pytail": [69.0, 70.0, 90.0]}).holds
    assert not judged(Bound(70, at_least=False), {"pytail": [70.1]}).holds


def test_a_percentile_excludes_the_largest_values():
    assert percentile([*range(100)], 0.99) == 99
    assert percentile([*range(100)], 0.5) == 50
    assert percentile([7], 0.99) == 7


def test_the_mix_is_log_spaced():
    assert len(MIX) == 40
    assert (min(MIX.values()), max(MIX.values())) == (5, 8000)
    assert log_spaced(1, 100, 3) == [1, 10, 100]


def test_a_generated_page_has_its_files_and_is_reused(tmp_path):
    site = Site(tmp_path)
    site.page("some", 20)
    plain = tmp_path / "simple" / "some" / "index.json"
    files = json.loads(plain.read_text())["files"]
    assert len({file["hashes"]["sha256"] for file in files}) == 20
    assert gzip.decompress(plain.with_name("index.json.gz").read_bytes()) == plain.read_bytes()
    before = plain.stat().st_mtime_ns
    site.page("some", 20)
    assert plain.stat().st_mtime_ns == before


def test_a_wrong_response_is_refused_before_the_measurement(tmp_path):
    with FakeIndex() as upstream, serving(tmp_path, upstream.url) as client:
        upstream.add(sdist("some", "1.0"), sdist("some", "2.0"))
        server = Server("pytail", int(client.url.rpartition(":")[2]), "/simple/", 0, 0.0)
        request = load.page_request(server, "some", 2, load.GZIP)
        assert request.length == len(client.get(request.path, **GZIP).data)
        with pytest.raises(load.WrongResponse, match="2 files, not 3"):
            load.page_request(server, "some", 3)
        with pytest.raises(load.WrongResponse, match="is 404"):
            load.page_request(server, "other", 1)


def test_a_file_and_its_range_are_verified(tmp_path):
    with FakeIndex() as upstream, serving(tmp_path, upstream.url) as client:
        dist = sdist("some")
        upstream.add(dist)
        server = Server("pytail", int(client.url.rpartition(":")[2]), "/simple/", 0, 0.0)
        assert load.file_request(server, "some", dist.sha256).length == len(dist.data)
        assert load.file_request(server, "some", dist.sha256, (5, 9)).length == 4


def test_small_files_are_fetched_once_each_and_verified(tmp_path):
    with FakeIndex() as upstream, serving(tmp_path, upstream.url) as client:
        dists = [wheel(f"small-{number}") for number in range(5)]
        upstream.add(*dists)
        server = Server("pytail", int(client.url.rpartition(":")[2]), "/simple/", 0, 0.0)
        due = load.paths_of(server, {dist.project: dist.sha256 for dist in dists})
        assert load.fetched(server, due, 3) > 0
        assert [upstream.count(dist.path) for dist in dists] == [1] * 5
        with pytest.raises(load.WrongResponse, match="another digest"):
            load.fetched(server, dict.fromkeys(due, "0" * 64), 3)
        with pytest.raises(load.WrongResponse, match="404"):
            load.fetched(server, {"/nothing": "0" * 64}, 3)


def test_the_report_says_whether_each_bound_holds():
    fast = Row("a", "work", "requests/s", {"pytail": [60.0], "peer": [100.0]}, [FASTER])
    fast.costs = {"pytail": [16.0], "peer": [10.0]}
    slow = Row("b", "other work", "MB", {"pytail": [71.0]}, [Bound(70, at_least=False)])
    lost = Row("c", "c", "", notes=["failed: no peer"])
    page = report.document([fast, slow, lost], [], {"machine": "2 cores"}, "this", quick=True)
    assert "| a | work | pytail | at least 0.5 x peer | 0.6 x (0.6 to 0.6) | yes |" in page
    assert "| b | other work | pytail | at most 70 MB | 71 (71 to 71) | **no** |" in page
    assert "| peer | 100 (100 to 100) | 1 | 10 |" in page
    assert "| c | c | | | not measured | **no** |" in page
    assert "- machine: 2 cores" in page
    assert "Preliminary" in page


def test_a_chart_has_each_line_inside_its_frame():
    lines = {"pytail": [(10, 2.0), (20_000, 300.0)], "a & b": [(10, 0.2), (20_000, 40.0)]}
    root = ET.fromstring(svg(Plot("k", "title", "files", "ms", lines)))
    drawn = root.findall("{http://www.w3.org/2000/svg}polyline")
    corners = [corner.split(",") for line in drawn for corner in line.attrib["points"].split()]
    assert len(corners) == 4
    assert all(70 <= float(x) <= 530 and 40 <= float(y) <= 310 for x, y in corners)
    assert "a & b" in {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
