"""`Signature`: a call not yet made, as the dict that travels in messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from celeriac._state import get_current_app
from celeriac.canvas.copies import copy_options
from celeriac.canvas.fields import Item, Option
from celeriac.utils import uuid

if TYPE_CHECKING:
    from celeriac._core import Publication
    from celeriac.app.base import Celery
    from celeriac.app.send import Message
    from celeriac.app.task import Task
    from celeriac.canvas.composition import Composition
    from celeriac.result.async_result import AsyncResult
    from celeriac.result.eager import EagerResult

__all__ = ["Signature", "signature", "subtask"]

R = TypeVar("R")
_Class = TypeVar("_Class", bound="type[Signature[Any]]")

#: Options that a call cannot take from a signature that has them.
KEPT_OPTIONS = frozenset({"group_id", "stamped_headers"})


class Signature(dict[str, Any], Generic[R]):
    """A task's name, its arguments and its options. JSON gives it back as a plain dict of the same content.

    Arguments may be partial: what a call adds comes before positional ones and over the rest. An immutable
    signature takes no more arguments.

    Args:
        task: A task, a task's name, or a signature as a dict.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Options of `apply_async`.
        type: The task itself, if at hand.
        subtask_type: Kind of workflow.
        immutable: Take no more arguments.
        app: Whose task it is.
        **ex: More options.
    """

    #: Kind of workflow -> class.
    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}

    task: Item[str] = Item("task", "The task's name.")
    args: Item[tuple[Any, ...]] = Item("args", "Positional arguments.")
    kwargs: Item[dict[str, Any]] = Item("kwargs", "Keyword arguments.")
    options: Item[dict[str, Any]] = Item("options", "Options of `apply_async`.")
    subtask_type: Item[str | None] = Item("subtask_type", "Kind of workflow.")
    immutable: Item[bool] = Item("immutable", "Whether it takes no more arguments.")
    id: Option[str] = Option("task_id", "The id, once it is frozen.")
    parent_id: Option[str] = Option("parent_id", "The task that sends it.")
    root_id: Option[str] = Option("root_id", "The first task of its workflow.")

    _app: Celery | None = None
    _type: Task[..., Any] | None = None

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celery | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        if isinstance(task, Mapping):
            super().__init__(task)
            for key, empty in (("args", ()), ("kwargs", {}), ("options", {})):
                self[key] = (tuple if key == "args" else dict)(self.get(key) or empty)
            self.setdefault("subtask_type", None)
            self.setdefault("immutable", False)
            return
        name = task if isinstance(task, str) or task is None else task.name
        self._type = type if type is not None else (None if isinstance(task, str) else task)
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **ex},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[_Class], _Class]:
        """Decorator that registers a kind of workflow."""

        def register(subclass: _Class) -> _Class:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Signature[Any]:
        """The signature of a dict, of the class its kind says."""
        from celeriac.canvas.rebuild import from_dict

        return from_dict(d, app)

    # -- calling

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Runs the task here."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """Sends it, with more arguments."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Sends it, with more arguments and options."""
        args, kwargs, options = self._for_sending(args, kwargs, options)
        task = self._known_type()
        if task is not None:
            return cast("AsyncResult[R]", task.apply_async(args, kwargs, **options))
        return self.app.send_task(self["task"], args, kwargs, **options)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """`delay` for coroutines."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines."""
        args, kwargs, options = self._for_sending(args, kwargs, options)
        task = self._known_type()
        if task is not None:
            return cast("AsyncResult[R]", await task.aapply_async(args, kwargs, **options))
        composition = self.compose_all(args, kwargs, **options)
        return cast("AsyncResult[R]", await self.app._asend_composition(composition, options))

    def build(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Publication:
        """The message that `apply_async` would send."""
        return self.compose(args, kwargs, **options).publication

    def compose(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Message:
        """The same, with its parts and its id."""
        args, kwargs, options = self._for_sending(args, kwargs, options)
        task = self._known_type()
        return self.app.compose_task_message(self["task"], args, kwargs, task, options)

    def _is_plain(self) -> bool:
        """Whether it is a call of a task and says nothing but its arguments."""
        return self["subtask_type"] is None and not self["options"]

    def compose_all(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        at_most_once: bool = False,
        **options: Any,
    ) -> Composition:
        """All that `apply_async` would send and do: messages, chords to start, groups to keep, and the result.

        Raises:
            EncodeError: An argument cannot be encoded.
            NotImplementedError: There is a chord in it, and the result backend cannot join chords.
        """
        from celeriac.canvas.composition import Composition

        composition = Composition(self.app, at_most_once)
        composition.result = self._plan(composition, tuple(args or ()), dict(kwargs or {}), options)
        return composition

    def _plan(
        self, composition: Composition, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Adds what sends it to a composition; gives its result."""
        args, kwargs, options = self._for_sending(args, kwargs, options)
        options["producer"] = composition
        if composition.once:
            options["at_most_once"] = True
        task = self._known_type()
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        return self.app.send_task(self["task"], args, kwargs, **options)

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Runs it here as a worker would."""
        args, kwargs, options = self._for_sending(args, kwargs, options)
        return cast("EagerResult[R]", self.type.apply(args, kwargs, **options))

    def _for_sending(self, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        given = {key: value for key, value in options.items() if value is not None}
        args, kwargs, merged = self._merge(args or (), kwargs or {}, given)
        return args, kwargs, {key: value for key, value in merged.items() if value is not None}

    def _merge(
        self, args: Any, kwargs: Mapping[str, Any], options: Mapping[str, Any] | None, force: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Own arguments and options with those of a call."""
        own = self["options"]
        if options and own.keys().isdisjoint(KEPT_OPTIONS):
            merged = {**own, **options}
        elif options:
            stamps = set(own.get("stamped_headers") or ())
            given = {key: value for key, value in options.items() if key not in stamps}
            kept = {key: own[key] for key in KEPT_OPTIONS if own.get(key) is not None}
            merged = {**own, **given, **kept}
        else:
            merged = dict(own)
        if self["immutable"] and not force:
            return tuple(self["args"]), dict(self["kwargs"]), merged
        return (*args, *self["args"]), {**self["kwargs"], **kwargs}, merged

    # -- changing

    def clone(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[R]:
        """A copy with more arguments and options; the original stays as it is, arguments themselves are shared."""
        merged_args, merged_kwargs, merged_options = self._merge(tuple(args or ()), kwargs or {}, options)
        copy: Signature[R] = type(self)._bare(self)
        copy.update(args=merged_args, kwargs=self._copied(merged_kwargs), options=copy_options(merged_options))
        return copy

    partial = clone

    def _copied(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for a copy, in a dict that is new already."""
        return kwargs

    @classmethod
    def _bare(cls, original: Signature[Any]) -> Any:
        copy = cls.__new__(cls)
        dict.__init__(copy, original)
        copy._app, copy._type = original._app, original._type
        return copy

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature[R]:
        """A copy with other arguments or options."""
        copy = self.clone()
        if args is not None:
            copy["args"] = tuple(args)
        if kwargs is not None:
            copy["kwargs"] = dict(kwargs)
        if options is not None:
            copy["options"] = dict(options)
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Signature[R]:
        """Sets options; gives itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether it takes no more arguments."""
        self["immutable"] = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Fixes its id, so that the result is known before it is sent."""
        options = self["options"]
        options.setdefault("task_id", _id or uuid())
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        options.setdefault("reply_to", self.app.thread_oid)
        if group_id:
            options.setdefault("group_id", group_id)
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        return self.app.AsyncResult(options["task_id"], task_name=self["task"])

    _freeze = freeze

    # -- linking

    def link(self, callback: Any) -> Any:
        """Sends `callback` with the result; gives the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Calls `errback` when it fails; gives the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Signature[R]:
        """The same; gives itself."""
        self.link_error(errback)
        return self

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Adds to an option that is a list, once."""
        items = self._list_option(key)
        if not any(_is_same(value, item) for item in items):
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Adds several."""
        self._list_option(key).extend(value if isinstance(value, (list, tuple)) else [value] if value else [])

    def _list_option(self, key: str) -> list[Any]:
        items = self["options"].get(key)
        if not isinstance(items, list):
            items = [] if items is None else list(items) if isinstance(items, tuple) else [items]
            self["options"][key] = items
        return items

    def flatten_links(self) -> list[Signature[Any]]:
        """Itself and everything that is linked to it."""
        from celeriac.canvas.rebuild import maybe_signature

        found: list[Signature[Any]] = [self]
        links = self["options"].get("link") or []
        for item in links if isinstance(links, (list, tuple)) else [links]:
            found.extend(maybe_signature(item, app=self._app).flatten_links())
        return found

    def __or__(self, other: Any) -> Any:
        from celeriac.canvas.chain import chain
        from celeriac.canvas.steps import kind_of, unrolled

        if not isinstance(other, Signature):
            return NotImplemented
        match kind_of(other):
            case "chain":
                return chain._of([self, *other.unchain_tasks()], self._app)  # type: ignore[attr-defined]
            case "group":
                return chain._of([self, unrolled(other)], self._app)
        return chain._of([self, other], self._app)

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    def __invert__(self) -> Any:
        return self.apply_async().get()

    # -- looking

    @property
    def app(self) -> Celery:
        """Whose task it is."""
        known = self._known_app()
        return known if known is not None else get_current_app()

    def _known_app(self) -> Celery | None:
        """Its app, or its task's."""
        if self._app is None and self._type is not None:
            self._app = self._type.app
        return self._app

    @property
    def type(self) -> Any:
        """The task."""
        if self._type is None:
            self._type = self.app.tasks[self["task"]]
        return self._type

    def _known_type(self) -> Task[..., Any] | None:
        """The task, if it is registered here."""
        return self._type if self._type is not None else self.app.tasks.get(self["task"])

    @property
    def name(self) -> str:
        """The task's name."""
        return cast("str", self["task"])

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Marks its message, and those linked to it, with headers that stay with them.

        Example:
            >>> add.s(2, 2).stamp(trace="abc").delay()

        Args:
            visitor: A `StampingVisitor` that says what to stamp.
            append_stamps: Keep what was there before as well, in a list; otherwise the first stamp stays.
            **headers: Stamps by name.
        """
        from celeriac.canvas.stamping import stamp_signature

        return stamp_signature(self, visitor, append_stamps, headers)

    def stamp_links(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamps only what is linked to it."""
        from celeriac.canvas.stamping import stamp_links

        stamp_links(self, visitor, append_stamps, headers)

    def election(self) -> Any:
        """Not in this version."""
        raise NotImplementedError("elections are not supported")

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text."""
        merged_args, merged_kwargs, _ = self._merge(args, kwargs, {}, force=True)
        shown = [repr(item) for item in merged_args] + [f"{key}={item!r}" for key, item in merged_kwargs.items()]
        return f"{self['task']}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __reduce__(self) -> Any:
        return Signature.from_dict, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R]:
        return self.clone()

    def __copy__(self) -> Signature[R]:
        return self.clone()


def signature(
    varies: Any,
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    app: Celery | None = None,
    **kw: Any,
) -> Signature[Any]:
    """A signature of a task, a task's name, a dict, or a signature (copied).

    Example:
        >>> signature("proj.tasks.add", args=(2, 2), countdown=10)
        proj.tasks.add(2, 2)
    """
    if isinstance(varies, dict):
        if isinstance(varies, Signature):
            return varies.clone()
        return Signature.from_dict(varies, app=app)
    return Signature(varies, args, kwargs, options, app=app, **kw)


subtask = signature


def _is_same(one: Any, other: Any) -> bool:
    """Whether they are equal, or would be if both had come out of a message: that makes lists of tuples."""
    if one == other:
        return True
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)) or one.keys() != other.keys():
        return False
    return all(tuple(item) == tuple(other[key]) if key == "args" else item == other[key] for key, item in one.items())
