"""Every signal, against Celery's own: where it is sent, when, by whom, and with what."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..servers.run import end, tied, until
from ..servers.shared import Shared

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CELERY = str(ROOT / ".venv-celery/bin/python")
#: `served` is an app that Celery itself has made, in a worker of ours.
PYTHONS = {"celeriac": sys.executable, "celery": CELERY, "served": CELERY}
OURS = ["celeriac", "served"]

#: Meant: where Celery's worker stores what a child could not, our children do, since hooks are user code.
ELSEWHERE = {("task_failure", "task rejects")}


def run(library: str, folder: Path, url: str, **environment: str) -> list[dict[str, Any]]:
    """A worker's life, with the scenario in the middle of it unless it is only about logging."""
    folder.mkdir()
    env = {
        **os.environ,
        "SIGNALS_LIBRARY": "celery" if library == "served" else library,
        "SIGNALS_FOLDER": str(folder),
        "SIGNALS_URL": url,
        "PYTHONPATH": str(HERE) if library == "celery" else f"{HERE}:{ROOT / 'python'}",
        **environment,
    }
    program = "celery" if library == "celery" else "celeriac"
    command = [PYTHONS[library], "-m", program, "-A", "signals_app", "worker", "-c", "1", "-n", "w1@here", "-l", "INFO"]
    log = folder / "signals.log"
    with (folder / "worker.log").open("wb") as output:
        worker = tied(command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            ready = lambda: log.exists() and '"worker_ready"' in log.read_text()  # noqa: E731
            until(lambda: ready() or worker.poll() is not None, 60, f"{library} is ready")
            assert worker.poll() is None, (folder / "worker.log").read_text()
            if not environment:
                client = [PYTHONS[library], str(HERE / "signals_app.py")]
                done = subprocess.run(
                    client,
                    cwd=folder,
                    env={**env, "SIGNALS_PROCESS": "client"},
                    capture_output=True,
                    text=True,
                    timeout=180,
                )
                assert done.returncode == 0, f"{library}: {done.stderr}\n{(folder / 'worker.log').read_text()}"
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        finally:
            end(worker, hard=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return sorted(lines, key=lambda line: line["time"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("signals")
    return {library: folder / library for library in PYTHONS}


@pytest.fixture(scope="module")
def noted(folders: dict[str, Path], shared: Shared) -> dict[str, list[dict[str, Any]]]:
    return {library: run(library, folder, shared.redis()) for library, folder in folders.items()}


def shapes(lines: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """For each signal: sender, process and names of arguments, as often as they differ."""
    found: dict[str, set[Any]] = {}
    for line in lines:
        process = line["process"]
        if (line["signal"], line["sender"]) in ELSEWHERE:
            process = "worker"
        found.setdefault(line["signal"], set()).add((line["sender"], process, tuple(line["arguments"])))
    return {name: sorted(shape) for name, shape in found.items()}


@pytest.mark.parametrize("library", OURS)
def test_each_signal_is_sent_by_the_same_sender_in_the_same_process_with_the_same_arguments(
    noted: dict[str, list[dict[str, Any]]], library: str
) -> None:
    ours, theirs = shapes(noted[library]), shapes(noted["celery"])

    assert len(theirs) >= 20
    assert ours == theirs


@pytest.mark.parametrize("library", OURS)
def test_what_signals_tell_is_the_same(noted: dict[str, list[dict[str, Any]]], library: str) -> None:
    def told(lines: list[dict[str, Any]]) -> list[str]:
        with_facts = [
            line for line in lines if line["facts"] and line["signal"].startswith(("task_", "worker_shutting"))
        ]
        for line in with_facts:
            if line["facts"].get("state") == "RETRY" and "retval" in line["facts"]:
                del line["facts"]["retval"]  # Celery's exception has itself as its cause
        return sorted({json.dumps([line["signal"], line["sender"], line["facts"]]) for line in with_facts})

    ours, theirs = told(noted[library]), told(noted["celery"])

    assert len(theirs) > 20
    assert ours == theirs


@pytest.mark.parametrize("library", OURS)
def test_signals_of_a_task_and_of_a_worker_come_in_the_same_order(
    noted: dict[str, list[dict[str, Any]]], library: str
) -> None:
    def of_task(lines: list[dict[str, Any]], task_id: str) -> dict[str, list[str]]:
        def is_its(line: dict[str, Any]) -> bool:
            facts = line["facts"]
            return facts.get("id") == task_id or (facts.get("request") or [None])[0] == task_id

        # Processes are not in step: a child may begin what the worker's own process is still telling of.
        return {
            process: [line["signal"] for line in lines if line["process"] == process and is_its(line)]
            for process in ("client", "main", "child")
        }

    def of_worker(lines: list[dict[str, Any]]) -> list[str]:
        return [line["signal"] for line in lines if not line["signal"].startswith(("task_", "before_", "after_task"))]

    for task_id in ("good-1", "bad-1", "again-1", "ignores-1", "expired-1", "waits-1", "unknown-1"):
        assert of_task(noted[library], task_id) == of_task(noted["celery"], task_id), task_id
    assert [name for name in of_worker(noted[library]) if "process" not in name] == [
        name for name in of_worker(noted["celery"]) if "process" not in name
    ]


@pytest.mark.parametrize("library", OURS)
def test_the_log_has_the_same_lines(
    noted: dict[str, list[dict[str, Any]]], folders: dict[str, Path], library: str
) -> None:
    def told(library: str) -> list[str]:
        lines = (folders[library] / "worker.log").read_text().splitlines()
        matches = (re.match(r"\[[\d-]+ [\d:,]+: (\w+)/([A-Za-z]+)(?:-\d+)?\] (.*)", line) for line in lines)
        plain = [f"{m[1]}/{m[2]} {re.sub(r'in [0-9.e-]+s', 'in Ns', m[3])}" for m in matches if m]
        of_interest = re.compile("Task |Discarding|Received unregistered|w1@here ready")
        # What follows on the line about an unknown task is what happens to it, which is not the same.
        return sorted(
            re.sub(r"(type '.*?'\.).*", r"\1", line) for line in plain if of_interest.search(line.split(" ", 1)[1])
        )

    def is_about_the_kill(line: str) -> bool:
        return "flagged as revoked" in line or "Discarding revoked task: waits" in line

    ours, theirs = told(library), told("celery")

    assert len(theirs) > 15
    assert [line for line in ours if not is_about_the_kill(line)] == theirs


def test_a_receiver_of_setup_logging_replaces_it_in_both(tmp_path: Path, shared: Shared) -> None:
    seen = {}
    for library in PYTHONS:
        lines = run(library, tmp_path / library, shared.redis(), SIGNALS_LOGGING="1")
        seen[library] = [
            (line["signal"], line["sender"], line["arguments"]) for line in lines if "log" in line["signal"]
        ]

    assert seen["celeriac"] == seen["served"] == seen["celery"]
    assert [name for name, *_ in seen["celery"]] == ["setup_logging"]
