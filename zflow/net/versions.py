"""Which ZeroMQ this process has loaded."""

from dataclasses import dataclass

import zmq


@dataclass(frozen=True, slots=True, kw_only=True)
class ZmqVersions:
    """curve: it can encrypt and authenticate links."""

    pyzmq: str
    libzmq: str
    curve: bool


def zmq_versions() -> ZmqVersions:
    """Asks the library that is loaded, not the one that is installed."""
    return ZmqVersions(
        pyzmq=zmq.__version__, libzmq=zmq.zmq_version(), curve=bool(zmq.has("curve"))
    )
