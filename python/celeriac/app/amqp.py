"""`app.amqp`: queues and routes, under the names that Celery has for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeriac.app.routes import Queues

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.routes import Router
    from celeriac.entities import Exchange, Queue

__all__ = ["AMQP"]


class AMQP:
    """Queues and routes of an app."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    @property
    def queues(self) -> Queues:
        """The queues by name: `add`, `select`, `deselect`, `consume_from`."""
        return self.app.router.queues

    @property
    def router(self) -> Router:
        """Where tasks go."""
        return self.app.router

    @property
    def default_queue(self) -> Queue:
        """Where tasks go that nothing routes."""
        queues = self.queues
        return queues[queues.default_name]

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of queues that name none."""
        return self.queues.default_exchange

    @property
    def argsrepr_maxsize(self) -> int:
        """Greatest length of `argsrepr`."""
        return self.app.argsrepr_maxsize

    @property
    def kwargsrepr_maxsize(self) -> int:
        """Greatest length of `kwargsrepr`."""
        return self.app.kwargsrepr_maxsize

    def flush_routes(self) -> None:
        """Reads `task_routes` and `task_queues` again."""
        self.app._router = None
