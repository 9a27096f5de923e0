"""`Proxy`: stands for an object that is looked up at each use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Proxy:
    """Forwards everything to what `getter` gives now.

    Used where Celery's API needs it: `current_app`, `current_task`, and shared tasks, which are another
    object in each app.
    """

    __slots__ = ("_Proxy__getter", "__dict__", "__weakref__")

    def __init__(self, getter: Callable[[], Any], name: str = "", doc: str | None = None) -> None:
        object.__setattr__(self, "_Proxy__getter", getter)
        if name:
            object.__setattr__(self, "__name__", name)
        if doc is not None:
            object.__setattr__(self, "__doc__", doc)

    def _get_current_object(self) -> Any:
        getter: Callable[[], Any] = object.__getattribute__(self, "_Proxy__getter")
        return getter()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @property
    def __wrapped__(self) -> Any:
        return self._get_current_object().__wrapped__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._get_current_object()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._get_current_object()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._get_current_object()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._get_current_object()

    def __len__(self) -> int:
        return len(self._get_current_object())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._get_current_object())

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *exc: object) -> Any:
        return self._get_current_object().__exit__(*exc)

    def __or__(self, other: Any) -> Any:
        return self._get_current_object() | other

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)


def maybe_evaluate(obj: Any) -> Any:
    """The object behind a proxy, or the object itself."""
    resolve = getattr(type(obj), "_get_current_object", None)
    return obj if resolve is None else resolve(obj)


PromiseProxy = Proxy


def try_import(module: str, default: Any = None) -> Any:
    """A module, or a default where there is none."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        return default


class class_property:
    """A property of a class."""

    def __init__(self, getter: Callable[[Any], Any], setter: Callable[[Any, Any], Any] | None = None) -> None:
        self._get = getattr(getter, "__func__", getter)
        self._set = getattr(setter, "__func__", setter)
        self.__doc__ = self._get.__doc__

    def __get__(self, obj: Any, type: Any = None) -> Any:
        return self._get(type if type is not None else obj.__class__)

    def __set__(self, obj: Any, value: Any) -> None:
        if self._set is None:
            raise AttributeError("it cannot be set")
        self._set(obj.__class__, value)

    def setter(self, setter: Callable[[Any, Any], Any]) -> class_property:
        """The same property, which can be set."""
        return type(self)(self._get, setter)


def reclassmethod(method: Any) -> Any:
    """The method of a class again."""
    return classmethod(getattr(method, "__func__", method))
