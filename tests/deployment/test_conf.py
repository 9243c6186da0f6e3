"""The alerts and the dashboard of ``conf/`` use only metrics that pytail has."""

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

#: Labels that Prometheus adds to each series.
ADDED = {"instance", "job"}


@pytest.fixture
def live(pytail: Client) -> dict[str, dict[str, set[str]]]:
    """The labels of each sample of a new pytail, with their values, by the sample's name."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(pytail.get("/+metrics").data.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def texts() -> list[str]:
    return [RULES, *EXPRESSIONS]


def test_the_texts_use_all_metrics_but_one_and_no_others(live: dict[str, object]):
    used = {name for text in texts() for name in re.findall(r"\bpytail_\w+", text)}
    assert used <= live.keys()
    unused = {re.sub(r"_(bucket|count|sum)$", "", name) for name in live}
    unused -= {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert unused == {"pytail_store_files"}


def test_every_selected_label_and_value_exists(live: dict[str, dict[str, set[str]]]):
    selected = [
        (name, label, value)
        for text in texts()
        for name, selector in re.findall(r"\b(pytail_\w+)\{([^}]*)\}", text)
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector)
        if label not in ADDED
    ]
    assert selected
    for name, label, value in selected:
        # The first response of a class of statuses adds its value.
        known = live[name][label] | ({"5xx"} if label == "status" else set())
        assert set(value.split("|")) <= known


def test_every_label_that_groups_series_exists(live: dict[str, dict[str, set[str]]]):
    known = ADDED | {label for labels in live.values() for label in labels}
    for text in texts():
        for labels in re.findall(r"\bby \(([^)]*)\)", text):
            assert set(labels.replace(",", " ").split()) <= known


def test_each_alert_has_expression_severity_summary_and_description():
    alerts = RULES.split("- alert: ")[1:]
    assert len({alert.split()[0] for alert in alerts}) == len(alerts) >= 5
    for alert in alerts:
        for part in ("expr: ", "labels: {severity: ", "summary: ", "description: "):
            assert alert.count(part) == 1


def test_panels_have_unique_ids_and_titles_and_do_not_overlap():
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
