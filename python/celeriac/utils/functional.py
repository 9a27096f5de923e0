"""Small functions for functions and sequences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice, pairwise
from typing import Any, TypeVar

from celeriac.local import maybe_evaluate
from celeriac.utils.lru import LRUCache

__all__ = [
    "DummyContext",
    "LRUCache",
    "arity_greater",
    "chunks",
    "dictfilter",
    "evaluate_promises",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_list",
    "is_numeric_value",
    "lazy",
    "lookahead",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "padlist",
    "pass1",
    "regen",
    "seq_concat_item",
    "seq_concat_seq",
    "uniq",
]

T = TypeVar("T")


class DummyContext:
    """A context manager that does nothing."""

    def __enter__(self) -> DummyContext:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class lazy:
    """A call that is made when its value is asked for.

    Args:
        fun: What to call.
        *args: Its arguments.
        **kwargs: Likewise.
    """

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._fun = fun
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> Any:
        return self.evaluate()

    def evaluate(self) -> Any:
        """The value."""
        return self._fun(*self._args, **self._kwargs)

    _get_current_object = evaluate

    def __str__(self) -> str:
        return str(self())

    def __repr__(self) -> str:
        return repr(self())


class mlazy(lazy):
    """The same, called once."""

    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        """The value; the first one, for ever."""
        if not self.evaluated:
            self._value = super().evaluate()
            self.evaluated = True
        return self._value

    _get_current_object = evaluate


def noop(*args: Any, **kwargs: Any) -> None:
    """Does nothing."""


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:
    """The first argument."""
    return arg


def maybe(typ: Callable[[Any], Any], val: Any) -> Any:
    """The value through `typ`; None stays None."""
    return None if val is None else typ(val)


def is_list(obj: Any, scalars: tuple[type, ...] = (dict, str), iters: tuple[type, ...] = (Iterable,)) -> bool:
    """Whether an object is a series of others; texts and mappings are not."""
    return isinstance(obj, iters) and not isinstance(obj, scalars)


def maybe_list(obj: Any, scalars: tuple[type, ...] = (dict, str)) -> Any:
    """The object, in a list unless it is a series already; None stays None."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def is_numeric_value(value: Any) -> bool:
    """Whether it is a number; truth values are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def evaluate_promises(it: Iterable[Any]) -> Iterator[Any]:
    """The values, those that are lazy evaluated."""
    return (maybe_evaluate(value) for value in it)


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """The first value that fits (any that is not None, without a predicate); None when none does."""
    fits = predicate or (lambda value: value is not None)
    return next((value for value in evaluate_promises(it) if fits(value)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that gives the first answer (not None) of the objects that have a method."""

    def ask(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for obj in evaluate_promises(it):
            found = getattr(obj, method, None)
            if found is None:
                continue
            answer = on_call(found, *args, **kwargs) if on_call else found(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return ask


def chunks(it: Iterator[T], n: int) -> Iterator[list[T]]:
    """Lists of `n` items each; the last one may be shorter."""
    for item in it:
        yield [item, *islice(it, n - 1)]


def padlist(container: Sequence[Any], size: int, default: Any = None) -> list[Any]:
    """A list of exactly this size."""
    return list(container)[:size] + [default] * (size - len(container))


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function that gives these attributes of an object; None for one that it has not."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """The values, each once."""
    return iter(dict.fromkeys(it))


def lookahead(it: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Pairs of a value and the next one; None follows the last."""
    return pairwise([*it, None])


def dictfilter(d: dict[str, Any] | None = None, **kw: Any) -> dict[str, Any]:
    """The items that are not None."""
    given = kw if d is None else {**d, **kw}
    return {key: value for key, value in given.items() if value is not None}


def regen(it: Iterable[Any]) -> Any:
    """What can be gone through more than once: the list or tuple itself, or a list of the values."""
    return it if isinstance(it, (list, tuple)) else list(it)


def seq_concat_item(seq: Any, item: Any) -> Any:
    """A copy with one more item."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """Both, of the type of the longer one."""
    kind: Any = type(max([a, b], key=len))
    return kind([*a, *b])


def memoize(maxsize: int | None = None, keyfun: Callable[..., Any] | None = None, Cache: Any = LRUCache) -> Any:  # noqa: N803 -- Celery's
    """Decorator that keeps what a function has returned.

    Args:
        maxsize: How many results.
        keyfun: Makes the key of the arguments.
        Cache: Class of what keeps them.
    """

    def decorate(fun: Callable[..., Any]) -> Callable[..., Any]:
        cache: Any = Cache(limit=maxsize)

        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = keyfun(args, kwargs) if keyfun else (args, frozenset(kwargs.items()))
            try:
                value = cache[key]
            except KeyError:
                wrapped.misses += 1
                value = cache[key] = fun(*args, **kwargs)
            else:
                wrapped.hits += 1
            return value

        def clear() -> None:
            cache.clear()
            wrapped.hits = wrapped.misses = 0

        from functools import update_wrapper

        wrapped: Any = update_wrapper(remembered, fun)
        wrapped.hits = wrapped.misses = 0
        wrapped.clear, wrapped.original_func = clear, fun
        found: Callable[..., Any] = wrapped
        return found

    return decorate


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function with the parameters of `fun` that does nothing: calling it checks arguments."""
    # By name: what makes such functions is the app's business, and above this.
    header_of = import_module("celeriac.app.arguments").header_of
    inner = fun if inspect.isroutine(fun) else type(fun).__call__.__get__(fun)
    head: Callable[..., Any] = header_of(inner, bound=bound) or noop
    return head


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Whether more than `n` arguments can be given by place."""
    spec = inspect.getfullargspec(fun)
    return bool(spec.varargs) or len(spec.args) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Whether a function can be given an argument of this name, or at this place."""
    spec = inspect.getfullargspec(fun)
    if spec.varkw or spec.varargs:
        return True
    return len(spec.args) >= position if position else name in spec.args


def fun_accepts_kwargs(fun: Any) -> bool:
    """Whether a function takes any keyword argument."""
    code = getattr(fun, "__code__", None)
    if code is not None:
        return bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(fun).parameters.values())
