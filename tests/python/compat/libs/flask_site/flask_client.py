"""A browser: requests come in threads that have no app of their own."""

import json
import threading
import time
import traceback

from shop_api import create_app

app = create_app()
# What a view raises is told, not made a page of.
app.config["PROPAGATE_EXCEPTIONS"] = True
saw = {}


def ask(key, path, **form):
    """Starts a task and asks until it has ended."""
    client = app.test_client()
    task_id = client.post(path, data=form).get_json()["result_id"]
    deadline = time.monotonic() + 30
    while not (answer := client.get(f"/result/{task_id}").get_json())["ready"] and time.monotonic() < deadline:
        time.sleep(0.02)
    saw[key] = answer


def told(key, path, **form):
    """The same; what goes wrong is told."""
    try:
        ask(key, path, **form)
    except Exception:
        saw[key] = traceback.format_exc()


for arguments in (("add", "/add", {"a": 20, "b": 22}), ("greet", "/greet/Ada", {})):
    thread = threading.Thread(target=told, args=arguments[:2], kwargs=arguments[2])
    thread.start()
    thread.join()
print(json.dumps(saw))
