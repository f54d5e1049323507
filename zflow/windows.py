"""`@window` and `@join`: what users write for windows and joins over event time.

Decides which options they take. Never runs anything: `windowing` has the stages behind them, which
keep all they know in `self.state`, so that they are exactly-once like every durable stage.

- The watermark of a partition is the highest event time that it has seen.
- A window fires when the watermark reaches its end + lateness_s: once, in order of (end, key), in
  the transaction of the item that moved the watermark. Keys are in the order of their bytes, which
  for whole numbers and for texts is their own.
- An item whose windows have all fired is late. It is counted and goes to the edges that were
  connected with output="late". (An item is in one tumbling window, in several sliding ones, and in
  a session of its own if it joins no other.)
- With idle_s, a partition to which nothing came for so long moves its watermark on to the highest
  event time that its replica has seen in any of its partitions: so the windows of keys that fell
  silent fire while others go on. Items that come later after all may be late then.
- A window of counts fires when it is full; it knows no watermark, and nothing is late.
- When the sources have ended everything that is open fires, in order, full or not. A drain and a
  resume keep what is open.
- A window whose function fails at every attempt becomes a dead letter, with its items.
- What a join keeps, and what is late for it: see `windowing.joins`.

The order of items is promised only from a source or a durable stage straight into the window. A
stage with several replicas between them disorders items: give lateness_s as much as it may.
"""

from collections.abc import Callable
from typing import Any, TypeVar, Unpack

from zflow.durable import DurableStage
from zflow.shapes import Fault
from zflow.stages import Runtime, StageKeywords, StageOptions, decorate
from zflow.windowing.counts import CountStage
from zflow.windowing.joins import JoinStage
from zflow.windowing.panes import Panes
from zflow.windowing.sessions import SessionWindows
from zflow.windowing.specs import Counts, Sessions, Spec, Times, is_seconds, spec_faults
from zflow.windowing.stage import WindowStage

F = TypeVar("F", bound=Callable[..., Any])
TimeOf = Callable[[Any], float]

SECONDS = "give seconds, at least 0"


def window(
    windows: Spec,
    /,
    *,
    time: TimeOf | None = None,
    lateness_s: float = 0,
    idle_s: float | None = None,
    **options: Unpack[StageKeywords],
) -> Callable[[F], F]:
    """Declare a function of (key, window, items) as a stage that runs once per window of a key.

    time: takes an item and returns its event time in seconds. lateness_s: how long after its end a
    window waits for items. idle_s: seconds of real time without an item after which a partition
    goes on with the others of its replica.

    The items come in order of event time, equal ones in order of arrival.
    `window` has `start` and `end`.
    """
    runtime = Runtime(
        make=lambda function, options: _window_stage(
            function, options, windows=windows, time=time, lateness_s=lateness_s, idle_s=idle_s
        ),
        takes=("key", "window", "items"),
        what="a window",
        faults=tuple(_window_faults(windows, time, lateness_s, idle_s)),
    )
    attach: Callable[[F], F] = decorate(None, "stage", options, runtime)
    return attach


def join(
    *,
    within_s: float,
    time: TimeOf,
    lateness_s: float = 0,
    **options: Unpack[StageKeywords],
) -> Callable[[F], F]:
    """Declare a function of (key, left, right) as a stage that runs once per pair of items.

    A pair is an item of the left edge, which is the one that was connected first, and one of the
    right edge, of one key and at most within_s apart in event time.
    """
    runtime = Runtime(
        make=lambda function, options: JoinStage(
            function, options, time, within_s=within_s, lateness_s=lateness_s
        ),
        takes=("key", "left", "right"),
        what="a join",
        inputs=2,
        faults=tuple(_join_faults(within_s, time, lateness_s)),
    )
    attach: Callable[[F], F] = decorate(None, "stage", options, runtime)
    return attach


def _window_stage(
    function: Callable[..., Any],
    options: StageOptions,
    *,
    windows: Spec,
    time: TimeOf | None,
    lateness_s: float,
    idle_s: float | None,
) -> DurableStage:
    if isinstance(windows, Counts):
        return CountStage(function, options, time, windows)
    assert time is not None, "check has refused windows of time without time="
    if isinstance(windows, Sessions):
        sessions = SessionWindows(windows, lateness_s)
        return WindowStage(function, options, time, sessions, idle_s=idle_s)
    assert isinstance(windows, Times), "check has refused what is no window"
    return WindowStage(function, options, time, Panes(windows, lateness_s), idle_s=idle_s)


def _window_faults(windows: Spec, time: Any, lateness_s: Any, idle_s: Any) -> list[Fault]:
    found = list(spec_faults(windows))
    if isinstance(windows, Counts):
        if time is not None and not callable(time):
            found.append(_no_time(time))
        for option, value in (("lateness_s", lateness_s), ("idle_s", idle_s)):
            if value:
                fix = f"remove {option}=, or give the window a size in seconds"
                message = f"a window of counts waits for nothing: {option}= has no use"
                found.append((message, fix))
        return found
    if idle_s is not None and not (is_seconds(idle_s) and idle_s):
        found.append((f"idle_s={idle_s!r} is not valid", "give seconds, more than 0, or None"))
    return found + _time_faults(time, lateness_s)


def _join_faults(within_s: Any, time: Any, lateness_s: Any) -> list[Fault]:
    found = _time_faults(time, lateness_s)
    if not is_seconds(within_s):
        found.append((f"within_s={within_s!r} is not valid", SECONDS))
    return found


def _time_faults(time: Any, lateness_s: Any) -> list[Fault]:
    found = [] if callable(time) else [_no_time(time)]
    if not is_seconds(lateness_s):
        found.append((f"lateness_s={lateness_s!r} is not valid", SECONDS))
    return found


def _no_time(time: Any) -> Fault:
    fix = "give a function that takes the item and returns its event time in seconds"
    return (f"time={time!r} is not valid" if time is not None else "time= is missing"), fix
