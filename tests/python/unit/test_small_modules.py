"""States, node names, dates, imports, loggers, exceptions."""

from __future__ import annotations

import datetime as dt
import logging
import pickle
import re
from itertools import pairwise

import pytest

from celeriac import exceptions, states
from celeriac.utils import imports, nodenames, time, uuid
from celeriac.utils.log import get_task_logger


def test_states_compare_by_precedence() -> None:
    ordered = [states.SUCCESS, states.FAILURE, "CUSTOM", states.REVOKED, states.STARTED, states.RECEIVED]
    ordered += [states.REJECTED, states.RETRY, states.PENDING]

    assert all(states.state(a) > states.state(b) for a, b in pairwise(ordered))
    assert sorted(states.READY_STATES) == ["FAILURE", "REVOKED", "SUCCESS"]
    assert not {"REJECTED", "IGNORED"} & states.ALL_STATES


def test_node_names_are_formatted_as_celery_does(golden, monkeypatch) -> None:
    rows = golden("offline/names")["rows"]
    monkeypatch.setattr(nodenames, "gethostname", lambda: "worker.example")
    checked = 0
    for call, expected in rows.items():
        if call.startswith("default_nodename"):
            assert eval(call, vars(nodenames)) == expected, call
            checked += 1
    monkeypatch.setattr(nodenames, "gethostname", lambda: "web.example.com")
    for call, expected in rows.items():
        if call.startswith("node_format"):
            assert eval(call, vars(nodenames)) == expected, call
            checked += 1
    assert checked > 8


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2030-01-02T03:04:05Z", 0),
        ("2030-01-02 03:04:05+00:00", 0),
        ("2030-01-02T03:04:05.123456789+00:00", 123456),
        ("2030-01-02T03:04:05.5Z", 500000),
    ],
)
def test_dates_of_peers_are_read(text: str, microsecond: int) -> None:
    assert time.parse_iso8601(text) == dt.datetime(2030, 1, 2, 3, 4, 5, microsecond, dt.UTC)


def test_what_is_no_date_is_refused() -> None:
    for text in ("soon", "1.5", ""):
        with pytest.raises(ValueError, match="isoformat"):
            time.parse_iso8601(text)


def test_ids_are_random_uuids_of_version_4() -> None:
    ids = {uuid() for _ in range(100)}

    assert len(ids) == 100
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id) for id in ids)


def test_symbols_are_found_by_both_spellings() -> None:
    assert imports.symbol_by_name("collections.abc:Mapping") is imports.symbol_by_name("collections.abc.Mapping")
    assert imports.symbol_by_name(dict) is dict
    assert imports.qualname(states.state) == "celeriac.states.state"
    with pytest.raises(ValueError, match="names no module"):
        imports.symbol_by_name("alone")


def test_task_loggers_hang_below_celerys() -> None:
    logger = get_task_logger("some.tasks")

    assert logger.parent is logging.getLogger("celery.task")
    with pytest.raises(RuntimeError):
        get_task_logger("celery.task")


@pytest.mark.parametrize(
    "exc",
    [
        exceptions.Retry("again", ValueError("x"), 3.0),
        exceptions.Reject("no", requeue=True),
        exceptions.MaxRetriesExceededError("too many"),
        exceptions.NotRegistered("t"),
        exceptions.TaskRevokedError("revoked"),
    ],
)
def test_exceptions_survive_pickle(exc: Exception) -> None:
    back = pickle.loads(pickle.dumps(exc))

    assert type(back) is type(exc)
    assert str(back) == str(exc)


def test_exceptions_have_celerys_bases_and_texts() -> None:
    assert issubclass(exceptions.NotRegistered, (KeyError, exceptions.TaskError))
    assert issubclass(exceptions.ContentDisallowed, exceptions.KombuError)
    assert not issubclass(exceptions.TimeoutError, TimeoutError)
    assert repr(exceptions.Reject("why")) == "reject requeue=False: why"
    assert str(exceptions.Retry(exc=ValueError("x"), when=3)) == "Retry in 3s: ValueError('x')"
    assert exceptions.__getattr__("CeleryCommandException")("text", 3).exit_code == 3
