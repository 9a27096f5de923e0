"""Feeds random events to the `State` of a library, and prints what it then knows: `state_feed.py LIBRARY SEED EVENTS`."""

from __future__ import annotations

import gc
import importlib
import json
import random
import sys

LIBRARY, SEED, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
NOW = 1_700_000_000.0
TASKS = ["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "progress"]
WORKERS = ["online", "heartbeat", "heartbeat", "heartbeat", "offline"]
FIELDS = {
    "sent": lambda rng: {
        "queue": "q",
        "exchange": "",
        "routing_key": "q",
        "name": name(rng),
        "args": "()",
        "kwargs": "{}",
    },
    "received": lambda rng: {
        "name": name(rng),
        "args": f"({rng.randrange(9)},)",
        "kwargs": "{}",
        "retries": rng.randrange(3),
        "eta": None,
        "expires": None,
        "root_id": identity(rng),
        "parent_id": rng.choice([None, identity(rng)]),
    },
    "succeeded": lambda rng: {"result": "1", "runtime": rng.random()},
    "failed": lambda rng: {"exception": "ValueError()", "traceback": "..."},
    "retried": lambda rng: {"exception": "KeyError()", "traceback": "..."},
    "revoked": lambda rng: {"terminated": False, "signum": None, "expired": True},
    "rejected": lambda rng: {"requeue": True},
    "progress": lambda rng: {"percent": rng.randrange(100)},
}


def name(rng):
    return f"task.{rng.randrange(6)}"


def identity(rng):
    return f"id-{rng.randrange(90)}"


def random_event(rng, number):
    # Mostly in order; some late, some of a clock of their own.
    moment = NOW + number * 0.1 + rng.choice([0, 0, 0, -3, 2])
    event = {
        "hostname": f"w{rng.randrange(6)}@host",
        "timestamp": moment,
        "local_received": moment + rng.choice([0.01, 0.02, 0.5]),
        "clock": rng.choice([number, number, number, number - 7, number + 3, 0, 5]),
        "pid": 100 + rng.randrange(3),
        "utcoffset": 0,
    }
    kind = rng.random()
    if kind < 0.75:
        subject = rng.choice(TASKS)
        event.update(FIELDS.get(subject, lambda rng: {})(rng), type=f"task-{subject}", uuid=identity(rng))
    elif kind < 0.95:
        event.update(
            type=f"worker-{rng.choice(WORKERS)}",
            freq=rng.choice([2.0, 5]),
            active=rng.randrange(5),
            processed=number,
            loadavg=[0.5, 0.5, 0.5],
            sw_ident="x",
            sw_ver="1",
            sw_sys="y",
        )
        if rng.random() < 0.1:
            del event["local_received"]
    else:
        event.update(type=rng.choice(["my-thing", "nothing"]))
    return event


def main():
    module = importlib.import_module(f"{LIBRARY}.events.state")
    rng, told = random.Random(SEED), []
    keywords = {}
    if SEED % 2:
        keywords = {
            "on_node_join": lambda worker: told.append(["join", worker.hostname]),
            "on_node_leave": lambda worker: told.append(["leave", worker.hostname]),
        }
    state = module.State(
        callback=lambda state, event: told.append(event["type"]),
        max_workers_in_memory=4,
        max_tasks_in_memory=30 if SEED % 3 else 1000,
        **keywords,
    )
    answers = []
    for number in range(1, COUNT + 1):
        found = state.event(random_event(rng, number))
        if found is not None:
            (subject, created), kind = found
            answers.append([subject.id, created, kind])
        if rng.random() < 0.001:
            state.clear_tasks(ready=rng.random() < 0.5)
    del found, subject
    # Celery's tasks are in cycles with themselves: forgotten ones stay until they are collected.
    gc.collect()
    json.dump({"told": told, "answers": answers, **knows(state)}, sys.stdout)


def knows(state):
    names = state.task_types()
    seen = {
        "counts": [state.event_count, state.task_count],
        "repr": repr(state),
        "types": names,
        "workers": [[key, worker_fields(worker)] for key, worker in state.workers.items()],
        "tasks": [[key, task_fields(task)] for key, task in state.tasks.items()],
        "by_time": [
            [key for key, _ in state.tasks_by_time(limit=limit, reverse=way)]
            for limit in (None, 25)
            for way in (True, False)
        ],
        "by_type": {key: sorted(task.id for task in tasks) for key, tasks in state.tasks_by_type.items()},
        "by_worker": {key: sorted(task.id for task in tasks) for key, tasks in state.tasks_by_worker.items()},
        "of_type": {key: [found for found, _ in state.tasks_by_type(key, limit=5)] for key in names},
        "first": [key for key, _ in state.itertasks(limit=3)],
        "alive": sorted(worker.hostname for worker in state.alive_workers()),
        "heap": [list(moment[:3]) for moment in state._taskheap],
    }
    try:
        seen["of_worker"] = [key for key, _ in state.tasks_by_worker("w1@host")]
    except AttributeError:
        seen["of_worker"] = None  # Celery's fails when a task has no worker yet
    return seen


def worker_fields(worker):
    return {field: getattr(worker, field) for field in worker._fields} | {
        "status": worker.status_string,
        "id": worker.id,
    }


def task_fields(task):
    fields = task.as_dict()
    fields["worker"] = fields["worker"] and fields["worker"].hostname
    fields["children"] = sorted(fields["children"])
    return fields | {
        "info": task.info(),
        "origin": task.origin,
        "ready": task.ready,
        "repr": repr(task),
        "found": [task.parent and task.parent.id, task.root and task.root.id],
        "percent": getattr(task, "percent", None),
    }


main()
