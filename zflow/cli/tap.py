"""`zflow tap`: items of a live edge, as they go by; none of them is consumed.

Decides what is shown and counted. Items are unpickled here, and `--where` is evaluated here: both
are the operator's own code, of a run whose private directory he can read.
"""

import builtins
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import click

from zflow.cli.asking import Meant, asked, look, meant_run
from zflow.cli.stored import refused, run_options
from zflow.clock import Clock
from zflow.errors import Unavailable, suggest
from zflow.local.plan import load_stored
from zflow.net.tap import Onlooker
from zflow.paths import RunDirectory, run_directory_of
from zflow.protocol.sample import Bucket
from zflow.state.runs import is_used
from zflow.wire.codec import Parts, PickleCodec
from zflow.wire.control import Tap, Tapped
from zflow.wire.payload import DecodeError
from zflow.wire.picture import Picture
from zflow.wire.tap import Mirrored

LEASE_S = 5.0
RENEW_EVERY_S = 1.5
ASK_AGAIN_S = 0.2  # until every sender has said where it mirrors
ANSWER_WITHIN_S = 2.0
LOOK_S = 0.1


@click.command()
@click.argument("edge")
@run_options
@click.option("-n", "most", type=click.IntRange(min=1), metavar="N", help="End after N items.")
@click.option("--where", metavar="EXPR", help="Only items for which this Python is true: `item`.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["json", "repr"]),
    default="repr",
    show_default=True,
    help="One item per line; what JSON does not know is given as its repr.",
)
@click.option(
    "--rate",
    "rate_per_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Show at most N items per second.",
)
def tap(
    edge: str,
    topology: str | None,
    run: str,
    state: Path | None,
    most: int | None,
    where: str | None,
    shape: str,
    rate_per_s: float | None,
) -> None:
    """Look at the items of a live edge without consuming any.

    EDGE is STAGE:STAGE[:OUTPUT] or STAGE->STAGE, of a run on this machine. The senders mirror a
    sample, at most 10,000 items and 8 MiB per second each, and wait for nobody; how many were left
    out is said at the end. Without anybody who looks it costs nothing.

    Items are unpickled here, with the code of the run. EXPR is evaluated here too: it is your own
    code, with all that Python can do.

    \b
    Example:
      zflow tap parse:enrich -n 5
      zflow tap 'parse->enrich' --where 'item["size"] > 1000' --format json | jq .name
    """
    condition = _compiled(where)
    meant = meant_run(topology, run, state)
    label = _label(edge, look(meant))
    shown = _Shown(meant, condition, json_of if shape == "json" else repr, most)
    if rate_per_s is not None:
        shown.limit(rate_per_s)
    try:
        for header, payload in _mirrored(meant, label):
            if not shown.take(header, payload):
                break
    finally:
        click.echo(f"zflow: {shown.summary()}", err=True)


def _compiled(where: str | None) -> CodeType | None:
    try:
        return compile(where, "--where", "eval") if where is not None else None
    except (SyntaxError, ValueError) as error:
        fix = """write an expression, as in --where 'item["size"] > 10'"""
        raise refused(f"--where {where}", f"is no Python expression: {error}", fix) from error


def _label(text: str, picture: Picture) -> str:
    """The label of the edge that is meant; raises ConfigError with the nearest one."""
    edges = {edge.label.replace("->", ":"): edge.label for edge in picture.edges}
    name = text.replace("->", ":")
    if name not in edges:
        raise refused(text, "is no edge of this run", suggest(name, edges))
    return edges[name]


def _mirrored(run: Meant, label: str) -> Iterator[tuple[Mirrored, Parts | None]]:
    """What its senders mirror, until the run ends; the lease is renewed meanwhile."""
    clock = Clock()
    senders = _Senders(run, label, clock)
    onlooker = Onlooker(senders.ask().edge)
    try:
        while senders.go_on():
            onlooker.look_at(senders.endpoints)
            yield from onlooker.receive(LOOK_S)
    finally:
        onlooker.close()


class _Senders:
    """Who mirrors the edge, as its coordinator says; asked again and again."""

    def __init__(self, run: Meant, label: str, clock: Clock) -> None:
        self.endpoints: dict[str, str] = {}
        self._run = run
        self._stage = label.partition("->")[0]
        self._label = label
        self._clock = clock
        self._ask_s = 0.0
        self._alone = False
        self._place = RunDirectory(
            run_directory_of(run.on_disk("zflow tap").state.root, os.environ)
        )

    def ask(self) -> Tapped:
        """Renew the lease; raises Unavailable if nobody answers."""
        question = Tap(self._label, LEASE_S)
        purpose = "nothing goes by; see zflow runs ls"
        answer = asked(self._run, question, Tapped, purpose=purpose, within_s=ANSWER_WITHIN_S)
        if answer.refusal:
            raise refused(self._label, answer.refusal, "see zflow status")
        for slot, endpoint in answer.endpoints.items():
            if slot not in self.endpoints and not _is_here(endpoint):
                click.echo(f"zflow: {slot} is on another machine and not seen from here", err=True)
        self.endpoints.update(answer.endpoints)
        # Those that have just been told open their mirrors now, so they are asked for soon.
        now_s = self._clock.now_s()
        self._ask_s = now_s + (RENEW_EVERY_S if answer.endpoints else ASK_AGAIN_S)
        return answer

    def go_on(self) -> bool:
        """False once the run has ended. While its coordinator is away the stages go on."""
        if self._clock.now_s() < self._ask_s:
            return True
        try:
            self.ask()
        except Unavailable as error:
            if not is_used(self._place):
                return False
            if not self._alone:
                click.echo(f"zflow: {error}; going on with what comes", err=True)
            self._alone = True
            self._ask_s = self._clock.now_s() + RENEW_EVERY_S
        else:
            self._alone = False
        return True


def _is_here(endpoint: str) -> bool:
    return Path(endpoint.removeprefix("ipc://")).exists()


@dataclass(slots=True)
class _Sender:
    """What one incarnation has said of itself. first: items it had sent before the first word."""

    first: int
    seen: int
    got: int = 0


@dataclass(slots=True)
class _Shown:
    """Decodes, chooses, shows and counts items. most: then it is enough; None: never."""

    run: Meant
    condition: CodeType | None
    format: Callable[[Any], str]
    most: int | None
    shown: int = 0
    held_back: int = 0
    unlike: int = 0
    failed: int = 0
    failure: str = ""
    unreadable: int = 0
    loaded: bool = False
    bucket: Bucket | None = None
    senders: dict[tuple[str, int], _Sender] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    def limit(self, rate_per_s: float) -> None:
        """Show no more than that."""
        self.bucket = Bucket(rate_per_s, self.clock.now_s())

    def take(self, header: Mirrored, payload: Parts | None) -> bool:
        """One message; False once enough was shown."""
        key = header.slot, header.incarnation
        sender = self.senders.setdefault(key, _Sender(header.seen - header.items, header.seen))
        sender.seen = header.seen
        sender.got += header.items
        for item in self._items(header, payload):
            if self.most is not None and self.shown >= self.most:
                self.held_back += 1
            elif self._is_wanted(item):
                self._show(item)
        return self.most is None or self.shown < self.most

    def _items(self, header: Mirrored, payload: Parts | None) -> list[Any]:
        if payload is None:
            return []
        codec = PickleCodec()
        try:
            return codec.decode(payload)
        except DecodeError:
            if self.loaded:
                self.unreadable += header.items
                return []
        self.loaded = True
        load_stored(self.run.on_disk("zflow tap"))  # its classes are defined there
        return self._items(header, payload)

    def _is_wanted(self, item: Any) -> bool:
        if self.condition is None:
            return True
        try:
            wanted = bool(eval(self.condition, {"__builtins__": builtins, "item": item}))
        except Exception as error:  # noqa: BLE001 - the border to the operator's own code
            self.failure = self.failure or f"{type(error).__name__}: {error}"
            self.failed += 1
            return False
        self.unlike += not wanted
        return wanted

    def _show(self, item: Any) -> None:
        if self.bucket is not None:
            if not self.bucket.has(self.clock.now_s()):
                self.held_back += 1
                return
            self.bucket.take(1.0)
        self.shown += 1
        click.echo(self.format(item))

    def summary(self) -> str:
        """How many, and what became of the others."""
        unseen = sum(one.seen - one.first - one.got for one in self.senders.values())
        left_out = unseen + self.held_back
        said = [f"{self.shown:,} item{'s' * (self.shown != 1)} shown", f"{left_out:,} left out"]
        if self.condition is not None:
            said.append(f"{self.unlike:,} not as --where wants")
        if self.failed:
            said.append(f"for {self.failed:,} --where has raised {self.failure}")
        if self.unreadable:
            said.append(f"{self.unreadable:,} cannot be unpickled here")
        return ", ".join(said)


def json_of(item: Any) -> str:
    """An item as JSON; as its repr what JSON does not know."""
    try:
        return json.dumps(item, default=repr, ensure_ascii=False)
    except (TypeError, ValueError):  # a key that is no text, or it holds itself
        return json.dumps(repr(item), ensure_ascii=False)
