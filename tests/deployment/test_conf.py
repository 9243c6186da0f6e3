"""What ``conf/`` brings for those who watch pytail speaks of series that a live pytail has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.running import Client

CONF = Path(__file__).parents[2] / "conf"
RULES = (CONF / "prometheus-rules.yml").read_text()
DASHBOARD = json.loads((CONF / "grafana-dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS.append(DASHBOARD["templating"]["list"][1]["query"])

#: What Prometheus adds to each series.
ADDED = {"instance", "job"}


@pytest.fixture
def live(pytail: Client) -> dict[str, dict[str, set[str]]]:
    """By the name of each series of a new pytail its labels and their values."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(pytail.get("/+metrics").data.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def texts() -> list[str]:
    return [RULES, *EXPRESSIONS]


def test_every_series_that_is_spoken_of_is_there_and_the_other_way_round(live: dict[str, object]):
    spoken = {name for text in texts() for name in re.findall(r"\bpytail_\w+", text)}
    assert spoken <= live.keys()
    silent = {re.sub(r"_(bucket|count|sum)$", "", name) for name in live}
    silent -= {re.sub(r"_(bucket|count|sum)$", "", name) for name in spoken}
    assert silent == {"pytail_store_files"}


def test_every_label_that_is_asked_for_is_there(live: dict[str, dict[str, set[str]]]):
    asked = [
        (name, label, value)
        for text in texts()
        for name, selector in re.findall(r"\b(pytail_\w+)\{([^}]*)\}", text)
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector)
        if label not in ADDED
    ]
    assert asked
    for name, label, value in asked:
        # Those of errors come with the first one.
        known = live[name][label] | ({"5xx"} if label == "status" else set())
        assert set(value.split("|")) <= known


def test_every_label_that_is_grouped_by_is_there(live: dict[str, dict[str, set[str]]]):
    known = ADDED | {label for labels in live.values() for label in labels}
    for text in texts():
        for labels in re.findall(r"\bby \(([^)]*)\)", text):
            assert set(labels.replace(",", " ").split()) <= known


def test_each_alert_says_when_how_bad_and_what_to_do():
    alerts = RULES.split("- alert: ")[1:]
    assert len({alert.split()[0] for alert in alerts}) == len(alerts) >= 5
    for alert in alerts:
        for part in ("expr: ", "labels: {severity: ", "summary: ", "description: "):
            assert alert.count(part) == 1


def test_the_panels_are_told_apart_and_do_not_overlap():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels})
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in panels)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24
