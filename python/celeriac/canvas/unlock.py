"""Chords where the result backend does not count their parts: a task looks at the header until it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celeriac.canvas.composition import Composition

__all__ = ["TASK", "Looks", "plan"]

TASK = "celery.chord_unlock"
_ROUTE = ("exchange", "exchange_type", "routing_key", "headers")


class Looks(NamedTuple):
    """How often the header is looked at: seconds between, seconds before the first, and how many."""

    interval: float | None = None
    countdown: float = 1
    max_retries: int | None = None


def plan(composition: Composition, body: Any, header: Any, looks: Looks) -> None:
    """The message of the task that looks, with Celery's arguments. It goes where the body goes."""
    options = body["options"]
    task = body._known_type()
    stamps = options.get("stamped_headers") or ()
    route = {name: options[name] for name in _ROUTE if options.get(name) is not None and name not in stamps}
    queue = options.get("queue") or getattr(task, "queue", None)
    if queue is not None:
        route["queue"] = queue
    priority = options.get("priority", getattr(task, "priority", None))
    if priority is not None:
        route["priority"] = priority
    kwargs = {
        "interval": looks.interval,
        "max_retries": looks.max_retries,
        "result": [result.as_tuple() for result in header.results],
        "_chord_unlock_exchange_type": route.get("exchange_type", "direct"),
    }
    composition.app.tasks[TASK].apply_async(
        (header.id, dict(body)),
        kwargs,
        countdown=looks.countdown,
        route_name=body["task"],
        add_to_parent=False,
        producer=composition,
        **route,
    )
