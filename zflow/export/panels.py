"""Panels of a Grafana dashboard as plain dicts, and PromQL with Grafana's variables in it.

Decides how a panel looks, never what it is about (`export.dashboard`). The fields are those of
Grafana's dashboard schema 39 and of each panel plugin's options.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zflow.export.rules import PER_REPLICA
from zflow.metrics import GONE

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24  # of Grafana's grid

# By the text of the legend, so that a state has its colour on every panel.
STATE_COLOURS = {"busy": "green", "starved": "blue", "blocked": "red", "overhead": "#808080"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. queries: (PromQL, legend) pairs. unit: as Grafana calls it.

    kind: timeseries, stat, table or barchart. width: of 24 columns; height: of about 30 pixels.
    states: shares of time, stacked, each state in its colour. alarming: red from 1 on.
    hidden: columns that a table leaves out.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    states: bool = False
    alarming: bool = False
    hidden: tuple[str, ...] = ()


# --- PromQL ----------------------------------------------------------------------------------


def series(metric: str, *matchers: str) -> str:
    """The series of a metric in the chosen topology."""
    chosen = ",".join(['topology="$topology"', *matchers])
    return f"{metric}{{{chosen}}}"


def rate(metric: str, *matchers: str) -> str:
    """How fast counters grow, per second; without what slots that were scaled away left behind."""
    living = (f'replica!="{GONE}"',) if metric in PER_REPLICA else ()
    return f"rate({series(metric, *matchers, *living)}[$__rate_interval])"


def rate_by(labels: str, metric: str, *matchers: str) -> str:
    """The same, added up but for these labels."""
    return f"sum by ({labels}) ({rate(metric, *matchers)})"


def total_by(labels: str, metric: str, *matchers: str) -> str:
    """A metric, added up but for these labels."""
    return f"sum by ({labels}) ({series(metric, *matchers)})"


def quantile(share: float, labels: str, metric: str, *matchers: str) -> str:
    """A quantile of a histogram, in its unit."""
    by = ", ".join(filter(None, [labels, "le"]))
    return f"histogram_quantile({share}, {rate_by(by, f'{metric}_bucket', *matchers)})"


def time_shares(labels: str, *matchers: str) -> str:
    """Which share of its time a stage spends in each state. labels: besides the state."""
    metric = "zflow_stage_time_seconds_total"
    parts = rate_by(", ".join(filter(None, [labels, "state"])), metric, *matchers)
    return f"{parts} / on ({labels}) group_left () {rate_by(labels, metric, *matchers)}"


# --- dicts -----------------------------------------------------------------------------------


def row_dict(number: int, title: str, y: int, panels: list[dict[str, Any]]) -> dict[str, Any]:
    """A row; a collapsed one holds its panels, an open one (no panels) stands before them."""
    return {
        "type": "row",
        "id": number,
        "title": title,
        "collapsed": bool(panels),
        "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
        "panels": panels,
    }


def placed(panels: Iterable[Panel], number: int, y: int) -> tuple[list[dict[str, Any]], int]:
    """Panels from left to right, line by line; and the height at which they end."""
    made: list[dict[str, Any]] = []
    x = line = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, line = 0, y + line, 0
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        made.append(panel_dict(panel, number + len(made), place))
        x, line = x + panel.width, max(line, panel.height)
    return made, y + line


def panel_dict(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """A panel as Grafana stores it."""
    options, custom = STYLES[panel.kind](panel)
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": [_target(panel, k, *query) for k, query in enumerate(panel.queries)],
        "options": options,
        "fieldConfig": {"defaults": _field(panel, custom), "overrides": _overrides(panel)},
        "transformations": _transformations(panel),
    }


def _target(panel: Panel, place: int, expr: str, legend: str) -> dict[str, Any]:
    is_table = panel.kind in ("table", "barchart")
    return {
        "refId": chr(ord("A") + place),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "legendFormat": legend,
        "format": "table" if is_table else "time_series",
        "instant": is_table,
        "range": not is_table,
    }


def _field(panel: Panel, custom: dict[str, Any]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.alarming:
        steps.append({"color": "red", "value": 1})
    field: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": custom,
    }
    if panel.states:
        field["max"] = 1
    if panel.kind == "stat":
        field["noValue"] = "0"
    return field


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    if not panel.states:
        return []
    return [
        {
            "matcher": {"id": "byName", "options": state},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for state, colour in STATE_COLOURS.items()
    ]


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind == "barchart":  # one bar per stage, one part of it per state
        matrix = {"rowField": "stage", "columnField": "state", "valueField": "Value"}
        return [{"id": "groupingToMatrix", "options": matrix}]
    if panel.kind == "table":
        hidden = ("Time", "instance", "job", "topology", *panel.hidden)
        return [{"id": "organize", "options": {"excludeByName": dict.fromkeys(hidden, True)}}]
    return []


# --- options of each kind: (options, custom fields) ------------------------------------------

_LEGEND: dict[str, Any] = {
    "calcs": [],
    "displayMode": "list",
    "placement": "bottom",
    "showLegend": True,
}


def _timeseries(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}}
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 70 if panel.states else 10,
        "showPoints": "never",
        "stacking": {"group": "A", "mode": "normal" if panel.states else "none"},
    }
    return options, custom


def _stat(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
    }
    return options, {}


def _table(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}
    return {"cellHeight": "sm", "frameIndex": 0, "showHeader": True}, custom


def _barchart(panel: Panel) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {
        "barWidth": 0.8,
        "fullHighlight": False,
        "groupWidth": 0.7,
        "legend": _LEGEND,
        "orientation": "horizontal",
        "showValue": "never",
        "stacking": "normal",
        "tooltip": {"mode": "multi", "sort": "none"},
        "xTickLabelMaxLength": 24,
        "xTickLabelRotation": 0,
    }
    return options, {"fillOpacity": 80, "lineWidth": 0}


STYLES = {"timeseries": _timeseries, "stat": _stat, "table": _table, "barchart": _barchart}
