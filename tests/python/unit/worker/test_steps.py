"""The order of boot steps, and the calls of the timer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celeriac import bootsteps
from celeriac.exceptions import ImproperlyConfigured
from celeriac.worker.steps import Steps
from celeriac.worker.timer import Timer


class First(bootsteps.StartStopStep):
    requires = {"celery.worker.components:Pool"}


class Second(bootsteps.StartStopStep):
    requires = (First,)


class Third(bootsteps.StartStopStep):
    requires = (f"{__name__}:Second",)
    label = "The third"


class Round(bootsteps.StartStopStep):
    requires = (f"{__name__}.Round",)


def worker() -> Any:
    return SimpleNamespace(steps=[], arguments=SimpleNamespace(options={"concurrency": 2}))


def test_what_a_step_requires_comes_first_and_is_added() -> None:
    parent = worker()

    Steps(parent, {"worker": {Third}})

    assert [step.alias for step in parent.steps] == ["First", "Second", "The third"]
    assert First.name == f"{__name__}.First"


def test_steps_that_require_each_other_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="require each other"):
        Steps(worker(), {"worker": {Round}})


def test_a_step_that_raises_when_it_stops_does_not_keep_the_others_running(caplog: Any) -> None:
    stopped: list[str] = []

    class Bad(bootsteps.StartStopStep):
        def stop(self, parent: Any) -> None:
            raise ValueError("no")

    class Good(bootsteps.StartStopStep):
        requires = ()

        def stop(self, parent: Any) -> None:
            stopped.append("warm")

        def terminate(self, parent: Any) -> None:
            stopped.append("cold")

    for cold in (False, True):
        steps = Steps(worker(), {"worker": {Bad, Good}})
        steps.start()
        steps.stop(cold=cold)

    assert stopped == ["warm", "cold"]
    assert "Error on stop of step <step: " in caplog.text


def test_the_timer_says_when_it_is_due_next() -> None:
    timer, called = Timer(), []
    assert timer.run_due() is None

    timer.call_after(0, called.append, ("now",))
    later = timer.call_after(3600, called.append, ("later",))
    wait = timer.run_due()

    assert called == ["now"]
    assert wait is not None
    assert 0 < wait <= 3_600_000
    later.cancel()
    assert timer.run_due() is None
    assert called == ["now"]
