"""`chain`: tasks one after the other, each with the result of the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celeriac import states
from celeriac.canvas.composition import Composition
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import Signature
from celeriac.canvas.steps import Preparation, StepIds, is_empty_group, is_led_by_task, kind_of, unrolled
from celeriac.canvas.workflow import TaskList, as_list, with_members_cloned

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.result.async_result import AsyncResult

__all__ = ["chain"]

R = TypeVar("R")

#: Options of a chain that are not its first step's.
_OWN_OPTIONS = ("group_id", "group_index", "chord", "task_id", "link", "link_error", "root_id", "parent_id")


@Signature.register_type("chain")
class chain(TaskList[R]):
    """Tasks one after the other.

    The first one is sent with the rest in its body, last step first; each worker sends the next. `chain(a, b, c)` is
    `a | b | c`: chains in it are flattened, and a group that something follows becomes a chord, so that what it
    gives may be a chord or a group. With options, the steps are kept as they are until it is sent.

    Example:
        >>> chain(add.s(2, 2), add.s(4)).apply_async().get()
        8

    Args:
        *tasks: Signatures, or one iterable of them.
        app: Whose tasks they are.
        **options: For the first step; `link` for the last, `link_error` for all.
    """

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        """The same as `|` between the steps."""
        if tasks and not options and (len(tasks) > 1 or _is_several(tasks[0])):
            return _fold(cls, list(tasks[0]) if len(tasks) == 1 else list(tasks))
        return super().__new__(cls)

    def __init__(self, *tasks: Any, app: Celery | None = None, **options: Any) -> None:
        if "task" in self:
            # Made by `__new__` already.
            return
        given: Any = tasks[0] if len(tasks) == 1 and _is_several(tasks[0]) else tasks
        steps = [maybe_signature(step, app=app) for step in given]
        super().__init__("celery.chain", (), {"tasks": steps}, options, subtask_type="chain", app=app)

    @classmethod
    def _of(cls, steps: Iterable[Any], app: Celery | None = None) -> chain[Any]:
        """A chain of just these steps."""
        new = cast("chain[Any]", Signature.__new__(cls))
        new.__init__(list(steps), app=app)  # type: ignore[misc]
        return new

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> chain[Any]:
        """The chain of a dict."""
        new = cls._of(d["kwargs"]["tasks"], app)
        new._read(d)
        return new

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sends it; None if it is empty."""
        return self.apply_async(args, kwargs) if self.tasks else None

    # -- sending

    def run(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[R]:
        """Sends it, always by message."""
        return cast("AsyncResult[R]", self.app._send_composition(self.compose_all(args, kwargs, **options), options))

    def _plan(
        self, composition: Composition, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        merged = {**self["options"], **options}
        own = {name: merged.pop(name, None) for name in _OWN_OPTIONS}
        merged.pop("publisher", None)
        ids = StepIds(own["root_id"], own["task_id"], own["group_id"], own["group_index"], own["chord"])
        ready = Preparation(self.app, ids, as_list(own["link_error"]), clone=True)
        ready.run(self.tasks, self._given(args), kwargs)
        steps, results = ready.steps, ready.results
        if not steps:
            return None
        if own["link"]:
            steps[0].extend_list_option("link", own["link"])
        first = steps.pop()
        merged["chain"] = [*(merged.get("chain") or ()), *steps]
        if own["parent_id"]:
            merged["parent_id"] = own["parent_id"]
        result = first._plan(composition, (), {}, merged)
        # The frozen result of a single step would not be the one that knows its members.
        return results[0] if steps else result

    def _given(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments for the first step."""
        return tuple(self["args"]) if self["immutable"] else (*args, *self["args"])

    def apply(self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Runs the steps here, one after the other; a step that fails raises."""
        merged = {**self["options"], **options}
        link, task_id = as_list(merged.pop("link", None)), merged.pop("task_id", None)
        steps = [step for step in self.tasks if not is_empty_group(step)] or self.tasks[-1:]
        given: tuple[Any, ...] | None = self._given(tuple(args or ()))
        last: Any = None
        for place, item in enumerate(steps):
            step = maybe_signature(item, app=self._app, clone=True)
            if last is not None:
                given, kwargs = (last.get(disable_sync_subtasks=False),), None
            if place == len(steps) - 1:
                if task_id:
                    merged["task_id"] = task_id
                target = step.body if kind_of(step) == "chord" else step
                for callback in link:
                    target.append_to_list_option("link", callback)
            result = step.apply(given, kwargs, **merged)
            result.parent, last = last, result
            if getattr(result, "state", None) in {states.IGNORED, states.REJECTED}:
                break
        return last

    # -- freezing

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Fixes the ids of all steps; gives the last one's result."""
        _, results = self.prepare_steps(
            (),
            {},
            self.tasks,
            root_id,
            parent_id,
            last_task_id=_id,
            group_id=group_id,
            chord_body=chord,
            group_index=group_index,
            clone=False,
        )
        return results[0]

    _freeze = freeze

    def prepare_steps(
        self,
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Celery | None = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        group_index: int | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """The steps as they are sent, and their results, the last ones first.

        Args:
            args: For the first step.
            kwargs: For the first step.
            tasks: The steps as written.
            root_id: The first task of the workflow.
            parent_id: Accepted for compatibility: steps learn it from the one before.
            link_error: Errbacks for every step.
            app: Whose tasks they are.
            last_task_id: The id of the last step.
            group_id: The group that the chain is in.
            chord_body: The body of the chord that the chain is in.
            clone: Make copies; otherwise the steps themselves get their ids.
            group_index: Its place in the group.
        """
        ids = StepIds(root_id, last_task_id, group_id, group_index, chord_body)
        ready = Preparation(app or self.app, ids, as_list(link_error), clone=clone)
        ready.run(tasks, tuple(args), kwargs)
        self["options"]["task_id"] = ready.results[0].id if ready.results else last_task_id
        return ready.steps, ready.results

    def unchain_tasks(self) -> list[Any]:
        """Copies of the steps, links and errbacks of the chain where they belong."""
        steps = with_members_cloned(self.tasks, self._app)
        for callback in as_list(self["options"].get("link")):
            steps[-1].link(callback)
        for errback in as_list(self["options"].get("link_error")):
            for step in steps:
                step.link_error(maybe_signature(errback, clone=True))
        return steps

    def _unroll_chords(self) -> None:
        """Takes what follows the first task of a chord's body out of the body, so that not every member of the header
        carries a copy of it. Changes the chain in place."""
        todo, steps = list(reversed(self.tasks)), []
        while todo:
            step = todo.pop()
            if kind_of(step) == "chain":
                step = step.clone()
                step._unroll_chords()
            if kind_of(step) == "chord" and is_led_by_task(step.body):
                todo.extend(reversed(step._unroll_body()))
            else:
                steps.append(step)
        self.tasks = steps

    def _first_step_options(self) -> dict[str, Any]:
        return {key: value for key, value in self["options"].items() if key not in _OWN_OPTIONS}

    # -- joining

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        if is_empty_group(other):
            return self
        if isinstance(other, chain):
            return reduce(or_, other.unchain_tasks(), self)
        if kind_of(other) == "group":
            return self._then_group(other)
        tail = kind_of(self.tasks[-1]) if self.tasks else None
        if tail == "group" or (tail == "chord" and kind_of(other) != "chord"):
            return self._into_chord(other)
        return type(self)._of([*self.unchain_tasks(), other], self._app)

    def _then_group(self, other: Any) -> Any:
        other = unrolled(other)
        if kind_of(other) != "group":
            return self | other
        steps = self.unchain_tasks()
        if not steps:
            return other
        if kind_of(steps[-1]) == "chord":
            steps[-1].body = steps[-1].body | other
            return type(self)._of(steps, self._app)
        return type(self)._of([*steps, other], self._app)

    def _into_chord(self, other: Signature[Any]) -> Any:
        """What follows a group makes it a chord; what follows a chord follows its body."""
        from celeriac.canvas.chord import chord

        copy: Any = self.clone()
        steps = copy.tasks
        if kind_of(steps[-1]) == "chord":
            steps[-1].body = steps[-1].body | other
            return copy
        steps[-1] = chord(steps[-1], other, app=self._app)
        if len(steps) > 1 and kind_of(steps[-2]) == "chord":
            steps[-2].body = steps[-2].body | steps[-1]
            steps.pop()
        return copy

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Stamps every step."""
        from celeriac.canvas.stamping import stamp_chain

        return stamp_chain(self, visitor, append_stamps, headers)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}: empty>"
        return " | ".join(repr(maybe_signature(step)) for step in self.tasks)


def _is_several(item: Any) -> bool:
    return isinstance(item, Iterable) and not isinstance(item, (Mapping, str, bytes))


def _fold(cls: type[chain[Any]], tasks: Sequence[Any]) -> Any:
    """What `|` between them gives, in time that grows with their number alone."""
    steps: list[Any] = []
    for place, item in enumerate(tasks):
        task = maybe_signature(item)
        if not isinstance(task, Signature):
            raise TypeError(f"a chain is made of signatures (such as add.s(2)), not of {type(item).__name__}")
        became = _append(steps, task, is_last=place == len(tasks) - 1)
        if became is not None:
            # No chain any more: a group, or what comes of it, has an operator of its own.
            return reduce(or_, tasks[place + 1 :], became)
    return cls._of(steps)


def _append(steps: list[Any], other: Any, *, is_last: bool) -> Any:
    """Adds a step by the rules of `|`; gives what they became if that is no chain.

    The last step stays the caller's own; all others are copied.
    """
    if is_empty_group(other):
        return None
    if kind_of(other) == "group":
        other = unrolled(other)
        if kind_of(other) != "group":
            return _append(steps, other, is_last=is_last)
        if not steps:
            return other
    if kind_of(other) == "chain":
        inner = other.unchain_tasks()
        for place, step in enumerate(inner):
            became = _append(steps, step, is_last=is_last and place == len(inner) - 1)
            if became is not None:
                return reduce(or_, inner[place + 1 :], became)
        return None
    step = other if is_last else other.clone()
    before = kind_of(steps[-1]) if steps else None
    if before == "chord" and kind_of(other) != "chord":
        steps[-1].body = steps[-1].body | other
    elif before == "group" and kind_of(other) != "group":
        from celeriac.canvas.chord import chord

        steps[-1] = chord(steps[-1], step)
    else:
        steps.append(step)
    return None
