"""A child's channel and requests without a supervisor: what is answered is kept for the test to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from celeriac.app.base import Celery
from celeriac.worker.limits import SoftLimit
from celeriac.worker.trace import Tracer

NODE = "w1@worker.example"


@dataclass
class FakeExecution:
    """What the bridge's `Execution` offers."""

    headers: dict[str, Any]
    body: bytes
    properties: dict[str, Any]
    tag: int = 1
    mode: str = "run"
    detail: str = ""
    limit: float | None = None
    exchange: str = ""
    routing_key: str = "celery"
    redelivered: bool = False
    soft_limit: float | None = None
    hard_limit: float | None = None
    chord: tuple[str, list[bytes], bytes | None, str | None] | None = None

    def request(self, decoders: Any, node: str) -> None:
        """None leaves it to who reads messages step by step, which is what is tested with this."""

    @property
    def number(self) -> int:
        return self.tag


@dataclass
class Answer:
    """One outcome."""

    tag: int
    kind: str
    results: list[Any]
    publications: list[Any]
    summary: str
    runtime: float | None
    parts: list[Any] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        """The task's own record."""
        return document(self.results[0])


@dataclass
class FakeChannel:
    """What the bridge's `Child` offers a tracer."""

    answers: list[Answer] = field(default_factory=list)
    updates: list[tuple[int, Any]] = field(default_factory=list)
    passed: set[int] = field(default_factory=set)

    def respond(
        self,
        tag: int,
        kind: str,
        results: Any,
        publications: Any,
        summary: str,
        runtime: float | None,
        traceback: str | None = None,
        parts: Any = None,
    ) -> None:
        self.answers.append(Answer(tag, kind, list(results), list(publications), summary, runtime, list(parts or ())))

    def update(self, tag: int, record: Any) -> None:
        self.updates.append((tag, record))

    def soft_limit_passed(self, tag: int) -> bool:
        return tag in self.passed


def document(record: Any) -> dict[str, Any]:
    """The stored document of a JSON record."""
    found: dict[str, Any] = json.loads(record.record)
    return found


class Bench:
    """One app in one child."""

    def __init__(self, **settings: Any) -> None:
        settings = {"broker_url": "memory://", "result_backend": "memory://", **settings}
        self.app = Celery("demo", set_as_current=True, **settings)
        self.channel = FakeChannel()
        self.limit = SoftLimit(self.channel)
        self._tracer: Tracer | None = None

    @property
    def tracer(self) -> Tracer:
        if self._tracer is None:
            self._tracer = Tracer(self.app, NODE, self.channel, self.limit)
        return self._tracer

    def message(
        self,
        name: str,
        args: Any = (),
        kwargs: Any = None,
        *,
        embed: Any = None,
        headers: dict[str, Any] | None = None,
        body: bytes | None = None,
        properties: dict[str, Any] | None = None,
        **execution: Any,
    ) -> FakeExecution:
        """A request as a client of Celery writes it."""
        task_id = (headers or {}).get("id", "11111111-2222-3333-4444-555555555555")
        if embed is None:
            embed = {}
        embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **embed}
        return FakeExecution(
            headers={
                "lang": "py",
                "task": name,
                "id": task_id,
                "shadow": None,
                "eta": None,
                "expires": None,
                "group": None,
                "group_index": None,
                "retries": 0,
                "timelimit": [None, None],
                "root_id": task_id,
                "parent_id": None,
                "argsrepr": repr(tuple(args)),
                "kwargsrepr": repr(kwargs or {}),
                "origin": "gen1@client.example",
                "ignore_result": False,
                "replaced_task_nesting": 0,
                "stamped_headers": None,
                "stamps": {},
                **(headers or {}),
            },
            body=body if body is not None else json.dumps([list(args), kwargs or {}, embed]).encode(),
            properties={
                "content_type": "application/json",
                "content_encoding": "utf-8",
                "correlation_id": task_id,
                "reply_to": "reply",
                "priority": 0,
                **(properties or {}),
            },
            **execution,
        )

    def run(self, name: str, args: Any = (), kwargs: Any = None, **more: Any) -> Answer:
        """Traces one request and gives what was answered."""
        before = len(self.channel.answers)
        self.tracer.trace(self.message(name, args, kwargs, **more))
        assert len(self.channel.answers) == before + 1, "a request is answered exactly once"
        return self.channel.answers[-1]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.app.close()


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(**settings))
        return made[-1]

    yield make
    for one in made:
        one.app.close()
