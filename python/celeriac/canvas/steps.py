"""The steps of a chain made ready: flattened, groups that something follows upgraded to chords, ids fixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from celeriac.canvas.rebuild import from_dict
from celeriac.canvas.signature import Signature

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = [
    "Preparation",
    "StepIds",
    "drop_header_links",
    "is_empty_chain",
    "is_empty_group",
    "is_led_by_task",
    "kind_of",
    "parts_of",
    "unrolled",
]


def kind_of(sig: Any) -> str | None:
    """The kind of workflow; None for a task's signature and for what is none at all."""
    return sig.get("subtask_type") if isinstance(sig, Signature) else None


def is_empty_group(sig: Any) -> bool:
    """Whether it is a group without members: skipped wherever something else is there."""
    return kind_of(sig) == "group" and not sig.tasks


def is_empty_chain(sig: Any) -> bool:
    """Whether it is a chain without steps."""
    return kind_of(sig) == "chain" and not sig.tasks


def unrolled(group: Any) -> Any:
    """The member of a group that has just one; other groups as they are."""
    return group.tasks[0] if len(group.tasks) == 1 else group


def is_led_by_task(body: Any) -> bool:
    """Whether it is a chain that does not begin with a group."""
    return kind_of(body) == "chain" and bool(body.tasks) and kind_of(body.tasks[0]) != "group"


def parts_of(sig: Any) -> int:
    """How many tasks of a header's member are counted by its chord: the last ones."""
    if not isinstance(sig, Signature):
        return parts_of(from_dict(sig)) if isinstance(sig, Mapping) else len(sig)
    match kind_of(sig):
        case "group":
            members: list[Any] = sig.tasks  # type: ignore[attr-defined]
            return sum((parts_of(member) for member in members), 0)
        case "chain":
            sizes = [size for step in sig.tasks if (size := parts_of(step))]  # type: ignore[attr-defined]
            return sizes[-1] if sizes else 0
        case "chord":
            return parts_of(sig.body)  # type: ignore[attr-defined]
    return 1


def drop_header_links(sig: Any) -> None:
    """Leaves one copy of a chord's body in a signature that is written into a message, at every depth.

    Freezing puts the body on every member of the header, and sending the header puts it there again. A workflow
    that is a part of a chord would have it in its own options and in those of its ends. Each copy holds all chords
    around it with their bodies, so that they multiply.
    """
    match kind_of(sig):
        case "chord":
            _drop_chord(sig.tasks)
            for part in (*_listed(sig.tasks), sig.body):
                drop_header_links(part)
            if _is_part(sig.body):
                sig["options"].pop("chord", None)
        case "group":
            for member in sig.tasks:
                # Its own option is enough: it is passed on when the group is sent.
                if sig["options"].get("chord") is not None:
                    _drop_chord(member)
                drop_header_links(member)
        case "chain":
            for step in sig.tasks:
                drop_header_links(step)
            if sig.tasks and _is_part(sig.tasks[-1]):
                sig["options"].pop("chord", None)


def _is_part(sig: Any) -> bool:
    """Whether it says itself which chord it is a part of, or its end does."""
    if not isinstance(sig, Signature):
        return False
    if sig["options"].get("chord") is not None:
        return True
    match kind_of(sig):
        case "chain":
            return bool(sig.tasks) and _is_part(sig.tasks[-1])  # type: ignore[attr-defined]
        case "chord":
            return _is_part(sig.body)  # type: ignore[attr-defined]
    return False


def _listed(header: Any) -> list[Any]:
    """The members of a header, frozen or not."""
    return header if isinstance(header, list) else list(header.tasks)


def _drop_chord(sig: Any) -> None:
    """Takes it off the tasks that a member ends with."""
    if isinstance(sig, Signature):
        sig["options"].pop("chord", None)
    match kind_of(sig):
        case None if isinstance(sig, list):
            ends = sig
        case "group":
            ends = sig.tasks
        case "chain":
            ends = sig.tasks[-1:]
        case "chord":
            ends = [sig.body]
        case _:
            return
    for end in ends:
        _drop_chord(end)


class StepIds(NamedTuple):
    """What the messages of a chain say of the workflow around it."""

    root_id: str | None = None
    #: The last step stands for the chain: it has the id that was asked for, and takes part in group and chord.
    last_id: str | None = None
    group_id: str | None = None
    group_index: int | None = None
    chord: Any = None


class Preparation:
    """Goes through the steps of a chain from the last to the first.

    1. Chains among them are spliced, groups of one unrolled, empty groups left out.
    2. A group that something follows becomes a chord with that as its body.
    3. Every step gets its ids, every result its parent.

    Afterwards `steps` and `results` have them, the last one first: the order of the `chain` of a message, from
    whose end a worker takes the next step.

    Args:
        app: Whose tasks they are.
        ids: Ids for the steps.
        errbacks: Linked to each of them.
        clone: Work on copies, to be sent; otherwise the given signatures get their ids, and stay as written.
    """

    def __init__(self, app: Celery, ids: StepIds, errbacks: Iterable[Any] = (), *, clone: bool) -> None:
        self.steps: list[Any] = []
        self.results: list[Any] = []
        self._app = app
        self._ids = ids
        self._errbacks = list(errbacks)
        self._clone = clone
        self._is_last = True
        # The step that follows, and the first result of what follows: the one that has no parent yet.
        self._next: Any = None
        self._next_result: Any = None

    def run(self, tasks: Iterable[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Preparation:
        """Does it.

        Args:
            tasks: The steps as written.
            args: For the first one, in front of its own.
            kwargs: For the first one.
        """
        todo = self._from_a_task(list(tasks))
        while todo:
            step = self._signature(todo.pop())
            is_first = not todo
            if kind_of(step) == "group":
                step = unrolled(step)
                if is_empty_group(step) and (todo or self.steps):
                    continue
            if self._clone:
                if kind_of(step) == "chord" and is_led_by_task(step.body):
                    todo.extend(step._unroll_body())
                    continue
                step = step.clone(args, kwargs) if is_first else step.clone()
            if kind_of(step) == "chain":
                todo.extend(step.tasks)
                continue
            self._take(step)
        if self._clone:
            for step in self.steps:
                drop_header_links(step)
        return self

    def _from_a_task(self, todo: list[Any]) -> list[Any]:
        """The steps from the first one that is more than a wrapping, which gets the arguments of the call."""
        skipped = None
        while todo:
            head = todo[0] = self._signature(todo[0])
            if kind_of(head) == "chain":
                if self._clone:
                    head = head.clone()
                todo[:1] = head.tasks
                continue
            if kind_of(head) == "group":
                head = todo[0] = unrolled(head)
                if is_empty_group(head) and len(todo) > 1:
                    skipped = todo.pop(0)
                    continue
                if kind_of(head) == "chain":
                    continue
            break
        if not todo and skipped is not None:
            todo.append(skipped)
        return todo

    def _take(self, step: Any) -> None:
        if kind_of(step) == "group" and self._next is not None:
            step = self._upgraded(step)
        result = self._frozen(step)
        if self._next is not None and self._next_result is not None and not self._next_result.parent:
            self._next_result.parent = result
        for errback in self._errbacks:
            step.link_error(errback)
            if kind_of(step) == "chord" and step.body is not None:
                step.body.link_error(errback)
        self.steps.append(step)
        self.results.append(result)
        self._next, self._next_result = step, result
        if kind_of(step) == "chord":
            # The body's result stands for the chord's; what came before is the parent of the header's.
            while self._next_result.parent:
                self._next_result = self._next_result.parent

    def _upgraded(self, group: Any) -> Any:
        """A chord of a group and of what follows it."""
        from celeriac.canvas.chord import chord

        body, body_result = self.steps.pop(), self.results.pop()
        options: dict[str, Any] = {"root_id": self._ids.root_id}
        task_id = getattr(self._next_result, "task_id", None)
        if task_id is not None:
            options = {"task_id": task_id, **options}
        step: Any = chord(group, body=body, app=self._app, **options)
        self._next = self.steps[-1] if self.steps else None
        # The rest of the chain follows the chord now, not its body alone.
        later = self.results[-1] if self.results else None
        while later is not None and later.parent is not body_result:
            later = later.parent
        if later is not None:
            later.parent = None
            self._next_result = later
        return step

    def _frozen(self, step: Any) -> Any:
        ids = self._ids
        if not self._is_last:
            return step.freeze(root_id=ids.root_id)
        self._is_last = False
        return step.freeze(
            ids.last_id,
            root_id=ids.root_id,
            group_id=ids.group_id,
            chord=ids.chord,
            group_index=ids.group_index,
        )

    def _signature(self, item: Any) -> Any:
        return item if isinstance(item, Signature) else from_dict(item, self._app)
