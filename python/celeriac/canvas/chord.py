"""`chord`: tasks at the same time, and one more with the list of their results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from celeriac.canvas import unlock
from celeriac.canvas.composition import Composition
from celeriac.canvas.group import group
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import Signature
from celeriac.canvas.steps import drop_header_links, kind_of, parts_of
from celeriac.canvas.workflow import Workflow, as_list, with_members_cloned
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac.app.base import Celery

__all__ = ["chord"]

R = TypeVar("R")

#: Options that tell how a chord is sent, and are in no message.
_LOCAL = ("producer", "publisher", "connection", "router", "result_cls")


@Signature.register_type("chord")
class chord(Workflow[R]):
    """A header of tasks that run at the same time, and a body that gets the list of their results.

    If one of the header fails, the body does not run: it ends with `ChordError`, and its errbacks are called.

    Example:
        >>> chord([add.s(2, 2), add.s(4, 4)])(total.s()).get()
        12

    Args:
        header: Signatures, or a group.
        body: What gets the results; may be given when the chord is called.
        task: Accepted for compatibility.
        args: Positional arguments for the members of the header.
        kwargs: Accepted for compatibility.
        app: Whose tasks they are.
        options: Options of the body, but for `countdown` and `eta`, which are the header's.
        immutable: Take no more arguments.
        subtask_type: Accepted for compatibility.
        **ex: More options.
    """

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Celery | None = None,
        options: Mapping[str, Any] | None = None,
        immutable: bool = False,
        subtask_type: str | None = None,
        **ex: Any,
    ) -> None:
        content = {
            **(kwargs or {"kwargs": {}}),
            "header": _header_tasks(header, app),
            "body": maybe_signature(body, app=app),
        }
        merged = {**(options or {}), **ex}
        super().__init__(task, args, content, merged, subtask_type="chord", immutable=immutable, app=app)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> chord[Any]:
        """The chord of a dict."""
        rest = dict(d["kwargs"])
        header, body = rest.pop("header", None) or [], rest.pop("body", None)
        return cls(
            header,
            body,
            args=d.get("args"),
            kwargs=rest,
            app=app,
            options=d.get("options"),
            immutable=bool(d.get("immutable", False)),
        )

    @property
    def tasks(self) -> Any:
        """The header: a list of signatures, and a group once it is frozen."""
        return self["kwargs"]["header"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["header"] = tasks

    @property
    def body(self) -> Any:
        """What gets the results."""
        return self["kwargs"]["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = body

    def _members(self) -> list[Any]:
        return [*_listed(self.tasks)[:1], self.body]

    def _copied(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        header = kwargs["header"]
        copied = header.clone() if isinstance(header, group) else with_members_cloned(header, self._app)
        body = maybe_signature(kwargs.get("body"), app=self._app, clone=True)
        return {**kwargs, "header": copied, "body": body}

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Sends it, with another body if one is given."""
        return self.apply_async((), {"body": body} if body is not None else {}, **options)

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        kind = kind_of(other)
        if kind == "group" and len(other) == 1:
            other = other.tasks[0]  # type: ignore[attr-defined]
        elif kind in {"group", "chain"}:
            return super().__or__(other)
        copy = self.clone()
        copy.body = copy.body | other  # type: ignore[attr-defined]
        return copy

    # -- sending

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Iterable[Any] = (),
        app: Celery | None = None,
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Sends a header and a body.

        Args:
            header: The group, which gets its ids.
            body: The body, which gets its id.
            partial_args: Arguments for the members of the header.
            app: Whose tasks they are.
            interval: Where the result backend does not count: seconds between looks at the header.
            countdown: Seconds before the first look.
            max_retries: How many looks there may be.
            eager: Accepted for compatibility.
            task_id: The body's id.
            kwargs: Keyword arguments for the members of the header.
            **options: More options.
        """
        app = app or self.app
        composition = Composition(app)
        looks = unlock.Looks(interval, countdown, max_retries)
        given = (tuple(partial_args), dict(kwargs or {}))
        header = header if isinstance(header, group) else group(header, app=app)
        composition.result = self._plan_parts(composition, header, body, given, task_id, options, looks)
        return app._send_composition(composition, options)

    def _plan(
        self, composition: Composition, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        options = {key: value for key, value in options.items() if key not in _LOCAL}
        kwargs = dict(kwargs)
        given = tuple(self["args"]) if self["immutable"] else (*args, *self["args"])
        body = kwargs.pop("body", None)
        body = maybe_signature(self.body if body is None else body, app=self._app, clone=True)
        if body is None:
            raise TypeError("a chord needs a body: chord(header)(body), or chord(header, body)")
        for key in ("countdown", "eta"):
            if options.get(key, 0) is None:
                del options[key]
        named = options.pop("task_id", None)
        if options.get("root_id"):
            body["options"]["root_id"] = options["root_id"]
        header: Any
        if isinstance(self.tasks, group):
            header = self.tasks.clone()
        else:
            group_id = self["options"].get("task_id") or uuid()
            header = group(list(self.tasks), app=self._app_with(body), task_id=group_id)
        inner = {**self["kwargs"].get("kwargs", {}), **kwargs}
        return self._plan_parts(composition, header, body, (given, inner), named, options, unlock.Looks())

    def _plan_parts(
        self,
        composition: Composition,
        header: group[Any],
        body: Any,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        task_id: str | None,
        options: dict[str, Any],
        looks: unlock.Looks,
    ) -> Any:
        """The messages of the header; header and body are copies already."""
        options = {**self["options"], **options}
        own_id = options.pop("task_id", None)
        # The body comes after the header: what delays the header must not delay it once more.
        delay: dict[str, Any] = {key: options.pop(key) for key in ("countdown", "eta") if key in options}
        group_id = header["options"].get("task_id") or uuid()
        root_id = body["options"].get("root_id")
        if options:
            body = _with_links(body, options)
            body["options"].update(_for_body(options))
        if kind_of(body) == "chain":
            body._unroll_chords()
        result = body.freeze(task_id or own_id or uuid(), group_id=group_id, root_id=root_id)
        drop_header_links(body)
        for name in ("chain", "chord"):
            options.pop(name, None)
        header["options"]["task_id"] = group_id
        header_result = header.freeze(group_id=group_id, chord=body, root_id=root_id)
        if header.tasks:
            options.update(delay)
            header_result = self._plan_header(composition, header, body, header_result, given, options, looks)
        else:
            body._plan(composition, ([],), {}, {})
        result.parent = header_result
        return result

    def _plan_header(
        self,
        composition: Composition,
        header: group[Any],
        body: Any,
        result: Any,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        options: dict[str, Any],
        looks: unlock.Looks,
    ) -> Any:
        from celeriac.result.result_set import GroupResult

        if not composition.counts_chords():
            if composition.app.backend_counts_chords:
                composition.told.append((result, body, sum(map(parts_of, header.tasks))))
            else:
                unlock.plan(composition, body, result, looks)
        elif any(isinstance(member, GroupResult) for member in result.results):
            composition.groups.append(result)
        add_to_parent = options.pop("add_to_parent", True)
        options, group_id, _ = header._with_group_id({**options, "task_id": result.id})
        args, kwargs = given
        # Frozen and flattened already, and nobody else's.
        header._plan_members(composition, header.tasks, group_id, args, kwargs, options)
        return header._planned(composition, group_id, result.results, add_to_parent)

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Runs header and body here; a member that fails raises, unless `propagate` is off."""
        kwargs = dict(kwargs or {})
        body = body if body is not None else kwargs.pop("body", None)
        links = {**self["options"], **options}
        body = _with_links(maybe_signature(self.body if body is None else body, clone=True), links)
        given = tuple(self["args"]) if self["immutable"] else (*(args or ()), *self["args"])
        header = self.tasks.clone() if isinstance(self.tasks, group) else group(self.tasks, app=self._app)
        results = header.apply(given, kwargs).get(propagate=propagate, disable_sync_subtasks=False)
        task_id = options.get("task_id")
        return body.apply((results or [],), **({"task_id": task_id} if task_id else {}))

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
        """Fixes the ids of header and body; gives the body's result, whose first parent is the header's."""
        if not isinstance(self.tasks, group):
            self.tasks = group(self.tasks, app=self._app)
        header = self.tasks.freeze(parent_id=parent_id, root_id=root_id, chord=self.body)
        self["options"]["task_id"] = self.tasks.id
        if self.body is None:
            return None
        result = self.body.freeze(_id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index)
        first, seen = result, set()
        while first.parent is not None:
            seen.add(first.id)
            if first.parent.id in seen:
                raise RuntimeError(f"the results of chord {self.id} are their own parents")
            first = first.parent
        first.parent = header
        return result

    _freeze = freeze

    def _unroll_body(self) -> list[Any]:
        """This chord with the first task of its body, and the others to follow it."""
        copy = self.clone()
        first, *rest = copy.body.unchain_tasks()  # type: ignore[attr-defined]
        copy.body = first.clone(**copy.body._first_step_options())  # type: ignore[attr-defined]
        return [copy, *rest]

    # -- changing

    def link(self, callback: Any) -> Any:
        """Links to the body."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Links to the body, and with `task_allow_error_cb_on_chord_header` to every member of the header."""
        errback = maybe_signature(errback)
        members = _listed(self.tasks)
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for member in members:
                # Celery's form of it: an option, which does not make it immutable.
                member.link_error(errback.clone(immutable=True))
        # Not once it is frozen, as with Celery: then it is linked for a chain, all of which ends with this body.
        for member in [] if isinstance(self.tasks, group) else members:
            if kind_of(member) == "chord":
                member.link_error(errback)
        if self.body is not None:
            self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Whether the members of the header take no more arguments."""
        for member in _listed(self.tasks):
            member.set_immutable(immutable)

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Stamps header and body."""
        from celeriac.canvas.stamping import stamp_chord

        return stamp_chord(self, visitor, append_stamps, headers)

    def _app_with(self, body: Any) -> Celery:
        app = self._known_app() or body._known_app()
        return app if app is not None else self.app

    def __length_hint__(self) -> int:
        return sum(map(parts_of, _listed(self.tasks)))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if self.body is None:
            return f"<chord without body: {self.tasks!r}>"
        if kind_of(self.body) == "chain" and self.body.tasks:
            first, *rest = self.body.tasks
            return f"%({' | '.join([first.reprcall(self.tasks), *map(repr, rest)])})"
        return f"%{self.body.reprcall(self.tasks)}"


def _header_tasks(header: Any, app: Celery | None) -> Any:
    """The members of a header, given as a group, as a dict of one, as a task or as an iterable."""
    if isinstance(header, Mapping):
        header = maybe_signature(header, app=app)
        return header.tasks if kind_of(header) in {"group", "chain"} else [header]
    return [maybe_signature(member, app=app) for member in header]


def _listed(header: Any) -> list[Any]:
    return header.tasks if isinstance(header, group) else list(header)


def _for_body(options: Mapping[str, Any]) -> dict[str, Any]:
    """The body's parent is the part that completes the header."""
    return {key: value for key, value in options.items() if key != "parent_id"}


def _with_links(body: Any, options: dict[str, Any]) -> Any:
    """The body with the links of the chord, which are taken out of the options."""
    callbacks, errbacks = as_list(options.pop("link", None)), as_list(options.pop("link_error", None))
    if callbacks or errbacks:
        body = body.clone()
    for callback in callbacks:
        linked = maybe_signature(callback, app=body._app, clone=True)
        if kind_of(body) == "group" and not body.tasks:
            body.append_to_list_option("link", linked)
        else:
            body.link(linked)
    for errback in errbacks:
        if kind_of(body) == "group":
            _link_error_to_members(body, maybe_signature(errback, app=body._app), runs_as_group=True)
        else:
            body.append_to_list_option("link_error", errback)
    return body


def _link_error_to_members(sig: Any, errback: Any, *, runs_as_group: bool) -> None:
    """Links an error of the header to the tasks of a group that is the body.

    A group with errbacks of its own gets it there: they replace those of its members when it is sent.
    """
    match kind_of(sig):
        case "group" if runs_as_group and sig["options"].get("link_error") is not None:
            sig.append_to_list_option("link_error", errback.clone())
        case "group":
            for member in sig.tasks:
                _link_error_to_members(member, errback, runs_as_group=False)
        case "chord":
            _link_error_to_members(sig.body, errback, runs_as_group=True)
        case _:
            sig.link_error(errback.clone())
