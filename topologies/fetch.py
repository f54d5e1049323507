"""Pages of many hosts, a hundred at once: at a polite rate, retried, into a table, exactly once.

Shows network requests: an `async def` stage with many items in hand, a rate for each host, a
breaker that waits while the network is down, retries with backoff, and a transactional sink.

    pip install httpx
    zflow run topologies/fetch.py -p urls.path=urls.txt -p Pages.path=pages.db
"""

import re
from urllib.parse import urlsplit

import httpx

from zflow import Breaker, Topology, sink, source, stage
from zflow.connectors.sqlite import SqliteTable


class Busy(Exception):
    """The host answers that it cannot answer now."""


@source
def urls(path: str = "urls.txt"):
    with open(path) as file:
        yield from filter(None, map(str.strip, file))


def host(url: str) -> str:
    return urlsplit(url).netloc


@stage(
    concurrency=100,
    timeout_s=30.0,
    retries=5,
    backoff_s=0.2,
    retry_on=(httpx.TransportError, TimeoutError, Busy),
    rate_limit_per_s=50.0,
    rate_key=host,
    breaker=Breaker(failures=20, reset_s=5.0, on=(httpx.ConnectError,)),
)
class Fetch:
    def __init__(self, patience_s: float = 10.0):
        self.patience_s = patience_s

    async def open(self):
        self.client = httpx.AsyncClient(timeout=self.patience_s, follow_redirects=True)

    async def process(self, url: str):
        response = await self.client.get(url)
        if response.status_code in (429, 500, 502, 503, 504):
            raise Busy(f"{response.status_code} from {url}")
        title = re.search(r"<title>(.*?)</title>", response.text, re.S)
        return {
            "url": url,
            "status": response.status_code,
            "bytes": len(response.content),
            "title": title[1].strip() if title else "",
        }

    async def close(self):
        await self.client.aclose()


@sink
class Pages(SqliteTable):
    def __init__(self, path: str = "pages.db"):
        super().__init__(path, table="pages", key="url")


flow = Topology("fetch")
flow.connect(urls, Fetch, Pages)
