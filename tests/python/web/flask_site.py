"""A Flask application for the tests: the tasks of an app, and what its process costs. Threads, or greenlets."""

from __future__ import annotations

import os
import sys

if "gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import resource
from pathlib import Path

from flask import Flask

from celeriac.flask import Celeriac, allow_all, tasks_blueprint

app = Flask(__name__)
app.config.update(
    CELERIAC_BROKER_URL=os.environ["BROKER"],
    CELERIAC_RESULT_BACKEND=os.environ["RESULT_BACKEND"],
    CELERIAC_TASK_TRACK_PENDING=True,
)
Celeriac(app)
app.register_blueprint(tasks_blueprint(auth=allow_all, heartbeat=float(os.environ.get("HEARTBEAT", "2"))))


@app.get("/cost")
def cost():
    """What this process uses."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    return {
        "kib": int(status.split("VmRSS:")[1].split()[0]),
        "threads": int(status.split("Threads:")[1].split()[0]),
        "cpu": used.ru_utime + used.ru_stime,
    }


if __name__ == "__main__":
    port = int(sys.argv[2])
    if sys.argv[1] == "gevent":
        from gevent.pywsgi import WSGIServer

        WSGIServer(("127.0.0.1", port), app, log=None, backlog=2000).serve_forever()
    else:
        from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

        class Quiet(WSGIRequestHandler):
            """Writes no line for each request."""

            def log_request(self, *_):
                pass

        ThreadedWSGIServer.request_queue_size = 2000
        ThreadedWSGIServer("127.0.0.1", port, app, Quiet).serve_forever()
