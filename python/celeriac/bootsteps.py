"""Boot steps: what projects written for Celery add to a worker with `app.steps["worker"].add(...)`.

Steps of the worker are made, started and stopped on its main thread, in the order of their `requires`. The
components of Celery that they may require are not there as steps: what they are required for (a timer, a pool that
runs) is, when steps start. Steps of Celery's consumer (`app.steps["consumer"]`) work on kombu's connection, which
this worker does not have: a worker with such a step does not start, and says what to use instead.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = ["ConsumerStep", "StartStopStep", "Step"]


class Step:
    """Something that is made with the worker.

    `__init__` and `create` are called with the worker before it starts.
    """

    #: Told apart and logged by this; the class' path unless given.
    name: str | None = None
    label: str | None = None
    conditional = False
    #: Steps, or paths of them, that come before this one.
    requires: Collection[Any] = ()
    last = False
    enabled = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = f"{cls.__module__}.{cls.__qualname__}"

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        pass

    def include_if(self, parent: Any) -> bool:
        """Whether the worker is to have this step."""
        return self.enabled

    def create(self, parent: Any) -> Any:
        """Makes what the step is about."""

    def include(self, parent: Any) -> bool:
        """Makes it, if the worker is to have it; tells whether."""
        if not self.include_if(parent):
            return False
        self.create(parent)
        return True

    def info(self, parent: Any) -> Any:
        """What `inspect stats` shows of it."""

    @property
    def alias(self) -> str:
        """Its name in logs."""
        return self.label or (self.name or type(self).__name__).rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"


class StartStopStep(Step):
    """A step that is started and stopped: by what `create` gave, unless the methods say otherwise.

    Example:
        >>> class Liveness(StartStopStep):
        ...     requires = {"celery.worker.components:Timer"}
        ...     def start(self, worker):
        ...         self.entry = worker.timer.call_repeatedly(1.0, Path("/tmp/alive").touch)
        ...     def stop(self, worker):
        ...         Path("/tmp/alive").unlink(missing_ok=True)
        >>> app.steps["worker"].add(Liveness)
    """

    obj: Any = None

    def include(self, parent: Any) -> bool:
        if not self.include_if(parent):
            return False
        self.obj = self.create(parent)
        parent.steps.append(self)
        return True

    def start(self, parent: Any) -> Any:
        """Called when the worker starts."""
        if self.obj is not None:
            return self.obj.start()
        return None

    def stop(self, parent: Any) -> Any:
        """Called when it has stopped."""
        if self.obj is not None:
            return self.obj.stop()
        return None

    def close(self, parent: Any) -> Any:
        """Called for every step before the first one is stopped."""

    def terminate(self, parent: Any) -> Any:
        """Called instead of `stop` after a cold shutdown."""
        if self.obj is not None:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return None


class ConsumerStep(StartStopStep):
    """A step with kombu consumers of its own. It exists so that modules with one can be imported."""

    requires = ("celery.worker.consumer:Connection",)

    def get_consumers(self, channel: Any) -> Any:
        """To be overridden."""
        raise NotImplementedError("missing get_consumers")
