"""The example of a workflow: it runs, and its pictures are what the documentation shows and what became of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = "https://pictures.example/200-order-17.jpg | https://pictures.example/800-order-17.jpg | a picture named order-17.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "examples/orders.py", tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC"))}
    return {**clean, "PYTHONPATH": str(ROOT / "python")}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_picture_in_the_docs_is_what_the_command_beside_it_draws(folder: Path) -> None:
    run(folder, "-m", "celeriac", "graph", "workflow", "orders:make_flow", "-o", "orders.svg")

    drawn = (folder / "orders.svg").read_text()

    assert drawn == (ROOT / "docs/pictures/orders.svg").read_text()
    assert "celeriac graph workflow orders:make_flow -o orders.svg" in (ROOT / "docs/results.md").read_text()


def test_the_example_runs_and_is_drawn_with_its_states(folder: Path) -> None:
    log = folder / "worker.log"
    command = [sys.executable, "-m", "celeriac", "-A", "orders", "worker", "-c", "2"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment(), stdout=output, stderr=output) as worker,
    ):
        try:
            task_id = run(folder, "orders.py").split()[0]
            page = run(folder, "-m", "celeriac", "-A", "orders", "result", task_id)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)

    assert page == f"ann@example.com: {PAGE}\n"
    root = ElementTree.fromstring(
        run(folder, "-m", "celeriac", "-A", "orders", "graph", "result", task_id, "--format", "svg")
    )
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "orders.tell" in texts
    assert set(texts) & {"SUCCESS", "FAILURE", "PENDING"} == {"SUCCESS"}
