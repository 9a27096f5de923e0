"""What is ours is pickled under Celery's names, and what Celery has pickled is read as ours."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from celeriac import Celery, exceptions
from celeriac.serialization import failure
from celeriac.serialization import pickle as ours
from celeriac.utils.serialization import UnpickleableExceptionWrapper, get_pickleable_exception

#: What Celery 5.7 writes of its own exceptions and signatures.
BY_CELERY = [
    (b"ccelery.exceptions\nNotRegistered\n(S'a'\ntR.", exceptions.NotRegistered),
    (b"cbilliard.exceptions\nSoftTimeLimitExceeded\n(I1\ntR.", exceptions.SoftTimeLimitExceeded),
    (b"ckombu.exceptions\nOperationalError\n(S'x'\ntR.", exceptions.OperationalError),
]


@pytest.mark.parametrize(
    "value",
    [
        exceptions.Retry("later", ValueError(1), 3),
        exceptions.OperationalError("gone"),
        exceptions.WorkerLostError("lost"),
        {"plain": [1, (2, None)], "of python": ValueError("x")},
    ],
)
def test_what_is_written_names_no_module_of_ours_and_is_read_back(value: Any) -> None:
    data = ours.dumps(value)

    assert b"celeriac" not in data
    assert repr(ours.loads(data)) == repr(value)
    assert type(ours.loads(data)) is type(value)


def test_signatures_and_classes_travel_by_celerys_names(app: Celery) -> None:
    signature = app.signature("add", (1, 2))

    assert b"celery.canvas" in ours.dumps(signature)
    assert ours.loads(ours.dumps(signature)) == signature
    assert ours.loads(ours.dumps(exceptions.ChordError)) is exceptions.ChordError


@pytest.mark.parametrize(("data", "cls"), BY_CELERY)
def test_what_celery_has_written_is_read_as_ours(data: bytes, cls: type) -> None:
    assert type(ours.loads(data)) is cls


def test_a_class_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="celery"):
        ours.loads(b"ccelery.nowhere\nThing\n.")
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        ours.loads(b"ccelery.exceptions\nNotThere\n.")


def test_an_exception_that_could_not_be_pickled_comes_back_by_its_name() -> None:
    class Unfit(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(a)

    wrapped = get_pickleable_exception(Unfit(1, 2))
    assert isinstance(wrapped, UnpickleableExceptionWrapper)
    data = pickle.dumps(wrapped).replace(b"celeriac.utils", b"celery.utils")

    back = failure.decode(ours.loads(ours.dumps(wrapped)))

    assert b"celery.utils.serialization" in data
    assert (type(back).__name__, back.args) == ("Unfit", (1,))  # type: ignore[union-attr]
