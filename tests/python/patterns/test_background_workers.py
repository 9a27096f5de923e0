"""`examples/patterns/background_workers.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_each_queue_is_served_by_its_own_worker(pattern: Pattern) -> None:
    name = "background_workers"
    cpu = pattern.start_worker(name, "-n", "cpu@%h", "-Q", "pictures", "--autoscale", "4,1")
    io = pattern.start_worker(name, "-n", "io@%h", "-Q", "mails", "-P", "threads", "-c", "20")

    lines = pattern.run(f"{name}.py").splitlines()

    assert cpu.stop() == 0, cpu.log
    assert io.stop() == 0, io.log
    assert lines == [
        "20 pictures by cpu",
        "20 mails by io",
        "mails at the same time: True",
        "cpu has run background_workers.shrink 20",
        "io has run background_workers.mail 20",
    ]
