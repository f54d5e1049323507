"""topologies/orders.py: the steps alone, then all orders of the file that comes with it."""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pytest

ORDERS = Path(__file__).parent.parent.parent / "topologies" / "orders.csv"
GOOD = {"order": "A1", "customer": "Ada Lovelace", "sku": "lamp", "quantity": "2"}


@pytest.fixture
def orders(load):
    return load("orders")


@pytest.fixture
def rows() -> list[dict]:
    with ORDERS.open(newline="") as file:
        return list(csv.DictReader(file))


def is_valid(row: dict) -> bool:
    return bool(row["customer"]) and row["sku"] in PRICES and int(row["quantity"]) > 0


PRICES = {"lamp": 3_990, "desk": 24_900, "chair": 12_900}
WRONG = [
    ({"customer": ""}, "no customer"),
    ({"sku": "piano"}, "unknown sku"),
    ({"quantity": "0"}, "nothing ordered"),
    ({"quantity": "-3"}, "nothing ordered"),
]


def test_the_file_has_orders_of_every_kind(rows):
    assert len(rows) == 200
    assert 10 < sum(not is_valid(row) for row in rows) < 40
    assert any(not row["customer"] for row in rows)
    assert any(row["sku"] not in PRICES for row in rows)
    assert any(int(row["quantity"]) < 0 for row in rows)
    assert len({row["order"] for row in rows}) == 200


def test_the_source_reads_the_file_that_lies_beside_it(orders, rows):
    assert list(orders.orders()) == rows


def test_a_good_order_passes_as_it_is(orders):
    assert orders.validate(GOOD) == GOOD


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_an_invalid_order_leaves_by_its_own_output_with_the_reason(orders, change, reason):
    said = orders.validate(GOOD | change)
    assert (said.name, said.item) == ("invalid", GOOD | change | {"reason": reason})


def test_a_reserved_order_has_a_shelf_and_a_total(orders):
    assert orders.reserve(GOOD) == GOOD | {"shelf": "A1", "total_cents": 7_980}


def test_one_order_in_ten_is_charged_at_the_second_try(orders, rows):
    unlucky = next(row for row in rows if crc32(row["order"].encode()) % 10 == 0)
    with pytest.raises(orders.PaymentDown):
        charge(orders, attempt=0, order=unlucky)

    charged = charge(orders, attempt=1, order=unlucky)
    assert charged == unlucky | {"receipt": f"R{crc32(unlucky['order'].encode()):08x}"}


def charge(orders, *, attempt: int, order: dict) -> dict:
    stage = orders.Charge()
    stage.context = SimpleNamespace(attempt=attempt)
    return stage.process(order)


@pytest.mark.slow
def test_every_order_is_notified_or_reviewed_and_none_is_lost(zflow_run, rows, tmp_path):
    notified = tmp_path / "notified.jsonl"
    summary = zflow_run("orders", f"notify.path={notified}")

    valid = [row for row in rows if is_valid(row)]
    lines = [json.loads(line) for line in notified.read_text().splitlines()]
    assert Counter(line["order"] for line in lines) == Counter(row["order"] for row in valid)
    assert all(line["receipt"] for line in lines)

    invalid = {row["order"] for row in rows} - {row["order"] for row in valid}
    large = {row["order"] for row in valid if total_cents(row) >= 100_000}
    reviewed = dict(re.findall(r"please review order (\w+): (.+)", summary["stderr"]))
    assert {order for order, reason in reviewed.items() if reason == "large"} == large
    assert {order for order, reason in reviewed.items() if reason != "large"} == invalid


def total_cents(row: dict) -> int:
    return PRICES[row["sku"]] * int(row["quantity"])
