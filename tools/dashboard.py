"""Grafana's dashboard out of deploy/monitoring/dashboard.yaml: where each panel stands, how it is drawn, the variables.

python -m tools.monitoring writes deploy/monitoring/dashboard.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

import yaml

COLUMNS = 24
SIZES = {"stat": (4, 4), "lines": (8, 8), "heatmap": (8, 8), "table": (16, 8)}  # kind -> width, height
TYPES = {"lines": "timeseries"}  # Grafana's name, where it is another one
WORKER = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
KEEP = 'namespace=~"$namespace", job=~"$keep"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
EMPTY = "no data yet"  # instead of Grafana's "No data", which reads like a fault
NOT_IN_TABLES = ("Time", "Value", "__name__", "job", "endpoint", "container")


@dataclass(frozen=True)
class Query:
    """PromQL, and how its series are called."""

    expr: str
    legend: str = "__auto"

    def json(self, letter: str, kind: str) -> dict[str, Any]:
        """As Grafana reads it."""
        return {
            "refId": letter,
            "datasource": DATASOURCE,
            "expr": self.expr.replace("WORKER", WORKER).replace("KEEP", KEEP),
            "legendFormat": self.legend,
            "format": {"heatmap": "heatmap", "table": "table"}.get(kind, "time_series"),
            "instant": kind == "table",
            "range": kind != "table",
        }


@dataclass(frozen=True)
class Panel:
    """One panel, with the fields of dashboard.yaml."""

    kind: str
    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    decimals: int | None = None
    most: float | None = None
    steps: Mapping[float, str] = field(default_factory=dict)
    stacked: bool = False
    bars: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Panel:
        """Read one panel.

        Raises:
            TypeError, StopIteration: an unknown field, or one that is missing.
        """
        kind = next(kind for kind in SIZES if kind in fields)
        rest = {name: value for name, value in fields.items() if name not in (kind, "queries")}
        queries = [Query(**query) for query in fields["queries"]]
        return cls(kind=kind, title=fields[kind], queries=queries, **rest)

    @property
    def width(self) -> int:
        """In 24ths of a row."""
        return SIZES[self.kind][0]

    @property
    def height(self) -> int:
        """In Grafana's units of some 30 pixels."""
        return SIZES[self.kind][1]

    def json(self, id_: int, *, x: int, y: int) -> dict[str, Any]:
        """As Grafana reads it."""
        panel: dict[str, Any] = {
            "id": id_,
            "type": TYPES.get(self.kind, self.kind),
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
            "targets": [
                query.json(letter, self.kind) for letter, query in zip(ascii_uppercase, self.queries, strict=False)
            ],
        }
        if self.kind == "table":
            hidden = dict.fromkeys(NOT_IN_TABLES, True)
            panel["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
        return panel

    def _defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {"unit": self.unit, "noValue": EMPTY}
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        if self.most is not None:
            defaults["max"] = self.most
        if self.kind == "stat":
            colours = [{"color": "green", "value": None}, *({"color": c, "value": v} for v, c in self.steps.items())]
            defaults["thresholds"] = {"mode": "absolute", "steps": colours}
        if self.kind == "lines":
            defaults["min"] = 0
            defaults["custom"] = {
                "drawStyle": "bars" if self.bars else "line",
                "fillOpacity": 60 if self.bars or self.stacked else 10,
                "showPoints": "never",
                "stacking": {"mode": "normal" if self.bars or self.stacked else "none", "group": "A"},
            }
        return defaults

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value" if self.steps else "none",
                "graphMode": "area",
                "textMode": "auto",
            }
        if self.kind == "heatmap":
            return {
                "calculate": False,
                "yAxis": {"unit": "s", "axisPlacement": "left"},
                "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
                "cellGap": 1,
                "tooltip": {"mode": "single", "yHistogram": True},
            }
        if self.kind == "table":
            return {"showHeader": True}
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": legend}


def dashboard(text: str) -> dict[str, Any]:
    """The whole dashboard from dashboard.yaml's text."""
    return {
        "uid": "batch-renderer",
        "title": "Batch renderer",
        "description": "Throughput, queue, GPUs and health of the workers and of producer keep.",
        "tags": ["batch-renderer"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": _placed(yaml.safe_load(text)),
    }


def _placed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row's panels from left to right, under its heading."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        position = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        heading = {"type": "row", "title": row["row"], "collapsed": False, "panels": []}
        placed.append({"id": len(placed) + 1, **heading, "gridPos": position})
        x, y, height = 0, y + 1, 0
        for panel in map(Panel.of, row["panels"]):
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            placed.append(panel.json(len(placed) + 1, x=x, y=y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return placed


def _variables() -> list[dict[str, Any]]:
    """Every choice is 'All' at first, which also matches series that have no such label: those of Compose."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0,
              "current": {}, "regex": "", "refresh": 1}  # fmt: skip
    # These two series exist from a process's start, one in every worker and one in every keep.
    worker, keep = "render_heartbeat_failures_total", "render_redis_up"
    there = 'namespace=~"$namespace"'
    return [
        source,
        _variable("namespace", "Namespace", f"label_values({keep}, namespace)"),
        _variable("job", "Workers' job", f"label_values({worker}{{{there}}}, job)"),
        _variable("keep", "Keep's job", f"label_values({keep}{{{there}}}, job)"),
        _variable("instance", "Worker", f'label_values({worker}{{{there}, job=~"$job"}}, instance)'),
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }
