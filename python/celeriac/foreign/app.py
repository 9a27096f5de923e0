"""`ForeignApp`: the app of ours that stands for one of Celery's."""

from __future__ import annotations

import logging
import sys
import weakref
from importlib import import_module
from typing import Any

from celeriac.app.base import Celery
from celeriac.foreign import schedules, serializers
from celeriac.foreign.relay import Relay
from celeriac.foreign.settings import translate
from celeriac.foreign.task import ForeignTask

__all__ = ["ForeignApp", "adopt"]

logger = logging.getLogger("celeriac.worker")

#: Celery's apps -> ours. Written by the main thread, when `-A` is looked up.
_adopted: weakref.WeakKeyDictionary[Any, ForeignApp] = weakref.WeakKeyDictionary()
_REQUEST = "celery.worker.request:Request"


def adopt(real: Any) -> ForeignApp:
    """The app of ours for an app of Celery's.

    Args:
        real: A `celery.Celery`.

    Raises:
        ImproperlyConfigured: It depends on something that only Celery's own worker does.
    """
    found = _adopted.get(real)
    if found is None:
        found = _adopted[real] = ForeignApp(real)
    return found


class ForeignApp(Celery):
    """Settings and tasks of an app of Celery's, `real`, for the worker, beat and the commands."""

    def __init__(self, real: Any) -> None:
        self.real = real
        super().__init__(real.main, set_as_current=False)
        # Read when something is read: the project may still be setting it up.
        self.conf.add_defaults(lambda: translate(real.conf))
        serializers.take_over()
        self._relay = Relay(self)

    def set_current(self) -> None:
        """Makes Celery's app current too: `current_app` and `shared_task` find it."""
        super().set_current()
        self.real.set_current()
        self.real.set_default()

    def import_default_modules(self) -> None:
        """Imports what Celery's worker would: `imports`, `include`, what is to be discovered."""
        wanted = tuple(self.conf.include or ())
        known = tuple(self.real.conf.include or ())
        more = tuple(module for module in wanted if module not in known)
        if more:
            self.real.conf.include = (*known, *more)
        self.real.loader.import_default_modules()
        serializers.take_over()

    def finalize(self, auto: bool = False) -> None:
        """Finalises Celery's app, and makes a task of ours for each of its tasks."""
        if self.finalized:
            return
        self.real.finalize()
        for name, task in self.real.tasks.items():
            if name not in self._tasks:
                self._tasks[name] = ForeignTask(task)
                if task.Request != _REQUEST:
                    logger.warning("The Request class of task %s is not used: it is part of Celery's worker.", name)
        for kind, steps in self.real.steps.items():
            self.steps[kind] |= set(steps)
        super().finalize(auto)
        # Handlers of `on_after_configure` and `on_after_finalize` add to it.
        self.conf.beat_schedule = schedules.entries(self.real.conf.beat_schedule)
        _take_commands()
        self._relay.listen()


def _take_commands() -> None:
    """Commands of remote control that the project has added to Celery's."""
    theirs = sys.modules.get("celery.worker.control")
    if theirs is None:
        return
    ours = import_module("celeriac.worker.control")
    for name, function in theirs.Panel.data.items():
        if function.__module__ != theirs.__name__ and name not in ours.Panel.data:
            ours.Panel.data[name] = function
            if name in theirs.Panel.meta:
                ours.Panel.meta[name] = ours.controller_info_t(*theirs.Panel.meta[name])
