"""A topology for Prometheus: scrape configurations, rules, and promtool's tests of the rules.

Decides which files there are and what stands in them. Never writes them.
"""

from typing import Any

from zflow.declared.model import Declared
from zflow.export.rule_tests import EVALUATED, rule_tests
from zflow.export.rules import (
    DEFAULT_SLO_S,
    alert_data,
    alerts,
    job_of,
    recording_data,
    recordings,
)
from zflow.export.yamltext import yaml_text

DEFAULT_ADDRESS = "127.0.0.1:9464"  # where `zflow run` answers unless it is told otherwise
# zflow's own numbers are a second old; rates over a minute want a few samples.
SCRAPE_INTERVAL = "5s"

CONFIG, CONFIG_SD = "prometheus.yml", "prometheus-http-sd.yml"

# No label `topology` on a target: Prometheus would rename the one that zflow's series have.
STATIC_HEADING = """\
Scrapes the coordinator of {name} at one fixed address.
Start it with:  prometheus --config.file={file} --web.listen-address=127.0.0.1:9090"""
SD_HEADING = """\
The same as {static}, but the coordinator says itself where metrics are (http_sd)."""


def prometheus_files(
    declared: Declared, *, address: str = DEFAULT_ADDRESS, slo_s: float = DEFAULT_SLO_S
) -> dict[str, str]:
    """Every file, by its name in the folder.

    address: HOST:PORT of the coordinator. slo_s: what the alert LatencySLO holds items to.
    """
    name = declared.name
    recording, alert, test = (f"{name}.{what}.yml" for what in ("recording", "alerts", "tests"))
    rule_files = [recording, alert]
    static = {"static_configs": [{"targets": [address]}]}
    discovered = {"http_sd_configs": [{"url": f"http://{address}/sd", "refresh_interval": "30s"}]}
    tests = {
        "rule_files": rule_files,
        "evaluation_interval": EVALUATED,
        "tests": rule_tests(declared, slo_s=slo_s),
    }
    return {
        CONFIG: _document(
            _config(declared, static, rule_files), STATIC_HEADING.format(name=name, file=CONFIG)
        ),
        CONFIG_SD: _document(
            _config(declared, discovered, rule_files), SD_HEADING.format(static=CONFIG)
        ),
        recording: _document(
            _rules(f"{name} recording", [recording_data(rule) for rule in recordings(declared)]),
            f"What Prometheus keeps ready of {name}: rates, shares of time, quantiles.",
        ),
        alert: _document(
            _rules(
                f"{name} alerts",
                [alert_data(declared, rule) for rule in alerts(declared, slo_s=slo_s)],
            ),
            f"When somebody should look at {name}, and what to type then.",
        ),
        test: _document(tests, f"Shows what the rules do:  promtool test rules {test}"),
    }


def _config(declared: Declared, targets: dict[str, Any], rule_files: list[str]) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": rule_files,
        "scrape_configs": [{"job_name": job_of(declared), **targets}],
    }


def _rules(group: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"groups": [{"name": group, "rules": rules}]}


def _document(data: dict[str, Any], heading: str) -> str:
    return yaml_text(data, heading=heading)
