"""Orders on their way from a CSV file to the customer: validate, reserve, charge, notify.

Shows a business process: an output of its own for what is invalid, a step that fails at times and
is tried again, and an edge that takes only some of the items (`when=`).

    zflow run topologies/orders.py -p notify.path=notified.jsonl
"""

import csv
import json
from pathlib import Path
from zlib import crc32

from zflow import Topology, emit, sink, source, stage

STOCK = {"lamp": ("A1", 3_990), "desk": ("B7", 24_900), "chair": ("B8", 12_900)}  # shelf, cents


class PaymentDown(Exception):
    """The bank does not answer now and may do so later."""


@source
def orders(path: str = ""):
    with open(path or Path(__file__).with_name("orders.csv"), newline="") as file:
        yield from csv.DictReader(file)


@stage
def validate(order: dict):
    if not order["customer"]:
        return emit("invalid", order | {"reason": "no customer"})
    if order["sku"] not in STOCK:
        return emit("invalid", order | {"reason": "unknown sku"})
    if int(order["quantity"]) <= 0:
        return emit("invalid", order | {"reason": "nothing ordered"})
    return order


@stage(replicas=2)
def reserve(order: dict):
    shelf, cents = STOCK[order["sku"]]
    return order | {"shelf": shelf, "total_cents": cents * int(order["quantity"])}


@stage(replicas=2, retries=5, backoff_s=0.01, retry_on=PaymentDown)
class Charge:
    def process(self, order: dict):
        number = crc32(order["order"].encode())
        if number % 10 == 0 and self.context.attempt == 0:  # one in ten needs a second try
            raise PaymentDown(f"no answer for order {order['order']}")
        return order | {"receipt": f"R{number:08x}"}


@sink
def notify(order: dict, path: str = "notified.jsonl"):
    with open(path, "a") as file:
        file.write(json.dumps(order) + "\n")


@sink
def review(order: dict):
    print(f"please review order {order['order']}: {order.get('reason', 'large')}")


flow = Topology("orders")
flow.connect(orders, validate, reserve, Charge, notify)
flow.connect(validate, review, output="invalid")
flow.connect(Charge, review, when=lambda order: order["total_cents"] >= 100_000)
