"""Polling: a request answers 202 at once, and the client asks again where that answer says, until there is a result.

celeriac -A polling worker                 # in one terminal, in this folder
python polling.py                          # in another
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from flask import Flask, Response, jsonify, url_for
from werkzeug.serving import make_server

from celeriac.flask import Celeriac, allow_all, tasks_blueprint

celeriac = Celeriac(
    broker_url=os.environ.get("BROKER", ""),
    result_backend=os.environ.get("RESULT_BACKEND", ""),
    task_track_pending=True,  # an id that nobody has sent is answered by 404
)


@celeriac.task(bind=True)
def make_report(self: Any, pages: int) -> dict[str, int]:
    """Tells how far it is; may be called as often as you like."""
    for page in range(1, pages + 1):
        time.sleep(0.25)
        self.progress(page, pages, f"page {page}")
    return {"pages": pages}


web = Flask(__name__)
app = celeriac.init_app(web)  # the Celery app: what -A finds
web.register_blueprint(tasks_blueprint(auth=allow_all))  # a real application says who may see what


@web.post("/reports")
def start_report() -> Response:
    """Returns as soon as the broker has the task."""
    result = make_report.delay(5)
    response = jsonify(id=result.id)
    response.status_code = 202
    response.headers["Location"] = url_for("tasks.status", task_id=result.id)
    return response


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, web, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.port}"

    with urllib.request.urlopen(urllib.request.Request(f"{base}/reports", method="POST")) as response:
        print("POST /reports:", response.status)
        where = base + response.headers["Location"]
    told: list[str] = []
    while True:
        with urllib.request.urlopen(where) as response:
            now = json.load(response)
        told.append(now["progress"]["message"] if now["progress"] else now["state"])
        if now["ready"]:
            break
        time.sleep(float(response.headers["Retry-After"]))
    print("asked", len(told), "times:", "progress was seen" if any("page" in one for one in told) else told)
    print("result:", now["state"], now["result"])
    try:
        urllib.request.urlopen(f"{base}/tasks/nobody-has-sent-this")
    except urllib.error.HTTPError as error:
        print("unknown id:", error.code)
    server.shutdown()
