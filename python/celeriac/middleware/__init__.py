"""Middleware: hooks around the publishing and the running of tasks, and what is shipped of it.

`Middleware` is the base class; `Call` and `Run` are what its hooks get. `correlation`, `opentelemetry`, `sentry` and
`prometheus` are modules beside this one, each imported by itself: they need what they are named after.

Example:
    >>> from celeriac.middleware import Middleware
    >>> from celeriac.middleware.correlation import Correlation
    >>> app.add_middleware(Correlation())
"""

from __future__ import annotations

from celeriac.app.middleware import Call, Middleware, Run

__all__ = ["Call", "Middleware", "Run"]
