"""Sends calls one by one."""

import json
import time

import redis
from batches_app import BROKER, add, by_count, by_time, fail

store = redis.Redis.from_url(BROKER, decode_responses=True)


def batches(name, count):
    """Waits for so many."""
    deadline = time.monotonic() + 30
    while len(found := store.lrange(name, 0, -1)) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{name}: {found}, wanted {count}")
        time.sleep(0.05)
    return found


saw = {}
results = [by_count.delay(url="x" * number) for number in range(1, 11)]
saw["by count"] = [len(batch.split(",")) for batch in batches("by_count", 2)]
saw["results"] = [result.get(timeout=20) for result in results]
for number in range(3):
    by_time.delay(url=str(number))
saw["by time"] = sorted(",".join(batches("by_time", 1)).split(","))
for number in range(2):
    fail.delay(url=str(number))
saw["failed"] = batches("fail", 1)
saw["plain"] = add.delay(1, 2).get(timeout=20)
print(json.dumps(saw))
