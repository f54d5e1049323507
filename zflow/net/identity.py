"""Who may speak on which link: the key behind a message against the slot that it names (S7).

Decides only. A link's token is bound to the identity that said HELLO with it; whatever carries the
token afterwards has to come from the same one. So a token that somebody has overheard is useless
to him (S8), and a slot with a good key cannot speak for another.
"""

from collections import OrderedDict

from zflow.protocol.actions import LinkKey
from zflow.wire import data

TOKENS_PER_PEER = 256  # links between two slots, with those that were dialled again


class Identities:
    """The tokens of one replica, in both directions. Under the reactor's lock."""

    def __init__(self) -> None:
        self._owner_of: dict[int, str] = {}  # token -> who said HELLO with it
        self._tokens_of: dict[str, OrderedDict[int, None]] = {}
        self._asked: dict[int, str] = {}  # token -> the slot that we have dialled with it
        self._token_of: dict[LinkKey, int] = {}

    def speaks(self, identity: str, frame: data.Frame) -> bool:
        """True if `identity` may send this to our `in` socket."""
        if isinstance(frame, data.Hello):
            return frame.sender == identity and self._learn(identity, frame.token)
        if isinstance(frame, data.Heartbeat) and frame.sender != identity:
            return False
        owner = self._owner_of.get(frame.token)
        # A heartbeat on a token that we do not know (a predecessor did) is answered with RESET.
        return owner == identity or (owner is None and isinstance(frame, data.Heartbeat))

    def answers(self, identity: str, frame: data.Frame) -> bool:
        """True if `identity` may send this to our `ack` socket: it is whom we have dialled."""
        if isinstance(frame, data.Welcome) and frame.receiver != identity:
            return False
        return self._asked.get(frame.token) == identity

    def dialled(self, link: LinkKey, token: int) -> None:
        """We have said HELLO with this token; the link's older one is void."""
        old = self._token_of.get(link)
        if old is not None:
            self._asked.pop(old, None)
        self._token_of[link] = token
        self._asked[token] = link[1]

    def _learn(self, identity: str, token: int) -> bool:
        owner = self._owner_of.setdefault(token, identity)
        if owner != identity:
            return False  # it has guessed, or overheard, somebody else's
        tokens = self._tokens_of.setdefault(identity, OrderedDict())
        tokens[token] = None
        tokens.move_to_end(token)
        if len(tokens) > TOKENS_PER_PEER:  # nobody fills our memory with tokens
            oldest, _ = tokens.popitem(last=False)
            del self._owner_of[oldest]
        return True
