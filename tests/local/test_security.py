"""tcp means CURVE: who has no key of the run neither joins it nor sees it, and is told so."""

import json
import socket
import stat

import psutil
import pytest

from zflow.loader import digest_of
from zflow.net.control import ControlServer
from zflow.net.sockets import Sockets
from zflow.wire import control

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

WITHIN_S = 60.0
FLOW = """
    import time

    @source
    def numbers(n: int = 300, pause_s: float = 0.0):
        for k in range(n):
            time.sleep(pause_s)
            yield k

    @sink
    def write(k: int):
        with open("seen", "a") as file:
            file.write(f"{k}\\n")

    flow = Topology("flow")
    flow.connect(numbers, write)
"""


@pytest.fixture
def url():
    """tcp on this machine, with the next port free too: there it publishes."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return f"tcp://127.0.0.1:{port}"
    raise AssertionError("no two free ports beside one another")


@pytest.fixture
def keys(shop):
    assert shop.zflow("keys", "new", "keys").code == 0
    return shop.folder / "keys"


def apart(shop, url, *how, parameters=()):
    """A coordinator and both stages."""
    shop.write(FLOW)
    lead = shop.start("coordinator", "flow.py", "--bind", url, "--http", "off", *how, *parameters)
    stages = [
        shop.start("stage", name, "--coordinator", url, *how) for name in ("numbers", "write")
    ]
    return lead, stages


def test_a_run_over_curve_is_complete_and_no_secret_shows(shop, keys, url, wait_until):
    lead, stages = apart(shop, url, "--keys", keys, parameters=("-p", "numbers.pause_s=0.02"))
    wait_until(lambda: len(shop.read("seen")) > 10, WITHIN_S)
    secrets = [(keys / f"{name}.key").read_text().strip() for name in ("coordinator", "operator")]
    for child in psutil.Process().children(recursive=True):
        told = " ".join(child.cmdline()) + " ".join(child.environ().values())
        assert not any(secret in told for secret in secrets)
    assert [one.end().code for one in (lead, *stages)] == [0, 0, 0], lead.err
    assert {int(line) for line in shop.read("seen")} == set(range(300))
    for path in keys.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stranger_is_refused_and_the_run_shows_it(shop, keys, url, wait_until):
    assert shop.zflow("keys", "new", "others").code == 0
    others = shop.folder / "others"
    lead, stages = apart(shop, url, "--keys", keys, parameters=("-p", "numbers.pause_s=0.05"))
    wait_until(lambda: len(shop.read("seen")) > 5, WITHIN_S)
    # With the public keys of the run and a seed of its own: it finds the coordinator, which does
    # not know it.
    (others / "public.json").write_bytes((keys / "public.json").read_bytes())
    stranger = shop.start("stage", "write", "--coordinator", url, "--keys", others)
    asked = ("status", "--coordinator", url, "--keys", keys)

    def alarms():
        return json.loads(shop.zflow(*asked, "--json").out)["alarms"]

    wait_until(lambda: any("not on the list" in one for one in alarms()), WITHIN_S)
    assert "not on the list" in shop.zflow(*asked).out
    wait_until(lambda: "does not accept this process's key" in stranger.err, WITHIN_S)
    stranger.interrupt()
    assert stranger.end().code == 130
    reader = shop.zflow("status", "--coordinator", url, "--keys", others)
    assert reader.code == 2, "its operator key does not fit the public keys"
    assert [one.end().code for one in (lead, *stages)] == [0, 0, 0], lead.err
    assert {int(line) for line in shop.read("seen")} == set(range(300))


def test_who_may_only_look_orders_nothing(shop, keys, url, wait_until):
    endless = ("-p", "numbers.pause_s=0.05", "-p", "numbers.n=100000")
    lead, stages = apart(shop, url, "--keys", keys, parameters=endless)
    wait_until(lambda: len(shop.read("seen")) > 5, WITHIN_S)
    (keys / "operator.key").rename(shop.folder / "operator.key")
    who = ("--coordinator", url, "--keys", keys)
    assert shop.zflow("status", *who).code == 0
    paused = shop.zflow("pause", *who)
    assert paused.code == 3, paused.out
    assert "Pause from reader" in shop.zflow("events", *who).out
    (shop.folder / "operator.key").rename(keys / "operator.key")
    assert shop.zflow("down", *who).code == 0
    assert [one.end().code for one in (lead, *stages)] == [130, 130, 130]


def test_plain_tcp_on_this_machine_carries_no_code_and_no_pickle(shop, url):
    lead, stages = apart(shop, url, "--insecure-loopback")
    assert [one.end().code for one in (lead, *stages)] == [0, 0, 0], lead.err
    assert {int(line) for line in shop.read("seen")} == set(range(300))


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (
            ("coordinator", "flow.py", "--bind", "tcp://127.0.0.1:7700"),
            "every user of this machine",
        ),
        (
            ("coordinator", "flow.py", "--bind", "tcp://*:7700"),
            "everybody who reaches this address",
        ),
        (
            ("coordinator", "flow.py", "--bind", "tcp://0.0.0.0:7700", "--insecure-loopback"),
            "everybody who reaches this address",
        ),
        (("stage", "write", "--coordinator", "tcp://10.0.0.5:7700"), "nobody knows who answers"),
        (
            (
                *("stage", "write", "--coordinator", "tcp://127.0.0.1:7700"),
                *("--insecure-loopback", "--advertise", "node7"),
            ),
            "node7 is a name",
        ),
        (
            ("coordinator", "flow.py", "--bind", "tcp://127.0.0.1:7700", "--keys", "no"),
            "no such folder",
        ),
        (("status", "--coordinator", "tcp://10.0.0.5:7700"), "nobody knows who answers"),
    ],
)
def test_what_would_be_open_to_others_is_refused_before_anything_opens(shop, verb, said):
    shop.write(FLOW)
    done = shop.zflow(*verb)
    assert (done.code, said in done.err) == (2, True), done.err
    assert not (shop.folder / ".zflow").exists()


def duty(code, path):
    """What somebody says who is no coordinator of ours."""
    config = control.RunConfig(
        run_id="run",
        generation=1,
        topology="flow",
        target=control.TargetConfig(target=str(path), attribute="flow", path=str(path)),
        stages=[],
        edges=[],
        parameters=[],
    )
    snapshot = control.Snapshot(1, "run", 1, config, [])
    return control.Duty(epoch=1, snapshot=snapshot, digest=digest_of(code), code=code)


def test_without_keys_code_is_not_taken_from_whoever_answers(shop, url, tmp_path):
    told, theirs = b"raise SystemExit('told')", b"raise SystemExit('theirs')"
    path = tmp_path / "theirs.py"
    path.write_bytes(theirs)
    path.chmod(0o666)  # other users could have written it
    sockets = Sockets(insecure_loopback=True)
    try:
        server = ControlServer((sockets, url))
        stage = shop.start("stage", "write", "--coordinator", url, "--insecure-loopback")
        while stage.process.poll() is None:
            server.wait(0.1)
            for peer, message in server.receive():
                if isinstance(message, control.Standing):
                    server.send(peer, duty(told, path))
        done = stage.end()
    finally:
        sockets.close_all()
    assert done.code == 3
    assert "theirs.py: other users could have written it, so it is not run" in done.err
    assert not list((shop.folder / ".zflow").rglob("topology.py"))


def test_without_keys_nobody_sends_another_version(shop, url, wait_until):
    endless = ("-p", "numbers.pause_s=0.05", "-p", "numbers.n=100000")
    lead, stages = apart(shop, url, "--insecure-loopback", parameters=endless)
    wait_until(lambda: len(shop.read("seen")) > 5, WITHIN_S)
    shop.write(FLOW.replace("{k}\\n", "{k} other\\n"), "other.py")
    refused = shop.zflow("apply", "other.py")
    assert (refused.code, "nobody knows who sends code" in refused.err) == (2, True), refused.err
    assert shop.zflow("down").code == 0
    assert [one.end().code for one in (lead, *stages)] == [130, 130, 130]
