"""`python -m zflow.replica`: what the supervisor executes. Not for people."""

import argparse
import os
import signal
import sys
from pathlib import Path

from zflow import log
from zflow.clock import Clock, Deadline
from zflow.errors import ConfigError, Unavailable
from zflow.ids import Slot
from zflow.net.addresses import check_insecure
from zflow.net.control import ControlClient
from zflow.net.security import Security
from zflow.net.sockets import Sockets, check_fds
from zflow.paths import RunDirectory, StateDirectory
from zflow.replica.life import Replica
from zflow.replica.place import Place
from zflow.replica.process import SlotLock, settle_in
from zflow.replica.worker import describe
from zflow.wire import control
from zflow.wire.data import decode_crashes

SNAPSHOT_WITHIN_S = 30.0
ASK_EVERY_S = 0.5
EXIT_FAILED = 70  # the process says itself that it cannot go on; stderr says why


def main() -> int:
    """Live one replica's life; the exit code is 0 only after an orderly end."""
    arguments = _parse()
    slot = Slot.parse(arguments.slot)
    log.configure(arguments.log_level, str(slot))
    clock = Clock()
    security = Security(arguments.keys, insecure_loopback=arguments.insecure_loopback)
    sockets = security.sockets(str(slot))
    try:
        settle_in(arguments.parent)
        # Before a word to anybody: the coordinator takes a new incarnation's registration for the
        # end of the old one. Held until this process is no more.
        SlotLock(RunDirectory(arguments.run).lock(slot))
        client = ControlClient(sockets, arguments.control)
        snapshot = _snapshot(client, sockets, arguments, slot, clock)
        if arguments.insecure_loopback:  # whatever the coordinator says
            check_insecure(codec=snapshot.config.codec, ships_code=False)
        place = _place(arguments, slot, snapshot)
        _make_importable(place)
        check_fds(_links_of(place), curve=arguments.keys is not None)
        replica = Replica(place, snapshot, sockets, clock, security)
        signal.signal(signal.SIGTERM, lambda _number, _frame: replica.make_room())
        replica.run(client)
        if replica.made_room:
            return control.EXIT_ROLLOUT
    except (ConfigError, Unavailable) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the log the supervisor shows
        return EXIT_FAILED if isinstance(error, ConfigError) else control.EXIT_UNAVAILABLE
    except Exception as error:  # noqa: BLE001 - around the user's import, open() and close()
        print(describe(error)[1], file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    finally:
        sockets.close_all()
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m zflow.replica", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="the run directory")
    parser.add_argument("--state", required=True, type=Path, help="the state directory")
    parser.add_argument("--control", required=True, help="where the coordinator answers")
    parser.add_argument("--slot", required=True, help="stage/index")
    parser.add_argument("--in", required=True, dest="into", help="where messages are taken")
    parser.add_argument("--ack", required=True, help="where answers to its own are taken")
    parser.add_argument("--keys", type=Path, help="a key folder")
    parser.add_argument("--insecure-loopback", action="store_true")
    parser.add_argument("--incarnation", required=True, type=int)
    parser.add_argument("--parent", required=True, type=int, help="pid of the supervisor")
    parser.add_argument("--log-level", default="WARNING")
    return parser.parse_args()


def _snapshot(
    client: ControlClient,
    sockets: Sockets,
    arguments: argparse.Namespace,
    slot: Slot,
    clock: Clock,
) -> control.Snapshot:
    """The configuration: of the coordinator, or of the supervisor while that is away."""
    kept = RunDirectory(arguments.run).snapshot
    deadline = Deadline(clock, SNAPSHOT_WITHIN_S)
    while not deadline.passed():
        client.send(control.Register(str(slot), arguments.incarnation, os.getpid()))
        client.wait(ASK_EVERY_S)
        sockets.handshake_failures()  # who was refused is dialled again
        for message in client.receive():
            if isinstance(message, control.Snapshot):
                return message
        if kept.exists():  # whatever is newer comes once the coordinator is heard
            snapshot = control.decode(kept.read_bytes())
            if isinstance(snapshot, control.Snapshot):
                return snapshot
    raise Unavailable(f"no configuration within {SNAPSHOT_WITHIN_S:g} s")


def _place(arguments: argparse.Namespace, slot: Slot, snapshot: control.Snapshot) -> Place:
    run = RunDirectory(arguments.run)
    crashes = run.crashes(snapshot.config.stage(slot.stage).number, slot.index)
    return Place(
        config=snapshot.config,
        slot=slot,
        incarnation=arguments.incarnation,
        crashes=tuple(decode_crashes(crashes.read_bytes())),
        run=run,
        state=StateDirectory(arguments.state),
        into=arguments.into,
        ack=arguments.ack,
        rosters={roster.stage: roster for roster in snapshot.rosters},
    )


def _make_importable(place: Place) -> None:
    """Stages may import what lies beside their topology, at any time."""
    path = place.config.target.path
    folder = str(Path(path).parent) if path else str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _links_of(place: Place) -> int:
    config, name = place.config, place.slot.stage
    into = sum(len(place.rosters[e.source].slots) for e in config.edges if e.target == name)
    out = sum(len(place.rosters[e.target].slots) for e in config.edges if e.source == name)
    return into + out


if __name__ == "__main__":
    sys.exit(main())
