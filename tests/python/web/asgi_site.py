"""An ASGI application for the tests: the tasks of an app, mounted, and what its process costs."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from celeriac import Celery
from celeriac.asgi import allow_all, tasks_app

app = Celery("asgi_site", broker=os.environ["BROKER"], backend=os.environ["RESULT_BACKEND"])
app.conf.task_track_pending = True
tasks = tasks_app(
    app,
    auth=allow_all,
    heartbeat=float(os.environ.get("HEARTBEAT", "2")),
    max_streams=int(os.environ.get("MAX_STREAMS", "10000")),
)


def cost(request):
    """What this process uses."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    return JSONResponse(
        {
            "streams": tasks.views.streams,
            "kib": int(status.split("VmRSS:")[1].split()[0]),
            "threads": int(status.split("Threads:")[1].split()[0]),
            "cpu": used.ru_utime + used.ru_stime,
        }
    )


site = Starlette(routes=[Route("/cost", cost), Mount("/tasks", tasks)])
