"""logtool, upgrade, graph, list bindings, plug-ins, and how misspelt names are answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from celeriac.bin import LazyGroup, celeriac, plugins

from .conftest import Shop

LOG = """\
[2026-01-02 03:04:05,678: INFO/MainProcess] celery@box ready.
[2026-01-02 03:04:05,679: INFO/MainProcess] Task shop.add[id-1] received
[2026-01-02 03:04:05,680: INFO/MainProcess] Task shop.add[id-2] received
[2026-01-02 03:04:05,681: INFO/MainProcess] Task shop.mail[id-3] received
[2026-01-02 03:04:05,682: INFO/MainProcess] Task shop.mail[id-4] received
[2026-01-02 03:04:05,683: INFO/MainProcess] Task shop.mail[id-5] received
[2026-01-02 03:04:05,690: INFO/ForkPoolWorker-1] Task shop.add[id-1] succeeded in 0.001s: 3
[2026-01-02 03:04:05,691: ERROR/ForkPoolWorker-2] Task shop.mail[id-3] raised unexpected: KeyError('x')
Traceback (most recent call last):
KeyError: 'x'
[2026-01-02 03:04:05,692: INFO/ForkPoolWorker-1] Task shop.add[id-2] retry: Retry in 1s
[2026-01-02 03:04:05,693: ERROR/MainProcess] Hard time limit (3s) exceeded for shop.mail[id-4]
[2026-01-02 03:04:05,694: INFO/MainProcess] Discarding revoked task: shop.mail[id-5]
"""

OLD_SETTINGS = """\
BROKER_URL = "redis://"
CELERY_RESULT_BACKEND = "redis://"  # not MY_BROKER_URL
CELERYD_CONCURRENCY = 4
BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 5}
MY_BROKER_URL = BROKER_URL
other.BROKER_URL = 1
"""


def run(*args: str, **more: Any) -> Result:
    return CliRunner().invoke(celeriac, list(args), **more)


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "w.log"
    path.write_text(LOG)
    return str(path)


def test_logtool_counts_tasks(log: str) -> None:
    text = run("logtool", "stats", log).stdout

    for line in (
        "Task total: 5",
        "Task errors: 2",
        "Task success: 2",
        "Task completed: 4",
        "shop.mail: 3",
        "shop.add: 2",
    ):
        assert line in text


def test_logtool_finds_errors_tracebacks_and_what_did_not_end(log: str) -> None:
    errors = run("logtool", "errors", log).stdout.splitlines()
    assert [line.split("] ", 1)[1][:18] for line in errors] == ["Task shop.mail[id-", "Hard time limit (3"]
    traces = run("logtool", "traces", log).stdout
    assert "raised unexpected: KeyError('x')\nTraceback" in traces
    assert traces.endswith("KeyError: 'x'\n")
    assert run("logtool", "incomplete", log).stdout == "Did not complete: id-2\n"
    assert run("logtool", "debug", log).stdout.count("\n") == 1


def test_logtool_reads_standard_input_and_says_what_it_cannot_read() -> None:
    assert "Task total: 5" in run("logtool", "stats", input=LOG).stdout
    result = run("logtool", "stats", "/no/such/file")
    assert result.exit_code == 2
    assert "'/no/such/file' cannot be read" in result.stderr


def test_logtool_understands_the_log_of_a_task_that_ran_here() -> None:
    from celeriac.bin.logtool import Audit
    from celeriac.worker import conclude

    source = Path(conclude.__file__).read_text() + (Path(conclude.__file__).parent / "trace.py").read_text()
    audit = Audit()
    for word in ("succeeded", "raised", "retry"):
        assert word in source, "the worker's words have changed: logtool looks for them"
    audit.feed("[2026-01-02 03:04:05,679: INFO/MainProcess] Task a.b[x] received")
    assert audit.incomplete() == ["x"]


def test_upgrade_renames_whole_words_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_text(OLD_SETTINGS)

    result = run("upgrade", "settings", str(path))

    assert result.exit_code == 0
    assert path.read_text() == (
        'broker_url = "redis://"\nresult_backend = "redis://"  # not MY_BROKER_URL\nworker_concurrency = 4\n'
        'broker_transport_options = {"visibility_timeout": 5}\nMY_BROKER_URL = broker_url\nother.BROKER_URL = 1\n'
    )
    assert (tmp_path / "celeryconfig.py.orig").read_text() == OLD_SETTINGS
    assert run("upgrade", "settings", str(path)).stdout == "Nothing has to be changed.\n"


@pytest.mark.parametrize("flag", ["--django", "--compat"])
def test_upgrade_for_django_keeps_upper_case(flag: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.py"
    path.write_text("CELERYD_CONCURRENCY = 4\nBROKER_URL = 'x'\n")

    run("upgrade", "settings", flag, "--no-backup", str(path))

    assert path.read_text() == "CELERY_WORKER_CONCURRENCY = 4\nCELERY_BROKER_URL = 'x'\n"
    assert list(tmp_path.iterdir()) == [path]


def test_graph_draws_the_parts_of_a_worker() -> None:
    whole = run("graph", "bootsteps").stdout
    part = run("graph", "bootsteps", "consumer").stdout

    assert whole.startswith("digraph worker {")
    assert whole.count("{") == whole.count("}")
    for edge in ("engine -> consumer;", "strategy -> pool;", "commit -> backend;", "fork_server -> child;"):
        assert edge in whole
    assert "fork_server" not in part
    assert "consumer -> strategy;" in part


def test_graph_draws_named_workers(shop: Shop) -> None:
    text = shop.run("graph", "workers", "nodes:a,b,c,d,e,f", "threads:2,5", "wmax:3", "tmax:0", "generic").stdout

    assert '"a" -> "Broker (sqlite://)";' in text
    assert '"W … ₄" [shape=box' in text
    assert '"f" -> "Backend (sqlite://)";' in text
    assert '"a/1" -> "a"' in text
    assert shop.run("graph", "workers", "nodes:a", "threads:x").exit_code == 2


def test_bindings_of_the_app_are_listed(shop: Shop) -> None:
    result = shop.run("list", "bindings")

    assert result.stdout.splitlines()[1].split() == ["celery", "celery", "celery"]
    [row] = json.loads(shop.run("list", "bindings", "--json").stdout)
    assert row == {"queue": "celery", "exchange": "celery", "routing_key": "celery"}


@pytest.mark.parametrize(("name", "near"), [("wroker", "worker"), ("purg", "purge"), ("migrat", "migrate")])
def test_a_misspelt_command_gets_a_suggestion(name: str, near: str) -> None:
    result = run("-A", "proj", name)

    assert result.exit_code == 2
    assert f"did you mean {near}" in result.stderr


def test_without_a_command_there_is_help_in_groups() -> None:
    text = run().stdout

    for title in ("Run:", "Watch and control:", "Tasks and messages:"):
        assert title in text


@click.command("greet", help="Says hello.")
@click.option("--name", default="you")
@click.pass_context
def greet(ctx: click.Context, name: str) -> None:
    """As flower does it: the app comes from the context."""
    ctx.obj.echo(f"hello {name} from {ctx.obj.app.main} {ctx.obj.style('!', fg='red')}")


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "greet": EntryPoint("greet", f"{__name__}:greet", plugins.GROUP),
        "broken": EntryPoint("broken", "no.such.module:main", plugins.GROUP),
        "worker": EntryPoint("worker", "no.such.module:main", plugins.GROUP),
    }
    monkeypatch.setattr(
        EntryPoint, "load", lambda self: greet if self.name == "greet" else __import__("no_such_module")
    )
    monkeypatch.setattr(plugins, "_entry_points", lambda: points)


def test_commands_of_other_packages_are_found(plugged: None, shop: Shop) -> None:
    assert "greet" in run("--help").stdout
    assert shop.run("-C", "greet", "--name", "Ada").stdout == "hello Ada from shop !\n"


def test_a_broken_plug_in_breaks_itself_alone(plugged: None) -> None:
    assert run("--help").exit_code == 0
    result = run("broken", "--some-option")
    assert result.exit_code == 1
    assert "the command 'broken' of the package no cannot be imported: ModuleNotFoundError" in result.stderr
    assert isinstance(celeriac, LazyGroup)
    assert "Consume from these queues only" in run("worker", "--help").stdout, "our own commands come first"


def test_help_imports_little() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from celeriac.bin import celeriac; celeriac(['--help'], standalone_mode=False)\n"
        "new = set(sys.modules) - before\n"
        "print(len(new), [m for m in new if m.split('.')[0] in ('asyncio', 'ssl', 'sqlite3', 'logging')],"
        " [m for m in new if m.startswith('celeriac.') and not m.startswith('celeriac.bin')], file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4] / "python")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)

    assert done.returncode == 0, done.stderr
    count, _, rest = done.stderr.strip().partition(" ")
    assert int(count) < 250, "modules that --help imports: it should take less than 150 ms"
    assert rest == "[] []", rest


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("mig", ["migrate"]),
        ("-A proj worker --max-t", ["--max-tasks-per-child"]),
        ("multi st", ["start", "stop", "stopwait"]),
        ("logtool st", ["stats"]),
    ],
)
def test_shells_complete_commands_and_options(words: str, found: list[str]) -> None:
    variables = {
        "_CELERIAC_COMPLETE": "bash_complete",
        "COMP_WORDS": f"celeriac {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = CliRunner().invoke(celeriac, env=variables, prog_name="celeriac")

    assert [line.partition(",")[2] for line in result.stdout.splitlines()] == found


def test_a_report_for_programs_has_the_settings_without_passwords(shop: Shop) -> None:
    shop.app.conf.redis_password = "geheim"
    result = shop.run("report", "--json")

    found = json.loads(result.stdout)
    assert found["broker"] == "sqlite:///shop.db"
    assert found["settings"]["redis_password"] == "********"
    assert "geheim" not in result.output


def test_a_periodic_task_with_wrong_arguments_is_a_line_and_no_traceback(shop: Shop) -> None:
    assert shop.run("schedule", "add", "one", "shop.add", "--cron", "0 * * * *", "-a", "[1]").exit_code == 0
    result = shop.run("schedule", "run", "one")

    assert result.exit_code == 2
    assert "Error: add() missing 1 required positional argument: 'y'" in result.stderr


def test_a_loader_of_the_project_is_refused_by_every_command(shop: Shop) -> None:
    result = shop.run("--loader", "proj:Loader", "report")

    assert result.exit_code == 2
    assert "custom loaders (--loader) are not supported" in result.stderr
