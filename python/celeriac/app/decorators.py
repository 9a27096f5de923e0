"""How the `task` decorators are typed: parameters and result of the function are those of the task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from celeriac.app.task import Task

__all__ = ["BatchDecorator", "BoundDecorator", "Decorator", "TaskDecorator"]

P = ParamSpec("P")
R = TypeVar("R")


if TYPE_CHECKING:
    from celeriac.app.batches import Batch

    class AsyncTask(Task[P, R]):
        """A task of an `async def`: calling it here gives a coroutine."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]


class Decorator(Protocol):
    """Makes a task of a function, plain or async."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """Makes a task of a function whose first parameter is the task."""

    @overload
    def __call__(self, fun: Callable[Concatenate[Task[..., Any], P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Task[..., Any], P], R], /) -> Task[P, R]: ...


class BatchDecorator(Protocol):
    """Makes a batch task of a function that takes a list of requests: calls take any arguments."""

    def __call__(self, fun: Callable[..., Any], /) -> Task[..., Any]: ...


class TaskDecorator(Protocol):
    """`task`, with or without options."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, *, batch: Batch, **options: Any) -> BatchDecorator: ...
    @overload
    def __call__(self, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def __call__(self, *, bind: Literal[False] = ..., **options: Any) -> Decorator: ...
