"""A task far longer than the lease runs exactly once."""

from __future__ import annotations

from types import ModuleType

from fleet import Fleet, until

SECONDS = 90


def test_ninety_seconds_with_a_lease_of_five_run_once(fleet: Fleet, fault_app: ModuleType) -> None:
    fleet.env["CELERIAC_WORKER_LEASE_SECONDS"] = "5"
    fleet.start("-c", "1", name="first")
    result = fault_app.long.delay(1, SECONDS)
    until(lambda: fleet.runs()[0][1] == 1, 20, "task begun")
    # Another worker on the same queue would take it if the first one's lease ever ran out.
    fleet.start("-c", "1", name="second")

    assert result.get(timeout=SECONDS + 30) == 1

    begun, ended = fleet.runs()
    assert (begun[1], ended[1]) == (1, 1)
