"""Parts of a worker that boot steps may require. Here they are there before any step starts: nothing is to be started."""

from __future__ import annotations

from celeriac.bootsteps import Step

__all__ = ["Beat", "Consumer", "Hub", "Pool", "StateDB", "Timer"]


class Timer(Step):
    """Calls functions later: `worker.timer`."""

    name = "celery.worker.components.Timer"


class Hub(Step):
    """The event loop; here it is the engine's."""

    name = "celery.worker.components.Hub"


class Pool(Step):
    """What runs tasks."""

    name = "celery.worker.components.Pool"


class Beat(Step):
    """The embedded beat."""

    name = "celery.worker.components.Beat"


class StateDB(Step):
    """What keeps revoked tasks."""

    name = "celery.worker.components.StateDB"


class Consumer(Step):
    """What takes messages."""

    name = "celery.worker.components.Consumer"
