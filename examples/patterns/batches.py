"""Batches: readings of sensors come one by one, and are written to the database many at a time.

celeriac -A batches worker                        # in one terminal, in this folder
python batches.py                                 # in another

BROKER and RESULT_BACKEND name other places than the embedded file.
"""

import os
import sqlite3
from typing import Any

from celeriac import Batch, Celery

app = Celery("batches", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND"))
DATABASE = os.environ.get("READINGS", "readings.db")


@app.task(batch=Batch(max_size=100, max_wait=1.0), acks_late=True, max_retries=2, default_retry_delay=1)
def insert(requests: list[Any]) -> None:
    """Writes up to a hundred readings in one transaction. Each of them ends by itself."""
    rows = []
    for request in requests:
        sensor, value = request.args
        if value is None:
            request.dead_letter("no value")  # kept, with its reason, for somebody to look at
        elif not -50 <= value <= 60:
            request.fail(ValueError(f"{value} degrees"))  # what `get()` raises
        else:
            # The id makes it safe to write a row again: delivery is at least once.
            rows.append((request.id, sensor, value))
    with sqlite3.connect(DATABASE) as database:
        database.execute("CREATE TABLE IF NOT EXISTS reading (id PRIMARY KEY, sensor, value)")
        database.executemany("INSERT OR IGNORE INTO reading VALUES (?, ?, ?)", rows)
        database.execute("CREATE TABLE IF NOT EXISTS write (rows)")
        database.execute("INSERT INTO write VALUES (?)", (len(rows),))
    # All others succeed now. Had this function raised, they would be tried again.


def main() -> None:
    """Sends readings, and says how they were written."""
    results = insert.delay_many((f"sensor-{number % 10}", 20.0 + number % 5) for number in range(500))
    hot, broken = insert.delay("sensor-1", 900.0), insert.delay("sensor-2", None)
    for result in results:
        result.get(timeout=30)
    for result in (hot, broken):
        print("refused:", repr(result.get(timeout=30, propagate=False)))
    with sqlite3.connect(DATABASE) as database:
        rows = database.execute("SELECT count(*) FROM reading").fetchone()[0]
        writes = database.execute("SELECT count(*) FROM write").fetchone()[0]
    print(f"{rows} readings in {writes} writes")


if __name__ == "__main__":
    main()
