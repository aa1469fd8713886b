"""deploy/monitoring: made files are up to date, alerts have tests and a paragraph, and queries read real metrics."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import ROOT, monitoring

FOLDER = ROOT / "deploy" / "monitoring"
ALERTS_PAGE = ROOT / "docs" / "alerts.md"
OPERATIONS = ROOT / "docs" / "operations.md"
PARTS = ("**What it means.**", "**What to look at.**", "**What to do.**")
# What is not ours: of Prometheus itself, and of every process.
OTHERS = {"ALERTS", "up", "process_start_time_seconds", "process_resident_memory_bytes"}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Rules by name; `kind` is alert or record."""
    return {
        rule[kind]: rule for group in load(FOLDER / "rules.yaml")["groups"] for rule in group["rules"] if kind in rule
    }


ALERTS, RECORDS = rules("alert"), rules("record")
TESTS = load(FOLDER / "rules_test.yaml")["tests"]


def panels() -> list[dict[str, Any]]:
    """Without the headings of rows."""
    return [panel for panel in load(monitoring.DASHBOARD)["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    """Of all panels and rules."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in [*ALERTS.values(), *RECORDS.values()])]


def metrics(query: str) -> set[str]:
    """The metrics that a query reads, without what a histogram adds to its name."""
    text = re.sub(r'"[^"]*"', "", query)
    text = re.sub(r"\b(by|on|ignoring|without) *\([^)]*\)", "", text)  # labels
    text = re.sub(r"\{[^}]*\}", "", text)
    names = re.findall(r"\b(?:\w+:)*\w*render_\w+(?::\w+)*|\bALERTS\b|\bup\b|\bprocess_\w+", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def documented() -> set[str]:
    return set(re.findall(r"^\| `(render_[a-z_]+)` \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE))


# -- made files -------------------------------------------------------------------------------------------------------


def test_made_files_are_what_would_be_made_now() -> None:
    for path, text in monitoring.made().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is out of date: python -m tools.monitoring"


def test_the_operators_rules_are_the_same_groups() -> None:
    assert load(monitoring.PROMETHEUS_RULE)["spec"] == load(FOLDER / "rules.yaml")


# -- alerts -----------------------------------------------------------------------------------------------------------


def paragraphs() -> dict[str, str]:
    """Heading -> text of docs/alerts.md."""
    parts = re.split(r"^## (.+)$", ALERTS_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_alert_has_a_paragraph_and_every_paragraph_an_alert() -> None:
    assert set(paragraphs()) == set(ALERTS)


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_a_paragraph_says_what_an_alert_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    text = paragraphs()[alert]
    places = [text.find(part) for part in PARTS]
    assert all(place >= 0 for place in places)
    assert all(before < after for before, after in pairwise(places))


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_has_a_severity_and_says_what_happened_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{alert.lower()}"
    assert all(text.endswith(".") for name, text in rule["annotations"].items() if name != "runbook_url")


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_is_seen_to_fire_and_seen_to_be_silent(alert: str) -> None:
    checks = [check for case in TESTS for check in case.get("alert_rule_test", ()) if check["alertname"] == alert]
    assert any(check["exp_alerts"] for check in checks)
    assert sum(not check["exp_alerts"] for check in checks) >= 2


def test_tests_of_rules_name_alerts_that_exist_and_metrics_that_exist() -> None:
    """A misspelt alert would be silent in every test that expects it to be."""
    named = {check["alertname"] for case in TESTS for check in case.get("alert_rule_test", ())}
    assert named <= set(ALERTS)
    given = {name for case in TESTS for series in case["input_series"] for name in metrics(series["series"])}
    assert given - OTHERS <= documented()


@pytest.mark.parametrize("record", sorted(RECORDS))
def test_a_recording_rule_is_tested_with_numbers(record: str) -> None:
    assert record in {check["expr"] for case in TESTS for check in case.get("promql_expr_test", ())}


# -- queries ----------------------------------------------------------------------------------------------------------


def test_the_names_in_a_query_are_found() -> None:
    query = 'sum by (render_job, le) (rate(render_a_seconds_bucket{job="render_b"}[5m])) / up > job:render_c:rate5m'
    assert metrics(query) == {"render_a_seconds", "up", "job:render_c:rate5m"}


def test_panels_and_rules_read_metrics_that_exist() -> None:
    read = {name for query in queries() for name in metrics(query)}
    assert read - documented() - OTHERS - set(RECORDS) == set()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in metrics(target["expr"])}
    assert documented() - shown == set()


# -- the dashboard ----------------------------------------------------------------------------------------------------


def test_every_panel_says_how_to_read_it_and_shows_something_before_there_is_data() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        assert panel["targets"], panel["title"]


def test_no_two_panels_overlap_or_share_an_id() -> None:
    everything = load(monitoring.DASHBOARD)["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for one, other in combinations([panel["gridPos"] for panel in everything], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)


def test_queries_use_the_dashboards_variables_and_no_others() -> None:
    dashboard = json.loads(monitoring.DASHBOARD.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert used - {"__rate_interval"} <= variables
    assert variables <= used
    for panel in panels():
        for target in panel["targets"]:
            if "ALERTS" not in target["expr"]:
                assert "$namespace" in target["expr"], panel["title"]
