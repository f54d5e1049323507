"""Whose token it is, and who may say what to the coordinator: pure tables."""

from typing import get_args

import pytest

from zflow.net.identity import TOKENS_PER_PEER, Identities
from zflow.net.permissions import MAY, may, role_of
from zflow.wire import control, data
from zflow.wire.data import Crash
from zflow.wire.picture import Census, Picture
from zflow.wire.run import OSEQ, Run

LINK = (9, "sink/0")


def hello(token, sender="parse/0"):
    return data.Hello(token, "run", sender, 1, 1, "ipc:///a", 9, 1, "pickle5", False)


def beat(token, sender="parse/0"):
    return data.Heartbeat(token, 0, 0, False, 9, sender, 1, "ipc:///a")


def units(token):
    return data.Data(token, 0, 1, [Run(7, 8, OSEQ, 0, 0, 1)], [1])


def welcome(token, receiver="sink/0"):
    return data.Welcome(token, receiver, 1, 8, 1024, [])


@pytest.fixture
def known():
    """parse/0 has said HELLO with token 5; we have dialled sink/0 with token 6."""
    identities = Identities()
    assert identities.speaks("parse/0", hello(5))
    identities.dialled(LINK, 6)
    return identities


SPOKEN = [
    ("parse/0", units(5), True),
    ("parse/0", beat(5), True),
    ("parse/0", data.Bye(5), True),
    ("parse/0", hello(5), True),  # repeated until it is answered
    ("parse/1", units(5), False),  # an overheard token
    ("parse/1", data.Bye(5), False),
    ("parse/1", beat(5, "parse/1"), False),
    ("parse/1", beat(5, "parse/0"), False),
    ("parse/1", hello(5, "parse/1"), False),  # somebody else's token, in his own name
    ("parse/1", hello(8, "parse/0"), False),  # his own token, in another's name
    ("parse/1", hello(8, "parse/1"), True),
    ("coordinator", units(5), False),
    ("parse/0", units(7), False),  # nobody's token
    ("parse/0", data.Bye(7), False),
    ("parse/0", beat(7), True),  # RESET tells him that we do not know it
    ("parse/1", beat(7, "parse/0"), False),
]


@pytest.mark.parametrize(("identity", "frame", "allowed"), SPOKEN)
def test_only_the_owner_of_a_token_speaks_with_it(known, identity, frame, allowed):
    assert known.speaks(identity, frame) is allowed


ANSWERED = [
    ("sink/0", welcome(6), True),
    ("sink/0", data.State(6, 1, 0, 8, 1024, 8, [], [], 0.0), True),
    ("sink/0", data.Reset(6, "gap"), True),
    ("sink/0", data.Refuse(6, "codec", 0, 1.0), True),
    ("sink/1", welcome(6), False),
    ("sink/1", welcome(6, "sink/1"), False),
    ("sink/0", welcome(6, "sink/1"), False),
    ("sink/1", data.State(6, 1, 0, 8, 1024, 8, [0, 1], [], 0.0), False),  # would lose units
    ("sink/1", data.Reset(6, "gap"), False),
    ("sink/1", data.Refuse(6, "stale_incarnation", 9, 1.0), False),  # would end our process
    ("sink/0", data.Reset(5, "gap"), False),
]


@pytest.mark.parametrize(("identity", "frame", "allowed"), ANSWERED)
def test_only_whom_we_dialled_answers(known, identity, frame, allowed):
    assert known.answers(identity, frame) is allowed


def test_a_link_that_was_dialled_again_is_answered_on_its_new_token_alone(known):
    known.dialled(LINK, 7)
    assert known.answers("sink/0", welcome(7))
    assert not known.answers("sink/0", welcome(6))


def test_nobody_fills_the_memory_with_tokens_and_the_last_ones_are_known(known):
    for token in range(1000, 1000 + 10 * TOKENS_PER_PEER):
        assert known.speaks("parse/1", hello(token, "parse/1"))
    assert known.speaks("parse/1", units(token))
    assert not known.speaks("parse/1", units(1000))
    assert known.speaks("parse/0", units(5))  # another's are not the ones that went
    assert len(known._owner_of) == TOKENS_PER_PEER + 1


# -- the coordinator (S14) ------------------------------------------------------------------------

CONFIG = control.RunConfig(
    run_id="run",
    generation=1,
    topology="flow",
    target=control.TargetConfig(target="m", attribute=None, path=None),
    stages=[],
    edges=[],
    parameters=[],
)
CRASH = Crash("parse/0", 1, [], False, 3, "exit code 1")
PICTURE = Picture(
    topology="flow",
    run_id="run",
    generation=1,
    digest="d",
    phase="run",
    paused=False,
    at_s=0.0,
    elapsed_s=0.0,
    stages=[],
    edges=[],
    events=[],
)


def standing(stage="parse", slot="parse/0"):
    return control.Standing(
        supervisor="one",
        host="here",
        versions={},
        offers={stage: 1},
        addresses={slot: "tcp://10.0.0.5:20000"},
        incarnations={slot: 1},
        finished=[],
        census=Census(slots=[]),
    )


MESSAGES = {
    control.Register: control.Register("parse/0", 1, 100),
    control.Report: control.Report("parse/0", 1, "running", False, False, 1, 1),
    control.Standing: standing(),
    control.Died: control.Died("parse/0", CRASH),
    control.Move: control.Move("count", {1: 0}),
    control.Scale: control.Scale("parse", 3),
    control.Pause: control.Pause(paused=True),
    control.Restart: control.Restart(["parse/0"], rolling=False),
    control.Down: control.Down(now=True),
    control.Apply: control.Apply(CONFIG, b"", "d", []),
    control.Tap: control.Tap("read->parse", 5.0),
    control.Look: control.Look(),
    control.Snapshot: control.Snapshot(1, "run", 1, CONFIG, []),
    control.Update: control.Update(1, "drain", 1),
    control.Duty: control.Duty(epoch=1),
    control.Moved: control.Moved(None),
    control.Tapped: control.Tapped(),
    control.Answer: control.Answer(),
    Picture: PICTURE,
}
ORDERS = {
    *(control.Move, control.Scale, control.Pause, control.Restart, control.Down),
    *(control.Apply, control.Tap),
}
MATRIX = {  # identity -> the messages that it may send
    None: set(MESSAGES),
    "parse/0": {control.Register, control.Report},
    "parse/1": set(),
    "stage:parse": {control.Standing, control.Died},
    "stage:count": set(),
    "operator": {*ORDERS, control.Look},
    "reader": {control.Look},
    "coordinator": set(),
    "": set(),
    "parse": set(),
    "operator/0": set(),
}


def test_a_supervisor_speaks_of_its_own_stage_alone():
    assert may("stage:parse", standing())
    assert not may("stage:parse", standing(stage="count"))
    assert not may("stage:parse", standing(slot="count/0"))


@pytest.mark.parametrize("identity", MATRIX)
def test_each_identity_may_say_what_the_matrix_says(identity):
    allowed = {kind for kind in get_args(control.Message) if may(identity, MESSAGES[kind])}
    assert allowed == MATRIX[identity]


def test_every_message_there_is_has_a_row():
    assert set(MAY) == set(get_args(control.Message))


def test_a_slot_cannot_be_called_like_a_person():
    names = ("operator", "reader", "operator/0", "coordinator", "stage:parse")
    assert [role_of(name) for name in names] == ["operator", "reader", "slot", "", "stage"]
