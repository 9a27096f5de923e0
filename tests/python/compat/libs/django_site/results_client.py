"""What a web application does with tasks whose results are in Django's database."""

import json
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

import django

django.setup()

from datetime import timedelta  # noqa: E402

import celery  # noqa: E402
from celery import chain, chord, group  # noqa: E402
from celery.result import AsyncResult, GroupResult  # noqa: E402
from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_celery_results.models import ChordCounter, TaskResult  # noqa: E402
from django_celery_results.models import GroupResult as StoredGroup  # noqa: E402
from orders.models import Order  # noqa: E402
from orders.tasks import add, modules_of_celery, refuse, ship, total  # noqa: E402
from shop import celery_app  # noqa: E402

saw = {"celery": celery.__version__, "package": celery.Celery.__module__.partition(".")[0]}


def row(result):
    """What is stored, without what differs from run to run."""
    stored = TaskResult.objects.get(task_id=result.id)
    return {
        "status": stored.status,
        "result": json.loads(stored.result),
        "task_name": stored.task_name,
        "task_args": stored.task_args,
        "task_kwargs": stored.task_kwargs,
        "worker": stored.worker,
        "content": [stored.content_type, stored.content_encoding],
        "meta": json.loads(stored.meta),
        "traceback": (stored.traceback or "").strip().splitlines()[-1:],
        "started": stored.date_started is not None,
    }


# A task that is sent once the order is there to be read.
with transaction.atomic():
    order = Order.objects.create(customer="Ada")
    ship.delay_on_commit(order.pk, note="soon")
    saw["sent within the transaction"] = TaskResult.objects.count()
order = Order.objects.get(pk=order.pk)
shipped = ship.delay(order.pk, note="fragile")
saw["ship"] = shipped.get(timeout=20)
saw["ship row"] = row(shipped)
order.refresh_from_db()
saw["shipped"] = order.shipped

failed = refuse.delay("no stock")
try:
    failed.get(timeout=20)
except ValueError as exc:
    saw["refused"] = [type(exc).__name__, *exc.args]
saw["refused row"] = row(failed)
again = AsyncResult(failed.id)
saw["read again"] = [again.state, repr(again.result), again.successful(), again.name, "ValueError" in again.traceback]

saw["backend"] = type(celery_app.backend).__name__

third = chain(add.s(1, 2), add.s(10)).apply_async()
saw["chain"] = [third.get(timeout=20), third.parent.get(timeout=20), row(third.parent)["meta"]["children"] != []]

members = group(add.s(n, n) for n in range(4)).apply_async()
saw["group"] = members.get(timeout=20)
members.save()
saw["groups stored"] = StoredGroup.objects.filter(group_id=members.id).count()
restored = GroupResult.restore(members.id, app=celery_app)
saw["restored"] = [restored.id == members.id, restored.get(timeout=20), restored.completed_count()]
members.delete()
saw["groups deleted"] = StoredGroup.objects.filter(group_id=members.id).count()

whole = chord([add.s(n, n) for n in range(5)])(total.s())
saw["chord"] = whole.get(timeout=30)
broken = chord([add.s(1, 1), refuse.s("part")])(total.s())
saw["broken chord"] = type(broken.get(timeout=30, propagate=False)).__name__
saw["counters left"] = ChordCounter.objects.filter(group_id=whole.parent.id).count()

shipped.forget()
saw["forgotten"] = TaskResult.objects.filter(task_id=shipped.id).exists()
TaskResult.objects.filter(task_id=failed.id).update(date_done=timezone.now() - timedelta(days=3))
celery_app.tasks["celery.backend_cleanup"].delay()
until = timezone.now() + timedelta(seconds=20)
while TaskResult.objects.filter(task_id=failed.id).exists() and timezone.now() < until:
    pass
saw["cleaned up"] = not TaskResult.objects.filter(task_id=failed.id).exists()
saw["of an installed Celery"] = {"client": modules_of_celery(), "child": modules_of_celery.delay().get(timeout=20)}
print(json.dumps(saw))
