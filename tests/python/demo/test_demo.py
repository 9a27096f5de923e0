"""The demonstration is a test: it checks itself, so its exit code is enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[3] / "examples" / "flask_images" / "demo.py"


def test_the_flask_demo_processes_every_picture_and_survives_a_killed_child() -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env={**os.environ, "PYTHONPATH": str(DEMO.parents[2] / "python")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert ">>> killed process" in done.stdout
    assert "all is well" in done.stdout
