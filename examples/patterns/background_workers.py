"""Background workers: a queue for each kind of work, and for each queue a worker of the kind that suits it.

celeriac -A background_workers worker -n cpu@%h -Q pictures --autoscale 4,1       # processes: 1 to 4, as needed
celeriac -A background_workers worker -n io@%h -Q mails -P threads -c 20          # 20 threads in one process
python background_workers.py                                                      # what a web application would do
"""

import os
import time
from typing import Any

from celeriac import Celery, group

app = Celery("background_workers", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))
# Where a task goes is said in one place, and can be changed without touching who calls it.
app.conf.task_routes = {"*.shrink": {"queue": "pictures"}, "*.mail": {"queue": "mails"}}


@app.task(bind=True, name="background_workers.shrink")
def shrink(self: Any, number: int) -> tuple[str, int]:
    """Keeps a processor busy."""
    sum(range(200_000))
    return self.request.hostname, os.getpid()


@app.task(bind=True, name="background_workers.mail")
def mail(self: Any, number: int) -> tuple[str, int]:
    """Waits for a server, and needs no processor."""
    time.sleep(0.2)
    return self.request.hostname, os.getpid()


if __name__ == "__main__":
    pictures = group(shrink.s(number) for number in range(20)).apply_async()
    began = time.perf_counter()
    mails = group(mail.s(number) for number in range(20)).apply_async()
    for name, results in (("pictures", pictures), ("mails", mails)):
        nodes = {node.split("@")[0] for node, _ in results.get(timeout=30)}
        print(f"{len(results)} {name} by {', '.join(sorted(nodes))}")
    # One after the other they would take four seconds.
    print(f"mails at the same time: {time.perf_counter() - began < 3.5}")
    for node, stats in sorted((app.control.inspect(timeout=2).stats() or {}).items()):
        print(f"{node.split('@')[0]} has run", " ".join(f"{name} {n}" for name, n in stats["total"].items()))
