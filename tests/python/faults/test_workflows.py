"""A workflow always ends, in a result or in an error, whatever is killed, and its body is not run twice."""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from fleet import Fleet, until

from celeriac import chain, chord, group
from celeriac.exceptions import ChordError, TimeoutError, WorkerLostError

from ..servers.shared import Shared

#: 1 is 200 chords of 50, 200 chains of 20 and 50 mixtures. Small by default: it runs with everything else.
SCALE = float(os.environ.get("FAULT_WORKFLOWS", "0.05"))
SLOTS = 4
#: Numbers of bodies and error links begin here.
BODIES = 1_000_000
#: The lease of a worker; what it held comes back after it at the latest.
LEASE = 3


@pytest.fixture(params=["embedded", "redis", "rabbitmq"])
def fleets(request: pytest.FixtureRequest, new_fleet: Callable[..., Fleet], shared: Shared) -> Fleet:
    """A fleet whose tasks are acknowledged early, on a broker of the test's own."""
    settings: dict[str, Any] = {
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "worker_lease_seconds": LEASE,
    }
    if request.param == "embedded":
        return new_fleet(**settings)
    if request.param == "redis":
        return new_fleet(shared.redis(), **settings)
    return new_fleet(shared.rabbitmq(), shared.redis(), **settings)


@pytest.fixture
def tasks(fleets: Fleet, client_of: Callable[..., ModuleType]) -> Iterator[ModuleType]:
    """Their tasks, as a client of it."""
    client_of(fleets)
    sys.modules.pop("workflow_app", None)
    yield importlib.import_module("workflow_app")
    sys.modules.pop("workflow_app", None)


class Workflows:
    """Many of them under way, and how they ended."""

    def __init__(self, tasks: ModuleType) -> None:
        self.tasks = tasks
        self.numbers = iter(range(BODIES))
        self.bodies = iter(range(BODIES, 2 * BODIES))
        #: What each comes to, and what it must come to.
        self.sent: list[tuple[str, Any, int]] = []

    def step(self, *args: int, late: bool = False) -> Any:
        task = self.tasks.late_step if late else self.tasks.step
        return task.s(*args, next(self.numbers))

    def chain(self, length: int) -> None:
        steps = [self.step(0), *(self.step() for _ in range(length - 1))]
        self.sent.append(("chain", chain(*steps).apply_async(), length))

    def chord(self, size: int) -> None:
        header = group(self.step(0) for _ in range(size))
        self.sent.append(("chord", chord(header)(self.tasks.collect.s(next(self.bodies))), size))

    def mixture(self, chance: random.Random) -> None:
        """A step, a group of chains and chords, a body, and a step after it."""
        late = chance.random() < 0.5
        inner = chord([self.step(late=late) for _ in range(4)], self.tasks.collect.s(next(self.bodies)))
        members = [inner, *(chain(self.step(late=late), self.step()) for _ in range(3))]
        whole = chain(self.step(0), group(members), self.tasks.collect.s(next(self.bodies)), self.step())
        self.sent.append(("mixture", whole.apply_async(), 4 * 2 + 3 * 3 + 1))

    def ended(self) -> int:
        """How many have a record of their end."""
        records = self.tasks.app.client.read([result.id for _, result, _ in self.sent])
        return sum(1 for record in records if record is not None and record.state in ("SUCCESS", "FAILURE", "REVOKED"))

    def outcomes(self) -> Counter[str]:
        """How they ended. Raises when one has a wrong result, or an end that is not told by its kind."""
        counts: Counter[str] = Counter()
        for kind, result, expected in self.sent:
            try:
                assert result.get(timeout=30) == expected
                counts[f"{kind}s that succeeded"] += 1
            except (WorkerLostError, ChordError) as error:
                if "WorkerLostError" not in repr(error):
                    raise
                counts[f"{kind}s that failed"] += 1
            except TimeoutError:
                counts[f"{kind}s that hang"] += 1
        return counts


def kill_at_random(fleet: Fleet, workflows: Workflows, kills: int, chance: random.Random) -> Counter[str]:
    """Kills children and whole workers of two while they work; starts others in their place."""
    killed: Counter[str] = Counter()
    names = ["one", "two"]
    workers = [start(fleet, name) for name in names]
    steps = next(workflows.numbers)
    for kill in range(kills):
        goal = steps * (kill + 1) // (kills + 3)

        def busy(goal: int = goal) -> bool:
            return len(fleet.runs()[0]) >= goal or workflows.ended() == len(workflows.sent)

        until(busy, 120, f"{goal} steps have begun before kill {kill}")
        time.sleep(chance.uniform(0, 0.02))  # the moment of the kill is what is random, nothing waits on it
        place = chance.randrange(2)
        if kill % 2:
            fleet.kill_all(workers[place])
            killed["workers"] += 1
            workers[place] = start(fleet, names[place])
        else:
            pool = until(lambda worker=workers[place]: fleet.pool(worker), 10, "children to kill")
            os.kill(chance.choice(pool), signal.SIGKILL)
            killed["children"] += 1
    return killed


def start(fleet: Fleet, name: str) -> Any:
    """A worker of the fleet."""
    return fleet.start("-c", str(SLOTS), name=name, app="workflow_app")


def test_every_workflow_ends_whatever_is_killed(
    fleets: Fleet, tasks: ModuleType, figure: Callable[[str], None]
) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    workflows = Workflows(tasks)
    for _ in range(max(2, round(200 * SCALE))):
        workflows.chain(20)
        workflows.chord(50)
    for _ in range(max(2, round(50 * SCALE))):
        workflows.mixture(chance)

    killed = kill_at_random(fleets, workflows, max(4, round(60 * SCALE)), chance)
    whole = len(workflows.sent)
    try:
        until(lambda: workflows.ended() == whole, 60 + 600 * SCALE, f"all {whole} workflows have ended")
    except AssertionError as error:
        raise AssertionError(
            f"seed {seed}: {workflows.ended()} of {whole} have ended: {workflows.outcomes()}"
        ) from error
    counts = workflows.outcomes()
    begun, _ = fleets.runs()
    bodies = Counter(times for number, times in begun.items() if number >= BODIES)
    more = sum(bodies.values()) - bodies[1]
    twice = sum(times - 1 for times in begun.values())
    figure(
        f"{fleets.broker.partition(':')[0]}, seed {seed}, killed {dict(killed)}: {dict(sorted(counts.items()))}; "
        f"bodies run once: {bodies[1]}, more often: {more}; tasks begun again: {twice}"
    )
    assert not any("hang" in name for name in counts), counts
    assert counts["chains that succeeded"], counts
    assert counts["chords that succeeded"], counts
    if not fleets.broker.startswith("amqp"):
        # There the body is published, and then the chord is over.
        assert not more, f"seed {seed}"
