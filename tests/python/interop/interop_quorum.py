"""An app on a quorum queue, whose tasks with an ETA wait in RabbitMQ's delay queues; run as a script it is the client."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

app = importlib.import_module(os.environ["INTEROP_LIBRARY"]).Celery(
    "quorum", broker=os.environ["INTEROP_BROKER"], backend=os.environ["INTEROP_BACKEND"]
)
app.conf.update(json.loads(os.environ["INTEROP_SETTINGS"]))


@app.task(name="quorum.waited", acks_late=True)
def waited(sent: float) -> dict[str, Any]:
    """Seconds since it was sent."""
    return {"seconds": time.time() - sent, "exchange": waited.request.delivery_info["exchange"]}


def main() -> None:
    now = time.time()
    sent = [waited.apply_async((now,), countdown=float(wait)) for wait in sys.argv[1:]]
    print(json.dumps([result.get(timeout=30) for result in sent]))


if __name__ == "__main__":
    main()
