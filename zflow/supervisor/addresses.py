"""Where the slots of a supervisor are bound: socket files of the run, or ports of this host.

Decides once per slot: a replica that starts again is found by its peers where it was.
"""

import random
import socket
from collections.abc import Callable

from zflow.errors import Unavailable
from zflow.ids import Slot
from zflow.paths import RunDirectory
from zflow.wire.control import RunConfig

# Below the ports that the kernel gives to outgoing connections (ip_local_port_range), so that
# none of these takes one while its replica is between two incarnations.
FIRST_PORT, LAST_PORT = 20_000, 32_000
TRIES = 200

Addresses = Callable[[Slot], tuple[str, str]]


def ipc_addresses(run: RunDirectory, config: RunConfig) -> Addresses:
    """Of a run on this machine."""

    def addresses(slot: Slot) -> tuple[str, str]:
        number = config.stage(slot.stage).number
        return run.endpoint(number, slot.index, "in"), run.endpoint(number, slot.index, "ack")

    return addresses


def outward_host(coordinator: str) -> str:
    """The address of this machine from which it reaches a coordinator; raises Unavailable.

    Sends nothing: to connect a datagram socket only asks the kernel for a route.
    """
    host, _, port = coordinator.removeprefix("tcp://").rpartition(":")
    try:
        family, kind, _, _, target = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            found = str(probe.getsockname()[0])
    except OSError as error:
        raise Unavailable(f"{coordinator} cannot be reached: {error}; give --advertise") from error
    return bracketed(found)


def bracketed(host: str) -> str:
    """As it stands in an endpoint: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


class TcpAddresses:
    """Of a host that others know by a name or address; IPv6 in brackets."""

    def __init__(self, host: str) -> None:
        self._host = bracketed(host)
        self._known: dict[Slot, tuple[str, str]] = {}

    def __call__(self, slot: Slot) -> tuple[str, str]:
        """The same two for the same slot; raises Unavailable if no port is free."""
        if slot not in self._known:
            used = {address for pair in self._known.values() for address in pair}
            into = self._free(used)
            self._known[slot] = (into, self._free({*used, into}))
        return self._known[slot]

    def _free(self, used: set[str]) -> str:
        bare = self._host.strip("[]")
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        for _ in range(TRIES):
            port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - no secret
            address = f"tcp://{self._host}:{port}"
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                try:
                    probe.bind((bare, port))
                except OSError:
                    continue
            if address not in used:
                return address
        raise Unavailable(f"no free port on {self._host} between {FIRST_PORT} and {LAST_PORT}")
