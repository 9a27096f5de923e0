"""The tools that Celery's users import from `utils`."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest

from celeriac import Celery, exceptions
from celeriac.app.task import Task
from celeriac.utils import (
    abstract,
    collections,
    deprecated,
    functional,
    log,
    objects,
    serialization,
    text,
    threads,
    time,
)
from celeriac.utils.dispatch import Signal
from celeriac.utils.term import colored


def test_sequences() -> None:
    assert functional.first(None, [None, 0, 1]) == 0
    assert functional.first(lambda value: value > 3, [1, 5, 7]) == 5
    assert functional.firstmethod("get")([SimpleNamespace(), {"a": 1}], "a") == 1
    assert list(functional.chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert functional.padlist(["a"], 2) == ["a", None]
    assert list(functional.uniq([1, 2, 1])) == [1, 2]
    assert list(functional.lookahead(range(3))) == [(0, 1), (1, 2), (2, None)]
    assert functional.maybe_list("abc") == ["abc"]
    assert functional.maybe_list([1]) == [1]
    assert functional.dictfilter({"a": None, "b": 1}) == {"b": 1}
    again = functional.regen(value for value in (1, 2))
    assert (list(again), list(again)) == ([1, 2], [1, 2])
    assert functional.seq_concat_seq((1,), [2, 3]) == [1, 2, 3]


def test_a_memo_is_made_once_for_each_arguments() -> None:
    calls = []

    @functional.memoize(maxsize=2)
    def double(value: int) -> int:
        calls.append(value)
        return value * 2

    assert [double(1), double(1), double(2)] == [2, 2, 4]
    assert (calls, double.hits, double.misses) == ([1, 2], 1, 2)


def test_functions_are_asked_what_they_take() -> None:
    def takes(a: int, b: int = 1, *, c: int = 2) -> None: ...

    head = functional.head_from_fun(takes)
    head(1, c=3)
    with pytest.raises(TypeError):
        head()
    assert functional.fun_takes_argument("b", takes)
    assert not functional.fun_accepts_kwargs(takes)
    assert functional.arity_greater(takes, 1)


def test_texts() -> None:
    assert text.abbr("hello, world", 8) == "hello..."
    assert text.abbrtask("feeds.tasks.refresh", 15) == "feeds.ta[.]refresh"
    assert text.pluralize(2, "task") == "tasks"
    assert text.truncate("one two three", 8) == "one two..."
    assert text.indent("a\nb", 2) == "  a\n  b"
    assert text.simple_format("%a-%%", {"a": lambda: "x"}) == "x-%"
    with pytest.raises(ValueError, match="unknown format %b"):
        text.simple_format("%b", {"a": "x"})
    assert text.str_to_list("a,b") == ["a", "b"]


def test_json_forms_and_base_64() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678900, UTC)
    assert serialization.jsonify({"at": moment, "day": date(2026, 1, 2), "x": (1, None)}) == {
        "at": "2026-01-02T03:04:05.678Z",
        "day": "2026-01-02",
        "x": [1, None],
    }
    with pytest.raises(ValueError, match="Unsupported type"):
        serialization.jsonify(object())
    assert serialization.b64decode(serialization.b64encode("text")) == b"text"
    assert (serialization.strtobool("yes"), serialization.strtobool("0"), serialization.strtobool(3)) == (
        True,
        False,
        3,
    )
    with pytest.raises(TypeError, match="no truth value"):
        serialization.strtobool("perhaps")


def test_a_limited_set_forgets_the_oldest_and_what_is_too_old() -> None:
    few = collections.LimitedSet(maxlen=2)
    for item in "abc":
        few.add(item)
    assert list(few) == ["b", "c"]

    short = collections.LimitedSet(expires=10)
    short.add("a", now=100)
    short.add("b", now=105)
    short.purge(now=112)
    assert list(short) == ["b"]

    attributes = collections.AttributeDict(a=1)
    attributes.b = 2
    assert (attributes.a, attributes["b"]) == (1, 2)
    with pytest.raises(AttributeError, match="no attribute 'c'"):
        attributes.c
    assert collections.force_mapping(SimpleNamespace(a=1))["a"] == 1


def test_the_class_that_defines_an_attribute() -> None:
    class Base:
        def shared(self) -> None: ...

    class Own(Base):
        def own(self) -> None: ...

    assert objects.mro_lookup(Own, "own", stop={Base}) is Own
    assert objects.mro_lookup(Own, "shared", stop={Base}, monkey_patched=[__name__]) is None
    assert objects.mro_lookup(Own, "shared", stop={Base}, monkey_patched=["elsewhere"]) is Base


def test_a_stack_is_of_one_thread() -> None:
    stack = threads.LocalStack()
    stack.push("here")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(stack.top))
    thread.start()
    thread.join(10)
    assert (seen, stack.top, stack.pop(), stack.pop(), len(stack)) == ([None], "here", "here", None, 0)


def test_a_background_thread_turns_until_it_is_stopped() -> None:
    turned = threading.Event()

    class Turns(threads.bgThread):
        def body(self) -> None:
            turned.set()

    thread = Turns()
    thread.start()
    assert turned.wait(10)
    thread.stop()
    assert not thread.is_alive()


def test_dates() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert time.rate("30/m") == 0.5
    assert time.rate(None) == 0
    assert time.get_exponential_backoff_interval(2, 3, 10) == 10
    assert time.to_utc(datetime(2026, 1, 1)) == moment
    assert time.timezone.to_local(datetime(2026, 1, 1), time.get_timezone("Europe/Berlin")).hour == 1
    assert time.timezone.to_system(moment) == moment
    assert time.subtract_datetimes(moment + timedelta(hours=1), moment) == timedelta(hours=1)
    assert time.LocalTimezone().utcoffset(moment) == moment.astimezone(time.local_zone()).utcoffset()


def test_a_stream_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    stream = log.LoggingProxy(logging.getLogger("streamed"), "ERROR")
    stream.write("a line\n")
    stream.write("\n")
    stream.close()
    stream.write("too late")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", "a line")]
    assert (log.mlevel("info"), log.LOG_LEVELS[logging.INFO]) == (logging.INFO, "INFO")


def test_what_is_deprecated_says_so() -> None:
    @deprecated.Callable(removal="9.0", alternative="Use the other.")
    def old() -> int:
        return 1

    with pytest.warns(
        exceptions.CDeprecationWarning, match=r"old is deprecated and will be removed in version 9.0. Use the other"
    ):
        assert old() == 1


def test_tasks_and_signatures_are_told_by_what_they_can(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert isinstance(add, abstract.CallableTask)
    assert isinstance(add.s(1), abstract.CallableSignature)
    assert not isinstance(add, abstract.CallableSignature)
    assert not isinstance(3, abstract.CallableTask)
    assert issubclass(Task, abstract.CallableTask)


def test_signals_of_ones_own() -> None:
    signal = Signal(name="own", providing_args={"value"})
    seen = []
    signal.connect(lambda value, **_: seen.append(value), weak=False)
    signal.send(sender=None, value=3)
    assert seen == [3]


def test_colours_nest_and_can_be_left_out() -> None:
    colours = colored()
    assert str(colours.red("a", colours.bold("b"))) == "\033[1;31ma\033[1mb\033[0m"
    assert str(colored(enabled=False).red("a")) == "a"
