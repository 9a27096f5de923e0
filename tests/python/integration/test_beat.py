"""Periodic tasks from end to end: `beat`, `worker -B`, and a scheduler class in Celery's style."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from .conftest import PYTHON_PATH, Project, WorkerProcess, children_of, lives, wait_until

TASKS = """
    @app.task(name="tick", ignore_result=True, bind=True)
    def tick(self, word):
        headers = self.request.headers or {}
        mark("ticks", word + ("!" if headers.get("celery_beat_task") else "?"))

    @app.on_after_configure.connect
    def entries(sender, **kwargs):
        sender.add_periodic_task(0.2, tick.s("x"), name="often")

    @signals.beat_init.connect
    def begins(sender, **kwargs):
        mark("signals", "beat_init ")

    @signals.beat_embedded_init.connect
    def embedded(sender, **kwargs):
        mark("signals", "beat_embedded_init ")
    """

SCHEDULER = """
    from celeriac.beat import ScheduleEntry, Scheduler

    class FileEntry(ScheduleEntry):
        def is_due(self):
            return self.schedule.is_due(self.last_run_at)

    class FileScheduler(Scheduler):
        Entry = FileEntry

        def setup_schedule(self):
            super().setup_schedule()
            self.max_interval = 0.1

        def apply_entry(self, entry, producer=None):
            with open("applied", "a") as file:
                file.write(entry.name + " ")
            super().apply_entry(entry, producer=producer)

        def close(self):
            open("closed", "w").close()
            super().close()
    """


def beats_of(worker: WorkerProcess) -> list[int]:
    """Processes of `-B`."""
    found = []
    for pid in children_of(worker.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"celeriac.bin.embedded_beat" in command:
            found.append(pid)
    return found


def one_beat(worker: WorkerProcess, but: int = 0) -> int:
    return wait_until(lambda: next((pid for pid in beats_of(worker) if pid != but), 0), "a beat beside the worker")


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_with_a_beat_sends_and_runs_periodic_tasks(project: Project, pool: str) -> None:
    project.write(TASKS)

    worker = project.start("-B", "-P", pool)
    project.wait_for_mark("ticks", "x!x!x!")
    beat = one_beat(worker)

    assert project.marks("signals").split() == ["beat_init", "beat_embedded_init"]
    assert worker.stop() == 0
    assert not lives(beat)


def test_a_beat_that_dies_is_started_again_and_none_outlives_a_worker_that_is_killed(project: Project) -> None:
    project.write(TASKS)
    worker = project.start("-B", "-c", "1")
    first = one_beat(worker)
    project.wait_for_mark("ticks", "x!x!")

    os.kill(first, signal.SIGKILL)
    second = one_beat(worker, but=first)
    worker.wait_for(r"beat \(process \d+\) ended with code -9; starting it again")
    before = project.marks("ticks")
    project.wait_for_mark("ticks", before + "x!")

    worker.kill()
    wait_until(lambda: not lives(second), "the beat ends with its worker")


def test_a_scheduler_in_celerys_style_runs_by_its_path(project: Project) -> None:
    project.write(TASKS)
    (project.folder / "mine.py").write_text(dedent(SCHEDULER))
    command = [sys.executable, "-m", "celeriac", "-A", "tasks", "beat", "-S", "mine:FileScheduler", "--pidfile", "pid"]
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    beat = subprocess.Popen(command, cwd=project.folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: project.queue().get("ready", 0) >= 2, "two messages")
        assert int(project.marks("pid")) == beat.pid
    finally:
        beat.send_signal(signal.SIGTERM)
        _, told = beat.communicate(timeout=30)

    assert beat.returncode == 0, told
    assert "scheduler -> mine.FileScheduler" in told
    assert project.marks("applied").startswith("often often ")
    assert (project.folder / "closed").exists()
    assert not (project.folder / "pid").exists()
