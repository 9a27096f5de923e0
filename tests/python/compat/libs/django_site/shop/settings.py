"""Settings of the project: SQLite, and both extensions."""

import os

SECRET_KEY = "for tests"
DEBUG = False
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django_celery_results",
    "django_celery_beat",
    "orders",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ["LIBS_FOLDER"], "shop.db"),
        # Several processes write: none gives up at once.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": os.path.join(os.environ["LIBS_FOLDER"], "cache"),
    }
}

CELERY_BROKER_URL = os.environ["LIBS_BROKER"]
CELERY_RESULT_BACKEND = os.environ.get("SHOP_RESULTS", "django-db")
CELERY_CACHE_BACKEND = "default"
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = True
CELERY_TIMEZONE = "Europe/Berlin"
CELERY_ACCEPT_CONTENT = ["json", "pickle"] if os.environ.get("SHOP_RESULTS") else ["json"]
