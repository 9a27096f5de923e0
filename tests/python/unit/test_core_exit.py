"""Programs that end while the engine works end with exit code 0.

A thread of the engine that touched Python while the interpreter ends would abort it, at random. So many
programs are run: CELERIAC_EXIT_SCRIPTS says how many.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "exit_scripts.py"
MODES = ["sync", "awaited", "pending", "waiting-threads", "publishing-threads", "forked"]
COUNT = int(os.environ.get("CELERIAC_EXIT_SCRIPTS", "40"))


def test_no_program_dies_at_its_end(tmp_path: Path) -> None:
    def run(number: int) -> tuple[str, int, str]:
        mode = MODES[number % len(MODES)]
        url = f"sqlite:///{tmp_path}/{number}.db"
        done = subprocess.run(
            [sys.executable, str(SCRIPT), mode, url], capture_output=True, text=True, timeout=120, check=False
        )
        return mode, done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(run, range(COUNT)))

    assert len(ended) == COUNT
    failed = [end for end in ended if end[1] != 0]
    assert failed == []
