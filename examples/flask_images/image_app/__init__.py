"""The application: an image service that answers at once and works in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask

from celeriac import Celery, Task

HERE = Path(__file__).resolve().parent.parent


def create_app() -> Flask:
    """Makes the web application. Every setting can be given as `FLASK_...` in the environment."""
    app = Flask(__name__)
    app.config.from_mapping(
        OUTPUT_DIR=str(HERE / "out"),
        SMTP_HOST="127.0.0.1",
        SMTP_PORT=8025,
        MAIL_FROM="images@example.com",
        MAX_CONTENT_LENGTH=32 * 1024 * 1024,
        CELERY={
            "broker_url": f"sqlite:///{HERE / 'out' / 'tasks.db'}",
            "result_backend": f"sqlite:///{HERE / 'out' / 'tasks.db'}",
            "worker_prefetch_multiplier": 1,
        },
    )
    app.config.from_prefixed_env()
    for folder in ("uploads", "images"):
        Path(app.config["OUTPUT_DIR"], folder).mkdir(parents=True, exist_ok=True)

    celery_init_app(app)

    from image_app import views

    app.register_blueprint(views.api)
    return app


def celery_init_app(app: Flask) -> Celery:
    """Gives the application a Celery app whose tasks run in the application context (Flask's own pattern)."""

    class FlaskTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app
