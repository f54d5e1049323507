"""What the exported dashboard promises, read from its data."""

import json
import re

import pytest
import yaml

from zflow.export.dashboard import NOT_SHOWN
from zflow.export.grafana import DATASOURCE_UID, dashboard, dashboard_uid, grafana_files
from zflow.metrics import METRICS


def rows(board):
    return [one for one in board["panels"] if one["type"] == "row"]


def panels(board):
    """Every panel that is not a row, those in collapsed rows included."""
    inner = [panel for row in rows(board) for panel in row["panels"]]
    return [*(one for one in board["panels"] if one["type"] != "row"), *inner]


def queries(board):
    return [target["expr"] for panel in panels(board) for target in panel["targets"]]


def test_rows_go_from_the_whole_to_its_parts(declared):
    board = dashboard(declared)
    stages = [one.name for one in declared.stages]
    durable = ["Durable stages"] if any(one.is_durable for one in declared.stages) else []
    titles = [row["title"].partition(":")[0] for row in rows(board)]
    assert titles == [
        *("Overview", "Failures"),
        *stages,
        *("Edges", "Replicas"),
        *durable,
        "Coordinator",
    ]


def test_every_panel_has_a_title_a_description_a_unit_and_a_query(declared):
    for panel in panels(dashboard(declared)):
        assert panel["title"]
        assert panel["description"].endswith((".", "ls."))
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_rates_are_over_grafanas_interval_and_never_over_what_slots_left_behind(declared):
    per_replica = {metric.name for metric in METRICS if "replica" in metric.labels}
    for query in queries(dashboard(declared)):
        for metric, matchers, window in re.findall(r"rate\((\w+)\{([^}]*)\}\[([^\]]*)\]", query):
            assert window == "$__rate_interval"
            assert ('replica!="gone"' in matchers) == (metric in per_replica)
        assert query.count("[") == query.count("[$__rate_interval]")


def test_queries_are_about_the_chosen_topology(declared):
    for query in queries(dashboard(declared)):
        assert "$topology" in query or query == "zflow_build_info"


def test_every_metric_is_on_a_panel_or_is_an_exception_with_a_reason(everything):
    asked = " ".join(queries(dashboard(everything)))
    shown = {
        metric.name
        for metric in METRICS
        if re.search(rf"\b{metric.name}(_bucket|_count|_sum)?\b", asked)
    }
    assert {metric.name for metric in METRICS} - shown == NOT_SHOWN.keys()
    assert all(NOT_SHOWN.values())


def test_only_metrics_that_there_are_are_asked_for(declared):
    known = {metric.name for metric in METRICS}
    for name in re.findall(r"\bzflow_\w+", " ".join(queries(dashboard(declared)))):
        assert re.sub(r"_(bucket|count|sum)$", "", name) in known or name.startswith("zflow_user_")


def test_ids_are_distinct_and_no_panel_lies_on_another(declared):
    board = dashboard(declared)
    ids = [one["id"] for one in [*rows(board), *panels(board)]]
    assert len(ids) == len(set(ids))
    levels = [board["panels"], *(row["panels"] for row in rows(board))]
    for level in levels:
        taken = set()
        for panel in level:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            taken |= cells


def test_equal_topologies_give_equal_dashboards_and_others_another_uid(declared, everything):
    assert grafana_files(declared) == grafana_files(declared)
    uid = dashboard_uid(declared)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid)
    assert (uid == dashboard_uid(everything)) == (declared.name == "everything")


def test_variables_choose_the_source_the_topology_and_its_stages(declared):
    variables = {one["name"]: one for one in dashboard(declared)["templating"]["list"]}
    assert list(variables) == ["datasource", "topology", "stage"]
    assert variables["datasource"]["current"]["value"] == DATASOURCE_UID
    assert variables["topology"]["current"]["value"] == declared.name
    assert variables["stage"]["multi"]
    assert variables["stage"]["allValue"] == ".*"


def test_grafana_finds_dashboard_and_source_from_the_folder_alone(declared):
    files = grafana_files(declared, prometheus="http://metrics:9090", address="host:1")
    provider = yaml.safe_load(files["provisioning/dashboards/zflow.yml"])["providers"][0]
    folder = provider["options"]["path"].replace("${GF_PATHS_PROVISIONING}", "provisioning")
    board = json.loads(files[f"{folder}/zflow-{declared.name}.json"])
    assert board == dashboard(declared)
    source = yaml.safe_load(files["provisioning/datasources/zflow.yml"])["datasources"][0]
    assert (source["uid"], source["url"]) == (DATASOURCE_UID, "http://metrics:9090")
    config = yaml.safe_load(files["prometheus/prometheus.yml"])
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["host:1"]}]
    assert dashboard_uid(declared) in files["README.md"]


@pytest.mark.parametrize("state", ["busy", "starved", "blocked", "overhead"])
def test_a_state_has_its_colour_wherever_it_is_stacked(everything, state):
    stacked = [one for one in panels(dashboard(everything)) if one["fieldConfig"]["overrides"]]
    assert len(stacked) == 1 + len(everything.stages)
    for panel in stacked:
        coloured = [one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]]
        assert state in coloured
