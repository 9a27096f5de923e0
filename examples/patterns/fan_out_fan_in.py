"""Fan-out and fan-in: the words of many pages are counted in parallel, and added up when all are done.

celeriac -A fan_out_fan_in worker                 # in one terminal, in this folder
python fan_out_fan_in.py                          # in another

BROKER and RESULT_BACKEND name other places than the embedded file.
"""

import os
from collections import Counter

from celeriac import Celery, chord, group
from celeriac.exceptions import ChordError

app = Celery("fan_out_fan_in", broker=os.environ.get("BROKER", ""), backend=os.environ.get("RESULT_BACKEND"))


@app.task(autoretry_for=(ConnectionError,), max_retries=3, retry_backoff=1)
def count(page: str) -> dict[str, int]:
    """One part. Parts run on all workers at the same time, and are tried again by themselves."""
    if page == "unreadable":
        raise ValueError("this page cannot be read")
    return dict(Counter(page.split()))


@app.task
def add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    """The body: runs once, when the last part has ended, with all results in the order of the parts."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


@app.task
def count_or_none(page: str) -> dict[str, int]:
    """A part that may fail without ending the whole: it returns what to make of that."""
    try:
        return count(page)
    except ValueError:
        return {}


def main() -> None:
    """Counts pages, with and without one that cannot be read."""
    pages = [f"red green page-{number}" for number in range(40)]
    total = chord((count.s(page) for page in pages), add_up.s()).apply_async()
    print("red:", total.get(timeout=30)["red"], "of", len(pages), "pages")

    failed = chord((count.s(page) for page in [*pages, "unreadable"]), add_up.s()).apply_async()
    try:
        failed.get(timeout=30)
    except (ValueError, ChordError) as exc:
        print("one part failed:", exc)

    borne = chord((count_or_none.s(page) for page in [*pages, "unreadable"]), add_up.s()).apply_async()
    print("borne:", borne.get(timeout=30)["green"])

    # Without a body: whoever has sent the parts gathers them.
    parts = group(count.s(page) for page in pages).apply_async()
    print("gathered:", len(parts.get(timeout=30)), "results, done:", parts.completed_count())


if __name__ == "__main__":
    main()
