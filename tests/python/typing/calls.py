"""What a type checker says of calls and results. Never run: mypy is the test.

A line that must be refused carries an ignore with the expected code; mypy reports ignores that nothing needs.
"""

from __future__ import annotations

from typing import assert_type

from celeriac import Celery, shared_task
from celeriac.result import AsyncResult

app = Celery("typed")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@shared_task
def shout(text: str) -> str:
    return text.upper()


@app.task(name="typed.halve", max_retries=3)
def halve(x: int) -> float:
    return x / 2


def results_have_the_type_that_the_task_returns() -> None:
    assert_type(add.delay(1, y=2), AsyncResult[int])
    assert_type(add.delay(1).get(), int)
    assert_type(shout.delay("a").get(timeout=1), str)
    assert_type(halve.delay(3), AsyncResult[float])
    assert_type(add(1, 2), int)


def arguments_are_checked() -> None:
    add.delay("1")  # type: ignore[arg-type]
    add.delay()  # type: ignore[call-arg]
    add.s(1, 2, 3)  # type: ignore[call-arg]
    shout.delay(texts="a")  # type: ignore[call-arg]


async def awaiting_gives_the_result() -> None:
    pending = await add.adelay(1, 2)
    assert_type(pending, AsyncResult[int])
    assert_type(await pending, int)
