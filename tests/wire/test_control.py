"""The control plane's messages: plain data, and nothing but those four."""

import msgspec
import pytest

from zflow.errors import ProtocolError
from zflow.wire import control
from zflow.wire.data import Crash
from zflow.wire.picture import Census, SlotCensus
from zflow.wire.run import OSEQ, Run

STAGE = control.StageConfig(
    name="parse",
    number=1,
    kind="stage",
    replicas=2,
    retries=3,
    backoff_s=0.1,
    timeout_s=300.0,
    max_crashes=3,
    on_error="dead_letter",
)
CONFIG = control.RunConfig(
    run_id="20260131-235959-1a2b",
    generation=1,
    topology="flow",
    target=control.TargetConfig(target="flow.py", attribute="flow", path=None),
    stages=[STAGE],
    edges=[
        control.EdgeConfig(
            edge=2**64 - 1,
            label="read->parse",
            source="read",
            target="parse",
            output=None,
            delivery="at_least_once",
        )
    ],
    parameters=["read.n=3"],
)
CRASH = Crash("parse/0", 3, [Run(2**64 - 1, 2**63, OSEQ, 0, 5, 2)], True, 3, "exit code 1")
ROSTER = control.Roster("parse", 3, {0: "ipc:///run/0.in", 2: "tcp://[::1]:20001"})
CENSUS = Census(
    slots=[SlotCensus(slot="parse/0", replica=None, retired={"processed": 2**62}, restarts={})]
)
MESSAGES = [
    control.Register("parse/0", 3, 4711),
    control.Report("parse/0", 3, "running", True, False, 12, 4, "Traceback"),
    control.Snapshot(7, "run", 4, CONFIG, [ROSTER], [control.Ownership("parse", 2, [0, 1])]),
    control.Update(8, "drain", 4),
    control.Update(9, "run", 5, CRASH),
    control.Update(9, "run", 5, roster=ROSTER, paused=True, epoch=3),
    control.Standing(
        supervisor="here:1",
        host="here",
        versions={"zflow": "1"},
        offers={"parse": None, "read": 1},
        addresses={"parse/0": "ipc:///run/0.in"},
        incarnations={"parse/0": 4},
        finished=[],
        census=CENSUS,
        heard=control.Snapshot(7, "run", 4, CONFIG, [ROSTER]),
    ),
    control.Duty(epoch=2, slots={"parse/0": 3}, code=b"\x80", ended=control.Ended(1, "no")),
    control.Died("parse/0", CRASH),
    control.Look(),
    control.Pause(paused=True),
    control.Down(now=False),
    control.Scale("parse", 4),
    control.Restart(["parse/0"], rolling=True),
    control.Answer("no"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message):
    assert control.decode(control.encode(message)) == message


def test_an_infinite_timeout_of_a_source_travels():
    stage = msgspec.structs.replace(STAGE, timeout_s=float("inf"))
    snapshot = control.Snapshot(1, "bind", 0, msgspec.structs.replace(CONFIG, stages=[stage]), [])
    assert control.decode(control.encode(snapshot)).config.stages[0].timeout_s == float("inf")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"\x80",
        msgspec.msgpack.encode({"type": "unknown"}),
        msgspec.msgpack.encode({"type": "register", "slot": 5, "incarnation": 1, "pid": 1}),
        msgspec.msgpack.encode({"type": "update", "number": "x"}),
        control.encode(MESSAGES[0])[:-1],
        b"\x81\xa4type\xa8\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_what_is_no_message_is_a_protocol_error(raw):
    with pytest.raises(ProtocolError, match="a malformed control message"):
        control.decode(raw)


def test_every_prefix_of_a_message_is_a_protocol_error():
    raw = control.encode(MESSAGES[2])
    for length in range(len(raw)):
        with pytest.raises(ProtocolError):
            control.decode(raw[:length])


def test_the_configuration_finds_a_stage_by_its_name():
    assert CONFIG.stage("parse") is STAGE
    with pytest.raises(KeyError):
        CONFIG.stage("absent")
