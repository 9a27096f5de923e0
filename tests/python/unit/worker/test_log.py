"""The worker's logging: formats, redirected output, lines of the engine."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import signals
from celeriac.app import log
from celeriac.app.base import Celery
from celeriac.utils.log import ColorFormatter, get_task_logger


@pytest.fixture(autouse=True)
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "celery", "celery.task", "celeriac")]
    before = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield
    for one, handlers, level, propagate in before:
        for handler in one.handlers:
            if handler not in handlers:
                handler.close()
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate
    log.enter_child(log.LogOptions(), 0)
    log._Process.name = log.MAIN_PROCESS
    log._Process.set_up = False
    logging.captureWarnings(capture=False)
    logging.setLogRecordFactory(logging.LogRecord)


def set_up(path: Path, **options: object) -> log.LogOptions:
    made = log.LogOptions(level=logging.INFO, logfile=str(path), node="w1@host.example", **options)  # type: ignore[arg-type]
    assert log.setup(made)
    return made


def test_a_line_has_celerys_form(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up(path)

    logging.getLogger("anything").info("hello %s", "there")
    logging.getLogger("anything").debug("not shown")

    [line] = path.read_text().splitlines()
    assert line.endswith(": INFO/MainProcess] hello there")
    assert line.startswith("[20")


def test_a_child_is_named_in_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    options = set_up(path)

    log.enter_child(options, 3)
    logging.getLogger("anything").warning("x")

    assert path.read_text().endswith(": WARNING/ForkPoolWorker-3] x\n")


def test_a_log_file_for_each_child(tmp_path: Path) -> None:
    options = set_up(tmp_path / "%n%I.log")
    logging.getLogger("anything").info("parent")

    log.enter_child(options, 2)
    logging.getLogger("anything").info("child")

    assert "parent" in (tmp_path / "w1.log").read_text()
    assert "child" in (tmp_path / "w1-2.log").read_text()
    assert "child" not in (tmp_path / "w1.log").read_text()


def test_task_loggers_know_which_task_speaks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up(path)
    app = Celery("logs", set_as_current=False)
    logger = get_task_logger("some.module")

    @app.task(name="speaks", bind=True)
    def speaks(self: object) -> None:
        logger.info("within")

    from celeriac.app.context import Context
    from celeriac.app.current import pop_current_task, push_current_task

    task = app.tasks["speaks"]
    push_current_task(task)
    task.request_stack.push(Context(id="id-1"))
    task.run()
    task.request_stack.pop()
    pop_current_task()
    logger.info("outside")

    first, second = path.read_text().splitlines()
    assert first.endswith("] speaks[id-1]: within")
    assert second.endswith("] ???[???]: outside")


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up(path, as_json=True)

    log.emit(logging.INFO, "celeriac.worker", "from the engine", 1700000000.25, "id-1", "add")
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("anything").exception("failed")

    first, second = map(json.loads, path.read_text().splitlines())
    assert first["message"] == "from the engine"
    assert (first["task_id"], first["task_name"]) == ("id-1", "add")
    assert first["time"] == "2023-11-14T22:13:20.250Z"
    assert "ValueError: x" in second["exception"]
    assert "task_id" not in second


def test_what_is_printed_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log.redirect_stdouts(set_up(path))

    print("out")
    print("err", file=sys.stderr)
    sys.stdout.write("\n")

    assert [line.rpartition("] ")[2] for line in path.read_text().splitlines()] == ["out", "err"]
    assert "WARNING" in path.read_text()


def test_a_receiver_of_setup_logging_replaces_it(tmp_path: Path) -> None:
    seen: list[object] = []

    def receiver(**passed: object) -> None:
        seen.append(passed["loglevel"])

    signals.setup_logging.connect(receiver)
    try:
        assert not log.setup(log.LogOptions(level=logging.INFO, logfile=str(tmp_path / "log")))
    finally:
        signals.setup_logging.disconnect(receiver)

    assert seen == [logging.INFO]
    assert not (tmp_path / "log").exists()


def test_handlers_of_the_root_are_kept_on_request(tmp_path: Path) -> None:
    kept = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(kept)

    set_up(tmp_path / "log", hijack_root=False)

    assert kept in logging.getLogger().handlers


@pytest.mark.parametrize(("given", "number"), [("info", 20), ("WARN", 30), ("fatal", 50), ("15", 15), (10, 10)])
def test_levels_are_names_or_numbers(given: str | int, number: int) -> None:
    assert log.level_number(given) == number


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="loud"):
        log.level_number("loud")


def test_a_receiver_of_setup_logging_that_raises_ends_the_start() -> None:
    def receiver(**passed: object) -> None:
        raise LookupError("no such folder")

    signals.setup_logging.connect(receiver)
    try:
        with pytest.raises(LookupError, match="no such folder"):
            log.setup(log.LogOptions())
    finally:
        signals.setup_logging.disconnect(receiver)


def test_every_handler_sees_the_name_of_the_child(tmp_path: Path) -> None:
    options = set_up(tmp_path / "log")
    own = io.StringIO()
    handler = logging.StreamHandler(own)
    handler.setFormatter(logging.Formatter("%(processName)s %(message)s"))
    logging.getLogger().addHandler(handler)

    log.enter_child(options, 7)
    logging.getLogger("anything").warning("x")

    assert own.getvalue() == "ForkPoolWorker-7 x\n"


def test_warnings_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up(path)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert "DeprecationWarning: old" in path.read_text()


def test_formatters_are_made_as_celerys_are() -> None:
    record = logging.LogRecord("n", logging.ERROR, "", 0, "text", (), None)

    assert log.TaskFormatter("%(task_id)s %(message)s", use_color=False).format(record) == "??? text"
    assert ColorFormatter("%(message)s").format(record) == "\033[1;31mtext\033[0m"
    assert ColorFormatter("%(message)s", False).format(record) == "text"


def test_an_app_sets_logging_up_once(tmp_path: Path) -> None:
    app = Celery("logs", set_as_current=False)
    first = tmp_path / "first"

    assert app.log.setup(loglevel="INFO", logfile=str(first)) is False
    app.log.setup(loglevel="INFO", logfile=str(tmp_path / "second"))
    logging.getLogger("anything").info("x")

    assert app.log.already_setup
    assert "x" in first.read_text()
    assert not (tmp_path / "second").exists()
