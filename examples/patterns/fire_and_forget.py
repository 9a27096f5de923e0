"""Fire and forget: a request is answered at once, and the slow rest is done by a worker.

celeriac -A fire_and_forget worker         # in one terminal, in this folder
python fire_and_forget.py                  # in another
"""

import os
import time
from pathlib import Path

from celeriac import Celery

app = Celery("fire_and_forget", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND", ""))
OUTBOX = Path("mails.txt")


# Nobody reads the result, so none is stored. `acks_late` and `reject_on_worker_lost`: a mail whose worker is killed in
# the middle is sent again by another one. `expires`: one that nobody has begun after an hour is not worth sending.
@app.task(ignore_result=True, acks_late=True, reject_on_worker_lost=True, expires=3600)
def send_mail(to: str, subject: str) -> None:
    """Takes a while, as mail servers do."""
    time.sleep(0.05)
    with OUTBOX.open("a") as file:
        file.write(f"{to}: {subject}\n")


def sign_up(address: str) -> str:
    """What a web request does: `delay` returns when the broker has the message, and raises when it has not."""
    send_mail.delay(address, "Welcome")
    return "201 Created"


if __name__ == "__main__":
    began = time.perf_counter()
    answers = [sign_up(f"user{number}@example.com") for number in range(10)]
    print(f"10 requests answered with {set(answers)}")
    print(f"in {1000 * (time.perf_counter() - began):.0f} ms, the mails take 500")
    deadline = time.monotonic() + 20
    while not OUTBOX.exists() or len(OUTBOX.read_text().splitlines()) < 10:
        if time.monotonic() > deadline:
            raise SystemExit("is a worker running in this folder?")
        time.sleep(0.05)
    print(f"{len(OUTBOX.read_text().splitlines())} mails sent")
