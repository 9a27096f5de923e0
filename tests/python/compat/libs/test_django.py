"""A Django project with django-celery-results and django-celery-beat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .sides import HERE, Side

SITE = HERE / "django_site"
MakeSide = Callable[..., Side]
#: The database with all tables, once it was made.
TABLES: list[bytes] = []


def project(make_side: MakeSide, **environment: str) -> Side:
    """The project, its tables made."""
    side = make_side(SHOP_SITE=str(SITE), **environment)
    side.environment["PYTHONPATH"] = f"{SITE}:{side.environment['PYTHONPATH']}"
    made = side.folder / "shop.db"
    if not TABLES:
        side.run(str(SITE / "migrate.py"))
        TABLES.append(made.read_bytes())
    # They are the same whoever makes them, and take seconds.
    made.write_bytes(TABLES[0])
    return side


def test_results_in_djangos_database_are_those_of_celery(make_side: MakeSide) -> None:
    side = project(make_side)
    side.worker("shop", "-c", "2")

    saw = side.run(str(SITE / "results_client.py"))

    assert saw["package"] == ("celeriac" if side.kind == "celeriac" else "celery")
    if side.kind == "celeriac":
        assert saw["of an installed Celery"] == {"client": [], "child": []}
    assert saw["sent within the transaction"] == 0
    assert saw["ship"] == {"customer": "Ada", "note": "fragile"}
    assert saw["shipped"] is True
    assert saw["ship row"] == {
        "status": "SUCCESS",
        "result": {"customer": "Ada", "note": "fragile"},
        "task_name": "orders.tasks.ship",
        "task_args": '"(1,)"',
        "task_kwargs": "\"{'note': 'fragile'}\"",
        "worker": "libs@host",
        "content": ["application/json", "utf-8"],
        "meta": {"children": []},
        "traceback": [],
        "started": True,
    }
    assert saw["refused"] == ["ValueError", "no stock"]
    assert saw["refused row"]["status"] == "FAILURE"
    assert saw["refused row"]["result"] == {
        "exc_type": "ValueError",
        "exc_message": ["no stock"],
        "exc_module": "builtins",
    }
    assert saw["refused row"]["traceback"] == ["ValueError: no stock"]
    assert saw["read again"] == ["FAILURE", "ValueError('no stock')", False, None, True]
    assert saw["backend"] == "DatabaseBackend"
    assert saw["chain"] == [13, 3, True]
    assert saw["group"] == [0, 2, 4, 6]
    assert (saw["groups stored"], saw["restored"], saw["groups deleted"]) == (1, [True, [0, 2, 4, 6], 4], 0)
    assert saw["chord"] == 20
    assert saw["broken chord"] == "ChordError"
    assert saw["counters left"] == 0
    assert saw["forgotten"] is False
    assert saw["cleaned up"] is True


def test_periodic_tasks_of_djangos_database_are_sent_and_may_be_changed(make_side: MakeSide) -> None:
    side = project(make_side)
    client = str(SITE / "beat_client.py")
    side.run(client, "before")
    side.worker("shop", "-c", "1")
    beat = side.start("beat", side.celery("-A", "shop", "beat", "-S", "django", "--max-interval", "1", "-l", "INFO"))

    during = side.run(client, "during")
    beat.stop()
    after = side.run(client, "after")

    assert during == {
        "made by": ["once", "plants"],
        "stored as": "orders.tasks.remind",
        "cleanup": "celery.backend_cleanup",
    }
    assert after == {"runs": True, "remembered": True, "once": 1, "once is off": True, "never": 0}
    assert "DatabaseScheduler: Schedule changed." in beat.log


def test_results_in_djangos_cache_keep_exceptions_as_they_are(make_side: MakeSide, tmp_path: Path) -> None:
    side = project(make_side, SHOP_RESULTS="django-cache", C_FORCE_ROOT="1")
    side.worker("shop", "-c", "1")
    script = tmp_path / "cache_client.py"
    script.write_text(
        """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django; django.setup()
from orders.tasks import add, refuse
saw = {"sum": add.delay(2, 3).get(timeout=20)}
failed = refuse.delay("stock")
try:
    failed.get(timeout=20)
except ValueError as exc:
    saw["refused"] = repr(exc)
saw["state"] = failed.state
failed.forget()
saw["after"] = failed.__class__(failed.id).state
print(json.dumps(saw))
"""
    )

    assert side.run(str(script)) == {
        "sum": 5,
        "refused": "ValueError('stock')",
        "state": "FAILURE",
        "after": "PENDING",
    }
