"""Sends tasks, hears their events, and prints these. The listener is Celery's or celeriac's: INTEROP_LIBRARY says which."""

from __future__ import annotations

import json
import sys
import threading
import time

import events_app as tasks

app = tasks.app
PATIENCE = 40.0
#: Case -> how it is sent, and how many events of it come after `task-sent`.
CASES = {
    "add": (lambda: tasks.add.delay(2, 3), 3),
    "keyword": (lambda: tasks.add.apply_async((2,), {"y": "é'\""}, shadow="shown", priority=3), 3),
    "boom": (lambda: tasks.boom.delay(), 3),
    "again": (lambda: tasks.again.delay(), 6),
    "no_reason": (lambda: tasks.no_reason.delay(), 6),
    "tells": (lambda: tasks.tells.delay({"percent": 5}), 4),
    "expired": (lambda: tasks.add.apply_async((1, 1), expires=-10), 1),
    "unknown": (lambda: app.send_task("events.unknown", (1,)), 1),
    "ignored": (lambda: tasks.ignored.delay(), 2),
    "rejected": (lambda: tasks.rejected.delay(), 4),
    "rejected_early": (lambda: tasks.rejected_early.delay(), 3),
    "eta": (lambda: tasks.add.apply_async((4, 4), countdown=0.5), 3),
    "long": (lambda: tasks.long.delay(), 3),
    "quiet": (lambda: tasks.quiet.delay(), 0),
}


def main() -> None:
    heard, here, lock = [], threading.Event(), threading.Lock()

    def hear(event):
        with lock:
            heard.append(event)
        if event["type"] == "worker-heartbeat":
            here.set()

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": hear})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": True})
        thread.daemon = True
        thread.start()
        assert here.wait(PATIENCE), "no worker said that it lives"
        ids = {}
        for case in sys.argv[1:] or CASES:
            send, count = CASES[case]
            ids[case] = send().id
            deadline = time.monotonic() + PATIENCE
            while case != "quiet":
                with lock:
                    found = [event for event in heard if event.get("uuid") == ids[case]]
                if len([event for event in found if event["type"] != "task-sent"]) >= count:
                    break
                assert time.monotonic() < deadline, (case, found)
                time.sleep(0.01)
        receiver.should_stop = True
        thread.join(5)
    with lock:
        print(json.dumps({"ids": ids, "events": heard}))


main()
