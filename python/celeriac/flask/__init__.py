"""celeriac in a Flask application: an extension, a blueprint of tasks, and commands.

Example:
    >>> from celeriac.flask import Celeriac, tasks_blueprint
    >>> celeriac = Celeriac()
    >>> def create_app():
    ...     app = Flask(__name__)
    ...     app.config["CELERIAC_BROKER_URL"] = "redis://localhost"
    ...     celeriac.init_app(app)
    ...     app.register_blueprint(tasks_blueprint(auth=may))
    ...     return app
"""

try:
    import flask as _flask  # noqa: F401 -- looked for here, so that one clear sentence tells of its absence
except ImportError as exc:
    raise ImportError("celeriac.flask needs Flask, which is not installed: pip install 'celeriac[flask]'") from exc

from celeriac.flask.blueprint import tasks_blueprint
from celeriac.flask.command import flask_app
from celeriac.flask.extension import Celeriac
from celeriac.web import allow_all

__all__ = ["Celeriac", "allow_all", "flask_app", "tasks_blueprint"]
