"""Nothing is lost and nothing runs twice without cause, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from types import ModuleType

import pytest
from fleet import Fleet, is_alive, rss_kib, until

from celeriac.app import send

TASKS = 2_000
KILLS = 10
SLOTS = 4


@pytest.mark.parametrize("prefetch", [(), ("--prefetch-multiplier", "4")], ids=["adaptive", "multiplier of 4"])
def test_late_acknowledged_tasks_survive_random_kills(
    fleet: Fleet, fault_app: ModuleType, figure: Callable[[str], None], prefetch: tuple[str, ...]
) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    results = [fault_app.work.delay(n) for n in range(TASKS)]
    worker = fleet.start("-c", str(SLOTS), *prefetch)
    at_risk = 0
    kills = {"child": 0, "worker": 0}

    for kill in range(KILLS):
        goal = (kill + 1) * TASKS // (KILLS + 2)
        until(lambda goal=goal: len(fleet.runs()[1]) >= goal, 60, f"{goal} tasks done before kill {kill}")
        time.sleep(chance.uniform(0, 0.02))  # the moment of the kill is what is random, nothing waits on it
        if kill % 2:
            fleet.kill_all(worker)
            # Running, or ended a moment ago with the commit still under way: begun, and nothing stored.
            stored = fault_app.app.client.read([result.id for result in results])
            at_risk += sum(1 for number in fleet.runs()[0] if stored[number] is None)
            kills["worker"] += 1
            worker = fleet.start("-c", str(SLOTS), *prefetch)
        else:
            pool = until(lambda w=worker: fleet.pool(w), 10, "children to kill")
            os.kill(chance.choice(pool), signal.SIGKILL)
            at_risk += 1
            kills["child"] += 1

    until(lambda: len(fleet.runs()[1]) == TASKS, 120, "every task done")
    assert [result.get(timeout=30) for result in results] == list(range(TASKS))
    begun, ended = fleet.runs()
    duplicates = sum(begun.values()) - TASKS
    lost = TASKS - len(ended)
    figure(
        f"seed {seed}, prefetch {' '.join(prefetch) or 'adaptive'}: {TASKS} tasks, {SLOTS} slots, kills {kills}: lost {lost}, begun twice {duplicates}, "
        f"uncommitted at the kills {at_risk}"
    )
    assert lost == 0
    assert duplicates <= at_risk


def test_a_task_that_kills_its_process_becomes_a_dead_letter(fleet: Fleet, fault_app: ModuleType) -> None:
    fault_app.killer.delay(7)
    fleet.start("-c", "1")

    letters = until(lambda: fault_app.app.client.dead_letters(), 60, "the dead letter")

    assert [letter["reason"] for letter in letters] == ["crashed"]
    assert fleet.runs()[0][7] == 3
    assert fault_app.work.delay(1).get(timeout=30) == 1


def test_a_killed_supervisor_takes_its_children_with_it(fleet: Fleet, fault_app: ModuleType) -> None:
    worker = fleet.start("-c", "2")
    for n in range(2):
        fault_app.long.delay(n, 60)
    until(lambda: len(fleet.runs()[0]) == 2, 20, "both tasks begun")
    tree = fleet.pool(worker)

    worker.kill()
    worker.wait(10)

    until(lambda: not any(is_alive(pid) for pid in tree), 10, "children gone")


def test_a_worker_that_starts_again_takes_up_its_tasks_at_once(fleet: Fleet, fault_app: ModuleType) -> None:
    worker = fleet.start("-c", "2")
    result = fault_app.long.delay(1, 3)
    until(lambda: fleet.runs()[0][1] == 1, 20, "task begun")
    fleet.kill_all(worker)

    fleet.start("-c", "2")

    until(lambda: fleet.runs()[0][1] == 2, 10, "task begun again, long before the lease of 30 s ends")
    assert result.get(timeout=30) == 1


def test_another_worker_on_the_host_takes_over_at_once(fleet: Fleet, fault_app: ModuleType) -> None:
    worker = fleet.start("-c", "1", name="first")
    fault_app.long.delay(1, 5)
    until(lambda: fleet.runs()[0][1] == 1, 20, "task begun")
    fleet.start("-c", "1", name="second")

    fleet.kill_all(worker)

    until(lambda: fleet.runs()[0][1] == 2, 10, "task begun again by the other worker")


def test_warm_stop_finishes_what_runs_and_hands_back_the_rest(fleet: Fleet, fault_app: ModuleType) -> None:
    worker = fleet.start("-c", "2")
    for n in range(20):
        fault_app.long.delay(n, 0.5)
    until(lambda: len(fleet.runs()[0]) >= 2, 20, "tasks begun")

    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0

    begun, ended = fleet.runs()
    assert begun == ended, "a begun task was not finished"
    queue = {q["name"]: q for q in fault_app.app.client.queues()}["celery"]
    assert queue["claimed"] == 0
    assert queue["ready"] == 20 - len(ended)
    fleet.start("-c", "4")
    until(lambda: len(fleet.runs()[1]) == 20, 30, "the rest done")
    assert max(fleet.runs()[0].values()) == 1


def test_a_hundred_thousand_far_etas_cost_the_worker_no_memory(
    fleet: Fleet, fault_app: ModuleType, figure: Callable[[str], None]
) -> None:
    worker = fleet.start("-c", "2")
    assert fault_app.work.delay(0).get(timeout=30) == 0
    before = rss_kib(worker.pid)
    app = fault_app.app

    for _ in range(100):
        app.client.publish(
            [send.build(app, "fault_app.noop", task=fault_app.noop, countdown=3600) for _ in range(1_000)]
        )
    assert fault_app.work.delay(1).get(timeout=30) == 1
    grown = rss_kib(worker.pid) - before

    figure(f"100,000 tasks with an ETA in an hour: worker memory +{grown / 1024:.1f} MiB")
    queue = {q["name"]: q for q in app.client.queues()}["celery"]
    assert queue["parked"] == 100_000
    assert grown < 10 * 1024
