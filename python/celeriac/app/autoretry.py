"""`autoretry_for`: retries when the task raises one of the listed exceptions."""

from __future__ import annotations

from collections.abc import Callable
from random import randrange
from typing import TYPE_CHECKING, Any

from celeriac.exceptions import Ignore, Retry

if TYPE_CHECKING:
    from celeriac.app.task import Task

__all__ = ["add_autoretry_behaviour", "get_exponential_backoff_interval", "retry_options"]

_CO_COROUTINE = 0x80


def get_exponential_backoff_interval(factor: int, retries: int, maximum: int, full_jitter: bool = False) -> int:
    """Seconds until the next try: `factor` times 2 to the `retries`, at most `maximum`.

    Args:
        factor: The first delay.
        retries: Tries that failed before this one.
        maximum: The longest delay.
        full_jitter: Draw it evenly from 0 up to that.
    """
    # A shift by thousands would make a number of thousands of digits only to throw it away.
    countdown = min(maximum, factor * (1 << min(retries, 64)))
    if full_jitter:
        countdown = randrange(countdown + 1)
    return max(0, countdown)


def add_autoretry_behaviour(task: Task[..., Any]) -> None:
    """Wraps `task.run` if the task lists exceptions to retry for."""
    retry_for = tuple(task.autoretry_for or ())
    if not retry_for or hasattr(task, "_orig_run"):
        return
    run = task.run
    task._orig_run = run  # type: ignore[attr-defined]
    if getattr(getattr(run, "__code__", None), "co_flags", 0) & _CO_COROUTINE:
        task.run = _async_run(task, run, retry_for)  # type: ignore[method-assign]
    else:
        task.run = _run(task, run, retry_for)  # type: ignore[method-assign]


def _run(task: Task[..., Any], run: Callable[..., Any], retry_for: tuple[type[BaseException], ...]) -> Any:
    passed_through: tuple[type[BaseException], ...] = (Ignore, Retry, *task.dont_autoretry_for)

    def run_with_retry(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except passed_through:
            raise
        except retry_for as exc:
            _retry(task, exc)

    run_with_retry.__wrapped__ = run  # type: ignore[attr-defined]
    return run_with_retry


def _async_run(task: Task[..., Any], run: Callable[..., Any], retry_for: tuple[type[BaseException], ...]) -> Any:
    passed_through: tuple[type[BaseException], ...] = (Ignore, Retry, *task.dont_autoretry_for)

    async def run_with_retry(*args: Any, **kwargs: Any) -> Any:
        try:
            return await run(*args, **kwargs)
        except passed_through:
            raise
        except retry_for as exc:
            _retry(task, exc)

    run_with_retry.__wrapped__ = run  # type: ignore[attr-defined]
    return run_with_retry


def _retry(task: Task[..., Any], exc: BaseException) -> None:
    raise task.retry(exc=exc, **retry_options(task, task.request.retries))


def retry_options(task: Task[..., Any], retries: int) -> dict[str, Any]:
    """How the task wants to be tried again, after so many tries that failed before this one."""
    options = dict(task.retry_kwargs or {})
    backoff = task.retry_backoff
    if backoff:
        options["countdown"] = get_exponential_backoff_interval(
            int(max(1.0, float(backoff))), retries, task.retry_backoff_max, task.retry_jitter
        )
    if task.override_max_retries is not None:
        options["max_retries"] = task.override_max_retries
    return options
