"""What `-A make_celery` loads: the Celery app of the Flask application."""

from __future__ import annotations

from image_app import create_app

flask_app = create_app()
celery_app = flask_app.extensions["celery"]
