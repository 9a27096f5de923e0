"""Boot steps of projects written for Celery: made, started, called by the timer, stopped."""

from __future__ import annotations

from typing import Any

from .conftest import wait_until

STEPS = """
    from celeriac.bootsteps import StartStopStep, Step

    class Service:
        def start(self):
            mark("steps", "service.start ")
        def stop(self):
            mark("steps", "service.stop ")

    class Liveness(StartStopStep):
        requires = {"celery.worker.components:Timer"}

        def __init__(self, worker, **kwargs):
            self.entry = None
            mark("steps", f"made:{worker.hostname} ")

        def start(self, worker):
            mark("steps", "liveness.start ")
            self.entry = worker.timer.call_repeatedly(0.02, self.touch, (worker,), priority=10)

        def touch(self, worker):
            mark("alive")

        def stop(self, worker):
            self.entry.cancel()
            mark("steps", "liveness.stop ")

    class Made(StartStopStep):
        requires = (Liveness,)

        def create(self, worker):
            return Service()

    class Off(StartStopStep):
        def include_if(self, worker):
            return False

        def start(self, worker):
            mark("steps", "wrong ")

    class Breaks(Step):
        def create(self, worker):
            worker.extra = "here"

    @signals.worker_shutdown.connect
    def gone(**kwargs):
        mark("steps", "worker_shutdown ")

    for step in (Made, Liveness, Off, Breaks):
        app.steps["worker"].add(step)
    """


def test_steps_of_the_worker_are_started_in_order_and_stopped_the_other_way_round(project: Any) -> None:
    project.write(STEPS)
    worker = project.start("-c", "1", "-n", "w1@here")
    wait_until(lambda: len(project.marks("alive")) >= 3, "the timer calls again and again")

    assert worker.stop() == 0

    assert project.marks("steps").split() == [
        "made:w1@here",
        "liveness.start",
        "service.start",
        "service.stop",
        "liveness.stop",
        "worker_shutdown",
    ]


def test_steps_run_beside_the_solo_pool_too(project: Any) -> None:
    project.write(STEPS)
    worker = project.start("-P", "solo", "-n", "w1@here")
    wait_until(lambda: len(project.marks("alive")) >= 3, "the timer calls again and again")

    assert worker.stop() == 0
    assert "liveness.stop" in project.marks("steps")


def test_a_step_of_the_consumer_is_refused_with_what_to_use_instead(project: Any) -> None:
    project.write(
        """
        from celeriac.bootsteps import ConsumerStep

        class Other(ConsumerStep):
            def get_consumers(self, channel):
                return []

        app.steps["consumer"].add(Other)
        """
    )

    worker = project.start(ready=False)

    assert worker.wait() == 2
    [line] = [line for line in worker.lines if line.startswith("Error")]
    assert "tasks.Other" in line
    for hook in ("worker_ready", "worker_shutdown", "app.steps['worker']"):
        assert hook in line


def test_a_call_of_the_timer_that_raises_is_logged_and_called_again(project: Any) -> None:
    project.write(
        """
        from celeriac.bootsteps import StartStopStep

        class Bad(StartStopStep):
            def start(self, worker):
                worker.timer.call_repeatedly(0.01, self.fail)
                worker.timer.call_after(0.01, mark, ("once",)).cancel()

            def fail(self):
                mark("tried")
                raise ValueError("no")

        app.steps["worker"].add(Bad)
        """
    )
    worker = project.start("-c", "1")
    wait_until(lambda: len(project.marks("tried")) >= 2, "it is called again")

    assert worker.stop() == 0
    assert "Timer call" in worker.log
    assert project.marks("once") == ""
