"""A Flask application with background tasks, as Flask's documentation shows it for Celery."""

from __future__ import annotations

from celery import Celery, Task
from flask import Flask, render_template_string

PAGE = """<!doctype html>
<title>Background tasks</title>
<h1>Background tasks</h1>
<form data-task=add>Add <input name=a value=2 size=4> and <input name=b value=3 size=4> <button>Add</button></form>
<form data-task=process>Take <input name=total value=10 size=4> steps <button>Begin</button></form>
<p id=answer></p>
<script>
const answer = document.getElementById("answer");
async function poll(id) {
  const found = await (await fetch(`/tasks/result/${id}`)).json();
  answer.textContent = found.ready ? `result: ${JSON.stringify(found.value)}` : `${found.state} ${JSON.stringify(found.progress)}`;
  if (!found.ready) setTimeout(() => poll(id), 500);
}
for (const form of document.querySelectorAll("form"))
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const response = await fetch(`/tasks/${form.dataset.task}`, { method: "POST", body: new FormData(form) });
    poll((await response.json()).result_id);
  });
</script>
"""


def create_app() -> Flask:
    """The application. FLASK_CELERY__broker_url and its like in the environment win over what is here."""
    app = Flask(__name__)
    app.config.from_mapping(
        CELERY={
            "broker_url": "redis://localhost",
            "result_backend": "redis://localhost",
            "task_ignore_result": True,
        },
        GREETING="hello",
    )
    app.config.from_prefixed_env()
    celery_init_app(app)

    from . import views

    app.register_blueprint(views.bp)

    @app.route("/")
    def index() -> str:
        return render_template_string(PAGE)

    return app


def celery_init_app(app: Flask) -> Celery:
    """Gives the application an app for tasks; each of them runs in the application's context."""

    class FlaskTask(Task):
        def __call__(self, *args: object, **kwargs: object) -> object:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app
