"""`examples/patterns/fire_and_forget.py`."""

from __future__ import annotations

from .conftest import Pattern


def test_requests_are_answered_and_every_mail_is_sent(pattern: Pattern) -> None:
    output = pattern.example("fire_and_forget", "-c", "2")

    assert "10 requests answered with {'201 Created'}" in output
    assert output.endswith("10 mails sent\n")
    sent = (pattern.folder / "mails.txt").read_text().splitlines()
    assert sorted(sent) == sorted(f"user{number}@example.com: Welcome" for number in range(10))
