"""What a worker process needs to be made: app, settings from the command line, node name, logging.

The supervisor's own start, and that of a fork server which takes the place of one that died, are the same
steps; so the steps are here, and what they depend on can travel through the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.log import LogOptions

#: Carries a `Setup` to a fork server started by exec. The environment, unlike the arguments, is not shown to
#: other users of the machine, and URLs have passwords in them.
ENVIRONMENT_KEY = "CELERIAC_WORKER_SETUP"


@dataclass(frozen=True, slots=True)
class Setup:
    """How to make this worker's app, from the command line."""

    app: str | None
    node: str
    workdir: str | None = None
    config: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    include: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)
    #: Of children; known when the settings are.
    pool: str = "prefork"
    slots: int = 1

    @classmethod
    def from_environment(cls) -> Setup:
        """What the supervisor left for a fork server."""
        values = json.loads(os.environ.pop(ENVIRONMENT_KEY))
        values["include"] = tuple(values["include"])
        return cls(**values)

    def to_environment(self) -> None:
        """Leaves this to processes that are started from here on."""
        os.environ[ENVIRONMENT_KEY] = json.dumps(asdict(self))

    def load_app(self) -> Celery:
        """Finds the app and imports its task modules; settings are not applied yet."""
        from celeriac.app.find_app import find_app, import_tasks

        app = find_app(
            self.app,
            workdir=self.workdir,
            config=self.config,
            broker=self.broker,
            result_backend=self.result_backend,
        )
        if self.include:
            app.conf.include = (*(app.conf.include or ()), *self.include)
        app.set_current()
        import_tasks(app)
        return app

    def apply_settings(self, app: Celery) -> None:
        """Lets the command line win over the settings, and evaluates the tasks."""
        if self.settings:
            app.conf.update(self.settings)
        app.finalize()

    def log_options(self, app: Celery) -> LogOptions:
        """Logging as settings and command line want it."""
        from celeriac.app.log import LogOptions

        return LogOptions.from_conf(app.conf, node=self.node, **self.log)

    def prepare_fork_server(self) -> Callable[[int, int], int]:
        """In a fork server started by exec: all that the supervisor had done before it forked the first one.

        Returns:
            What runs a child.
        """
        from celeriac.app import log
        from celeriac.worker.child import ChildServer

        app = self.load_app()
        self.apply_settings(app)
        options = self.log_options(app)
        if log.setup(options) and options.redirect_stdouts:
            log.redirect_stdouts(options)
        return ChildServer(app, self.node, options, self.pool, self.slots)
