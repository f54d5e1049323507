"""A run taken apart: a coordinator and its stages as processes of their own, in folders of their
own that have never seen the topology's file."""

import random
import socket
from contextlib import suppress

import pytest

from tests.local import flowing
from tests.local.conftest import Workshop
from tests.local.flowing import FLOWING, STAGES
from tests.local.test_durable import kill
from zflow.errors import ExitCode
from zflow.net.control import ask
from zflow.net.keys import new_folder
from zflow.net.security import Security
from zflow.wire.control import Look
from zflow.wire.picture import Picture

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WITHIN_S = 40.0


class Apart:
    """One run, its coordinator in `home`, each stage in a folder of its own."""

    def __init__(self, tmp_path, tmp_path_factory, url):
        self.url = url
        self._root = tmp_path
        self._make_folder = tmp_path_factory.mktemp
        self._shops = {}
        self.home = self.shop("home")
        self.shop("numbers")
        self.home.write(FLOWING)
        self.security = Security()
        self.how = []
        if url.startswith("tcp://"):
            new_folder(self._root / "keys")
            self.security = Security(self._root / "keys")
            self.how = ["--keys", self._root / "keys"]

    def shop(self, name):
        """A folder with a run directory of its own, as a machine of its own has it."""
        if name not in self._shops:
            folder = self._root / name
            folder.mkdir()
            runtime = self._make_folder("r")
            runtime.chmod(0o700)
            self._shops[name] = Workshop(folder, runtime, self._make_folder("logs"))
        return self._shops[name]

    def coordinator(self, *more):
        return self.home.start("coordinator", "flow.py", "--bind", self.url, *self.how, *more)

    def stage(self, name, *more):
        return self.shop(name).start("stage", name, "--coordinator", self.url, *self.how, *more)

    def all_stages(self):
        return {name: self.stage(name) for name in STAGES}

    def picture(self):
        """What the coordinator says to whoever looks."""
        picture = ask(self.url, Look(), within_s=WITHIN_S, security=self.security)
        assert isinstance(picture, Picture)
        return picture

    def stage_picture(self, name):
        return self.picture().stage(name)

    def kept(self):
        return flowing.kept(self.shop("Keep").folder)

    def stop(self):
        """Let the source come to its end."""
        flowing.stop(self.shop("numbers").folder)

    def is_exact(self):
        return self.kept() == flowing.expected(flowing.yielded(self.shop("numbers").folder))

    def close(self):
        for shop in self._shops.values():
            shop.close()


def free_ports():
    """A port whose next one is free too, where the kernel gives none to outgoing connections."""
    while True:
        port = random.randrange(10_000, 20_000, 2)
        with socket.socket() as one, socket.socket() as two, suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture
def make_apart(tmp_path, tmp_path_factory):
    """`make_apart("tcp")`, not started yet."""
    made = []

    def make(transport="ipc"):
        if transport == "tcp":
            url = f"tcp://127.0.0.1:{free_ports()}"
        else:
            url = f"ipc://{tmp_path_factory.mktemp('s')}/c"
        made.append(Apart(tmp_path, tmp_path_factory, url))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def apart(make_apart):
    return make_apart()


def ended(*parts):
    """All of them have ended as the run has, in order; what the first one has said."""
    done = [part.end() for part in parts]
    assert [one.code for one in done] == [0] * len(done), "\n".join(one.err for one in done)
    return done[0]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
def test_processes_that_start_in_any_order_find_one_another(transport, make_apart, wait_until):
    apart = make_apart(transport)
    *first, last = random.sample(STAGES, len(STAGES))
    order = random.sample(["coordinator", *first], len(STAGES))
    parts = {
        name: apart.coordinator() if name == "coordinator" else apart.stage(name) for name in order
    }
    missing = {"Count": "2 replicas of Count"}.get(last, f"1 replica of {last}")
    for part in parts.values():
        wait_until(lambda part=part: f" for {missing}\n" in part.err, WITHIN_S)
    apart.stop()
    ended(parts["coordinator"], apart.stage(last), *(parts[name] for name in first))
    assert apart.is_exact(), order
    for name in STAGES:
        assert not (apart.shop(name).folder / "flow.py").exists()
        assert not list(apart.shop(name).runtime.iterdir()), "it left its directory behind"


def test_a_stage_that_offers_more_than_was_declared_grows_also_while_it_runs(apart, wait_until):
    lead = apart.coordinator()
    parts = {name: apart.stage(name) for name in ("numbers", "Count", "Keep")}
    parts["digits"] = apart.stage("digits", "--replicas", 3)  # one is declared
    wait_until(lambda: len(apart.stage_picture("digits").slots) == 3, WITHIN_S)
    more = apart.shop("more").start("stage", "digits", "--coordinator", apart.url, "--replicas", 1)
    wait_until(lambda: "digits/3" in running(apart, "digits"), WITHIN_S)
    more.interrupt()
    assert more.end().code == ExitCode.INTERRUPTED
    assert "the run waits for its replicas" in more.err
    done = apart.home.zflow("scale", "digits=2", "--no-wait")
    assert done.code == 0, done.err
    wait_until(lambda: running(apart, "digits") == ["digits/0", "digits/1"], WITHIN_S)
    apart.stop()
    ended(lead, *parts.values())
    assert apart.is_exact()


def running(apart, stage):
    """The slots of a stage that are there and run."""
    slots = apart.stage_picture(stage).slots
    return [s.slot for s in slots if s.replica is not None and s.replica.state == "running"]


def test_replicas_die_and_return_while_the_coordinator_is_dead(apart, wait_until):
    lead = apart.coordinator()
    parts = apart.all_stages()
    wait_until(lambda: apart.kept(), WITHIN_S)
    lead.process.kill()
    lead.process.wait()
    for stage in ("digits", "Count", "Keep", "numbers", "Count"):
        victims = parts[stage].replicas()
        kill(victims)
        wait_until(
            lambda victims=victims, part=parts[stage]: (
                len(set(part.replicas()) - set(victims)) == len(victims)
            ),
            WITHIN_S,
        )
    again = apart.coordinator("--resume", "last", "--json")
    apart.stop()
    done = ended(again, *parts.values())
    assert apart.is_exact()
    assert done.data["holes"] == []
    restarts = {name: stage["restarts"] for name, stage in done.data["stages"].items()}
    assert restarts == {"numbers": 1, "digits": 1, "Count": 4, "Keep": 1}


def test_a_stage_that_is_killed_or_interrupted_is_started_again_by_hand(apart, wait_until):
    lead = apart.coordinator()
    parts = apart.all_stages()
    wait_until(lambda: apart.kept(), WITHIN_S)
    for name in ("digits", "Count"):
        before = {slot.slot: slot.replica.incarnation for slot in apart.stage_picture(name).slots}
        parts[name].process.kill()
        parts[name].process.wait()
        parts[name] = apart.stage(name, "--replicas", len(before))
        wait_until(lambda name=name, old=before: all_newer(apart, name, old), WITHIN_S)
    parts["Count"].interrupt()
    assert parts["Count"].end().code == ExitCode.INTERRUPTED
    parts["Count"] = apart.stage("Count")
    apart.stop()
    ended(lead, *parts.values())
    assert apart.is_exact()


def all_newer(apart, stage, before):
    """The same slots run, each with a newer process."""
    now = {slot.slot: slot.replica for slot in apart.stage_picture(stage).slots}
    assert now.keys() == before.keys(), "the stage has grown"
    return all(
        one is not None and one.state == "running" and one.incarnation > before[slot]
        for slot, one in now.items()
    )


def test_who_does_not_belong_to_the_run_is_refused_with_the_reason(apart, wait_until, tmp_path):
    lead = apart.coordinator()
    wait_until(lambda: "waiting for" in lead.err, WITHIN_S)
    old = apart.shop("old")
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(
        "from importlib import metadata\nmetadata.version = lambda name: '0.0.1'\n"
    )
    old.environment["PYTHONPATH"] = f"{tmp_path / 'patch'}:{old.environment['PYTHONPATH']}"
    refused = {
        apart.stage("sieve"): (
            ExitCode.USAGE,
            "there is no stage 'sieve'; this run has: numbers, digits, Count, Keep",
        ),
        old.start("stage", "digits", "--coordinator", apart.url): (
            ExitCode.INCOMPATIBLE,
            "the supervisor of zflow 0.0.1",
        ),
        apart.coordinator(): (ExitCode.UNREACHABLE, "another coordinator answers there"),
    }
    for part, (code, reason) in refused.items():
        done = part.end()
        assert (done.code, reason in done.err) == (code, True), done.err
        assert "Traceback" not in done.err
    apart.url, url = f"{apart.url}2", apart.url
    done = apart.coordinator("--resume", "last").end()
    assert done.code == ExitCode.UNREACHABLE
    assert f"{apart.home.folder}/.zflow/count/" in done.err
    assert "is running" in done.err
    apart.url = url
    assert apart.picture().phase == "gather", "it answers as before"
    member = apart.stage("digits")
    wait_until(lambda: "the run waits for" in member.err, WITHIN_S)
    lead.interrupt()
    assert [lead.end().code, member.end().code] == [ExitCode.INTERRUPTED] * 2
    assert "interrupted before any source had started" in member.err


def test_a_stage_without_a_coordinator_waits_until_it_is_interrupted(apart, wait_until):
    alone = apart.stage("digits")
    wait_until(lambda: f"waiting for the coordinator at {apart.url}" in alone.err, WITHIN_S)
    alone.interrupt()
    assert alone.end().code == ExitCode.INTERRUPTED
    assert "interrupted before a coordinator was heard" in alone.err


def test_a_run_that_has_not_begun_says_whom_it_waits_for_and_ends_when_told(apart, wait_until):
    lead, stage = apart.coordinator(), apart.stage("digits")
    wait_until(lambda: " for 1 replica of numbers" in stage.err, WITHIN_S)
    status = apart.home.zflow("status")
    assert "it waits: nobody runs 1 replica of numbers, 2 replicas of Count" in status.out
    assert apart.home.zflow("down").code == 0
    assert [lead.end().code, stage.end().code] == [130, 130]
