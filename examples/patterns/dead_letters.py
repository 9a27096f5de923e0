"""Dead letters: what fails for good is kept with its error and its message, looked at, and sent again.

celeriac -A dead_letters worker            # in one terminal, in this folder
python dead_letters.py                     # in another
celeriac -A dead_letters dlq list          # by hand: also show, retry, drop, export
"""

import os
import time
from pathlib import Path

from celeriac import Celery
from celeriac.signals import task_dead_lettered

app = Celery("dead_letters", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))
# All tasks of this queue: three tries, a tenth of a second apart, and then they are kept.
app.conf.task_queue_defaults = {"celery": {"max_retries": 2, "backoff": 0.1, "dead_letter": True}}
app.conf.dead_letter_max_age = 30 * 24 * 3600

#: Stands for the payment provider: it is up while there is such a file.
PROVIDER = Path("provider-is-up")


@app.task(name="charge")
def charge(order: int) -> str:
    """Fails while the provider is down."""
    if not PROVIDER.exists():
        raise ConnectionError(f"order {order}: the provider does not answer")
    return f"order {order} is paid"


@task_dead_lettered.connect
def tell(sender: object, name: str, reason: str, error: str, **_: object) -> None:
    """In the worker's own process: the place for a message to whoever is on duty."""
    print(f"{name} is dead ({reason}): {error}")


def wait_until_paid(ids: list[str]) -> list[str]:
    """Their records say FAILURE until the retry has succeeded."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = [charge.AsyncResult(id) for id in ids]
        if all(one.successful() for one in found):
            return [one.get() for one in found]
        time.sleep(0.05)
    raise SystemExit("they were not paid in time")


if __name__ == "__main__":
    PROVIDER.unlink(missing_ok=True)
    results = [charge.delay(order) for order in (1, 2, 3)]
    for result in results:
        try:
            result.get(timeout=30)
        except ConnectionError as exc:
            print(f"failed: {exc}")

    letters = app.dead_letters.list(reason="failed", task="charge")
    print(f"{len(letters)} dead letters, each after {letters[0].attempts} tries: {letters[0].exception}")

    PROVIDER.touch()
    print(f"sent again: {app.dead_letters.retry(task='charge')}")
    for paid in wait_until_paid([result.id for result in results]):
        print(paid)
    print(f"left: {app.dead_letters.count()}")
