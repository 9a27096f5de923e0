"""`PersistentScheduler`: remembers in a file when entries last ran."""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from celeriac.beat.scheduler import Scheduler, logger

__all__ = ["PersistentScheduler"]

#: Of the file's layout.
_VERSION = 1


class PersistentScheduler(Scheduler):
    """As Celery's: for one beat alone, which must find the file again where it left it.

    The file is ours, and text; one that Celery wrote is replaced. One of another time zone counts for nothing.
    """

    _store: dict[str, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: str | None = kwargs.get("schedule_filename")
        super().__init__(*args, **kwargs)
        self.schedule_filename = self.schedule_filename or self.app.conf.beat_schedule_filename

    def setup_schedule(self) -> None:
        """Reads the file, then the settings' entries."""
        self.schedule_filename = self.schedule_filename or self.app.conf.beat_schedule_filename
        self._store = {"entries": {}}
        remembered = self._read()
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, entry in self.schedule.items():
            last_run_at, count = remembered.get(name, (None, None))
            if last_run_at is not None:
                entry.last_run_at = datetime.fromisoformat(last_run_at)
                entry.total_run_count = int(count or 0)
        self.sync()

    def _zone(self) -> dict[str, Any]:
        return {"tz": str(self.app.conf.timezone), "utc_enabled": bool(self.app.conf.enable_utc)}

    def _read(self) -> dict[str, Any]:
        assert self.schedule_filename is not None
        try:
            with open(self.schedule_filename, encoding="utf-8") as file:
                found = json.load(file)
            entries: dict[str, Any] = found["entries"]
            zone = {"tz": found["tz"], "utc_enabled": found["utc_enabled"]}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as exc:
            logger.warning("the schedule file %r cannot be read, and is replaced: %r", self.schedule_filename, exc)
            return {}
        if zone != self._zone():
            logger.warning("Reset: the time zone changed from %s to %s", zone, self._zone())
            return {}
        return entries

    def get_schedule(self) -> Any:
        """The entries by name."""
        return (self._store or {"entries": {}})["entries"]

    def set_schedule(self, schedule: Any) -> None:
        """Replaces the entries."""
        if self._store is None:
            self._store = {}
        self._store["entries"] = schedule

    def sync(self) -> None:
        """Writes the file: whole, or not at all."""
        if self._store is None or self.schedule_filename is None:
            return
        entries = {
            name: (entry.last_run_at.isoformat(), entry.total_run_count) for name, entry in self.schedule.items()
        }
        scratch = f"{self.schedule_filename}.{os.getpid()}"
        with open(scratch, "w", encoding="utf-8") as file:
            json.dump({"version": _VERSION, **self._zone(), "entries": entries}, file)
        os.replace(scratch, self.schedule_filename)

    @property
    def info(self) -> str:
        """A line for the banner."""
        return f"    . db -> {self.schedule_filename}"
