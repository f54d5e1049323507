"""A topology for Grafana: its dashboard, what makes Grafana find it, and Prometheus' side of it.

Decides which files there are and what stands in them. Never writes them.
"""

import json

from zflow.declared.model import Declared
from zflow.export.dashboard import dashboard, dashboard_uid
from zflow.export.prometheus import (
    CONFIG,
    DEFAULT_ADDRESS,
    SCRAPE_INTERVAL,
    prometheus_files,
)
from zflow.export.rules import DEFAULT_SLO_S
from zflow.export.yamltext import MADE_BY, yaml_text

DEFAULT_PROMETHEUS = "http://127.0.0.1:9090"
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
