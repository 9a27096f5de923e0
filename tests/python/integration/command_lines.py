"""Commands that run as processes of their own, and daemons that do not outlive their test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import PATIENCE, PYTHON_PATH, lives


class CommandLines:
    """Runs `python -m celeriac ...` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("CELERY", "CELERIAC", "APP"))
        }
        self.environment["PYTHONPATH"] = PYTHON_PATH

    def run(self, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "celeriac", *args],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * PATIENCE,
        )

    def begin(self, *args: str) -> subprocess.Popen[str]:
        """Starts a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "celeriac", *args],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> list[int]:
        """Daemons whose pid files are below the folder."""
        texts = [path.read_text().strip() for path in self.folder.rglob("*.pid")]
        return [int(text) for text in texts if text.isdigit() and lives(int(text))]

    def close(self) -> None:
        """Ends the daemons that still run."""
        for pid in self.pids():
            os.kill(pid, 9)
