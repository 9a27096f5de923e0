"""When periodic tasks run: `schedule` (every so often), `crontab`, `solar`.

The rules are Celery's. One differs, and only where clocks are set back: a `crontab` of every hour (`hour="*"`) runs in both
of the hours that have the same name, so that `*/30 * * * *` is never an hour late. `docs/periodic.md` has all about it.
"""

from __future__ import annotations

from celeriac.schedules._base import BaseSchedule, maybe_schedule, schedstate, schedule
from celeriac.schedules._crontab import crontab
from celeriac.schedules._field import ParseException, crontab_parser
from celeriac.schedules._solar import solar

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]

# Under the name that everyone imports them by: stored schedules (pickles) name it.
for _class in (BaseSchedule, ParseException, crontab, crontab_parser, schedstate, schedule, solar):
    _class.__module__ = __name__
del _class
