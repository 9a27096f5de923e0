"""The programs as classes, in the places where Celery has them."""
