"""`group`: tasks at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from celeriac.canvas.composition import Composition
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import KEPT_OPTIONS, Signature
from celeriac.canvas.steps import is_empty_chain, is_empty_group, parts_of
from celeriac.canvas.workflow import TaskList
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["group"]

R = TypeVar("R")


@Signature.register_type("group")
class group(TaskList[list[R]]):
    """Tasks that run at the same time; the result has theirs, in this order.

    Groups among the members are flattened. A group followed by a task in a chain becomes a chord.

    Example:
        >>> group(add.s(2, 2), add.s(4, 4))().get()
        [4, 8]

    Args:
        *tasks: Signatures, or one iterable of them.
        app: Whose tasks they are.
        **options: Options for each of them.
    """

    def __init__(self, *tasks: Any, app: Celery | None = None, **options: Any) -> None:
        given: Any = tasks[0] if len(tasks) == 1 else tasks
        if isinstance(given, group):
            given = given.tasks
        elif isinstance(given, Mapping):
            given = [maybe_signature(given, app=app, clone=True)]
        members = [maybe_signature(item, app=app) for item in given]
        super().__init__("celery.group", (), {"tasks": members}, options, subtask_type="group", app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> group[Any]:
        """The group of a dict."""
        new: group[Any] = cls(d["kwargs"]["tasks"], app=app)
        new._read(d)
        return new

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Sends it."""
        return self.apply_async(partial_args, **options)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        if is_empty_group(other):
            return self
        from celeriac.canvas.chord import chord

        return chord(self, body=other, app=self._app)

    # -- sending

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Sends the members, all together.

        Raises:
            TypeError: A group takes no links: its end is no task's end. Link to a chord's body, or to its members.
        """
        _refuse_links(link, link_error)
        if route_name is not None:
            options["route_name"] = route_name
        return super().apply_async(args, kwargs, **options)

    def _plan(
        self, composition: Composition, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        _refuse_links(options.pop("link", None), options.pop("link_error", None))
        add_to_parent = options.pop("add_to_parent", True)
        if not self.tasks:
            return self.freeze()
        options, group_id, root_id = self._with_group_id(options)
        members = list(self._leaves(self.app))
        results = [member.freeze(group_id=group_id, root_id=root_id, group_index=index) for index, member in members]
        self._plan_members(composition, [member for _, member in members], group_id, args, kwargs, options)
        return self._planned(composition, group_id, results, add_to_parent)

    def _planned(self, composition: Composition, group_id: str, results: list[Any], add_to_parent: bool) -> Any:
        """The result of members that were planned."""
        from celeriac.result.result_set import GroupResult

        result = GroupResult(group_id, results, app=self.app)
        if len(results) == 1 and isinstance(results[0], GroupResult):
            # One chain that ends in a group: its result is what the caller wants.
            result = results[0]
        if add_to_parent:
            composition.trail.append(result)
        return result

    @staticmethod
    def _plan_members(
        composition: Composition,
        members: list[Signature[Any]],
        group_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        """Their messages; if they are the header of a chord, it is started with as many parts as they make."""
        chord = options.pop("chord", None)
        options.pop("group_index", None)
        size = 0
        body: Any = None
        for member in members:
            body = chord if chord is not None else member["options"].get("chord")
            size += parts_of(member)
            member._plan(composition, args, kwargs, {**options, "add_to_parent": False, "chord": body})
        if body is not None and composition.counts_chords():
            composition.chords.append((group_id, size))

    def _with_group_id(self, options: dict[str, Any]) -> tuple[dict[str, Any], str, str | None]:
        """Its options and those of a call; the id that would be a task's is the group's."""
        own = self["options"]
        merged = {**own, **{key: value for key, value in options.items() if key not in KEPT_OPTIONS or key not in own}}
        group_id = merged.pop("task_id", None) or uuid()
        merged["group_id"] = group_id
        return merged, group_id, merged.get("root_id")

    def _leaves(self, app: Celery) -> Iterator[tuple[int, Any]]:
        """Copies of the members with their indices; those of groups among them count anew, as with Celery."""
        for index, item in enumerate(self.tasks):
            member = maybe_signature(item, app=app, clone=True)
            if isinstance(member, group):
                yield from member._leaves(app)
            elif not is_empty_chain(member):
                yield index, member

    def apply(self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Runs the members here, one after the other."""
        from celeriac.result.result_set import GroupResult

        if not self.tasks:
            return self.freeze()
        options.pop("add_to_parent", None)
        merged, group_id, _ = self._with_group_id(options)
        results = [member.apply(args, kwargs, **merged) for _, member in self._leaves(self.app)]
        return GroupResult(group_id, results, app=self.app)

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
        """Fixes its id and those of its members, which are flattened; gives the `GroupResult`."""
        from celeriac.result.result_set import GroupResult

        options = self["options"]
        own_id = options.setdefault("task_id", uuid())
        if group_id:
            options["group_id"] = group_id
        if chord is not None:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        root_id = options.setdefault("root_id", root_id)
        parent_id = options.setdefault("parent_id", parent_id)
        self["kwargs"]["tasks"] = members = self._flattened()
        results = [
            member.freeze(group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=index)
            for index, member in enumerate(members)
        ]
        return GroupResult(own_id, results, app=self.app)

    _freeze = freeze

    def _flattened(self) -> list[Any]:
        """Copies of the members, groups among them unrolled. Their members come in reverse order, as with Celery:
        the order of a chord's results depends on it."""
        todo, found = list(reversed(self.tasks)), []
        while todo:
            item = todo.pop()
            member = maybe_signature(item, app=self._app, clone=True)
            if isinstance(member, group):
                todo.extend(member.tasks)
            elif not is_empty_chain(member):
                found.append(member)
        return found

    # -- changing

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group[R]:
        """Gives each member a countdown `step` seconds longer than the one before; the last is kept from `stop` on."""
        countdown = start
        for member in self.tasks:
            member.set(countdown=countdown)
            if stop is None or countdown + step <= stop:
                countdown += step
        return self

    def link(self, callback: Any) -> Any:
        """Links to the first member, without its result: there is no task that ends with the group."""
        return self.tasks[0].link(maybe_signature(callback).clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Links to every member; gives a tuple of what was linked."""
        errback = maybe_signature(errback)
        return tuple(member.link_error(errback.clone()) for member in self.tasks)

    def set_immutable(self, immutable: bool) -> None:
        """Whether the members take no more arguments."""
        for member in self.tasks:
            member.set_immutable(immutable)

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Stamps the members."""
        from celeriac.canvas.stamping import stamp_group

        return stamp_group(self, visitor, append_stamps, headers)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        return f"group({self.tasks!r})" if self.tasks else "group(<empty>)"


def _refuse_links(link: Any, link_error: Any) -> None:
    if link is not None:
        raise TypeError("Cannot add link to group: use a chord")
    if link_error is not None:
        raise TypeError("Cannot add link to group: do that on individual tasks")
