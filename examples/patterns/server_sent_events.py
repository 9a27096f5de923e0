"""Server-sent events: one request follows several tasks to their ends; a lost connection goes on where it was.

celeriac -A server_sent_events worker      # in one terminal, in this folder
python server_sent_events.py               # in another
"""

import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from flask import Flask, request
from werkzeug.serving import make_server

from celeriac.flask import Celeriac, tasks_blueprint

celeriac = Celeriac(broker_url=os.environ.get("BROKER", ""), result_backend=os.environ.get("RESULT_BACKEND", ""))


@celeriac.task(bind=True)
def convert(self: Any, name: str, steps: int) -> str:
    """Tells of every step; at most five times a second is anything stored, and always the newest."""
    for step in range(1, steps + 1):
        time.sleep(0.05)
        self.progress(step, steps, f"{name}: step {step}")
    return f"{name} converted"


def may(action: str, task_id: str) -> bool:
    """Who may do what: here whoever knows the word. A cookie's session is what a page would have."""
    return action == "events" and request.headers.get("Authorization") == "Bearer secret"


web = Flask(__name__)
app = celeriac.init_app(web)  # the Celery app: what -A finds
web.register_blueprint(tasks_blueprint(auth=may))


def events(url: str, last_event_id: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, id and data of each event; a browser's `EventSource` does this by itself."""
    headers = {"Authorization": "Bearer secret", **({"Last-Event-ID": last_event_id} if last_event_id else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
        if response.status == 204:  # all of it was seen: do not come back
            return
        fields: dict[str, str] = {}
        for line in response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields.get("event", "message"), fields["id"], json.loads(fields["data"])
                fields = {}


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, web, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    short, long = convert.delay("short", 5), convert.delay("long", 20)
    url = f"http://127.0.0.1:{server.port}/tasks/events?id={short.id}&id={long.id}"

    name, last, _ = next(events(url))
    print("first connection:", name)  # and now it is lost
    seen = list(events(url, last))
    ends = sorted(state["result"] for _, _, state in seen if state.get("ready"))
    parts = [state["progress"]["done"] for _, _, state in seen if state.get("progress")]
    print("second connection:", ends, "and progress" if parts else "without progress")
    name, last, _ = seen[-1]
    print("last event:", name)
    print("third connection:", list(events(url, last)))
    server.shutdown()
