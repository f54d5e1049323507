"""Where the slots of a supervisor are bound."""

import socket

import pytest

from zflow.errors import Unavailable
from zflow.ids import Slot
from zflow.supervisor import addresses as module
from zflow.supervisor.addresses import FIRST_PORT, LAST_PORT, TcpAddresses, outward_host

SLOTS = [Slot("work", index) for index in range(5)]


def test_a_slot_keeps_its_two_addresses_and_shares_them_with_none():
    addresses = TcpAddresses("127.0.0.1")
    first = [addresses(slot) for slot in SLOTS]
    assert [addresses(slot) for slot in SLOTS] == first
    every = [one for pair in first for one in pair]
    assert len(set(every)) == 2 * len(SLOTS)
    ports = [int(one.rpartition(":")[2]) for one in every]
    assert all(FIRST_PORT <= port <= LAST_PORT for port in ports)


def test_a_port_that_somebody_has_is_not_taken(monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        monkeypatch.setattr(module, "FIRST_PORT", port)
        monkeypatch.setattr(module, "LAST_PORT", port)
        with pytest.raises(Unavailable, match=f"no free port on 127.0.0.1 between {port}"):
            TcpAddresses("127.0.0.1")(SLOTS[0])


def test_this_machine_is_known_by_the_address_that_reaches_the_coordinator():
    assert outward_host("tcp://127.0.0.1:7700") == "127.0.0.1"


def test_a_coordinator_whose_name_nobody_knows_is_unavailable():
    with pytest.raises(Unavailable, match="cannot be reached.*give --advertise"):
        outward_host("tcp://no-such-host.invalid:7700")
