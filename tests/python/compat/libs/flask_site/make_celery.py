"""For the command line: `celery -A make_celery worker`."""

from shop_api import create_app

flask_app = create_app()
celery_app = flask_app.extensions["celery"]
