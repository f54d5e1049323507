"""What replicas are told of a run, as it was declared."""

from zflow import DurableStage, Topology, sink, source, stage
from zflow.local.plan import _edge_configs, _redriven, _stage_configs, redrive_name
from zflow.wire.control import RunConfig, TargetConfig


@source
def read():
    yield 1


@stage
def parse(item):
    return item


@stage
class Count(DurableStage):
    def process(self, item): ...


@sink
def show(item): ...


def test_dead_letters_are_remembered_whatever_their_edge_may_lose():
    flow = Topology("flow")
    flow.connect(read, parse, delivery="at_most_once")
    flow.connect(parse, Count)
    flow.connect(Count, show)
    declared = flow.declared()
    config = RunConfig(
        run_id="run",
        generation=1,
        topology="flow",
        target=TargetConfig(target="flow.py", attribute=None, path=None),
        stages=_stage_configs(declared, {}),
        edges=_edge_configs(declared),
        parameters=["parse.x=1"],
    )
    assert [edge.unmarked for edge in config.edges] == [True, True, False]
    (_, edge, _) = declared.edges
    again = _redriven(config, {edge.label: edge}, {edge.label: ["parse-0:1"]}, 2.0)
    assert [stage.name for stage in again.stages] == ["Count", "show", redrive_name(edge.label)]
    assert len({stage.number for stage in again.stages} | {len(config.stages)}) == 3
    assert [edge.label for edge in again.edges] == ["Count->show", "parse->Count"]
    assert not any(edge.unmarked for edge in again.edges)
    assert (again.parameters, again.redrive_rate_per_s) == (["parse.x=1"], 2.0)
