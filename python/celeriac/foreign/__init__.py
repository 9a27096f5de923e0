"""Serves an app that was made by Celery itself: `celeriac -A proj worker` for a project that is not ported yet.

Celery stays the client library of the project's code, and its own tracer runs the tasks: so requests, hooks, signals,
`retry`, `replace` and what other libraries patch are Celery's. Messages, results, follow-ups, acknowledgements, time limits
and processes are the engine's.

- `app`: the app of ours that stands for Celery's; made by `adopt`, which `-A` calls.
- `settings`, `schedules`, `serializers`: what is translated once.
- `task`: the task of ours that stands for one of Celery's.
- `tracing`: lets Celery's tracer run a request, and catches what it would store and send.
- `relay`: passes signals of our worker on to Celery's.
- `mirror`: requests and exceptions in Celery's classes.

Nothing here is imported unless such an app is found. Celery is loaded by then, and is not imported otherwise.
"""

from __future__ import annotations

from celeriac.foreign.app import ForeignApp, adopt

__all__ = ["ForeignApp", "adopt"]
