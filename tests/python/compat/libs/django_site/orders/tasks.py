"""Tasks of the application."""

import sys

from celery import shared_task

from .models import Note, Order


@shared_task
def add(x, y):
    """Adds."""
    return x + y


@shared_task
def modules_of_celery():
    """What this process has loaded of a Celery that is installed."""
    files = ((name, getattr(module, "__file__", None) or "") for name, module in list(sys.modules.items()))
    return sorted(name for name, file in files if "/site-packages/celery/" in file)


@shared_task
def total(numbers):
    """The sum of what a chord has gathered."""
    return sum(numbers)


@shared_task(bind=True)
def ship(self, order_id, note=""):
    """Marks an order as shipped."""
    self.update_state(state="PACKING", meta={"order": order_id})
    order = Order.objects.get(pk=order_id)
    order.shipped = True
    order.save()
    return {"customer": order.customer, "note": note}


@shared_task
def refuse(reason):
    """Fails."""
    raise ValueError(reason)


@shared_task(bind=True)
def remind(self, text):
    """Writes a note, as a periodic task."""
    Note.objects.create(text=text, made_by=getattr(self.request, "periodic_task_name", ""))
    return text
