"""Real CURVE sockets: who is on the list gets in, nobody else delivers anything, both ends know."""

import logging
import random
import socket as plain
import threading
from contextlib import ExitStack, closing

import pytest
import zmq

from zflow.clock import Clock
from zflow.errors import ConfigError, Unavailable
from zflow.net import curve as curve_module
from zflow.net import sockets as sockets_module
from zflow.net.control import ControlClient, ControlServer, Peer, ask
from zflow.net.curve import Curve, Pair
from zflow.net.monitor import (
    EXPECTS_ANOTHER,
    KNOCKED_S,
    NOT_CURVE,
    NOT_LISTED,
    PEER_NOT_CURVE,
    REFUSED,
    WRONG_SERVER,
)
from zflow.net.sockets import Sockets
from zflow.wire import control

LOOPBACK = "tcp://127.0.0.1:0"
REPORT = control.Report("parse/0", 1, "running", False, False, 1, 1)


def new_pair():
    public, secret = zmq.curve_keypair()
    return Pair(public.decode(), secret)


def endpoint(scheme, tmp_path):
    return LOOPBACK if scheme == "tcp" else f"ipc://{tmp_path}/socket"


# -- each kind of socket, each kind of stranger ---------------------------------------------------

# kind of the server -> who connects to it; a PUB speaks, the others are spoken to.
KINDS = {"pull": zmq.PUSH, "router": zmq.DEALER, "publisher": zmq.SUB}


def stranger(context, kind, *, keys=None, server_key=None):
    """A socket that does not know zflow's rules."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    if kind == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    if keys is not None:
        socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret
        socket.curve_serverkey = server_key.encode()
    return socket


STRANGERS = {
    "unknown key": (NOT_LISTED, lambda folder: (new_pair(), folder.keys_of("sink/0")[0])),
    "another server key": (
        EXPECTS_ANOTHER,
        lambda folder: (folder.curve("parse/0").pair, new_pair().public),
    ),
    "no CURVE at all": (NOT_CURVE, lambda folder: (None, None)),
}


def heard(kind, server, guest):
    """What one end of a connection has heard of the other, asked for without waiting."""
    listener, speaker = (guest, server) if kind == "publisher" else (server, guest)
    if kind == "publisher":
        speaker.send(b"news", zmq.NOBLOCK)
    return listener.poll(1) and listener.recv_multipart(zmq.NOBLOCK)


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_delivers_nothing_and_is_seen(folder, party, until, tmp_path, kind, who, scheme):
    sockets = party("sink/0", clients=["parse/0"])
    server = getattr(sockets, kind)(endpoint(scheme, tmp_path))
    bound = sockets.endpoint_of(server)
    reason, made = STRANGERS[who]
    keys, server_key = made(folder)
    with (
        zmq.Context() as context,
        closing(stranger(context, KINDS[kind], keys=keys, server_key=server_key)) as guest,
    ):
        guest.connect(bound)
        if kind != "publisher":
            guest.send(b"let me in", zmq.NOBLOCK)
        failure = until(lambda: sockets.handshake_failures().get(bound))
        assert failure.reason == reason
        assert failure.failing
        assert not heard(kind, server, guest)
        # The same socket lets in who belongs here, so it was the key that decided.
        good = folder.curve("parse/0").pair
        with closing(
            stranger(context, KINDS[kind], keys=good, server_key=folder.keys_of("sink/0")[0])
        ) as friend:
            friend.connect(bound)
            if kind != "publisher":
                friend.send(b"hello")
            assert until(lambda: heard(kind, server, friend))[-1] in (b"hello", b"news")
            assert not heard(kind, server, guest)


class LaterClock(Clock):
    def __init__(self):
        self.later_s = 0.0

    def now_s(self):
        return Clock.now_s() + self.later_s


def test_a_stranger_who_has_stopped_knocking_is_no_alarm_any_more(folder, party, until):
    clock = LaterClock()
    sockets = party("sink/0", clients=["parse/0"], clock=clock)
    bound = sockets.endpoint_of(sockets.pull(LOOPBACK))
    friend = party("parse/0").push(bound, 10, "sink/0")
    party("parse/1").push(bound, 10, "sink/0")
    until(lambda: friend.poll(0, zmq.POLLOUT))
    assert until(lambda: sockets.handshake_failures().get(bound)).failing, "whoever else gets in"
    clock.later_s = KNOCKED_S + 1.0
    assert not sockets.handshake_failures()[bound].failing


# -- what the dialling end knows ------------------------------------------------------------------


def test_a_process_that_is_not_on_the_list_is_told_so(party, until):
    sink, parse = party("sink/0"), party("parse/0")
    pull = sink.pull(LOOPBACK)
    push = parse.push(sink.endpoint_of(pull), 10, "sink/0")
    failure = until(lambda: parse.handshake_failures().get("sink/0"))
    assert (failure.code, failure.reason) == ("auth", REFUSED)
    with pytest.raises(zmq.Again):
        push.send(b"x", zmq.NOBLOCK)
    assert sink.authenticator.refused
    assert parse.curve.pair.public in sink.authenticator.last_refused


def test_a_server_with_another_key_is_not_believed(party, until):
    mallory = party("", curve=Curve("sink/0", new_pair(), {}, lambda name: ()))
    parse = party("parse/0")
    pull = mallory.pull(LOOPBACK)
    parse.push(mallory.endpoint_of(pull), 10, "sink/0")
    failure = until(lambda: parse.handshake_failures().get("sink/0"))
    assert (failure.code, failure.reason) == ("no_detail", WRONG_SERVER)


def test_a_server_without_curve_is_not_believed(party, until):
    parse = party("parse/0")
    with zmq.Context() as context, closing(context.socket(zmq.PULL)) as pull:
        pull.bind("tcp://127.0.0.1:*")
        parse.push(pull.last_endpoint.decode(), 10, "sink/0")
        failure = until(lambda: parse.handshake_failures().get("sink/0"))
    # Both ends see it, and whichever closes first leaves the other with less to tell.
    told = {("protocol", PEER_NOT_CURVE), ("no_detail", WRONG_SERVER)}
    assert (failure.code, failure.reason) in told


def test_a_failure_is_a_warning_with_the_peer_and_the_reason(party, until, caplog):
    sink, parse = party("sink/0"), party("parse/0")
    parse.push(sink.endpoint_of(sink.pull(LOOPBACK)), 10, "sink/0")
    until(lambda: parse.handshake_failures())
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"1 handshakes with sink/0 failed: {REFUSED}" in said


def test_no_secret_is_ever_said(folder, party, until, caplog):
    caplog.set_level(logging.DEBUG)
    sink, parse = party("sink/0"), party("parse/0")
    parse.push(sink.endpoint_of(sink.pull(LOOPBACK)), 10, "sink/0")
    until(lambda: parse.handshake_failures() and sink.handshake_failures())
    curve = parse.curve
    said = caplog.text + repr((curve, curve.pair, folder, parse.handshake_failures()))
    assert curve.pair.public in said
    assert curve.pair.secret.decode() not in said
    assert (folder.path / "coordinator.key").read_text().strip() not in said


# -- the list changes while the run goes on -------------------------------------------------------


def test_who_is_added_to_the_list_gets_in_over_the_socket_it_has(folder, party, until):
    sink, parse = party("sink/0"), party("parse/0")
    pull = sink.pull(LOOPBACK)
    push = parse.push(sink.endpoint_of(pull), 10, "sink/0")
    until(lambda: parse.handshake_failures().get("sink/0"))
    sink.curve.accept(folder.accepted(["parse/0"]))
    until(lambda: push.poll(0, zmq.POLLOUT), parse)
    push.send(b"x")
    assert until(lambda: pull.poll(0))
    assert not until(lambda: parse.handshake_failures().get("sink/0")).failing


def test_a_key_that_is_taken_off_the_list_is_nobodys_at_once(folder, party, until):
    sink, parse = party("sink/0", clients=["parse/0"]), party("parse/0")
    pull = sink.pull(LOOPBACK)
    push = parse.push(sink.endpoint_of(pull), 10, "sink/0")
    until(lambda: push.poll(0, zmq.POLLOUT))
    for accepted, identity in ((["parse/0"], "parse/0"), ([], None)):
        sink.curve.accept(folder.accepted(accepted))
        push.send(b"x")  # over the connection that stands
        until(lambda: pull.poll(0))
        assert sink.curve.identity_of(pull.recv(copy=False)) == identity


def test_a_message_of_nobody_is_nobodys(folder):
    assert folder.curve("sink/0").identity_of(zmq.Frame(b"x")) is None


def test_one_key_cannot_be_two_names(folder):
    curve = folder.curve("sink/0")
    key = new_pair().public
    with pytest.raises(ValueError, match="parse/1 and parse/0 have the same key"):
        curve.accept({"parse/0": [key], "parse/1": [key]})


@pytest.mark.parametrize("dialler_knows", [False, True])
def test_slots_get_new_keys_one_after_the_other(folder, party, until, dialler_knows):
    """A rolling restart: the old process meets the new one, in both directions."""
    from zflow.net.keys import KeyFolder, rotate

    old = KeyFolder(folder.path)  # as a process that has read it before
    rotate(folder.path)
    renewed = KeyFolder(folder.path)
    first, second = (renewed, old) if dialler_knows else (old, renewed)
    sink = party("", curve=second.curve("sink/0", ["parse/0"]))
    parse = party("", curve=first.curve("parse/0"))
    pull = sink.pull(LOOPBACK)
    push = parse.push(sink.endpoint_of(pull), 10, "sink/0")
    until(lambda: parse.handshake_failures().get("sink/0"))
    assert old.reread()  # once a second, as they do
    assert not old.reread()
    sink.curve.accept(second.accepted(["parse/0"]))
    until(lambda: push.poll(0, zmq.POLLOUT), parse)
    push.send(b"x")
    assert until(lambda: pull.poll(0))


# -- the authenticator ----------------------------------------------------------------------------


def dies(authenticator):
    """Its thread ends by an error of its own."""

    def fail(request):
        raise RuntimeError("dead")

    authenticator._answer = fail
    with closing(zmq.Socket(zmq.Context.shadow(authenticator._socket.context), zmq.REQ)) as asker:
        asker.linger = 0
        asker.connect(curve_module.ZAP_ENDPOINT)
        asker.send(b"anything")
        authenticator._thread.join(20)


@pytest.mark.parametrize("end", [lambda authenticator: authenticator.stop(), dies])
def test_without_the_authenticator_nobody_new_comes_in(party, until, end):
    sink = party("sink/0", clients=["parse/0", "parse/1"])
    pull = sink.pull(LOOPBACK)
    bound = sink.endpoint_of(pull)
    first, second = party("parse/0"), party("parse/1")
    standing = first.push(bound, 10, "sink/0")
    until(lambda: standing.poll(0, zmq.POLLOUT))
    end(sink.authenticator)
    assert not sink.authenticator.alive
    late = second.push(bound, 10, "sink/0")
    until(lambda: sink.handshake_failures().get(bound), second)
    with pytest.raises(zmq.Again):
        late.send(b"x", zmq.NOBLOCK)
    standing.send(b"y")
    until(lambda: pull.poll(0))
    assert pull.recv() == b"y"
    assert not pull.poll(0)


def test_the_authenticator_is_there_before_anything_can_be_bound(party):
    assert party("sink/0").authenticator.alive


@pytest.mark.parametrize(
    "request_parts",
    [
        [],
        [b"1.0"],
        [b"2.0", b"1", b"zflow", b"", b"", b"CURVE", b"k" * 32],
        [b"1.0", b"1", b"other", b"", b"", b"CURVE", b"k" * 32],
        [b"1.0", b"1", b"zflow", b"", b"", b"NULL"],
        [b"1.0", b"1", b"zflow", b"", b"", b"PLAIN", b"user", b"password"],
        [b"1.0", b"1", b"zflow", b"", b"", b"CURVE", b"short"],
    ],
)
def test_what_is_no_request_of_ours_names_no_key(request_parts):
    assert curve_module._key_in(request_parts) == ""


# -- limits (S10) ---------------------------------------------------------------------------------


def tcp_to(bound):
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    return plain.create_connection((host, int(port)), timeout=20)


@pytest.mark.slow
def test_a_thousand_idle_connections_do_not_keep_a_good_one_out(party, until):
    sockets_module.check_fds(1000)  # both ends of each are this process's
    sink, parse = party("sink/0", clients=["parse/0"]), party("parse/0")
    pull = sink.pull(LOOPBACK)
    bound = sink.endpoint_of(pull)
    with ExitStack() as idle:
        for _ in range(1000):
            idle.enter_context(tcp_to(bound))
        push = parse.push(bound, 10, "sink/0")
        until(lambda: push.poll(0, zmq.POLLOUT), parse)
        push.send(b"x")
        assert until(lambda: pull.poll(0))


@pytest.mark.slow
def test_who_shakes_hands_too_slowly_is_sent_away(party, until, monkeypatch):
    monkeypatch.setattr(sockets_module, "HANDSHAKE_S", 0.3)
    sink = party("sink/0")
    bound = sink.endpoint_of(sink.pull(LOOPBACK))
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(15)
    with tcp_to(bound) as slow:
        closed = threading.Event()

        def drip():
            for byte in greeting * 1000:  # byte by byte, each a sign of life
                if closed.wait(0.02):
                    return
                try:
                    slow.send(bytes([byte]))
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            while slow.recv(1000):  # its greeting; then it hangs up, or this times out
                pass
        except ConnectionResetError:
            pass
        finally:
            closed.set()
            dripping.join()
    assert until(lambda: sink.handshake_failures().get(bound)).reason == NOT_CURVE


def test_a_handshake_that_fails_again_and_again_leaks_nothing(party, until):
    sink, parse = party("sink/0"), party("parse/0")
    parse.push(sink.endpoint_of(sink.pull(LOOPBACK)), 10, "sink/0")
    failed = until(lambda: parse.handshake_failures().get("sink/0"))
    until(lambda: parse.handshake_failures()["sink/0"].count > failed.count + 100)
    assert len(parse._open) == len(parse._monitor._watched) == 1


# -- control --------------------------------------------------------------------------------------


@pytest.fixture
def served(party):
    """A coordinator that knows two slots, the operator and the reader."""
    sockets = party("coordinator", clients=["parse/0", "parse/1", "operator", "reader"])
    return at_free_ports(sockets)


def at_free_ports(sockets):
    """A coordinator's end with its `url`; the port behind that is free too."""
    while True:
        url = f"tcp://127.0.0.1:{random.randrange(10_000, 20_000, 2)}"
        try:
            made = ControlServer((sockets, url))
        except Unavailable:
            continue
        made.url = url
        return made


class Known:
    """Stands for `Security`: somebody with these keys."""

    person = "operator"

    def __init__(self, curve):
        self._curve = curve

    def sockets(self, _name):
        return Sockets(curve=self._curve)


def test_every_control_message_says_whose_key_has_sent_it(served, party, until):
    for name in ("parse/0", "parse/1"):
        client = ControlClient(party(name), served.url)
        client.send(REPORT)  # parse/1 says that it is parse/0
        ((peer, message),) = until(served.receive)
        assert (peer.identity, message) == (name, REPORT)
        answer = control.Update(1, "bind", 1)
        served.send(peer, answer)
        assert until(client.receive) == [answer]
        published = control.Update(2, "bind", 2)

        def news(client=client, published=published):
            served.publish(published)
            return published in client.receive()

        until(news)


def test_a_replica_hears_only_the_real_coordinator(served, party, until):
    fake = at_free_ports(party("", curve=Curve("coordinator", new_pair(), {}, lambda name: ())))
    sockets = party("parse/0")
    client = ControlClient(sockets, fake.url)
    client.send(REPORT)
    until(lambda: sockets.handshake_failures().get("coordinator"))
    fake.publish(control.Update(1, "drain", 1))
    assert client.receive() == []
    assert fake.receive() == []


def test_asking_with_a_key_that_is_refused_is_said_and_not_waited_out(served, folder):
    stranger = Curve("operator", new_pair(), {}, folder.keys_of)
    question = control.Move("count", {1: 0})
    with pytest.raises(Unavailable, match="does not accept this process's key"):
        ask(served.url, question, within_s=20, security=Known(stranger))


def test_the_operator_is_answered(served, folder, until):
    answers = []
    question, answer = control.Move("count", {1: 0}), control.Moved(None, "there is no such stage")

    def operate():
        security = Known(folder.curve("operator"))
        answers.append(ask(served.url, question, within_s=20, security=security))

    operating = threading.Thread(target=operate)
    operating.start()
    ((peer, message),) = until(served.receive)
    assert (peer.identity, message) == ("operator", question)
    served.send(peer, answer)
    operating.join()
    assert answers == [answer]


def test_without_curve_nobody_has_an_identity(tmp_path, until):
    sockets = Sockets()
    try:
        endpoint = f"ipc://{tmp_path}/control"
        server = ControlServer((sockets, endpoint))
        ControlClient(sockets, endpoint).send(REPORT)
        ((peer, message),) = until(server.receive)
        assert (peer, message) == (Peer(peer.route, None), REPORT)
        assert sockets.handshake_failures() == {}
    finally:
        sockets.close_all()


# -- tcp ------------------------------------------------------------------------------------------


def test_plain_tcp_is_refused_before_anything_opens():
    sockets = Sockets()
    try:
        with pytest.raises(ConfigError, match="give keys"):
            sockets.pull(LOOPBACK)
        with pytest.raises(ConfigError, match="give keys"):
            sockets.push("tcp://127.0.0.1:1", 1)
    finally:
        sockets.close_all()


def test_plain_tcp_on_loopback_is_there_for_who_asks_for_it(until):
    sockets = Sockets(insecure_loopback=True)
    try:
        pull = sockets.pull(LOOPBACK)
        push = sockets.push(sockets.endpoint_of(pull), 1)
        until(lambda: push.poll(0, zmq.POLLOUT))
        push.send(b"x")
        assert until(lambda: pull.poll(0))
        with pytest.raises(ConfigError):
            sockets.pull("tcp://0.0.0.0:0")
    finally:
        sockets.close_all()


def test_ipv6_is_spoken_where_it_is_written(party, until):
    with plain.socket(plain.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    sink, parse = party("sink/0", clients=["parse/0"]), party("parse/0")
    pull = sink.pull("tcp://[::1]:0")
    assert sink.endpoint_of(pull).startswith("tcp://[::1]:")
    push = parse.push(sink.endpoint_of(pull), 10, "sink/0")
    until(lambda: push.poll(0, zmq.POLLOUT), parse)
    assert pull.getsockopt(zmq.TCP_KEEPALIVE) == push.getsockopt(zmq.TCP_KEEPALIVE) == 1


def test_a_name_is_dialled_with_curve(party, until):
    sink, parse = party("sink/0", clients=["parse/0"]), party("parse/0")
    bound = sink.endpoint_of(sink.pull(LOOPBACK))
    push = parse.push(bound.replace("127.0.0.1", "localhost"), 10, "sink/0")
    until(lambda: push.poll(0, zmq.POLLOUT), parse)


def test_a_port_that_is_taken_is_said(party):
    sink = party("sink/0")
    bound = sink.endpoint_of(sink.pull(LOOPBACK))
    with pytest.raises(Unavailable, match="cannot be bound: Address already in use"):
        sink.pull(bound)
    assert len(sink._open) == 1


def test_monitored_links_need_more_files():
    with pytest.raises(ConfigError, match="100000000 links need up to 1200000128"):
        sockets_module.check_fds(100_000_000, curve=True)
