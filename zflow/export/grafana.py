"""A topology for Grafana: its dashboard, what makes Grafana find it, and Prometheus' side of it.

Decides which files there are and what stands in them. Never writes them.
"""

import hashlib
import json
from typing import Any

from zflow.declared.model import Declared
from zflow.export.dashboard import rows_of
from zflow.export.panels import DATASOURCE, placed, row_dict
from zflow.export.prometheus import (
    CONFIG,
    DEFAULT_ADDRESS,
    SCRAPE_INTERVAL,
    prometheus_files,
)
from zflow.export.rules import DEFAULT_SLO_S
from zflow.export.yamltext import MADE_BY, yaml_text

DEFAULT_PROMETHEUS = "http://127.0.0.1:9090"
SCHEMA_VERSION = 39
DATASOURCE_UID = "zflow-prometheus"

# Grafana reads provisioning files with environment variables in them, and its images set this one.
# The dashboards lie beside the file that names them, so that the folder may be moved.
DASHBOARDS_PATH = "${GF_PATHS_PROVISIONING}/dashboards"

README = """\
# {name} in Grafana
{made_by}

1. `zflow run TARGET --http {address}`
2. `prometheus --config.file=prometheus/{config} --web.listen-address=127.0.0.1:9090`
3. `GF_PATHS_PROVISIONING="$PWD/provisioning" grafana server --homepath /usr/share/grafana`, or give
   a container of Grafana `-v "$PWD/provisioning:/etc/grafana/provisioning" --network host`
4. Open http://127.0.0.1:3000/d/{uid}
"""


def grafana_files(
    declared: Declared,
    *,
    address: str = DEFAULT_ADDRESS,
    prometheus: str = DEFAULT_PROMETHEUS,
    slo_s: float = DEFAULT_SLO_S,
) -> dict[str, str]:
    """Every file, by its path in the folder.

    address: HOST:PORT of the coordinator. prometheus: its URL, as Grafana reaches it.
    """
    shown = json.dumps(dashboard(declared), indent=2, ensure_ascii=False)
    readme = README.format(
        name=declared.name,
        made_by=MADE_BY,
        address=address,
        config=CONFIG,
        uid=dashboard_uid(declared),
    )
    rules = prometheus_files(declared, address=address, slo_s=slo_s)
    return {
        "README.md": readme,
        "provisioning/datasources/zflow.yml": _datasource(prometheus),
        "provisioning/dashboards/zflow.yml": _provider(),
        f"provisioning/dashboards/zflow-{declared.name}.json": shown + "\n",
        **{f"prometheus/{name}": text for name, text in rules.items()},
    }


def dashboard(declared: Declared) -> dict[str, Any]:
    """The dashboard as Grafana reads it. Equal topologies give equal dashboards."""
    panels: list[dict[str, Any]] = []
    number, y = 1, 0
    for title, is_open, content in rows_of(declared):
        made, end = placed(content, number + 1, y + 1)
        panels.append(row_dict(number, title, y, [] if is_open else made))
        panels += made if is_open else []
        number, y = number + 1 + len(made), end if is_open else y + 1
    return {
        "uid": dashboard_uid(declared),
        "title": f"zflow: {declared.name}",
        "description": MADE_BY,
        "tags": ["zflow"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "5s",
        "templating": {"list": _variables(declared)},
        "panels": panels,
    }


def dashboard_uid(declared: Declared) -> str:
    """The same for every export of a topology, so that links to it last."""
    # Names may have letters that a uid may not have.
    return "zflow-" + hashlib.sha256(declared.name.encode()).hexdigest()[:16]


def _variables(declared: Declared) -> list[dict[str, Any]]:
    query = {"type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1, "regex": ""}
    topologies = "label_values(zflow_topology_info, topology)"
    stages = 'label_values(zflow_replicas{topology="$topology"}, stage)'
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "regex": "",
            "current": {"text": "zflow", "value": DATASOURCE_UID, "selected": True},
        },
        {
            **query,
            "name": "topology",
            "label": "Topology",
            "query": {"query": topologies, "refId": "topology"},
            "current": {"text": declared.name, "value": declared.name, "selected": True},
        },
        {
            **query,
            "name": "stage",
            "label": "Stage",
            "query": {"query": stages, "refId": "stage"},
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"], "selected": True},
        },
    ]


def _datasource(url: str) -> str:
    source = {
        "name": "zflow",
        "uid": DATASOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": url,
        # What $__rate_interval is reckoned from.
        "jsonData": {"timeInterval": SCRAPE_INTERVAL},
    }
    return yaml_text({"apiVersion": 1, "datasources": [source]})


def _provider() -> str:
    provider = {
        "name": "zflow",
        "folder": "zflow",
        "type": "file",
        "options": {"path": DASHBOARDS_PATH},
    }
    return yaml_text({"apiVersion": 1, "providers": [provider]})
