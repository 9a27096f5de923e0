"""`State` alone; that it is Celery's is in `interop/test_monitor_state.py`."""

from __future__ import annotations

import pickle
import time
from typing import Any

from celeriac.events.state import State, Task, Worker, heartbeat_expires
from celeriac.utils.clocks import LamportClock, timetuple


def event(kind: str, **fields: Any) -> dict[str, Any]:
    now = time.time()
    return {"type": kind, "hostname": "w@h", "timestamp": now, "local_received": now, "clock": 1, "pid": 7, **fields}


def test_a_worker_lives_until_its_heartbeats_stop() -> None:
    state = State()
    state.event(event("worker-heartbeat", freq=2, active=1))
    (worker,) = state.alive_workers()
    assert (worker.hostname, worker.pid, worker.active, worker.status_string) == ("w@h", 7, 1, "ONLINE")
    state.event(event("worker-offline", freq=2))
    assert not list(state.alive_workers())
    assert heartbeat_expires(100, 2) == 104


def test_late_events_do_not_set_a_task_back() -> None:
    state = State()
    state.event(event("task-succeeded", uuid="i", result="1", clock=5))
    state.event(event("task-received", uuid="i", name="add", args="(1,)", kwargs="{}", retries=0, odd=1, clock=2))
    task = state.tasks["i"]
    assert (task.state, task.name, task.args, task.ready) == ("SUCCESS", "add", "(1,)", True)
    assert not hasattr(task, "odd")
    assert task.received is not None


def test_nonsense_replaces_no_method() -> None:
    state = State()
    state.event(event("task-received", uuid="i", name="add", event="x", info="y", children="z", alive=5))
    state.event(event("worker-heartbeat", freq=2, event="x", alive=False, update=1))
    assert callable(state.tasks["i"].event)
    assert state.tasks["i"].info() == {}
    assert state.workers["w@h"].alive


def test_a_state_may_be_pickled() -> None:
    state = State(max_tasks_in_memory=10)
    state.event(event("worker-heartbeat", freq=2))
    state.event(event("task-received", uuid="root", name="add"))
    state.event(event("task-received", uuid="child", name="add", parent_id="root", root_id="root"))
    again = pickle.loads(pickle.dumps(state))
    assert sorted(again.tasks) == ["child", "root"]
    assert {task.id for task in again.tasks_by_type["add"]} == {"root", "child"}
    assert (again.workers["w@h"].pid, again.tasks["child"].state) == (7, "RECEIVED")
    assert Task("a") == Task("a") != Task("b")
    assert Worker("a") == Worker("a")


def test_logical_time_comes_before_the_watch() -> None:
    early, late = timetuple(1, 50.0, "b", None), timetuple(2, 10.0, "a", None)
    assert early < late
    assert timetuple(0, 50.0, "b", None) > late
    assert timetuple(1, 99.0, "a", None) < early
    clock = LamportClock()
    assert (clock.forward(), clock.adjust(10), clock.adjust(3), clock.value) == (1, 11, 12, 12)
