"""A Django project that has no Celery app of its own: `-A celeriac.django` is enough."""

import importlib.util
import os

SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS = ["jobs"]
if importlib.util.find_spec("django_tasks"):
    INSTALLED_APPS.append("django_tasks")
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(os.environ["SITE_FOLDER"], "db")}}
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["SITE_BROKER"]
TASKS = {
    "default": {"BACKEND": "celeriac.django.CeleriacBackend", "QUEUES": ["default", "mail"]},
    "careful": {
        "BACKEND": "celeriac.django.CeleriacBackend",
        "QUEUES": [],
        "OPTIONS": {"enqueue_on_commit": True},
    },
}
ROOT_URLCONF = "urls"
ALLOWED_HOSTS = ["testserver"]
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
