"""The command line: what is accepted, what is refused, and where it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celeriac.bin import COMMANDS, celeriac

APP = """
    from celeriac.app.base import Celery
    app = Celery("cli", broker="memory://", backend="memory://")
    @app.task(name="add")
    def add(x, y):
        return x + y
    """


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "cli_app.py").write_text(dedent(APP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("CELERIAC_BROKER_URL", "CELERIAC_RESULT_BACKEND", "CELERY_BROKER_URL", "NO_COLOR", "APP"):
        # Set first, so that what a command sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield lambda *args, **more: CliRunner().invoke(celeriac, list(args), **more)
    module = sys.modules.pop("cli_app", None)
    if module is not None:
        module.app.close()


def one_line(result: Result) -> str:
    """The error of a command that was refused: a line, and perhaps a hint, but no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    [line] = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    return line


def test_help_names_every_command(run: Any) -> None:
    result = run("--help")

    assert result.exit_code == 0
    for name, text in COMMANDS.items():
        assert name in result.stdout
        assert text in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, run: Any) -> None:
    assert run(name, "--help").exit_code == 0


def test_help_imports_neither_app_nor_engine() -> None:
    code = (
        "import sys; from celeriac.bin import celeriac; celeriac(['--help'], standalone_mode=False); "
        "print([m for m in sys.modules if m.startswith(('celeriac.app', 'celeriac._core', 'asyncio'))], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4] / "python")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)

    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    "args",
    [
        ("-A", "cli_app", "call", "add", "-a", "[1, 2]"),
        ("call", "-A", "cli_app", "add", "-a", "[1, 2]"),
        ("call", "add", "--app=cli_app", "--args=[1, 2]", "--countdown", "5"),
    ],
)
def test_the_app_may_be_named_before_or_after_the_command(args: tuple[str, ...], run: Any) -> None:
    result = run(*args)

    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.strip()) == 36, "only the id goes to standard output"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("-A", "nosuch", "call", "add"), "no module 'nosuch'"),
        (("-A", "cli_app", "call", "add", "-a", "[1,"), "is not JSON"),
        (("-A", "cli_app", "call", "add", "-a", "{}"), "must be a JSON array"),
        (("-A", "cli_app", "call", "add", "--eta", "tomorrow"), "not an ISO 8601 moment"),
        (("-A", "cli_app", "call", "add", "--serializer", "nosuch"), "no serializer 'nosuch'"),
        (("-A", "cli_app", "nosuch"), "No such command"),
        (("-A", "cli_app", "worker", "-B", "-P", "solo"), "memory:// lives in one process"),
        (("-A", "cli_app", "worker", "--autoscale", "1,4"), "MAX is less than MIN"),
        (("-A", "cli_app", "worker", "-P", "solo", "--autoscale", "4"), "-P solo runs one task at a time"),
        (("-A", "cli_app", "worker", "--processes", "2"), "--processes is not for -P prefork"),
        (("-A", "cli_app", "worker", "-P", "eventlet"), "use -P gevent"),
        (("-A", "cli_app", "worker", "-P", "custom"), "pools of your own"),
        (("-A", "cli_app", "worker", "-P", "nosuch"), "no pool 'nosuch'"),
        (("-A", "cli_app", "worker", "-c", "0"), "neither a number above 0"),
        (("-A", "cli_app", "worker", "-c", "many"), "neither a number above 0"),
        (("-A", "cli_app", "worker", "-l", "loud"), "'loud' is none of"),
        (("-A", "cli_app", "worker", "--nosuch"), "No such option"),
        (("-A", "cli_app", "worker", "stray"), "unexpected argument 'stray'"),
        (("-A", "cli_app", "-b", "nosuch://x", "call", "add"), "nosuch"),
        (("-A", "cli_app", "-b", "sqs://", "worker"), "sqs"),
        (("-A", "cli_app", "--workdir", "/nowhere/at/all", "call", "add"), "nowhere"),
        (("-A", "cli_app", "--config", "nosuch_settings", "call", "add"), "nosuch_settings"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(args: tuple[str, ...], says: str, run: Any) -> None:
    assert says in one_line(run(*args))


def test_purge_deletes_what_waits_and_asks_first(run: Any) -> None:
    run("-A", "cli_app", "purge", "-f")
    for _ in range(3):
        assert run("-A", "cli_app", "call", "add").exit_code == 0

    refused = run("-A", "cli_app", "purge", input="n\n")
    done = run("-A", "cli_app", "purge", "-f")
    again = run("-A", "cli_app", "purge", "-f")

    assert refused.exit_code == 1
    assert done.stdout == "Purged 3 messages from 1 queue.\n"
    assert again.stdout == "No messages purged.\n"


def test_unpark_says_when_there_is_nowhere_to_move_from(run: Any) -> None:
    assert 'nothing of queue "celery" has to be moved back' in one_line(run("-A", "cli_app", "unpark"))


def test_unpark_moves_back_what_waits_in_each_queue(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from celeriac import Celery

    waiting = {"a": 3, "b": 4, "c": 5}
    monkeypatch.setattr(Celery, "client", type("Client", (), {"unpark": lambda self, name: waiting.pop(name)})())

    result = run("-A", "cli_app", "unpark", "-Q", "a,b,c", "-X", "b")

    assert result.stdout == "Moved 8 tasks back to 2 queues.\n"
    assert waiting == {"b": 4}


def test_list_shows_the_queues(run: Any) -> None:
    run("-A", "cli_app", "purge", "-f")
    run("-A", "cli_app", "call", "add")

    result = run("-A", "cli_app", "list", "--json")

    # Other tests of this process may have left queues of theirs.
    ready = {queue["name"]: queue["ready"] for queue in json.loads(result.stdout)}
    assert ready["celery"] == 1
    assert "celery" in run("-A", "cli_app", "list").stdout


def test_a_result_that_does_not_come_in_time_is_an_error(run: Any) -> None:
    result = run("-A", "cli_app", "result", "no-such-id", "--timeout", "0.05")

    assert result.exit_code == 1
    assert "has no result after 0.05 seconds" in result.stderr


def test_report_masks_secrets(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_BROKER_URL", "redis://user:geheim@host/0")

    result = run("-A", "cli_app", "report")

    assert result.exit_code == 0, result.output
    assert "software -> celeriac:" in result.stdout
    assert "redis://user:**@host/0" in result.stdout
    assert "geheim" not in result.output


def test_pickle_is_refused_to_root(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)

    line = one_line(run("-A", "cli_app", "worker", "--", "accept_content=json,pickle"))

    assert "C_FORCE_ROOT" in line
