"""A webhook: another service is told when a task has ended, signed, and again until it has answered.

celeriac -A webhooks worker                # in one terminal, in this folder
python webhooks.py                         # in another: sends tasks, and plays the other service
"""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from celeriac import Celery, http_task
from celeriac.webhooks import WebhookVerificationError, verify

# Both sides know it; in a project it comes from the environment alone.
SECRET = os.environ.get("WEBHOOK_SECRET", "whsec_c2VjcmV0LW9mLXRoZS1leGFtcGxl")
app = Celery("webhooks", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))
app.conf.update(
    webhook_secrets=[SECRET],  # during a rotation: [new, old]
    webhook_retry_schedule=[0.2, 1, 5],  # seconds; the default goes on for more than a day
    http_allow=["127.0.0.1"],  # private addresses are refused otherwise
)


@app.task
def render(pages: int) -> dict[str, int]:
    """Does something that takes its time."""
    if pages < 1:
        raise ValueError("there is nothing to render")
    return {"pages": pages}


class Service(BaseHTTPRequestHandler):
    """The other service. It is down when it is called first."""

    seen: ClassVar[set[str]] = set()
    calls = 0
    told = threading.Semaphore(0)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Service.calls += 1
        if Service.calls == 1:
            return self.answer(503)
        try:
            event = verify(body, self.headers, [SECRET])
        except WebhookVerificationError as problem:
            print("refused:", problem)
            return self.answer(400)
        # The same call may come twice: its id tells.
        if self.headers["webhook-id"] not in Service.seen:
            Service.seen.add(self.headers["webhook-id"])
            data = event["data"]
            print("told:", event["type"], data.get("result") or data["error"]["message"])
            Service.told.release()
        return self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{service.server_port}/hooks"

    render.apply_async((12,), webhook=url)
    assert Service.told.acquire(timeout=30)
    render.apply_async((0,), webhook={"url": url, "on": ["failure"]})
    assert Service.told.acquire(timeout=30)
    # Anybody can send to a public URL: what is not signed is refused. This is an HTTP task, made by the worker's engine.
    forged = http_task(url, {"type": "task.succeeded", "data": {"result": "a million"}})
    forged.get(timeout=30, propagate=False)
    print("forged:", forged.result)
    print("calls:", Service.calls, "told of:", len(Service.seen))
