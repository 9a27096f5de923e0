"""`app.conf`: settings under new and old names, from several sources, loaded on first use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Any

from celeriac.app.defaults import OLD_NAMES, SETTINGS
from celeriac.exceptions import ImproperlyConfigured
from celeriac.utils.secrets import masked

__all__ = ["Settings"]

#: Environment variables of Celery's that win over any configuration; `CELERIAC_<SETTING>` wins over these.
CELERY_ENVIRONMENT = {
    "CELERY_BROKER_URL": "broker_url",
    "CELERY_BROKER_READ_URL": "broker_read_url",
    "CELERY_BROKER_WRITE_URL": "broker_write_url",
    "CELERY_RESULT_BACKEND": "result_backend",
}
ENVIRONMENT_PREFIX = "CELERIAC_"

_TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})
_FALSE = frozenset({"0", "false", "no", "off", "n", "f", ""})


class Settings(MutableMapping[str, Any]):
    """The configuration of one app.

    What wins, from first to last: the environment, what was set on this object, the app's own arguments, the
    source given to `config_from_object`, `add_defaults`, the built-in defaults.

    Settings are attributes and items; old names are understood everywhere.
    """

    def __init__(self, preconf: dict[str, Any], on_load: Callable[[Settings], None]) -> None:
        self._preconf = {_new_name(key): value for key, value in preconf.items()}
        self._on_load = on_load
        self._lock = RLock()
        self._source: Any = None
        self._namespace: str | None = None
        self._silent = False
        self._changes: dict[str, Any] = {}
        self._defaults: list[Mapping[str, Any] | Callable[[], Mapping[str, Any]]] = []
        # All sources merged; None until the first read. Replaced as a whole, so readers need no lock.
        self._flat: dict[str, Any] | None = None
        # Names of those that someone had set when the sources were merged. Written before `_flat`.
        self._given: frozenset[str] = frozenset()
        # Grows with every change, so that what is computed from settings knows when it is old.
        self._generation = 0

    def after_fork(self) -> None:
        """The lock may have been held by a thread that this process has not got."""
        self._lock = RLock()

    # -- sources

    def set_source(self, source: Any, namespace: str | None, silent: bool) -> None:
        """Names the object, module path or mapping that settings come from."""
        self._source, self._namespace, self._silent = source, namespace, silent
        self._forget()

    def _forget(self) -> None:
        self._flat = None
        self._generation += 1

    def add_defaults(self, defaults: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Adds a layer just above the built-in defaults."""
        self._defaults.insert(0, defaults)
        self._forget()

    @property
    def loaded(self) -> bool:
        """Whether the sources were read."""
        return self._flat is not None

    def values_now(self) -> Mapping[str, Any]:
        """All settings as a plain mapping: for hot paths, to be read at once and not kept."""
        flat = self._flat
        return self._values() if flat is None else flat

    def _values(self) -> dict[str, Any]:
        flat = self._flat
        if flat is None:
            # Two threads must not both tell `on_after_configure`; its receivers read settings in turn.
            with self._lock:
                flat = self._flat
                if flat is None:
                    flat = self._load()
                    self._on_load(self)
                    flat = self._flat or flat
        return flat

    def _load(self) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for defaults in reversed(self._defaults):
            given.update(_by_new_names(defaults() if callable(defaults) else defaults))
        given.update(read_source(self._source, self._namespace, self._silent))
        given.update(self._preconf)
        given.update(self._changes)
        given.update(environment())
        flat = {name: setting.default for name, setting in SETTINGS.items()}
        for name, value in flat.items():
            if isinstance(value, dict):
                flat[name] = dict(value)
        flat.update(given)
        self._given = frozenset(given)
        for name in flat.keys() & SETTINGS.keys():
            flat[name] = convert(name, flat[name])
        self._flat = flat
        return flat

    # -- reading

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":
            raise AttributeError(name)
        values = self._values()
        try:
            return values[name]
        except KeyError:
            pass
        try:
            return values[_new_name(name)]
        except KeyError:
            raise AttributeError(f"no setting {name!r}") from None

    def __getitem__(self, name: str) -> Any:
        return self._values()[_new_name(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _new_name(name) in self._values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def first(self, *names: str) -> Any:
        """The first of these settings that has a value."""
        return next((value for name in names if (value := self.get(name)) is not None), None)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """A setting by the parts of its name, as libraries ask for it: `("extended", "result")` is `result_extended`."""
        joined = f"{namespace}_{name}"
        return self[joined if _new_name(joined) in self._values() else name]

    def get_by_parts(self, *parts: str) -> Any:
        """A setting by the parts of its name; None where there is none."""
        return self.get("_".join(part for part in parts if part))

    def chosen(self, name: str) -> Any:
        """The value of a setting that someone has set, be it the default's; None when nobody has."""
        value = self._values().get(name)
        return value if name in self._given or name in self._changes else None

    def without_defaults(self) -> dict[str, Any]:
        """What differs from the built-in defaults."""
        return {
            name: value
            for name, value in self._values().items()
            if name not in SETTINGS or value != SETTINGS[name].default
        }

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """The settings as a dict, secrets masked."""
        values = dict(self._values()) if with_defaults else self.without_defaults()
        return {name: masked(name, value) if censored else value for name, value in values.items() if name[:1] != "_"}

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """The settings as text, one a line, secrets masked."""
        return "\n".join(f"{name}: {value!r}" for name, value in sorted(self.table(with_defaults, censored).items()))

    # -- writing

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] == "_":
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        name = _new_name(name)
        self._changes[name] = value
        self._generation += 1
        if self._flat is not None and name not in environment():
            self._flat[name] = convert(name, value)

    def __delitem__(self, name: str) -> None:
        self._changes.pop(_new_name(name), None)
        self._forget()

    def __delattr__(self, name: str) -> None:
        del self[name]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Sets several, given as a mapping, as pairs or by name."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    @property
    def changes(self) -> dict[str, Any]:
        """What was set on this object."""
        return self._changes

    def __repr__(self) -> str:
        return f"<Settings: {self.humanize()}>"

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def environment() -> dict[str, Any]:
    """Settings that the environment names."""
    found = {setting: value for name, setting in CELERY_ENVIRONMENT.items() if (value := os.environ.get(name))}
    for name, text in os.environ.items():
        if name.startswith(ENVIRONMENT_PREFIX) and text:
            setting = name[len(ENVIRONMENT_PREFIX) :].lower()
            if setting in SETTINGS:
                found[setting] = convert(setting, text)
    return found


def read_source(source: Any, namespace: str | None, silent: bool) -> dict[str, Any]:
    """Settings of an object, a module path or a mapping, under their new names.

    Raises:
        ImproperlyConfigured: Old and new names are mixed, or the module cannot be imported.
    """
    if source is None:
        return {}
    if isinstance(source, str):
        try:
            source = _import(source)
        except ImportError as exc:
            if silent:
                return {}
            raise ImproperlyConfigured(f"cannot import the configuration {source!r}: {exc}") from exc
    values = _as_mapping(source)
    if namespace:
        return _strip_namespace(values, namespace)
    _refuse_mixture(values)
    return _by_new_names(values)


def convert(name: str, value: Any) -> Any:
    """A value that came as text, in the setting's type.

    Raises:
        ImproperlyConfigured: The text does not fit.
    """
    setting = SETTINGS.get(name)
    if setting is None or not isinstance(value, str) or setting.type in {"string", "str", "any"}:
        return value
    try:
        return _CONVERTERS[setting.type](value)
    except ValueError as exc:
        raise ImproperlyConfigured(f"setting {name} wants {setting.type}, not {value!r}") from exc


def _to_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(text)


def _to_list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _to_dict(text: str) -> dict[str, Any]:
    from celeriac._core import json_loads

    value = json_loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    "bool": _to_bool,
    "int": int,
    "float": float,
    "list": _to_list,
    "tuple": lambda text: tuple(_to_list(text)),
    "dict": _to_dict,
    "bytes": str.encode,
}


def _new_name(name: str) -> str:
    return name if name in SETTINGS else OLD_NAMES.get(name, name)


def _by_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_new_name(name): value for name, value in values.items()}


def _import(path: str) -> Any:
    module, colon, attribute = path.partition(":")
    if colon:
        return getattr(import_module(module), attribute)
    try:
        return import_module(path)
    except ModuleNotFoundError as exc:
        parent, _, attribute = path.rpartition(".")
        if not parent or exc.name != path:
            raise
        try:
            return getattr(import_module(parent), attribute)
        except AttributeError:
            raise exc from None


def _as_mapping(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    return {
        name: value
        for name in dir(source)
        if name[:1] != "_" and not isinstance(value := getattr(source, name), ModuleType)
    }


def _strip_namespace(values: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    prefix = namespace.upper() + "_"
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not str(key).upper().startswith(prefix):
            continue
        name = key[len(prefix) :].lower()
        found[name if name in SETTINGS or key not in OLD_NAMES else OLD_NAMES[key]] = value
    return found


def _refuse_mixture(values: Mapping[str, Any]) -> None:
    old = sorted(name for name in values if name in OLD_NAMES)
    new = sorted(name for name in values if name in SETTINGS)
    if not old or not new:
        return
    if len(old) <= len(new):
        renames = [f"{name:<36} -> {OLD_NAMES[name]}" for name in old]
        wanted = "new"
    else:
        renames = [f"{name:<36} -> {SETTINGS[name].old}" for name in new]
        wanted = "old"
    listing = "\n".join(renames)
    raise ImproperlyConfigured(
        f"old and new setting names are mixed; to use only {wanted} names, rename:\n\n{listing}\n"
    )


#: Its name before the first read, with Celery; here it is the same object.
PendingConfiguration = Settings
