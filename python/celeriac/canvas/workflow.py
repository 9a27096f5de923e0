"""What chains, groups and chords have in common: how they are sent, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celeriac._state import allow_join_result
from celeriac.canvas.composition import Composition
from celeriac.canvas.rebuild import maybe_signature
from celeriac.canvas.signature import Signature

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.app.send import Message

__all__ = ["TaskList", "Workflow", "as_list"]

R = TypeVar("R")


class Workflow(Signature[R]):
    """A signature of signatures. It has no message of its own: it is sent as those of its members."""

    def _members(self) -> list[Any]:
        """What it is made of; the first one says whose app it is."""
        raise NotImplementedError

    def _known_app(self) -> Celery | None:
        if self._app is not None:
            return self._app
        return next((app for member in self._members() if (app := _app_of(member)) is not None), None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sends it."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Sends it; all its messages go together.

        Args:
            args: More positional arguments, for whatever runs first.
            kwargs: More keyword arguments, for the same.
            route_name: Accepted for compatibility.
            **options: Options of `Task.apply_async`.

        Raises:
            OperationalError: The broker or the result backend does not take it.
            EncodeError: An argument cannot be encoded.
            NotImplementedError: There is a chord in it, and the result backend cannot join chords.
        """
        app = self.app
        if app.conf.values_now()["task_always_eager"]:
            with allow_join_result():
                return self.apply(args, kwargs, **options)
        producer = options.pop("producer", None)
        if type(producer) is Composition:
            return self._plan(producer, tuple(args or ()), dict(kwargs or {}), options)
        return app._send_composition(self.compose_all(args, kwargs, **options), options)

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`apply_async` for coroutines."""
        app = self.app
        if app.conf.values_now()["task_always_eager"]:
            with allow_join_result():
                return self.apply(args, kwargs, **options)
        return await app._asend_composition(self.compose_all(args, kwargs, **options), options)

    def compose(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Message:
        """The message that sends it, where one is enough.

        Raises:
            ValueError: It takes none, several, or a chord has to be started: `compose_all` gives all of it.
        """
        composition = self.compose_all(args, kwargs, **options)
        if len(composition.messages) != 1 or composition.chords:
            raise ValueError(f"{self['task']} is not sent as one message; use compose_all")
        return composition.messages[0]

    def _is_plain(self) -> bool:
        return False


class TaskList(Workflow[R]):
    """A workflow of a list of tasks: chains and groups."""

    @property
    def tasks(self) -> list[Any]:
        """What it is made of."""
        return cast("list[Any]", self["kwargs"]["tasks"])

    @tasks.setter
    def tasks(self, tasks: Iterable[Any]) -> None:
        self["kwargs"]["tasks"] = list(tasks)

    def _members(self) -> list[Any]:
        return self.tasks

    def _copied(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, "tasks": with_members_cloned(kwargs["tasks"], self._app)}

    def _read(self, d: Mapping[str, Any]) -> None:
        """Takes over what a dict says besides the tasks."""
        self.update(
            args=tuple(d.get("args") or ()),
            options=dict(d.get("options") or {}),
            immutable=bool(d.get("immutable", False)),
        )


def as_list(value: Any) -> list[Any]:
    """One, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def with_members_cloned(items: Iterable[Any], app: Celery | None) -> list[Any]:
    """Copies of members, as signatures."""
    return [maybe_signature(item, app=app, clone=True) for item in items]


def _app_of(member: Any) -> Celery | None:
    return member._known_app() if isinstance(member, Signature) else None
