"""A pipeline: an order goes through four steps, each with its own retries; whoever waits sees which step it is at.

celeriac -A pipelines worker                      # in one terminal, in this folder
python pipelines.py                               # in another

BROKER and RESULT_BACKEND name other places than the embedded file.
"""

import os
from pathlib import Path
from typing import Any

from celeriac import Celery, chain

app = Celery("pipelines", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND"))
FOLDER = Path(os.environ.get("FOLDER", "."))


class Unreachable(Exception):
    """The shop does not answer."""


@app.task(bind=True, autoretry_for=(Unreachable,), max_retries=5, retry_backoff=1, retry_jitter=False)
def fetch(self: Any, order: str) -> dict[str, Any]:
    """Asks the shop, which does not answer at first. Only this step is tried again."""
    if self.request.retries < 1:
        raise Unreachable("the shop does not answer")
    return {"order": order, "items": ["lamp", "desk"]}


@app.task
def price(order: dict[str, Any]) -> dict[str, Any]:
    """A step takes what the one before returned."""
    known = {"lamp": 20, "desk": 150}
    return {**order, "total": sum(known[item] for item in order["items"])}


@app.task
def charge(order: dict[str, Any], limit: int) -> dict[str, Any]:
    """A step that fails ends the pipeline: those behind it never run, and `on_failed` is called."""
    if order["total"] > limit:
        raise ValueError(f"{order['total']} is over the limit of {limit}")
    return {**order, "paid": True}


@app.task
def receipt(order: dict[str, Any]) -> str:
    """The result of the last step is that of the pipeline."""
    return f"order {order['order']}: {order['total']} paid"


@app.task
def on_failed(request: Any, exc: BaseException, traceback: str) -> None:
    """The error link of every step: which step it was, and why."""
    with (FOLDER / "failed.txt").open("a") as file:
        file.write(f"{request.task}: {exc}\n")


def pipeline(order: str, limit: int) -> Any:
    """Four steps, and what is called when one of them fails."""
    return chain(fetch.s(order), price.s(), charge.s(limit), receipt.s()).on_error(on_failed.s())


def steps(last: Any) -> list[Any]:
    """The results of all steps, in their order: each knows the one before it."""
    found = [last]
    while found[0].parent is not None:
        found.insert(0, found[0].parent)
    return found


def follow(last: Any) -> str:
    """Says when a step is done; what the pipeline ends with."""
    all_steps = steps(last)
    for number, step in enumerate(all_steps, 1):
        try:
            value = step.get(timeout=30)  # woken when it has ended, not polled
        except ValueError as exc:
            return str(exc)
        print(f"step {number} of {len(all_steps)} done")
    return str(value)


def main() -> None:
    """One order that is paid, and one that is not."""
    print("paid:", follow(pipeline("17", limit=1000).apply_async()))
    print("not paid:", follow(pipeline("18", limit=100).apply_async()))


if __name__ == "__main__":
    main()
