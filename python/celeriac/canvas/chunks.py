"""`xmap`, `xstarmap` and `chunks`: one task over many arguments, in one message or in a few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from celeriac.canvas.composition import Composition
from celeriac.canvas.signature import Signature

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.canvas.group import group

__all__ = ["chunks", "xmap", "xstarmap"]


class _Map(Signature[list[Any]]):
    """One message; the worker calls the task for each item, and gives the list of what it returned."""

    _task_name = ""

    def __init__(self, task: Any, it: Iterable[Any], app: Celery | None = None, **options: Any) -> None:
        content = {"task": task, "it": list(it)}
        super().__init__(self._task_name, (), content, options, immutable=True, app=app or _app_of(task))

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> _Map:
        """The same of a dict."""
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **(d.get("options") or {}))

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Sends it, to where the task's own messages go."""
        _, _, merged = self._for_sending((), {}, options)
        merged.setdefault("route_name", route_name or self["kwargs"]["task"]["task"])
        return self.type.apply_async((), self["kwargs"], **merged)

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`apply_async` for coroutines."""
        _, _, merged = self._for_sending((), {}, options)
        merged.setdefault("route_name", self["kwargs"]["task"]["task"])
        return await self.type.aapply_async((), self["kwargs"], **merged)

    def _plan(
        self, composition: Composition, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        return self.apply_async(args, kwargs, **{**options, "producer": composition})

    def _is_plain(self) -> bool:
        return False


@Signature.register_type("xmap")
class xmap(_Map):
    """`[task(item) for item in it]`, one after the other in one message.

    Args:
        task: The signature of the task.
        it: One argument for each call.
        app: Whose task it is.
        **options: Options of the message.
    """

    _task_name = "celery.map"

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}(x) for x in {_short(self['kwargs']['it'])}]"


@Signature.register_type("xstarmap")
class xstarmap(_Map):
    """`[task(*item) for item in it]`, one after the other in one message.

    Args:
        task: The signature of the task.
        it: A list of arguments for each call.
        app: Whose task it is.
        **options: Options of the message.
    """

    _task_name = "celery.starmap"

    def __repr__(self) -> str:
        return f"[{self['kwargs']['task']['task']}(*x) for x in {_short(self['kwargs']['it'])}]"


@Signature.register_type("chunks")
class chunks(Signature[list[Any]]):
    """Many calls in a few messages, each with `n` of them: a group of starmaps.

    Args:
        task: The signature of the task.
        it: A list of arguments for each call.
        n: Calls in each message.
        app: Whose task it is.
        **options: Options of the messages.
    """

    def __init__(self, task: Any, it: Iterable[Any], n: int, app: Celery | None = None, **options: Any) -> None:
        content = {"task": task, "it": list(it), "n": n}
        super().__init__("celery.chunks", (), content, options, immutable=True, app=app or _app_of(task))

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> chunks:
        """The same of a dict."""
        content = d["kwargs"]
        return cls(content["task"], content["it"], content["n"], app=app, **(d.get("options") or {}))

    def clone(self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """A plain signature: in another workflow, a worker makes the group."""
        return Signature(super().clone(args, kwargs, **options), app=self._app)

    partial = clone

    def __call__(self, **options: Any) -> Any:
        """Sends the group."""
        return self.apply_async(**options)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Sends the group, to where the task's own messages go."""
        return self.group().apply_async(args, kwargs, **{**self["options"], **options})

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`apply_async` for coroutines."""
        return await self.group().aapply_async(args, kwargs, **{**self["options"], **options})

    def apply(self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Runs the group here."""
        return self.group().apply(args, kwargs, **options)

    def _plan(
        self, composition: Composition, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        return self.group()._plan(composition, args, kwargs, {**self["options"], **options})

    def group(self) -> group[Any]:
        """The group: a starmap for every `n` items."""
        from celeriac.canvas.group import group

        content = self["kwargs"]
        parts = _parts(iter(content["it"]), content["n"])
        return group((xstarmap(content["task"], part, app=self._app) for part in parts), app=self._app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Celery | None = None) -> Any:
        """Sends the group of these."""
        return cls(task, it, n, app=app)()

    def _is_plain(self) -> bool:
        return False


def _parts(it: Iterator[Any], n: int) -> Iterator[list[Any]]:
    while part := list(islice(it, n)):
        yield part


def _app_of(task: Any) -> Celery | None:
    return task._known_app() if isinstance(task, Signature) else None


def _short(it: Any) -> str:
    text = repr(it)
    return text if len(text) <= 100 else f"{text[:97]}..."
