"""Remote control between the libraries: each one's commands and clients with the other's workers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..servers.run import until
from ..servers.shared import Shared
from .battery import Side, Worker, rabbitmq_place, redis_place

NODE = "interop@host"
PAIRINGS = [("celery", "celeriac"), ("celeriac", "celery"), ("celeriac", "celeriac")]


@dataclass
class Talk:
    """A client of one library and a worker of another."""

    asks: Side
    worker: Worker

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the asking side's command line."""
        return subprocess.run(
            [self.asks.python, "-m", self.asks.library, "-A", "interop_app", *arguments],
            env=self.asks.environment,
            cwd=self.asks.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:
        """The answer of the node."""
        done = self.run(*arguments, "--json", "-d", NODE, "-t", "20")
        assert done.returncode == 0, done.stderr + done.stdout
        answers = json.loads(done.stdout.strip().splitlines()[-1])
        return answers[NODE] if isinstance(answers, dict) else answers[0][NODE]


@pytest.fixture(params=["redis", "rabbitmq"])
def talk(request: pytest.FixtureRequest, shared: Shared, tmp_path: Path) -> Iterator[Talk]:
    client, server = request.node.callspec.params["pairing"]
    place = (redis_place if request.param == "redis" else rabbitmq_place)(shared)
    worker = Side(server, place, tmp_path).worker("-c", "2")
    yield Talk(Side(client, place, tmp_path), worker)
    worker.stop(hard=True)


@pytest.mark.parametrize("pairing", PAIRINGS, ids="-".join)
def test_commands_of_one_library_are_answered_by_workers_of_the_other(talk: Talk, pairing: tuple[str, str]) -> None:
    ours = pairing[1] == "celeriac"

    assert talk.ask("inspect", "ping") == {"ok": "pong"}
    stats = talk.ask("inspect", "stats")
    assert stats["pid"] == talk.worker.pid
    assert stats["pool"]["max-concurrency"] == 2
    assert len(stats["pool"]["processes"]) == 2
    assert talk.ask("inspect", "active") == talk.ask("inspect", "reserved") == talk.ask("inspect", "scheduled") == []
    registered = talk.ask("inspect", "registered", "max_retries")
    assert registered
    assert all(" [max_retries=" in one for one in registered)
    queues = [queue["name"] for queue in talk.ask("inspect", "active_queues")]
    assert "celery" in queues
    assert talk.ask("inspect", "query_task", "nothing") == {}
    assert "broker_url" in talk.ask("inspect", "conf")
    assert "software ->" in talk.ask("inspect", "report")["ok"]
    task = registered[0].split(" ")[0]
    assert talk.ask("control", "rate_limit", task, "100/m") == {"ok": "new rate limit set successfully"}
    assert talk.ask("control", "rate_limit", task, "1/x") == {"error": "KeyError('x')"}
    assert talk.ask("control", "time_limit", task, "60", "120") == {"ok": "time limits set successfully"}
    assert talk.ask("control", "add_consumer", "more") == {"ok": "add consumer more"}
    until(lambda: "more" in [queue["name"] for queue in talk.ask("inspect", "active_queues")], 20, "one queue more")
    assert talk.ask("control", "cancel_consumer", "more") == {"ok": "no longer consuming from more"}
    assert talk.ask("control", "revoke", "some-id") == {"ok": "tasks {'some-id'} flagged as revoked"}
    assert talk.ask("inspect", "revoked") == ["some-id"]
    assert talk.ask("control", "terminate", "KILL", "other-id") == {"ok": "terminate: tasks unknown"}
    assert talk.ask("control", "autoscale", "4", "1") == {"error": "ValueError('Autoscale not enabled')"}
    grown = talk.ask("control", "pool_grow", "1")
    assert grown == {"ok": "pool will grow"} or (ours and set(grown) == {"error"})

    status = talk.run("status", "-t", "3")
    assert status.returncode == 0
    assert f"{NODE}: OK" in status.stdout
    assert "1 node online." in status.stdout
    talk.run("control", "shutdown", "-t", "1")
    until(lambda: talk.worker.process.poll() is not None, 30, "the worker has shut down")
    assert talk.worker.process.returncode == 0
    assert talk.run("status", "-t", "0.5").returncode == 69
