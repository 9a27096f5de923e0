"""`multi`: how command lines are understood. That Celery's does the same is in interop/test_command_options.py."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from celeriac.bin import celeriac
from celeriac.bin.nodes import CommandLine, UsageError


def run(*args: str) -> Result:
    return CliRunner().invoke(celeriac, list(args))


def options(*arguments: str) -> dict[str, dict[str, str | None]]:
    return {node.name: node.options for node in CommandLine.parse(list(arguments)).nodes()}


def test_a_number_of_nodes_is_named_in_turn() -> None:
    assert run("multi", "names", "2", "--hostname=box").stdout == "celery1@box\ncelery2@box\n"


def test_options_hold_for_all_or_for_some() -> None:
    found = options("a", "b", "c", "--hostname=h", "-c", "1", "-c:1", "3", "-Q:b,c", "mail", "-l:c@h", "DEBUG")

    assert [node["-c"] for node in found.values()] == ["3", "1", "1"]
    assert [node.get("-Q") for node in found.values()] == [None, "mail", "mail"]
    assert [node.get("-l") for node in found.values()] == [None, None, "DEBUG"]


def test_the_app_may_be_named_before_the_command() -> None:
    result = run("-A", "proj", "-b", "redis://", "multi", "show", "a@h", "-c", "2", "--pidfile=/x/%n.pid")

    assert result.exit_code == 0, result.stderr
    words = result.stdout.split()
    assert words[1:5] == ["-m", "celeriac", "worker", "--detach"]
    assert words[words.index("-A") + 1] == "proj"
    assert words[words.index("-b") + 1] == "redis://"
    assert "--pidfile=/x/a.pid" in words
    assert "--logfile=/var/log/celery/a%I.log" in words


def test_get_and_expand_show_one_thing_for_a_node() -> None:
    assert "-n b@h" in run("multi", "get", "b@h", "a", "b", "--hostname=h").stdout
    assert run("multi", "get", "c@h", "a", "b", "--hostname=h").exit_code == 1
    assert run("multi", "expand", "%n.%d", "a", "b", "--hostname=h").stdout == "a.h\nb.h\n"


def test_what_follows_two_dashes_goes_to_the_worker() -> None:
    [node] = CommandLine.parse(["a@h", "-c", "1", "--", "task_time_limit=5"]).nodes()

    assert node.command[-2:] == ["--", "task_time_limit=5"]


@pytest.mark.parametrize(("text", "number"), [("-9", 9), ("-TERM", 15), ("-SIGQUIT", 3), ("-15", 15)])
def test_a_signal_is_taken_by_name_or_number(text: str, number: int) -> None:
    line = CommandLine.parse(["a", "b", text])

    assert line.signal == number
    assert line.options == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "no node is named"),
        (["a", "b", "-c:3", "1"], "no node number 3"),
        (["a", "--pidfile", "/run/x.pid"], "'/run/x.pid' is no node name"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        CommandLine.parse(arguments).nodes()


def test_a_misspelt_command_gets_a_suggestion() -> None:
    result = run("multi", "strat", "2")

    assert result.exit_code == 2
    assert "did you mean start?" in result.stderr


def test_stopping_what_does_not_run_is_no_error(tmp_path: object) -> None:
    result = run("multi", "stopwait", "a@h", f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log")

    assert result.exit_code == 0
    assert "a@h: DOWN" in result.stdout
