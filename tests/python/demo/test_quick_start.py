"""The README's quick start, pasted: its two files and its two commands, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)


def quick_start() -> tuple[dict[str, str], list[str]]:
    """The files and the console blocks of the section."""
    section = (ROOT / "README.md").read_text().split("## Quick start")[1].split("\n## ")[0]
    blocks = BLOCK.findall(section)
    files = {body.split("\n")[0].removeprefix("# "): body for kind, body in blocks if kind == "python"}
    return files, [body for kind, body in blocks if kind == "console"]


def module(command: str) -> list[str]:
    """`$ celeriac ...` and `$ python ...` as the interpreter of this environment runs them."""
    words = shlex.split(command.removeprefix("$ "))
    return [sys.executable, "-m", *words] if words[0] == "celeriac" else [sys.executable, *words[1:]]


def test_the_quick_start_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    files, (start_worker, call) = quick_start()
    assert set(files) == {"tasks.py", "call.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command, expected = call.split("\n", 1)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "CELERIAC_"))}
    environment = {**clean, "PYTHONPATH": str(ROOT / "python")}
    log = tmp_path / "worker.log"

    with (
        log.open("wb") as output,
        subprocess.Popen(
            module(start_worker.strip()), cwd=tmp_path, env=environment, stdout=output, stderr=output
        ) as worker,
    ):
        try:
            done = subprocess.run(
                module(command),
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)

    assert done.stdout == expected, f"{done.stderr}\n{log.read_text()}"
    assert worker.returncode == 0, log.read_text()
    assert "celeriac.db" in log.read_text(), "the banner names the embedded broker"


def test_every_python_block_of_the_docs_compiles() -> None:
    seen = 0
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for kind, body in BLOCK.findall(path.read_text()):
            if kind == "python":
                compile(body, str(path), "exec", flags=0x2000)  # top-level await is fine in an example
                seen += 1
    assert seen >= 6


def test_every_link_between_the_documents_leads_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
