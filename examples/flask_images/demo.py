"""The demonstration: starts everything, uploads pictures, kills a child of the worker, checks the rest.

1. Draws pictures; starts a mail server, the web application and a worker with two children.
2. Uploads the pictures over HTTP and follows the progress of each.
3. Kills (SIGKILL) a child of the worker in the middle of a picture.
4. Checks every picture that came out, and every mail; prints a table. Exit code 0 if all is well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from PIL import Image

import pictures
from services import MailServer, Processes, free_port, wait_until

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
DEADLINE_SECONDS = 120
BAR_WIDTH = 24

THUMBNAIL = [
    {"name": "blur", "radius": 3},
    {"name": "resize", "width": 480},
    {"name": "watermark", "text": "proof"},
]
POSTER = [
    {"name": "rotate", "degrees": 12},
    {"name": "blur", "radius": 18},
    {"name": "rotate", "degrees": -12},
    {"name": "blur", "radius": 9},
    {"name": "resize", "width": 1600},
    {"name": "watermark", "text": "celeriac"},
]
SKETCH = [
    {"name": "grayscale"},
    {"name": "blur", "radius": 6},
    {"name": "rotate", "degrees": 90},
    {"name": "resize", "width": 640},
]


class DemoError(Exception):
    """Something did not happen as it must."""


@dataclass
class Job:
    """One uploaded picture and what is known of it."""

    picture: Path
    operations: list[dict[str, Any]]
    address: str
    status_url: str = ""
    notification_url: str = ""
    status: dict[str, Any] = field(default_factory=lambda: {"status": "PENDING", "progress": 0})
    killed_pid: int | None = None

    @property
    def name(self) -> str:
        """For the table: which picture, how wide."""
        width = next(step["width"] for step in self.operations if step["name"] == "resize")
        return f"{self.picture.stem}-{width}"

    @property
    def done(self) -> bool:
        """Whether the picture needs no more waiting."""
        return self.status["status"] in {"SUCCESS", "FAILURE", "REVOKED"}


def upload(base: str, job: Job) -> None:
    """Sends one picture as a browser would: multipart/form-data."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (("operations", json.dumps(job.operations)), ("email", job.address))
    ]
    file_head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{job.picture.name}"\r\n\r\n'
    body = b"".join([*parts, file_head.encode(), job.picture.read_bytes(), f"\r\n--{boundary}--\r\n".encode()])
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urlopen(Request(f"{base}/api/process-image", body, headers), timeout=30) as response:
        answer = json.load(response)
        if response.status != 202:
            raise DemoError(f"upload of {job.picture.name} answered {response.status}: {answer}")
    job.status_url = base + answer["status_url"]
    job.notification_url = base + answer["notification_url"]


def refuse(base: str, folder: Path) -> str:
    """Uploads a file that is no picture; returns the error that its task ends with."""
    broken = folder / "not-a-picture.png"
    broken.write_text("this is text")
    job = Job(broken, THUMBNAIL, "nobody@example.com")
    upload(base, job)

    def failed() -> bool:
        job.status = ask(job.status_url)
        return job.done

    wait_until(failed, 30, lambda: f"{broken.name} is {job.status}")
    if job.status["status"] != "FAILURE" or "UnidentifiedImageError" not in job.status["error"]:
        raise DemoError(f"a text file was taken for a picture: {job.status}")
    return str(job.status["error"])


def ask(url: str) -> dict[str, Any]:
    """Reads one status."""
    with urlopen(url, timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


class Bars:
    """A progress bar for each picture: redrawn on a terminal, a line for each change elsewhere."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.live = sys.stdout.isatty()
        self.shown: dict[str, tuple[Any, ...]] = {}
        if self.live:
            print("\n" * len(jobs), end="")

    def line(self, job: Job) -> str:
        """The bar of one job."""
        filled = job.status["progress"] * BAR_WIDTH // 100
        step = f" {job.status['step']}" if "step" in job.status else ""
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        return f"  {job.name:<16} [{bar}] {job.status['progress']:3d}% {job.status['status']}{step}"

    def show(self) -> None:
        """Prints what has changed."""
        if self.live:
            print(f"\x1b[{len(self.jobs)}F" + "".join(f"\x1b[2K{self.line(job)}\n" for job in self.jobs), end="")
        else:
            for job in self.jobs:
                now = (job.status["status"], job.status["progress"])
                if self.shown.get(job.name) != now:
                    self.shown[job.name] = now
                    print(self.line(job))
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        print(f"\n{text}" + "\n" * len(self.jobs) if self.live else text, flush=True)


def kill_the_child_that_runs(job: Job) -> bool:
    """Kills the process that works on `job`, if it is seen to be in the middle of it."""
    pid = job.status.get("pid")
    if job.status["status"] != "PROCESSING" or not job.status["progress"] or pid is None:
        return False
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return False
    # It stands still now. What it said before it was stopped has time to arrive.
    time.sleep(0.2)
    job.status = ask(job.status_url)
    if job.status["status"] != "PROCESSING":
        os.kill(pid, signal.SIGCONT)
        return False
    os.kill(pid, signal.SIGKILL)
    job.killed_pid = pid
    return True


def follow(jobs: list[Job], processes: Processes) -> None:
    """Waits for every picture, and kills a child on the way."""
    bars = Bars(jobs)
    deadline = time.monotonic() + DEADLINE_SECONDS
    killed = False
    while not all(job.done for job in jobs):
        processes.check()
        if time.monotonic() > deadline:
            raise DemoError(f"not finished after {DEADLINE_SECONDS} s: {[(job.name, job.status) for job in jobs]}")
        for job in jobs:
            if not job.done:
                job.status = ask(job.status_url)
            if not killed and kill_the_child_that_runs(job):
                killed = True
                bars.say(f"  >>> killed process {job.killed_pid} (SIGKILL) in the middle of {job.name}")
        bars.show()
        time.sleep(0.05)
    if not killed:
        raise DemoError("no task was caught in the middle, so nothing was killed")


def check_pictures(jobs: list[Job]) -> None:
    """Every picture came out, is an image of the promised size, and the killed one was run again."""
    for job in jobs:
        if job.status["status"] != "SUCCESS":
            raise DemoError(f"{job.name} ended as {job.status}")
        result = job.status["result"]
        with Image.open(result["path"]) as image:
            image.load()
            if image.size != (result["width"], result["height"]) or image.format != "JPEG":
                raise DemoError(f"{result['path']} is {image.size} {image.format}, but its task said {result}")
        if job.killed_pid is not None and result["pid"] == job.killed_pid:
            raise DemoError(f"{job.name} claims to have been finished by the killed process")


def check_mails(jobs: list[Job], mails: MailServer) -> None:
    """One mail for each picture; the first of them only at the second try."""
    expected = sorted(job.address for job in jobs)
    wait_until(
        lambda: sorted(mails.addresses()) == expected,
        30,
        lambda: f"mails to {mails.addresses()}, not {expected}",
    )
    wait_until(
        lambda: all(ask(job.notification_url)["status"] == "SUCCESS" for job in jobs),
        30,
        lambda: f"mail tasks: {[ask(job.notification_url) for job in jobs]}",
    )
    tries = sorted(mails.attempts(job.address) for job in jobs)
    if tries != [1] * (len(jobs) - 1) + [2]:
        raise DemoError(f"one mail had to be tried twice, the others once, but the tries were {tries}")


def print_table(jobs: list[Job], mails: MailServer) -> None:
    """What came out, and where."""
    print(f"\n  {'picture':<16} {'size':<12} {'KiB':>5}  {'ran in':>8}  {'mail to':<24} tries")
    for job in jobs:
        result = job.status["result"]
        size = f"{result['width']} x {result['height']}"
        kib = result["bytes"] // 1024
        tries = mails.attempts(job.address)
        print(f"  {job.name:<16} {size:<12} {kib:>5}  {result['pid']:>8}  {job.address:<24} {tries}")
        if job.killed_pid is not None:
            print(f"  {'':<16} its process {job.killed_pid} was killed; it ran again, in process {result['pid']}")
    print(
        f"\n  {len(jobs)} pictures in {OUT / 'images'}\n  {mails.refused} mail was refused at first (451) and sent again later"
    )


def run(processes: Processes, mails: MailServer) -> None:
    """The demonstration itself."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    environment = {
        "FLASK_OUTPUT_DIR": str(OUT),
        "FLASK_SMTP_PORT": str(mails.port),
    }
    processes.start("web", ["flask", "--app", "image_app", "run", "--port", str(port)], environment)
    processes.start("worker", ["celeriac", "-A", "make_celery", "worker", "-c", "2", "-l", "INFO"], environment)
    processes.wait_for_port(port)
    print(f"  web application on {base}, mail server on port {mails.port}, worker with 2 children")

    drawn = pictures.draw_all(OUT / "originals")
    plans = [(picture, plan) for plan in (POSTER, SKETCH, THUMBNAIL) for picture in drawn[:3]] + [(drawn[3], SKETCH)]
    jobs = [Job(picture, plan, f"owner{number}@example.com") for number, (picture, plan) in enumerate(plans)]
    for job in jobs:
        upload(base, job)
    print(f"  uploaded {len(jobs)} pictures\n")

    follow(jobs, processes)
    check_pictures(jobs)
    check_mails(jobs, mails)
    error = refuse(base, OUT / "uploads")
    processes.stop_all()
    print_table(jobs, mails)
    print(f"  a text file named .png failed as it must: {error.split(' ', maxsplit=1)[0]}")


def main() -> int:
    """Runs the demonstration; 0 if everything was as it must be."""
    for old in ("images", "uploads", "logs"):
        shutil.rmtree(OUT / old, ignore_errors=True)
    for old_file in OUT.glob("tasks.db*"):
        old_file.unlink()
    started = time.monotonic()
    print("flask_images: upload, process in the background, mail")
    with MailServer() as mails, Processes(HERE, OUT / "logs") as processes:
        try:
            run(processes, mails)
        except Exception as error:
            print(f"\nFAILED: {type(error).__name__}: {error}", file=sys.stderr)
            print(processes.log_tails(), file=sys.stderr)
            return 1
    print(f"  all is well, in {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
