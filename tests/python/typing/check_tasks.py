"""What type checkers know of tasks: mypy must find each error that is expected here, and no other."""

from __future__ import annotations

from typing import Any, assert_type

from celeriac import AsyncResult, Batch, Celery, Exchange, Queue, Signature, Task, binding, chain, shared_task, task
from celeriac.app.batches import BatchRequest
from celeriac.entities import Broadcast

app = Celery("typing")


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(acks_late=True, rate_limit="5/s")
def show(text: str, *, times: int) -> list[str]:
    return [text] * times


@app.task(bind=True, max_retries=3)
def bound(self: Task[..., Any], name: str) -> bool:
    self.update_state(state="PROGRESS", meta={"name": name})
    return self.request.retries > 0


@app.task
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def bound_fetch(self: Task[..., Any], url: str) -> bytes:
    return url.encode()


@shared_task
def shared(x: float) -> str:
    return str(x)


@task(name="free")
def free(x: float) -> str:
    return str(x)


@app.task
def move(x: float, y: float, name: str = "") -> str:
    return name


assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(1, y=2).get(), int)
assert_type(add(1), int)
assert_type(show.delay("a", times=2).get(), list[str])
assert_type(bound.delay("a").get(), bool)
assert_type(fetch.delay("u").get(), bytes)
assert_type(bound_fetch.delay("u").get(), bytes)
assert_type(shared.delay(1.0).get(), str)
assert_type(free.delay(1.0).get(), str)
assert_type(add.s(1), Signature[int])
assert_type(add.s(1).delay(2).get(), int)
# Partial: a chain, a link or a call adds what comes first.
assert_type(move.s(3.0), Signature[str])
assert_type(move.s(2.0, name="n"), Signature[str])
assert_type(move.s("b").delay(1.0, 2.0), AsyncResult[str])
assert_type(bound.s(), Signature[bool])
assert_type(fetch.s(), Signature[bytes])
assert_type(add.apply((1, 2)).get(), int)
assert_type(add.apply_async((1, 2), countdown=3).get(), int)
assert_type(add.delay_many([(1, 2), {"x": 1}]), list[AsyncResult[int]])
assert_type(app.send_many([add.s(1), show.s("a", times=1), chain(add.s(1))]), list[AsyncResult[Any]])
app.conf.task_queues = [
    Queue("a", Exchange("media", type="topic"), routing_key="a.#", queue_arguments={"x-max-priority": 10}),
    Queue("b", bindings=[binding(Exchange("media"), "b")], max_priority=3, durable=False),
    Broadcast("news"),
]
add.apply_async((1, 2), queue=Queue("b"))

add.delay("1")  # type: ignore[arg-type]
add.delay_many([5])  # type: ignore[list-item]
add.delay()  # type: ignore[call-arg]
add.delay(1, 2, 3)  # type: ignore[call-arg]
add.delay(1, z=2)  # type: ignore[call-arg]
add.s("1")  # type: ignore[call-overload]
add.s(1, 2, 3)  # type: ignore[call-overload]
add.si("1")  # type: ignore[arg-type]
show.delay("a")  # type: ignore[call-arg]
show.delay("a", 2)  # type: ignore[call-arg]
bound.delay()  # type: ignore[call-arg]
bound.delay(1)  # type: ignore[arg-type]
fetch.delay(1)  # type: ignore[arg-type]
bound_fetch.delay()  # type: ignore[call-arg]
shared.delay("x")  # type: ignore[arg-type]
free.delay("x")  # type: ignore[arg-type]

move.s(1.0, "b", "c", 4)  # type: ignore[call-overload]

steps = chain(add.s(1), add.s(2)) | add.s(3)
steps.apply_async().get()


async def use() -> None:
    assert_type(await add.delay(1), int)
    assert_type(await fetch("u"), bytes)
    assert_type(await bound_fetch("u"), bytes)
    assert_type(await add.adelay(1), AsyncResult[int])
    assert_type(await (await fetch.adelay("u")), bytes)
    await add.adelay("1")  # type: ignore[arg-type]


class Base(Task[..., Any]):
    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...


@app.task(base=Base)
def based(x: int) -> int:
    return x


assert_type(based.delay(1).get(), int)


@app.task(batch=Batch(max_size=10))
def insert(requests: list[BatchRequest]) -> None:
    requests[0].ack()


insert.delay(1, "two", three=3)
insert.delay_many([(1,)])
