"""`chain`: tasks one after the other, each with the result of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import Signature

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.send import Message
    from celeriac.result.async_result import AsyncResult
    from celeriac.result.eager import EagerResult

__all__ = ["chain"]

R = TypeVar("R")


@Signature.register_type("chain")
class chain(Signature[R]):
    """Tasks one after the other.

    The first one is sent with the rest in its body, last step first; each worker sends the next.

    Example:
        >>> chain(add.s(2, 2), add.s(4)).apply_async().get()
        8
    """

    def __init__(self, *tasks: Any, app: Celery | None = None, **options: Any) -> None:
        steps = tasks[0] if len(tasks) == 1 and not isinstance(tasks[0], Mapping) else tasks
        super().__init__("celery.chain", (), {"tasks": list(steps)}, options, subtask_type="chain", app=app)
        first = self.tasks[0] if self.tasks else None
        if self._app is None and isinstance(first, Signature):
            self._app = first._app or (first._type.app if first._type is not None else None)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> chain[Any]:
        """The chain of a dict."""
        new: chain[Any] = cls(*(maybe_signature(step, app) for step in d["kwargs"]["tasks"]), app=app)
        new.update(
            args=tuple(d.get("args") or ()),
            options=dict(d.get("options") or {}),
            immutable=bool(d.get("immutable", False)),
        )
        return new

    @property
    def tasks(self) -> list[Any]:
        """The steps."""
        return cast("list[Any]", self["kwargs"]["tasks"])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sends it."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Sends it. Arguments and options go to the first step, `link` to the last, `link_error` to all."""
        if self.app.conf.task_always_eager:
            return cast("AsyncResult[R]", self.apply(args, kwargs, **options))
        return self.run(args, kwargs, **options)

    def run(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """Sends it, always by message."""
        first, rest, results, merged = self._prepare(options)
        first.apply_async(self._first_args(args), kwargs, chain=rest, **merged)
        return results[-1]

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines."""
        first, rest, results, merged = self._prepare(options)
        await first.aapply_async(self._first_args(args), kwargs, chain=rest, **merged)
        return results[-1]

    def compose(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Message:
        """The message of the first step."""
        first, rest, _, merged = self._prepare(options)
        return first.compose(self._first_args(args), kwargs, chain=rest, **merged)

    def _is_plain(self) -> bool:
        return False

    def _compose_with_result(self) -> tuple[Message, AsyncResult[R]]:
        first, rest, results, merged = self._prepare({})
        return first.compose(self._first_args(None), None, chain=rest, **merged), results[-1]

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Runs the steps here, one after the other; a step that fails raises."""
        last: Any = None
        options.pop("task_id", None)
        given = self._first_args(args)
        for step in self.unchain_tasks():
            if last is not None:
                given, kwargs = (last.get(disable_sync_subtasks=False),), None
            result = step.apply(given, kwargs, **options)
            result.parent, last = last, result
        return cast("EagerResult[R]", last)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Fixes the ids of all steps."""
        steps = self.unchain_tasks()
        # The steps that were fixed are those to send.
        self["kwargs"]["tasks"] = steps
        for option in ("link", "link_error"):
            self["options"].pop(option, None)
        _, _, results = _freeze_steps(
            steps,
            root_id=root_id,
            last_id=_id or self["options"].get("task_id"),
            group_id=group_id,
            chord=chord,
            group_index=group_index,
            parent_id=parent_id,
        )
        self["options"]["task_id"] = results[-1].id
        return results[-1]

    _freeze = freeze

    def unchain_tasks(self) -> list[Signature[Any]]:
        """Copies of the steps, chains among them flattened, links and errbacks where they belong."""
        steps: list[Signature[Any]] = []
        for item in self.tasks:
            step = maybe_signature(item, app=self._app, clone=True)
            if isinstance(step, chain):
                steps.extend(step.unchain_tasks())
            else:
                steps.append(step)
        own = self["options"]
        for errback in own.get("link_error") or []:
            for step in steps:
                step.link_error(errback)
        for callback in own.get("link") or []:
            if steps:
                steps[-1].link(callback)
        return steps

    def _first_args(self, args: Iterable[Any] | None) -> tuple[Any, ...]:
        return tuple(self["args"]) if self["immutable"] else (*(args or ()), *self["args"])

    def _prepare(
        self, options: dict[str, Any]
    ) -> tuple[Signature[Any], list[Signature[Any]] | None, list[AsyncResult[Any]], dict[str, Any]]:
        """First step, the rest in the order of the wire, results, and options for the first step."""
        steps = self.unchain_tasks()
        if not steps:
            raise ValueError("an empty chain cannot be sent")
        for errback in _listed(options.pop("link_error", None)):
            for step in steps:
                step.link_error(errback)
        for callback in _listed(options.pop("link", None)):
            steps[-1].link(callback)
        merged = {**self["options"], **options}
        merged.pop("link", None)
        merged.pop("link_error", None)
        first, rest, results = _freeze_steps(
            steps,
            root_id=merged.pop("root_id", None),
            last_id=merged.pop("task_id", None),
            group_id=merged.pop("group_id", None),
            group_index=merged.pop("group_index", None),
            chord=merged.pop("chord", None),
            parent_id=merged.pop("parent_id", None),
        )
        tail = merged.pop("chain", None)
        if tail:
            rest = [*tail, *(rest or [])]
        return first, rest, results, merged

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return " | ".join(repr(maybe_signature(step)) for step in self.tasks)


def _freeze_steps(
    steps: list[Signature[Any]], *, last_id: str | None, group_id: str | None, chord: Any, **first_ids: Any
) -> tuple[Signature[Any], list[Signature[Any]] | None, list[AsyncResult[Any]]]:
    """Gives every step an id and every result its parent.

    The last step stands for the chain: it has the id that was asked for and takes part in the group and chord.
    """
    group_index = first_ids.pop("group_index")
    results: list[AsyncResult[Any]] = []
    for place, step in enumerate(steps):
        is_last = place == len(steps) - 1
        # Ids of workflow and sender belong to the first message; a worker fills in those of the others.
        ids = first_ids if place == 0 else {}
        if is_last:
            ids = {**ids, "group_id": group_id, "chord": chord, "group_index": group_index}
        result = step.freeze(last_id if is_last else None, **ids)
        if results:
            result.parent = results[-1]
        results.append(result)
    rest = list(reversed(steps[1:])) or None
    return steps[0], rest, results


def _listed(value: Any) -> list[Any]:
    if not value:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
