"""An app of ours with queues made of one library's objects: KOMBU says whether kombu's. Prints what the engine is told."""

import importlib
import json
import os

from celeriac import Celery
from celeriac.app.send import build

library = importlib.import_module("kombu" if os.environ["KOMBU"] == "1" else "celeriac")
Exchange, Queue, binding = library.Exchange, library.Queue, library.binding

media = Exchange("media", type="topic", durable=False, delivery_mode="transient")
images = Queue("images", media, routing_key="image.#", max_priority=9, queue_arguments={"x-queue-mode": "lazy"})
app = Celery(
    "kombu_app",
    broker="memory://",
    task_default_queue="main",
    task_default_exchange=Exchange("main-exchange", type="topic"),
    task_default_routing_key="main.all",
    task_queues=[
        Queue("main", routing_key="main.#"),
        images,
        Queue("both", bindings=[binding(media, "a.*"), binding(Exchange("other"), "b", {"x-match": "all"})]),
        Queue("listed", [binding(media, "c")], expires=5, message_ttl=1.5),
    ],
    task_routes={
        "by.queue": {"queue": images},
        "by.exchange": {"exchange": media, "routing_key": "image.new"},
        "by.itself": images,
        "p.*": {"queue": Queue("elsewhere", Exchange("elsewhere", "fanout"))},
    },
)


@app.task(name="own", queue=images)
def own():
    """Its queue is an object."""


def place(name, **options):
    message = build(app, name, task=app.tasks.get(name), **options)
    return [message.exchange, message.routing_key]


said = []
app.control.__class__.broadcast = lambda self, command, arguments=None, **_: said.append([command, arguments])
app.control.add_consumer(images)
app.control.add_consumer("late", exchange=media, routing_key="late.#")
app.control.cancel_consumer(images)
added = app.amqp.queues.add(Queue("added", media, "d"))
print(
    json.dumps(
        {
            "topology": app.router.queues.topology(),
            "places": {
                "nothing": place("any"),
                "by.queue": place("by.queue"),
                "by.exchange": place("by.exchange"),
                "by.itself": place("by.itself"),
                "pattern": place("p.x"),
                "own": place("own"),
                "queue": place("any", queue=images),
                "exchange": place("any", exchange=media, routing_key="image.x"),
            },
            "said": said,
            "added": added.declaration(),
        },
        sort_keys=True,
    )
)
