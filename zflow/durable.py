"""`DurableStage`: what a stage with keyed state on disk derives from.

Decides what a user sees of it. Never opens a file: a running stage gets its `state` from its
replica, anywhere else (in a test) it is a plain dict.
"""

from collections.abc import MutableMapping
from typing import Any


class _PlainState:
    """`state` of an instance that nobody runs: a dict of its own, made when first asked for."""

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return vars(instance).setdefault("state", {})


class _Timers:
    """`timers` of an instance: those of the partition, or a dict of its own in a test."""

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        own = vars(instance)
        found = getattr(own.get("state"), "timers", None)
        return own.setdefault("_own_timers", {}) if found is None else found


class DurableStage:
    """A stage whose `self.state` and outputs are as if each item had been processed once.

    Write `process(item)`, which returns or yields like any stage, and, if you like, `open()`,
    `close()` and `finish()`. What an item changes in `self.state` and what it gives are committed
    together, and only then is the item acknowledged. `finish()` runs once per partition, when all
    sources have ended and everything before this stage is settled; what it returns or yields is
    sent once, too.

    `self.state` is a mapping from any hashable to anything that can be pickled. With `key=` on the
    edges into the stage, each key belongs to one partition, each partition to one replica, and
    `self.state` shows only the partition of the item in hand: the usual mistake is to read another
    key's entry. Attributes of the instance are not kept.

    `process` may be called again with an item although it went well: after a crash, and when a
    later item of the same message failed. Nothing that the first call did to `self.state` or gave
    is left then; what it did elsewhere is.

    `self.timers[key] = wall_time_s` asks for a call of `on_timer(key)` at that time, or soon after;
    `del self.timers[key]` takes it back. A key has one timer; setting it again moves it. Timers are
    kept with the state, so they outlive crashes and resumes, and `on_timer` may change state and
    timers and return or yield like `process`. It is not called any more when the sources have
    ended: `finish()` is.
    """

    state: MutableMapping[Any, Any] = _PlainState()  # type: ignore[assignment]
    timers: MutableMapping[Any, float] = _Timers()  # type: ignore[assignment]
    context: Any
    sealed_alone = False  # for the framework: no item is called again for the sake of another

    def _partition_left(self) -> None:
        """For the framework: the partition of `self.state` is another replica's from now on."""
