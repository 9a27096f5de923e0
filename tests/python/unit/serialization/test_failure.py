"""Exceptions as documents: what is written, and what is made of what others wrote."""

from __future__ import annotations

import sys

import pytest

from celeriac import exceptions
from celeriac.exceptions import SecurityError
from celeriac.serialization import failure


class Mine(Exception):
    class Inner(Exception):
        pass


@pytest.mark.parametrize(
    ("exc", "module"),
    [
        (exceptions.TaskRevokedError("revoked"), "celery.exceptions"),
        (exceptions.EncodeError("no"), "kombu.exceptions"),
        (exceptions.OperationalError("gone"), "kombu.exceptions"),
        (exceptions.WorkerLostError("signal 9"), "billiard.exceptions"),
        (exceptions.SoftTimeLimitExceeded(), "billiard.exceptions"),
        (exceptions.TimeLimitExceeded(1), "billiard.exceptions"),
        (ValueError("bad", 42), "builtins"),
    ],
)
def test_our_exceptions_travel_under_the_names_of_peers_and_come_back(exc: Exception, module: str) -> None:
    document = failure.encode(exc)

    assert document == {"exc_type": type(exc).__name__, "exc_message": list(exc.args), "exc_module": module}
    back = failure.decode(document)
    assert type(back) is type(exc)
    assert back.args == exc.args


def test_a_nested_class_is_found_by_its_path() -> None:
    assert type(failure.decode(failure.encode(Mine.Inner("x")))) is Mine.Inner


def test_arguments_that_cannot_be_encoded_become_their_repr() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    document = failure.encode(ValueError("text", {1}, object, Odd()))

    assert document["exc_message"][:3] == ["text", "{1}", "<class 'object'>"]
    assert document["exc_message"][3].startswith("<Odd")


def test_reading_imports_nothing() -> None:
    sys.modules.pop("xmlrpc.server", None)

    back = failure.decode({"exc_type": "Fault", "exc_message": ["x"], "exc_module": "xmlrpc.server"})

    assert "xmlrpc.server" not in sys.modules
    assert (type(back).__name__, type(back).__module__) == ("Fault", "celery.exceptions")


@pytest.mark.parametrize("name", ["annotations", "Any", "TYPE_CHECKING", "reraise", "os.system"])
def test_names_that_our_module_only_imports_are_not_taken_for_exceptions(name: str) -> None:
    back = failure.decode({"exc_type": name, "exc_message": ["x"], "exc_module": "celery.exceptions"})

    assert type(back).__qualname__ == name
    assert type(back).__module__ == "celery.exceptions"


def test_what_is_no_exception_is_a_security_error() -> None:
    with pytest.raises(SecurityError, match="Expected an exception class, got os.system with payload"):
        failure.decode({"exc_type": "system", "exc_message": ["true"], "exc_module": "os"})
