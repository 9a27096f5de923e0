"""Many tasks under way while something breaks, and the count afterwards."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

from fleet import Fleet, until

TASKS = 2_000


class Load:
    """2,000 tasks on a fleet.

    A task may run again if nobody had learned of its end when something broke: each break adds those to `at_risk`.
    """

    def __init__(self, fleet: Fleet, client: ModuleType, tasks: int = TASKS) -> None:
        self.fleet = fleet
        self.client = client
        self.tasks = tasks
        self.seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
        self.chance = random.Random(self.seed)
        self.at_risk = 0
        self.breaks: list[tuple[str, float]] = []
        self._stored: set[int] = set()
        # In front of the fault: what a busy broker takes its time for is no finding.
        self.results = [client.work.apply_async((number,), timeout=60) for number in range(tasks)]

    def done(self) -> int:
        """How many have ended."""
        return len(self.fleet.runs()[1])

    def reach(self, part: float, seconds: float = 60) -> None:
        """Waits until that part of the tasks has ended."""
        goal = int(self.tasks * part)
        until(lambda: self.done() >= goal, seconds, f"{goal} of {self.tasks} done; {self.done()} were")

    def stored(self) -> set[int]:
        """Those whose result is there."""
        asked = [number for number in range(self.tasks) if number not in self._stored]
        records = self.client.app.client.read([self.results[number].id for number in asked])
        self._stored |= {number for number, record in zip(asked, records, strict=True) if record is not None}
        return set(self._stored)

    def risk(self, before: set[int]) -> int:
        """Counts the tasks that have begun and whose result was not there before."""
        exposed = len(self.fleet.runs()[0].keys() - before)
        self.at_risk += exposed
        return exposed

    def broken(self, what: str, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Waits until something is broken, and for work to go on; counts what was not stored a moment before."""
        before = self.stored()

        def looked() -> bool:
            nonlocal before
            now = self.stored()
            if condition():
                return True
            before = now
            return False

        until(looked, seconds, what)
        self.resumed(what)
        self.risk(before)

    def resumed(self, what: str, seconds: float = 30) -> None:
        """Waits for the next task to end after something broke, which is now."""
        self.breaks.append((what, time.time()))
        done = self.done()
        until(lambda: self.done() > done or done == self.tasks, seconds, f"work goes on after {what}")

    def pauses(self) -> list[str]:
        """For each break the longest time after it in which no task began. Children begin what they have already."""
        if not self.breaks:
            return []
        begins = self.fleet.begins()
        ends = [when for _, when in self.breaks[1:]] + [begins[-1]]
        told = []
        for (what, start), end in zip(self.breaks, ends, strict=True):
            moments = [start, *(when for when in begins if start < when <= end)]
            told.append(f"{what}: {max((b - a for a, b in pairwise(moments)), default=0.0):.2f} s")
        return ["longest pauses: " + ", ".join(told)]

    def settled(self, may_vanish: int) -> bool:
        """Whether all have ended, or all but so many and the broker has nothing left."""
        if self.done() >= self.tasks:
            return True
        left = [queue for queue in self.client.app.client.queues() if queue["ready"] or queue["claimed"]]
        return self.done() >= self.tasks - may_vanish and not left

    def finish(self, seconds: float = 90, may_vanish: int = 0) -> str:
        """Waits for every result, and checks that none is lost and no more has run again than could not be known.

        `may_vanish` is for stock Celery on Redis: it takes a message out of the list and writes it down among the
        unacknowledged in two steps, so that each worker of it that is killed, or cut off, in between may take one message along.
        """
        try:
            until(lambda: self.settled(may_vanish), seconds, f"{self.tasks} done")
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}: without an end {self.missing()}") from error
        vanished = self.missing()
        for number, result in enumerate(self.results):
            assert number in vanished or result.get(timeout=30) == number
        begun, _ = self.fleet.runs()
        again = sum(begun.values()) - len(begun)
        lost = len(vanished)
        text = f"{self.tasks} tasks, seed {self.seed}: lost {lost}, begun again {again} (of at most {self.at_risk})"
        if may_vanish:
            text += f", lost by Celery itself: {lost}"
        assert lost <= may_vanish, text
        assert not begun.keys() & vanished, text
        assert again <= self.at_risk, text
        return "; ".join([text, *self.pauses()])

    def missing(self) -> set[int]:
        """Tasks without an end."""
        return set(range(self.tasks)) - set(self.fleet.runs()[1])
