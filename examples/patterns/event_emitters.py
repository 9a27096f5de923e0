"""Event emitters: who says that something happened does not know who listens; each handler is a task of its own.

celeriac -A event_emitters worker          # in one terminal, in this folder; before or after the other
python event_emitters.py                   # in another
"""

import os
from typing import Any

from celeriac import Celery, Event

# The name of the app is that of the service: its events wait in the queue celeriac.events.event_emitters.
app = Celery("event_emitters", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))


@app.on_event("order.*")
def send_mail(event: Event) -> str:
    """Wants all that happens to orders."""
    return f"a mail about {event.subject}: {event.type}"


@app.on_event("order.created", bind=True, autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 0.1})
def reserve_stock(self: Any, event: Event) -> str:
    """Fails twice, and is tried again: it alone."""
    if self.request.retries < 2:
        raise ConnectionError("the warehouse does not answer")
    return f"{event.data['count']} reserved at attempt {self.request.retries + 1}"


@app.on_event("order.created")
def print_label(event: Event) -> str:
    """Fails for good: its message becomes a dead letter, and nobody else notices."""
    raise ValueError(f"no address for {event.subject}")


if __name__ == "__main__":
    # A worker does this when it starts. In a deploy, call it (or `celeriac events bind`) before the first event.
    app.bind_events()

    created = app.emit("order.created", {"count": 3}, subject="order 7")
    paid = app.emit("order.paid", {"total": 120}, subject="order 7")
    app.emit("weather.changed", {"now": "rain"})  # nobody listens, and that is no error

    # The id of a handler's run follows from the event's id: so its result can be asked for.
    for event, handler in [(created, send_mail), (created, reserve_stock), (created, print_label), (paid, send_mail)]:
        result = app.AsyncResult(event.task_id(handler))
        value = result.get(timeout=30, propagate=False)
        print(f"{event.type}, {handler.__name__}: {result.state}: {value}")
