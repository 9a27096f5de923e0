"""The scheduler of periodic tasks.

- `entry`, `scheduler`: what Celery's schedulers are, and what classes written for Celery extend.
- `lease`: the one that runs unless another is named: any number of them may run, each due moment is sent at most once.
- `moments`: which moments of an entry are due, and what becomes of missed ones.
- `persistent`: Celery's, which remembers in a file.
- `service`, `program`: what makes them tick.
"""

from __future__ import annotations

from celeriac.beat.entry import BeatLazyFunc, ScheduleEntry
from celeriac.beat.lease import LeaseScheduler
from celeriac.beat.persistent import PersistentScheduler
from celeriac.beat.scheduler import DEFAULT_MAX_INTERVAL, Scheduler, SchedulingError
from celeriac.beat.service import EmbeddedService, Service

__all__ = [
    "DEFAULT_MAX_INTERVAL",
    "BeatLazyFunc",
    "EmbeddedService",
    "LeaseScheduler",
    "PersistentScheduler",
    "ScheduleEntry",
    "Scheduler",
    "SchedulingError",
    "Service",
]
