"""The task of workload state in Celery: one word, one INCR in Redis.

Acknowledged after it has run (acks_late), so nothing is lost when a worker dies; a word may then
be counted twice, which zflow, Bytewax and the plain process exclude.
"""

import os

import redis
from celery import Celery

URL = os.environ["BENCH_REDIS_URL"]
KEY_PREFIX = "count:"

app = Celery("bench", broker=URL)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH"]),
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)
store = redis.Redis.from_url(URL)  # connects with its first command, so after the worker's fork


@app.task(name="count")
def count(word: str) -> None:
    store.incr(KEY_PREFIX + word)
