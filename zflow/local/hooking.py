"""`python -m zflow.local.hooking STATE`: calls the hooks of a run's topology. Not for people.

Decides the order: what comes on stdin first, then dead letters as they are found in the store. A
hook that raises is told with its traceback and forgotten; the next one is called. A dead letter
whose hook was called is written down, so that a resumed run does not tell it again; it is told
twice if this process dies between the two.
"""

import json
import logging
import os
import select
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from zflow import log
from zflow.clock import Clock
from zflow.errors import ConfigError, Unavailable
from zflow.loader import Loaded
from zflow.local.plan import load_stored
from zflow.log import Repeating
from zflow.occasions import Failure, Letter, Run
from zflow.state.deadletter import StoredLetter, read_dead_letters
from zflow.state.runs import StoredRun, read_run
from zflow.wire.codec import load_item
from zflow.wire.payload import DecodeError

_LOG = logging.getLogger("zflow.local")

LOOK_EVERY_S = 0.25  # into the store of dead letters
OCCASIONS = {"on_start": Run, "on_finish": Run, "on_error": Failure}


class Caller:
    """Calls the hooks of one topology."""

    def __init__(self, stored: StoredRun, loaded: Loaded) -> None:
        self._hooks = loaded.topology.declared().hooks
        self._run_id = stored.record.run_id
        self._folder = stored.state.dead_folder
        self._path = stored.state.told
        self._complain = Repeating(_LOG, Clock())
        self._seen: dict[str, tuple[int, int]] = {}
        self._told = set(self._path.read_text().split()) if self._path.exists() else set()

    def tell(self, line: bytes) -> None:
        """What whoever leads the run has said; that it is over, once all letters are told."""
        said = json.loads(line)
        if said["hook"] == "on_finish":
            self.look()
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in said["occasion"].items()
        }
        self._call(said["hook"], OCCASIONS[said["hook"]](**fields))

    def look(self) -> None:
        """Tell the dead letters that nobody has been told of."""
        if "on_dead_letter" not in self._hooks:
            return
        seen = self._written()
        if seen == self._seen:
            return
        try:
            found = [one for one in read_dead_letters(self._folder) if one.id not in self._told]
        except Unavailable as error:
            self._complain.warning("%s; it is looked at again", error)
            return
        self._seen = seen  # of before it was read: what came meanwhile is another look
        for stored in found:
            self._call("on_dead_letter", self._letter(stored))
            self._told.add(stored.id)
            self._write_down(stored.id)

    def _written(self) -> dict[str, tuple[int, int]]:
        """When each file of the store was written: it is read again only if one was."""
        found = {}
        for path in self._folder.glob("*[!m]"):  # but -shm, which a reader writes too
            with suppress(FileNotFoundError):  # a store that was closed leaves one file of three
                stat = path.stat()
                found[path.name] = stat.st_mtime_ns, stat.st_size
        return found

    def _write_down(self, letter: str) -> None:
        try:
            with self._path.open("a") as file:
                file.write(f"{letter}\n")
        except OSError as error:
            self._complain.warning("%s: %s; a resumed run tells it again", self._path, error)

    def _letter(self, stored: StoredLetter) -> Letter:
        letter = stored.letter
        item = None
        if letter.item is not None:
            try:
                item = load_item(letter.item)
            except DecodeError:
                item = None  # `shown` tells what it was
        return Letter(
            run_id=self._run_id,
            id=stored.id,
            stage=letter.stage,
            edge=letter.edge,
            item=item,
            shown=letter.shown,
            error_class=letter.error_class,
            error=letter.error,
            attempts=letter.attempts,
        )

    def _call(self, hook: str, occasion: Any) -> None:
        for function in self._hooks.get(hook, ()):
            try:
                function(occasion)
            except (Exception, SystemExit):  # noqa: BLE001 - the user's function
                print(f"{hook}: {function.__name__} failed", file=sys.stderr)  # noqa: T201
                traceback.print_exc()
        sys.stdout.flush()


def main() -> int:
    """Until stdin ends; 0 then, 2 if the topology cannot be loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log.configure("WARNING", "hooks")
    try:
        stored = read_run(Path(sys.argv[1]))
        if stored.record.path:
            sys.path.insert(0, str(Path(stored.record.path).parent))
        caller = Caller(stored, load_stored(stored))
    except (ConfigError, Unavailable) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    rest = b""
    while True:
        ready, _, _ = select.select([0], [], [], LOOK_EVERY_S)
        raw = os.read(0, 65_536) if ready else b""
        *lines, rest = (rest + raw).split(b"\n")
        if ready and not raw:
            caller.look()
            return 0
        for line in lines:
            caller.tell(line)
        caller.look()


if __name__ == "__main__":
    sys.exit(main())
