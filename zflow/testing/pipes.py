"""The links of a run in one process: what `net.links.DataLinks` is to one over sockets.

Decides how long a frame is on its way, by seed. Frames of one link arrive in order; frames for a
slot in which no process lives are refused, or lost if they are on their way already. Everything
travels as bytes, as it does between processes.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from zflow.net.links import IN_PER_STEP, FrameHandler, Ready
from zflow.protocol.actions import Dial, Hangup, LinkKey, Reply, Send
from zflow.testing.virtual import Timeline, VirtualClock
from zflow.wire import data
from zflow.wire.codec import Parts

LATENCY_NS = (30_000, 300_000)  # at least, at most

Message = list[bytes]


class Pipe:
    """One way from a process to a slot; upward: of acknowledgements."""

    __slots__ = ("last_ns", "slot", "upward")

    def __init__(self, slot: str, *, upward: bool) -> None:
        self.slot = slot
        self.upward = upward
        self.last_ns = 0


class Post:
    """All links of one run. bound: who listens for each slot."""

    def __init__(self, timeline: Timeline, random: Random) -> None:
        self.bound: dict[str, Pipes] = {}
        self._timeline = timeline
        self._random = random

    def carry(self, pipe: Pipe, message: Message, now_ns: int) -> bool:
        """False if nobody listens at the other end."""
        if pipe.slot not in self.bound:
            return False
        arrival_ns = max(now_ns + self._random.randint(*LATENCY_NS), pipe.last_ns)
        pipe.last_ns = arrival_ns
        self._timeline.at(arrival_ns, self._deliver, pipe, message)
        return True

    def _deliver(self, pipe: Pipe, message: Message) -> None:
        there = self.bound.get(pipe.slot)
        if there is not None:
            there.arrive(message, upward=pipe.upward)


class Pipes:
    """The links of one replica. arrived: told of each message."""

    def __init__(self, post: Post, clock: VirtualClock, arrived: Callable[[], None]) -> None:
        self._post = post
        self._clock = clock
        self._arrived = arrived
        self._out: dict[LinkKey, Pipe] = {}
        self._back: dict[LinkKey, Pipe] = {}
        self._replies: deque[Message] = deque()
        self._frames: deque[Message] = deque()

    # -- out ---------------------------------------------------------------------------------

    def dial(self, action: Dial) -> None:
        """A fresh way to the slot."""
        self._out[action.link] = Pipe(action.link[1], upward=False)

    def hangup(self, action: Hangup) -> None:
        """No way any more; what is on it arrives."""
        self._out.pop(action.link, None)

    def send(self, action: Send) -> bool:
        """False if nobody is there."""
        pipe = self._out.get(action.link)
        payload = action.payload.parts if action.payload is not None else ()  # type: ignore[attr-defined]
        return pipe is not None and self._carry(pipe, action.frame, payload)

    def reply(self, action: Reply) -> bool:
        """False if nobody is there."""
        pipe = self._back.get(action.link)
        if pipe is None:
            pipe = self._back[action.link] = Pipe(action.link[1], upward=True)
        return self._carry(pipe, action.frame, ())

    def _carry(self, pipe: Pipe, frame: data.Frame, payload: Any) -> bool:
        parts = [bytes(part) for part in data.encode_parts(frame, payload)]
        return self._post.carry(pipe, parts, self._clock.ns)

    # -- in ----------------------------------------------------------------------------------

    def arrive(self, message: Message, *, upward: bool) -> None:
        """The message waits for the next `receive`."""
        (self._replies if upward else self._frames).append(message)
        self._arrived()

    def receive(
        self, on_reply: FrameHandler, on_frame: FrameHandler, known: Ready | None = None
    ) -> int:
        """Hand over what has arrived, acknowledgements first; how many messages that was."""
        count = 0
        for waiting, handle in ((self._replies, on_reply), (self._frames, on_frame)):
            while waiting and count < IN_PER_STEP:
                frame, payload = data.decode_parts(waiting.popleft())
                handle(frame, Parts(payload) if payload else None)
                count += 1
        return count

    def waiting(self) -> bool:
        """Messages have arrived that nobody has taken."""
        return bool(self._replies or self._frames)
