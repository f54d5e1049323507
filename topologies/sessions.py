"""Who visited a web site, how long, and what they looked at: sessions out of an access log.

    zflow run topologies/sessions.py -p requests.path=access.log -p Visits.path=visits.db

Shows windows of event time: a visit is open as long as its visitor asks for something every
GAP_S seconds, and its row is written once, whatever crashes meanwhile.

topologies/data/access.log has the requests that thirty visitors made of a small web server within
a minute and a half; scripts/make_access_log ran both.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from zflow import Topology, session, sink, source, window
from zflow.connectors.sqlite import SqliteTable

LOG = Path(__file__).parent / "data" / "access.log"
LINE = re.compile(r'(\S+) \S+ \S+ \[([^]]+)\] "\w+ (\S+)[^"]*" (\d{3})')  # Common Log Format
GAP_S = 3  # these visitors are quick; half an hour is usual
DISORDER_S = 2  # a line is written when its request has been answered


class Request(NamedTuple):
    host: str
    time: float
    page: str
    status: int


@source
def requests(path: str = "") -> Iterator[Request]:
    with open(path or LOG, errors="replace") as log:
        for found in filter(None, map(LINE.match, log)):
            host, moment, page, status = found.groups()
            time_s = datetime.strptime(moment, "%d/%b/%Y:%H:%M:%S %z").timestamp()
            yield Request(host, time_s, page, int(status))


@window(session(GAP_S), time=lambda request: request.time, lateness_s=DISORDER_S, replicas=2)
def visit(host, window, requests):
    pages = [request.page for request in requests if request.status == 200]
    seconds = requests[-1].time - requests[0].time
    return host, window.start, seconds, len(pages), pages[0] if pages else "", len(requests)


@sink
class Visits(SqliteTable):
    def __init__(self, path: str = "visits.db"):
        columns = ("host", "begin", "seconds", "pages", "entry", "requests")
        super().__init__(path, table="visits", columns=columns)


@sink
def too_late(request: Request):
    print("after the end of its visit:", *request)


flow = Topology("sessions")
flow.connect(requests, visit, key=lambda request: request.host)
flow.connect(visit, Visits)
flow.connect(visit, too_late, output="late")
