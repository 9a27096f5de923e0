"""Orders, and lines of a journal."""

from django.db import models


class Order(models.Model):
    """What somebody wants."""

    customer = models.CharField(max_length=50)
    shipped = models.BooleanField(default=False)

    def __str__(self):
        return self.customer


class Note(models.Model):
    """What a periodic task has written."""

    text = models.CharField(max_length=200)
    made_by = models.CharField(max_length=200, default="")

    def __str__(self):
        return self.text
