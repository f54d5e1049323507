"""Which address a process may bind or connect to, decided before any socket opens.

Decides only; never resolves a name and never opens anything. The default is closed: ipc in a
private folder, tcp with CURVE. Plain tcp exists on a loopback *address* alone, and only where
somebody has asked for it in so many words.

    ipc:///PATH    tcp://HOST:PORT    tcp://[IPV6]:PORT    tcp://*:PORT    port 0: any free one

An address to bind is written as digits: a name may resolve to something else tomorrow, and an
interface has addresses that nobody has named. An address to connect to may be a name if CURVE says
who answers there.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from zflow.errors import ConfigError, Problem
from zflow.paths import MAX_IPC_PATH_BYTES

MAX_PORT = 65_535
ANY_PORT = 0
WILDCARD = "*"
INSECURE_CODEC = "msgpack"  # the only one on plain tcp: pickle executes what it reads

_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_-]{1,63})*\.?"
)
_NUMERIC = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]*))*")

KEYS_FIX = "give keys (zflow keys new DIR, then --keys DIR)"
LOOPBACK_FIX = f"{KEYS_FIX}, or a loopback address with --insecure-loopback"


@dataclass(frozen=True, slots=True)
class Address:
    """A tcp address as it was written: host without brackets, and `*` for every interface."""

    host: str
    port: int

    @property
    def ip(self) -> IPv4Address | IPv6Address | None:
        """The host as an address; None for a name or `*`."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """True only for an address of the loopback network, never for a name."""
        return self.ip is not None and self.ip.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """True if it stands for every interface of the machine."""
        return self.host == WILDCARD or (self.ip is not None and self.ip.is_unspecified)

    @property
    def is_ipv6(self) -> bool:
        """True if a socket has to be told to speak IPv6."""
        return isinstance(self.ip, IPv6Address)

    @property
    def host_port(self) -> str:
        """`HOST:PORT`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"tcp://{self.host_port}"


def refusal(where: str, message: str, fix: str) -> ConfigError:
    """One problem with an address."""
    return ConfigError([Problem(where=where, file="", line=0, message=message, fix=fix)])


def parse_tcp(endpoint: str) -> Address:
    """`tcp://HOST:PORT`; raises ConfigError for everything else, with what is wrong with it."""
    if not endpoint.startswith("tcp://"):
        raise refusal(endpoint, "it is no tcp address", "write tcp://HOST:PORT")
    return parse_host_port(endpoint.removeprefix("tcp://"), where=endpoint)


def parse_host_port(text: str, *, where: str) -> Address:
    """`HOST:PORT` or `[IPV6]:PORT`; raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > MAX_PORT:
        fix = f"write HOST:PORT with a port from 0 (any that is free) to {MAX_PORT}"
        raise refusal(where, "it has no such port", fix)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not isinstance(_ip(host), IPv6Address):
            raise refusal(where, f"[{host}] is no IPv6 address", "write it like [::1]")
    elif isinstance(_ip(host), IPv6Address):
        raise refusal(where, f"{host} lacks its brackets", f"write [{host}]:{port}")
    _check_host(host, where)
    return Address(host, int(port))


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    return Address(host, 0).ip


def _check_host(host: str, where: str) -> None:
    """Refuse what two readers could take for two different hosts."""
    ip = _ip(host)
    if isinstance(ip, IPv6Address) and (ip.ipv4_mapped is not None or ip.sixtofour is not None):
        raise refusal(where, f"[{host}] hides an IPv4 address", "write the IPv4 address itself")
    if ip is not None or host == WILDCARD:
        return
    if _NUMERIC.fullmatch(host):
        fix = "write four decimal numbers like 127.0.0.1"
        raise refusal(where, f"{host} is an address in another notation", fix)
    if not _NAME.fullmatch(host):
        raise refusal(where, f"{host!r} is neither an address nor a name", "write HOST:PORT")


def check_bind(endpoint: str, *, curve: bool, insecure_loopback: bool = False) -> None:
    """Refuse an endpoint that must not be bound; raises ConfigError.

    curve: the socket will be CURVE with an allow-list. insecure_loopback: the user has asked for
    plain tcp on this machine.
    """
    if endpoint.startswith("ipc://"):
        check_ipc(endpoint)
        return
    address = parse_tcp(endpoint)
    if address.ip is None and not address.is_wildcard:
        message = f"{address.host} is a name, and what it stands for may change"
        raise refusal(endpoint, message, "bind an address, like 127.0.0.1 or 10.0.0.5")
    if curve:
        return
    if not address.is_loopback:
        message = "without keys everybody who reaches this address could send code to it"
        raise refusal(endpoint, message, LOOPBACK_FIX)
    if not insecure_loopback:
        message = "without keys every user of this machine could send to it"
        raise refusal(endpoint, message, f"{KEYS_FIX}, or say --insecure-loopback")


def check_connect(endpoint: str, *, curve: bool, insecure_loopback: bool = False) -> None:
    """Refuse an endpoint that must not be connected to; raises ConfigError."""
    if endpoint.startswith("ipc://"):
        check_ipc(endpoint)
        return
    address = parse_tcp(endpoint)
    if address.is_wildcard:
        message = "nobody can be reached at every interface at once"
        raise refusal(endpoint, message, "name the machine that listens there")
    if address.port == ANY_PORT:
        raise refusal(endpoint, "nobody listens at port 0", "name the port that was bound")
    if not curve and not (insecure_loopback and address.is_loopback):
        message = "without keys nobody knows who answers there"
        fix = LOOPBACK_FIX if not address.is_loopback else f"{KEYS_FIX}, or say --insecure-loopback"
        raise refusal(endpoint, message, fix)


def check_ipc(endpoint: str) -> None:
    """Refuse an ipc endpoint that is no absolute path or that the kernel would cut."""
    path = endpoint.removeprefix("ipc://")
    if not path.startswith("/"):
        # `@` is the abstract name space, open to every user; `*` a folder that libzmq chooses.
        raise refusal(endpoint, "it is no absolute path", "write ipc:///run/.../name")
    if len(path.encode()) > MAX_IPC_PATH_BYTES:
        message = f"{path} is longer than {MAX_IPC_PATH_BYTES} bytes"
        raise refusal(endpoint, message, "set XDG_RUNTIME_DIR to a shorter folder")
    if "\0" in path or ".." in Path(path).parts:
        raise refusal(endpoint, "it is no plain path", "write it without `..`")


def check_insecure(*, codec: str, ships_code: bool) -> None:
    """What `--insecure-loopback` forbids; raises ConfigError with all of it."""
    problems = []
    if codec != INSECURE_CODEC:
        message = f"plain tcp does not carry {codec}, which executes what it reads"
        fix = f'use codec="{INSECURE_CODEC}" or give keys'
        problems.append(Problem(where="codec", file="", line=0, message=message, fix=fix))
    if ships_code:
        message = "plain tcp does not carry a topology's code"
        fix = "install it as a module where the stages run, or give keys"
        problems.append(Problem(where="code", file="", line=0, message=message, fix=fix))
    if problems:
        raise ConfigError(problems)
