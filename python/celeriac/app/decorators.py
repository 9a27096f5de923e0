"""How the `task` decorators are typed: parameters and result of the function are those of the task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from celeriac.app.task import Task

__all__ = ["BoundDecorator", "Decorator", "TaskDecorator"]

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """Makes a task of a function, plain or async."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """Makes a task of a function whose first parameter is the task."""

    @overload
    def __call__(self, fun: Callable[Concatenate[Task[..., Any], P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Task[..., Any], P], R], /) -> Task[P, R]: ...


class TaskDecorator(Protocol):
    """`task`, with or without options."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def __call__(self, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
    @overload
    def __call__(self, *, bind: Literal[False] = ..., **options: Any) -> Decorator: ...
