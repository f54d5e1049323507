"""promtool takes every file that is exported, and every rule does what it says."""

import re
import shlex
from dataclasses import replace

import pytest
import yaml

from zflow.cli.main import VERBS
from zflow.export import rule_tests
from zflow.export.prometheus import prometheus_files
from zflow.export.rules import alerts, recordings
from zflow.metrics import METRICS

KINDS = {
    *("BackpressureSustained", "Bottleneck", "CrashLoop", "CoordinatorDown", "DeadLetters"),
    *("LatencySLO", "NoThroughput"),
}
# Verbs that alerts name and that come with the coordinator's command line.
COMING = {"explain", "logs", "scale"}


@pytest.mark.slow
def test_promtool_takes_everything_and_its_tests_pass(declared, promtool, write):
    write(prometheus_files(declared))
    name = declared.name
    for command in [
        ("check", "config", "prometheus.yml"),
        ("check", "config", "prometheus-http-sd.yml"),
        ("check", "rules", f"{name}.recording.yml", f"{name}.alerts.yml"),
        ("test", "rules", f"{name}.tests.yml"),
    ]:
        checked = promtool(*command)
        assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["vector(1) > 2", "vector(1)"], ids=["never", "always"])
def test_the_tests_notice_wrong_rules(everything, promtool, write, answer):
    """Alerts that never or always fire, and recording rules that give something else."""
    files = prometheus_files(everything)
    wrong = {}
    for name in ("everything.alerts.yml", "everything.recording.yml"):
        wrong[name] = yaml.safe_load(files[name])
        for rule in wrong[name]["groups"][0]["rules"]:
            rule["expr"] = answer if "alert" in rule else f"({rule['expr']}) + 1"
    write(files | {name: yaml.safe_dump(data) for name, data in wrong.items()})
    tested = promtool("test", "rules", "everything.tests.yml")
    assert tested.returncode == 1
    assert set(re.findall(r"alertname: (\w+)", tested.stdout)) == KINDS
    recorded = re.findall(r'expr: "([\w:]+)"', tested.stdout)
    assert recorded == [rule.name for rule in recordings(everything)]


def test_every_stage_that_an_alert_can_be_about_makes_it_fire(declared):
    groups = [one["name"] for one in rule_tests.rule_tests(declared, slo_s=1)]
    stages = [stage.name for stage in declared.stages]
    sinks = [stage.name for stage in declared.stages if stage.kind == "sink"]
    sources = [stage.name for stage in declared.stages if stage.kind == "source"]
    about = {
        "BackpressureSustained": [name for name in stages if name not in sinks],
        **dict.fromkeys(["Bottleneck", "CrashLoop", "DeadLetters"], stages),
        "LatencySLO": sinks,
        "NoThroughput": [name for name in stages if name not in sources],
        "CoordinatorDown": [declared.name],
    }
    assert about.keys() == KINDS == {alert.name for alert in alerts(declared)}
    for kind, names in about.items():
        told = "; ".join(name for name in groups if name.startswith(f"{kind}: "))
        fired = re.findall(r"([\w-]+) fires", told)
        assert set(fired) == set(names)
        for name in names:  # and is silent in a case near to it
            assert re.search(rf"(: |; ){name} (?!fires)", told)
        for scenario in rule_tests.SCENARIOS[kind](declared, 1):
            assert all(near in told for near in scenario.near)


def test_alerts_name_the_stage_and_a_command_that_there_is(declared):
    for alert in alerts(declared):
        if alert.name != "CoordinatorDown":
            assert (alert.stage or "{{ $labels.s") in alert.summary
        assert declared.name in alert.summary
        assert alert.description
        program, verb, *_ = shlex.split(alert.command)
        assert program == "zflow"
        assert verb in VERBS.keys() | COMING


def test_the_command_of_a_bottleneck_gives_it_a_replica_only_where_it_can_have_one(everything):
    found = {one.stage: one for one in alerts(everything) if one.name == "Bottleneck"}
    assert found["Work"].command == "zflow scale Work=3"
    assert "up to 50% more" in found["Work"].description
    assert found["Count"].command == "zflow scale Count=2"  # its edges have keys
    assert found["numbers"].command == "zflow explain"  # a source that knows no partitions


def test_rules_ask_for_metrics_that_there_are_and_for_this_topology_alone(declared):
    known = {metric.name for metric in METRICS}
    known |= {f"{one.name}_bucket" for one in METRICS if one.kind == "histogram"}
    names = {rule.name for rule in recordings(declared)}
    for expr in [rule.expr for rule in [*recordings(declared), *alerts(declared)]]:
        asked = re.findall(r"([a-z][a-z0-9_:]*)\{([^}]*)\}", expr)
        assert asked
        for metric, matchers in asked:
            assert metric in known | names | {"up"}
            assert (f'topology="{declared.name}"' in matchers) == (metric != "up")


def test_every_recording_rule_has_a_value_in_the_tests(everything):
    assert [rule.name for rule in recordings(everything)] == list(rule_tests.RECORDED)
    assert rule_tests.SCENARIOS.keys() == KINDS


def test_the_agreed_latency_is_that_of_the_alert_and_of_its_tests(everything, promtool, write):
    files = prometheus_files(everything, slo_s=0.25)
    assert files["everything.alerts.yml"].count("> 0.25\n") == 0
    exprs = [alert.expr for alert in alerts(everything, slo_s=0.25) if alert.name == "LatencySLO"]
    assert exprs
    assert all(expr.endswith("> 0.25") for expr in exprs)
    assert "0.25 s are agreed" in files["everything.alerts.yml"]
    assert "0.500 s or longer" in files["everything.tests.yml"]


def test_the_target_is_the_address_and_has_no_label_of_ours(everything):
    files = prometheus_files(everything, address="host:1")
    static = yaml.safe_load(files["prometheus.yml"])["scrape_configs"]
    found = yaml.safe_load(files["prometheus-http-sd.yml"])["scrape_configs"]
    job = {"job_name": "zflow-everything"}
    assert static == [job | {"static_configs": [{"targets": ["host:1"]}]}]
    sd = {"url": "http://host:1/sd", "refresh_interval": "30s"}
    assert found == [job | {"http_sd_configs": [sd]}]


def test_names_of_any_letters_are_written(everything, promtool, write):
    named = replace(everything, name="wörter-2")
    write(prometheus_files(named))
    checked = promtool("check", "rules", "wörter-2.recording.yml", "wörter-2.alerts.yml")
    assert checked.returncode == 0, checked.stdout
