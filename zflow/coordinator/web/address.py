"""Where the coordinator listens for HTTP, and which names it answers to.

Decides what an address may be: loopback unless another one is given in so many words. Listens at
once, so that the port is ours; what comes before the server runs waits for it.
"""

import ipaddress
import socket
from dataclasses import dataclass

from zflow.errors import ConfigError, Problem, Unavailable

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 9464
TRIED_PORTS = 100  # from the default one on
OFF = "off"


@dataclass(frozen=True, slots=True)
class Address:
    """host: as it was given, an IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """HOST:PORT, [IPV6]:PORT, or a port on loopback alone. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _wrong(text, "an IPv6 address stands in brackets: [::1]:9464")
    if not host and text.startswith(":"):
        raise _wrong(text, "say which host: 127.0.0.1 for this machine alone, 0.0.0.0 for all")
    if not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise _wrong(text, "give HOST:PORT, a port, or off")
    return Address(host or DEFAULT_HOST, int(port))


def _wrong(text: str, fix: str) -> ConfigError:
    message = f"{text!r} is no address"
    return ConfigError([Problem(where="--http", file="", line=0, message=message, fix=fix)])


def bind(address: Address) -> socket.socket:
    """A socket that listens there. Raises ConfigError if it is taken or not ours."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # So that a run can be started again at once; a port that somebody listens on stays taken.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
        bound.listen()
    except OSError as error:
        bound.close()
        why = error.strerror or str(error)
        problem = Problem(
            where="--http",
            file="",
            line=0,
            message=f"cannot listen on {address}: {why}",
            fix="give another address, port 0 for any free one, or off",
        )
        raise ConfigError([problem]) from error
    return bound


def bind_default() -> socket.socket:
    """The default address, or the next free port. Raises Unavailable if there is none."""
    for port in range(DEFAULT_PORT, DEFAULT_PORT + TRIED_PORTS):
        try:
            return bind(Address(DEFAULT_HOST, port))
        except ConfigError:
            continue
    raise Unavailable(f"no port is free from {DEFAULT_PORT} on")


def is_loopback(host: str) -> bool:
    """True for addresses and the name of this machine alone."""
    if host.lower() == "localhost":
        return True
    address = _ip(host)
    return address is not None and address.is_loopback


def answers_to(asked: str, bound_host: str) -> bool:
    """Whether a request with this Host header is meant for us.

    A page of somebody else can make a browser ask us under a name of its own that leads here (DNS
    rebinding); it cannot do that with a number, nor with the names that this machine has. On
    loopback only loopback is answered to.
    """
    host = _host_of(asked)
    if host is None:
        return False
    if is_loopback(bound_host):
        return is_loopback(host)
    own = {"localhost", bound_host.lower(), socket.gethostname().lower()}
    return host in own or _ip(host) is not None


def _host_of(asked: str) -> str | None:
    """The host of a Host header, lower case and without port; None for what is no such header."""
    host, colon, port = asked.rpartition(":")
    if not colon or asked.endswith("]"):
        host, port = asked, "0"
    if not (port.isascii() and port.isdigit()):
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        return host if ":" in host and _ip(host) is not None else None
    return host.lower() if host and ":" not in host else None


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
