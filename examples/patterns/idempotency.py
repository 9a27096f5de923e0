"""Idempotency: a call that is made twice runs once. Beside it unique, debounced and throttled tasks, and a lock.

celeriac -A idempotency worker -c 2        # in one terminal, in this folder
python idempotency.py                      # in another
"""

import os
import time

from celeriac import Celery
from celeriac.exceptions import DuplicateTask, LockNotAcquired

app = Celery("idempotency", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))


@app.task(idempotency_key=lambda order, cents: f"order-{order}")
def charge(order: int, cents: int) -> str:
    """Whatever repeats the request (a browser, a proxy, a webhook): the card is charged once a day for each order."""
    return f"charged {cents} for order {order} at {time.time_ns()}"


@app.task(unique="finished", unique_key=lambda account: account)
def synchronise(account: str) -> str:
    """Not a second time for an account while one waits or runs."""
    time.sleep(1)
    return f"{account} synchronised"


@app.task(debounce=0.5, debounce_max_wait=5, unique_key=lambda document, text: document)
def index(document: str, text: str) -> str:
    """When nobody has typed for half a second: with what was typed last."""
    return f"{document}: {text}"


@app.task(throttle=60)
def remind(person: str) -> str:
    """At most one a minute for each person."""
    return f"reminded {person} at {time.time_ns()}"


if __name__ == "__main__":
    first, second = charge.delay(17, 4200), charge.delay(17, 4200)
    print("charged once:", first.get(timeout=30) == second.get(timeout=30), second.deduplicated)

    running = synchronise.delay("ann")
    print("the same one:", synchronise.delay("ann").id == running.id)
    try:
        synchronise.apply_async(("ann",), on_duplicate="raise")
    except DuplicateTask as exc:
        print("refused:", exc.task_id == running.id)
    running.get(timeout=30)
    print("after its end:", synchronise.delay("ann").id != running.id)

    typed = [index.delay("letter", text) for text in ("D", "De", "Dear")]
    print("typed last:", typed[0].get(timeout=30), "for all:", len({one.id for one in typed}) == 1)

    print("reminded once:", remind.delay("bob").get(timeout=30) == remind.delay("bob").get(timeout=30))

    with app.lock("warehouse", ttl=30) as lock:
        try:
            app.lock("warehouse").acquire()
        except LockNotAcquired:
            print("one at a time, fence above zero:", (lock.fence or 0) > 0)
