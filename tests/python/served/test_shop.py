"""A whole project made with Celery: Celery's worker and ours, the same client, the same outcome."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..servers.run import end, tied, until
from ..servers.shared import Shared

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PYTHON = str(ROOT / ".venv-celery/bin/python")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Run:
    """What one worker gave."""

    seen: dict[str, Any]
    notes: dict[str, list[Any]]
    log: str


class Worker:
    """A worker of either library, for the project."""

    def __init__(self, program: str, folder: Path, place: tuple[str, str], *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC"))}
        self.environment = {
            **clean,
            "SHOP_BROKER": place[0],
            "SHOP_BACKEND": place[1],
            "SHOP_FOLDER": str(folder),
            "PYTHONPATH": f"{HERE}:{ROOT / 'python'}",
            "PYTHONWARNINGS": "ignore",
        }
        command = [PYTHON, "-m", program, "-A", "shop", "worker", "-c", "3", "-l", "INFO", *options]
        with (folder / "worker.log").open("wb") as output:
            self.process = tied(
                command, cwd=folder, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        until(lambda: " ready." in self.log or self.process.poll() is not None, 40, f"{program} is ready")
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")

    def notes(self) -> list[list[Any]]:
        file = self.folder / "notes"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def client(self) -> dict[str, Any]:
        done = subprocess.run(
            [PYTHON, str(HERE / "shop_client.py")],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{done.stderr}\n{self.log}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def stop(self) -> None:
        end(self.process, hard=True)


def run(program: str, folder: Path, place: tuple[str, str], *options: str) -> Run:
    worker = Worker(program, folder, place, *options)
    try:
        found = worker.client()

        def complete() -> bool:
            said = [note[0] for note in worker.notes()]
            return said.count("linked") >= 3 and "old_errback" in said and "new_errback" in said and "silent" in said

        until(complete, 20, "links were called")
    finally:
        worker.stop()
    names = {task_id: name for name, task_id in found["ids"].items()}
    return Run(found["seen"], by_call(worker.notes(), names), worker.log)


def by_call(notes: list[list[Any]], names: dict[str, str]) -> dict[str, list[Any]]:
    """What hooks and signals said, for each call in order; tasks that were sent by others are left out."""
    found: dict[str, list[Any]] = {}
    for note in notes:
        name = next((names[word] for word in note if word in names), None)
        if name is None and any(isinstance(word, str) and UUID.fullmatch(word) for word in note):
            continue
        tidy = [UUID.sub("<id>", word) if isinstance(word, str) else word for word in note]
        if name is not None or note[0] in {"linked", "silent"}:
            found.setdefault(name or note[0], []).append(tidy)
    for name in ("linked", "error links"):
        # Sent together, to several processes.
        found[name] = sorted(found.get(name, []), key=repr)
    return found


@pytest.fixture(scope="module", params=["redis", "rabbitmq", "file"])
def runs(request: pytest.FixtureRequest, shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """`file` is a result backend that only Celery knows."""
    folder = tmp_path_factory.mktemp("shop")

    def place(program: str) -> tuple[str, str]:
        if request.param != "file":
            return getattr(shared, request.param)(), shared.redis()
        results = folder / f"results-{program}"
        results.mkdir()
        return shared.redis(), f"file://{results}"

    return {program: run(program, folder / program, place(program)) for program in ("celery", "celeriac")}


def test_the_client_sees_the_same_results(
    runs: dict[str, Run], subtests: pytest.Subtests, request: pytest.FixtureRequest
) -> None:
    on_rabbitmq = request.node.callspec.params["runs"] == "rabbitmq"
    theirs, ours = runs["celery"].seen, runs["celeriac"].seen

    assert ours.keys() == theirs.keys()
    assert theirs["add"]["value"] == 5
    assert theirs["chord"]["last"]["value"] == 20
    for name in theirs:
        with subtests.test(call=name):
            if name == "expired" and on_rabbitmq:
                # RabbitMQ drops what has expired, unless a worker takes it this very moment; then nobody hears of it.
                assert {ours[name]["state"], theirs[name]["state"]} <= {"REVOKED", "PENDING"}
            else:
                assert ours[name] == theirs[name]


def test_hooks_and_signals_say_the_same(runs: dict[str, Run], subtests: pytest.Subtests) -> None:
    theirs, ours = runs["celery"].notes, runs["celeriac"].notes

    assert ours.keys() == theirs.keys()
    assert [note[0] for note in theirs["hooked"]] == [
        "watched", "task_prerun", "before_start", "on_success", "after_return", "task_postrun",
    ]  # fmt: skip
    for name in theirs:
        with subtests.test(call=name):
            if name == "hard limit":
                # Celery tells of it twice, once from the process that it has just killed.
                assert {note[0] for note in ours[name]} == {note[0] for note in theirs[name]} - {"task_postrun"}
                assert len(ours[name]) == len({note[0] for note in ours[name]})
            elif any("RETRY" in note for note in theirs[name]):
                # The next attempt is another process's, and may begin before this one has told of its end.
                assert sorted(map(json.dumps, ours[name])) == sorted(map(json.dumps, theirs[name]))
            else:
                assert ours[name] == theirs[name]


def test_the_worker_was_ours(runs: dict[str, Run]) -> None:
    assert "celeriac" in runs["celeriac"].log
    assert "celeriac" not in runs["celery"].log


@pytest.mark.parametrize("how", ["-B", "beat"])
def test_periodic_tasks_of_celerys_schedules_are_sent(shared: Shared, tmp_path: Path, how: str) -> None:
    place = shared.redis(), shared.redis()
    worker = Worker("celeriac", tmp_path, place, *(["-B"] if how == "-B" else []))
    beat = None
    try:
        if how == "beat":
            command = [PYTHON, "-m", "celeriac", "-A", "shop", "beat"]
            with (tmp_path / "beat.log").open("wb") as output:
                beat = tied(command, cwd=tmp_path, env=worker.environment, stdout=output, stderr=output)
        until(lambda: [note[0] for note in worker.notes()].count("tick") >= 2, 30, "two ticks")
        until(lambda: worker.notes().count(["tock", "lazy"]) >= 2, 30, "a schedule of the project's own")
        listed = subprocess.run(
            [PYTHON, "-m", "celeriac", "-A", "shop", "schedule", "list"],
            cwd=tmp_path, env=worker.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        worker.stop()
        if beat is not None:
            end(beat, hard=True)

    assert "nightly: shop.add <crontab: 30 3 * * * (m/h/dM/MY/d)>" in listed.stdout, listed.stderr


def test_a_chord_ends_when_a_child_dies_in_it(shared: Shared, tmp_path: Path) -> None:
    worker = Worker("celeriac", tmp_path, (shared.redis(), shared.redis()))
    program = """
import os, shop, time
from celery import group
result = (group(shop.add.s(1, 1), shop.dies.s()) | shop.total.s()).apply_async()
deadline = time.monotonic() + 30
while not result.ready() and time.monotonic() < deadline:
    time.sleep(0.02)
print(result.state, type(result.result).__name__, result.result, flush=True)
print(result.parent[1].id, flush=True)
os._exit(0)
"""
    try:
        done = subprocess.run(
            [PYTHON, "-c", program],
            cwd=tmp_path,
            env=worker.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout.splitlines()
        assert said[0].startswith("FAILURE ChordError Dependency"), done.stderr
        assert "WorkerLostError" in said[0]
        told = [note for note in worker.notes() if said[1] in note and note[1] == "shop.dies"]
    finally:
        worker.stop()

    # Hooks and signals know the exception by Celery's class.
    assert [note[0] for note in told] == [
        "watched", "task_prerun", "before_start", "on_failure", "task_failure", "after_return",
    ]  # fmt: skip
    assert "WorkerLostError" in told[3][3]


def test_a_scheduler_of_celerys_beat_is_refused_with_a_hint(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/queue.db"
    done = subprocess.run(
        [PYTHON, "-m", "celeriac", "-A", "shop", "beat", "-S", "shop:OwnScheduler"],
        cwd=tmp_path,
        env={
            **os.environ,
            "SHOP_BROKER": place,
            "SHOP_BACKEND": place,
            "SHOP_FOLDER": str(tmp_path),
            "PYTHONPATH": f"{HERE}:{ROOT / 'python'}",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert "celery beat" in done.stderr
