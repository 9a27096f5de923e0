"""Dead letters over HTTP: what a worker has rejected is listed, sent again and dropped."""

from __future__ import annotations

from typing import Any

import flask

from celeriac.flask import allow_all, tasks_blueprint

from .conftest import wait_until

TASKS = """
    @app.task(name="pay", acks_late=True)
    def pay(order):
        mark("tried", f"{order} ")
        if not (here / "mended").exists():
            raise Reject(f"order {order} is broken", requeue=False)
        return order
    """


def test_dead_letters_are_listed_sent_again_and_dropped(project: Any) -> None:
    project.write(TASKS)
    project.start("-c", "1")
    web = flask.Flask("web")
    web.register_blueprint(tasks_blueprint(auth=allow_all, celery_app=project.client, dead_letters=True))
    client = web.test_client()

    def letters(query: str = "") -> Any:
        return client.get(f"/tasks/dead-letters{query}").json["dead_letters"]

    sent = [project.send("pay", order) for order in (1, 2, 3)]
    found = wait_until(lambda: letters() if len(letters()) == 3 else None, "three dead letters")
    assert [letter["task_id"] for letter in found] == [result.id for result in sent]
    assert {(letter["task"], letter["queue"], letter["reason"]) for letter in found} == {("pay", "celery", "rejected")}
    assert letters("?task=other") == []
    assert len(letters("?reason=rejected&limit=2")) == 2
    assert client.get("/tasks/dead-letters?reason=odd").status_code == 400

    (project.folder / "mended").touch()
    first, second, third = (letter["id"] for letter in found)
    assert client.post("/tasks/dead-letters/retry", json={"ids": [first, second]}).json == {"count": 2}
    assert client.post("/tasks/dead-letters/retry", json={"ids": [first]}).json == {"count": 0}
    assert client.post("/tasks/dead-letters/drop", json={"ids": [third]}).json == {"count": 1}

    assert letters() == []
    project.wait_for_mark("tried", "1 2 3 1 2 ")
    assert wait_until(lambda: project.state(sent[1].id) == "SUCCESS", "the second is paid")
    assert project.marks("tried") == "1 2 3 1 2 "
