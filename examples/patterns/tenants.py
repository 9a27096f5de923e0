"""Tenants: customers share one queue and its workers, and nobody waits behind another's ten thousand.

celeriac -A tenants worker -c 4                   # in one terminal, in this folder
python tenants.py                                 # in another

BROKER and RESULT_BACKEND name other places than the embedded file.
"""

import os
import time

from celeriac import Celery

app = Celery("tenants", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND"))
# All together, whoever asks: what the printers can take.
app.conf.task_queue_limits = {"celery": {"max_concurrency": 4}}


@app.task(max_concurrency=2, limit_key="tenant")
def render(tenant: str, page: int) -> float:
    """Two pages of each tenant at a time, over all workers."""
    time.sleep(0.02)
    return time.time()


@app.task(global_rate_limit="20/s", limit_key=lambda tenant, address: tenant)
def notify(tenant: str, address: str) -> float:
    """The mail provider takes twenty a second from each tenant."""
    return time.time()


def main() -> None:
    """One tenant sends a lot, then another a little."""
    many = render.delay_many(("big", page) for page in range(200))
    one = render.delay("small", 1)
    small = one.get(timeout=30)
    before = sum(1 for result in many if result.ready())
    print("small was served before big's last page:", before < 200)
    pages = sorted(result.get(timeout=60) for result in many)
    print("pages of big:", len(pages), "small was overtaken by all:", small > pages[-1])

    mails = [notify.delay("big", f"{number}@example.com") for number in range(30)]
    starts = sorted(mail.get(timeout=30) for mail in mails)
    most = max(sum(1 for other in starts if start <= other < start + 1) for start in starts)
    print("at most 20 mails in any second:", most <= 20)

    # A call can name the key itself.
    print("by name:", render.apply_async(("big", 201), limit_key="vip").get(timeout=30) > 0)


if __name__ == "__main__":
    main()
