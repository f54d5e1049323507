"""What may be bound and dialled, address by address; the default is closed."""

import pytest

from zflow.errors import ConfigError
from zflow.net.addresses import (
    Address,
    check_bind,
    check_connect,
    check_insecure,
    parse_tcp,
)

KEYS = "zflow keys new"
ALWAYS, LOOPBACK, CURVE, NEVER = "always", "with --insecure-loopback", "with keys", "never"

# What is needed to bind it; what is refused even with keys says something of the second column.
BINDS = [
    ("ipc:///run/user/1000/zf-1/s/0-0.in", ALWAYS, ""),
    ("tcp://127.0.0.1:5555", LOOPBACK, KEYS),
    ("tcp://127.0.0.1:0", LOOPBACK, KEYS),
    ("tcp://127.8.9.10:5555", LOOPBACK, KEYS),
    ("tcp://[::1]:5555", LOOPBACK, KEYS),
    ("tcp://[0:0:0:0:0:0:0:1]:5555", LOOPBACK, KEYS),
    ("tcp://*:5555", CURVE, KEYS),
    ("tcp://0.0.0.0:5555", CURVE, KEYS),
    ("tcp://[::]:5555", CURVE, KEYS),
    ("tcp://10.0.0.5:5555", CURVE, KEYS),
    ("tcp://192.168.1.1:0", CURVE, KEYS),
    ("tcp://128.0.0.1:5555", CURVE, KEYS),
    ("tcp://169.254.1.1:5555", CURVE, KEYS),
    ("tcp://[fe80::1]:5555", CURVE, KEYS),
    ("tcp://[2001:db8::1]:5555", CURVE, KEYS),
    ("tcp://224.0.0.1:5555", CURVE, KEYS),
    ("tcp://localhost:5555", NEVER, "is a name"),
    ("tcp://lo:5555", NEVER, "is a name"),
    ("tcp://eth0:5555", NEVER, "is a name"),
    ("tcp://lo;tcp://*:5555", NEVER, "neither an address nor a name"),
    ("tcp://localtest.me:5555", NEVER, "is a name"),
    ("tcp://127.0.0.1.nip.io:5555", NEVER, "is a name"),
    ("tcp://127.1:5555", NEVER, "another notation"),
    ("tcp://2130706433:5555", NEVER, "another notation"),
    ("tcp://0x7f000001:5555", NEVER, "another notation"),
    ("tcp://0x7f.0.0.1:5555", NEVER, "another notation"),
    ("tcp://0177.0.0.1:5555", NEVER, "another notation"),
    ("tcp://0:5555", NEVER, "another notation"),
    ("tcp://[::ffff:127.0.0.1]:5555", NEVER, "hides an IPv4 address"),
    ("tcp://[::ffff:0.0.0.0]:5555", NEVER, "hides an IPv4 address"),
    ("tcp://[2002:7f00:1::]:5555", NEVER, "hides an IPv4 address"),
    ("tcp://::1:5555", NEVER, "lacks its brackets"),
    ("tcp://[127.0.0.1]:5555", NEVER, "no IPv6 address"),
    ("tcp://:5555", NEVER, "neither an address nor a name"),
    ("tcp://127.0.0.1", NEVER, "has no such port"),
    ("tcp://127.0.0.1:*", NEVER, "has no such port"),
    ("tcp://127.0.0.1:65536", NEVER, "has no such port"),
    ("tcp://127.0.0.1:+1", NEVER, "has no such port"),
    ("tcp://10.0.0.1;127.0.0.1:5555", NEVER, "neither an address nor a name"),
    ("udp://127.0.0.1:5555", NEVER, "no tcp address"),
    ("inproc://here", NEVER, "no tcp address"),
    ("ipc://@abstract", NEVER, "no absolute path"),
    ("ipc://*", NEVER, "no absolute path"),
    ("ipc:///run/../tmp/in", NEVER, "no plain path"),
]
WAYS = {
    ALWAYS: {"plain", "insecure", "curve"},
    LOOPBACK: {"insecure", "curve"},
    CURVE: {"curve"},
    NEVER: set(),
}
SETTINGS = {
    "plain": {"curve": False},
    "insecure": {"curve": False, "insecure_loopback": True},
    "curve": {"curve": True},
}


@pytest.mark.parametrize(("endpoint", "needs", "sentence"), BINDS)
def test_what_is_bound_is_as_closed_as_the_table_says(endpoint, needs, sentence):
    for way, settings in SETTINGS.items():
        if way in WAYS[needs]:
            check_bind(endpoint, **settings)
            continue
        with pytest.raises(ConfigError) as refused:
            check_bind(endpoint, **settings)
        (problem,) = refused.value.problems
        assert sentence in str(problem)
        assert problem.fix


CONNECTS = [
    ("ipc:///run/user/1000/zf-1/s/0-0.in", ALWAYS, ""),
    ("tcp://127.0.0.1:5555", LOOPBACK, KEYS),
    ("tcp://[::1]:5555", LOOPBACK, KEYS),
    ("tcp://localhost:5555", CURVE, KEYS),
    ("tcp://10.0.0.5:5555", CURVE, KEYS),
    ("tcp://parse-0.parse.default.svc.cluster.local:5555", CURVE, KEYS),
    ("tcp://node_7:5555", CURVE, KEYS),
    ("tcp://0.0.0.0:5555", NEVER, "every interface at once"),
    ("tcp://*:5555", NEVER, "every interface at once"),
    ("tcp://10.0.0.5:0", NEVER, "nobody listens at port 0"),
    ("tcp://2130706433:5555", NEVER, "another notation"),
    ("tcp://10.0.0.1;10.0.0.2:5555", NEVER, "neither an address nor a name"),
    ("inproc://zeromq.zap.01", NEVER, "no tcp address"),
    ("garbage", NEVER, "no tcp address"),
    ("", NEVER, "no tcp address"),
]


@pytest.mark.parametrize(("endpoint", "needs", "sentence"), CONNECTS)
def test_what_is_dialled_is_as_closed_as_the_table_says(endpoint, needs, sentence):
    for way, settings in SETTINGS.items():
        if way in WAYS[needs]:
            check_connect(endpoint, **settings)
            continue
        with pytest.raises(ConfigError) as refused:
            check_connect(endpoint, **settings)
        (problem,) = refused.value.problems
        assert sentence in str(problem)
        assert problem.fix


def test_the_sentence_names_the_address_the_danger_and_the_fix():
    with pytest.raises(ConfigError) as refused:
        check_bind("tcp://0.0.0.0:5555", curve=False)
    assert str(refused.value) == (
        "tcp://0.0.0.0:5555: without keys everybody who reaches this address could send code to "
        "it; give keys (zflow keys new DIR, then --keys DIR), or a loopback address with "
        "--insecure-loopback"
    )


def test_plain_tcp_carries_neither_pickle_nor_code():
    check_insecure(codec="msgpack", ships_code=False)
    with pytest.raises(ConfigError) as refused:
        check_insecure(codec="pickle5", ships_code=True)
    assert [problem.where for problem in refused.value.problems] == ["codec", "code"]


def test_an_address_is_read_and_written_alike():
    for text in ("tcp://10.0.0.5:1", "tcp://[::1]:65535", "tcp://*:0", "tcp://node7:80"):
        assert str(parse_tcp(text)) == text
    assert parse_tcp("tcp://[::1]:9") == Address("::1", 9)
    assert parse_tcp("tcp://[::1]:9").is_ipv6
