"""`evtop`: workers and tasks on the terminal, as they are."""

from __future__ import annotations

import curses
import threading
import time
from typing import Any

from celeriac.app.current import app_or_default
from celeriac.exceptions import OperationalError

__all__ = ["evtop"]

_COLUMNS = ((36, "UUID"), (24, "TASK"), (20, "WORKER"), (10, "TIME"), (8, "STATE"))
_HINT = "no tasks yet: workers tell of them with -E, or after `control enable_events`.   q: quit"


def lines(state: Any, width: int, height: int) -> list[str]:
    """What to show: one line for the cluster, one for each task, newest first.

    Args:
        state: Of the cluster.
        width: Columns of the terminal.
        height: Its rows.
    """
    alive = sorted(str(worker.hostname) for worker in state.alive_workers())
    shown = [
        f"events: {state.event_count}  tasks: {state.task_count}  workers: {len(alive)}  {', '.join(alive)}",
        " ".join(title.ljust(size)[:size] for size, title in _COLUMNS),
    ]
    for task_id, task in state.tasks_by_time(limit=height * 4):
        moment = time.strftime("%H:%M:%S", time.localtime(task.timestamp or 0))
        worker = "" if task.worker is None else task.worker.hostname
        values = (task_id, task.name or "", worker, moment, task.state)
        row = (str(value).ljust(size)[:size] for (size, _), value in zip(_COLUMNS, values, strict=True))
        shown.append(" ".join(row))
    if len(shown) == 2:
        shown.append(_HINT)
    return [line[: max(width - 1, 1)] for line in shown[:height]]


def _draw(screen: Any, state: Any) -> None:
    height, width = screen.getmaxyx()
    screen.erase()
    for row, line in enumerate(state.freeze_while(lines, state, width, height)):
        screen.addnstr(row, 0, line, max(width - 1, 1), curses.A_BOLD if row < 2 else curses.A_NORMAL)
    screen.refresh()


def evtop(app: Any = None) -> None:
    """Shows workers and tasks until `q` is pressed.

    Args:
        app: Whose broker.
    """
    app = app_or_default(app)
    state = app.events.State()
    receiver = app.events.Receiver(app.connection_for_read(), handlers={"*": state.event})

    def hear() -> None:
        while not receiver.should_stop:
            try:
                receiver.capture(limit=None)
            except OperationalError:
                time.sleep(1)

    def show(screen: Any) -> None:
        screen.timeout(500)
        while screen.getch() not in (ord("q"), ord("Q")):
            _draw(screen, state)

    threading.Thread(target=hear, name="celeriac-events", daemon=True).start()
    try:
        curses.wrapper(show)
    except KeyboardInterrupt:
        pass
    finally:
        receiver.should_stop = True
