"""Children are replaced after so many tasks."""

from __future__ import annotations

from typing import Any

TASKS = """
    @app.task(name="pid")
    def pid():
        return os.getpid()

    @signals.worker_process_init.connect
    def begin(**kwargs):
        mark("begun")

    @signals.worker_process_shutdown.connect
    def end(**kwargs):
        mark("ended")
    """


def test_a_child_runs_no_more_than_its_tasks(project: Any) -> None:
    project.write(TASKS)
    worker = project.start("-c", "1", "--max-tasks-per-child", "3")

    pids = [project.send("pid").get(timeout=30) for _ in range(9)]

    runs = [pids.count(pid) for pid in dict.fromkeys(pids)]
    assert runs == [3, 3, 3]
    assert worker.stop() == 0
    assert len(project.marks("begun")) >= 3
    assert len(project.marks("ended")) >= 3, "handlers of the end run when a child is replaced"
