"""Workers in the background: one by --detach, two by multi."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .command_lines import CommandLines
from .conftest import Project, children_of, lives, wait_until

TASKS = """
    @app.task(name="where")
    def where():
        (here / "made").write_text("x")
        return [os.getpid(), os.getppid(), oct(os.stat(here / "made").st_mode & 0o777), os.getgid()]
    """


@pytest.fixture
def shell(project: Project) -> Iterator[CommandLines]:
    project.write(TASKS)
    lines = CommandLines(project.folder)
    yield lines
    lines.close()


def pid_in(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text().strip(), f"{path.name} written"))


def test_a_detached_worker_is_ready_when_the_command_returns(project: Project, shell: CommandLines) -> None:
    done = shell.run("-A", "tasks", "worker", "-D", "-c", "1", "--pidfile=%n.pid", "--umask=027", "-l", "INFO")

    assert done.returncode == 0, done.stderr
    pid = pid_in(project.folder / "celery.pid")
    assert f"runs in the background as process {pid}" in done.stdout
    assert " ready." in (project.folder / "celery.log").read_text()
    assert os.getsid(pid) not in (os.getsid(0), pid), "a session of its own, which it does not lead"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    _, _, mode, _ = project.send("where").get(timeout=20)
    assert mode == "0o640"

    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not lives(pid), "the worker ended")
    assert not (project.folder / "celery.pid").exists()


def test_a_detached_worker_that_is_hung_up_restarts_in_its_place(project: Project, shell: CommandLines) -> None:
    shell.run("-A", "tasks", "worker", "-D", "-c", "1", "--pidfile=w.pid", "-l", "INFO")
    pid = pid_in(project.folder / "w.pid")

    os.kill(pid, signal.SIGHUP)

    log = project.folder / "celery.log"
    wait_until(lambda: log.read_text().count(" ready.") == 2, "ready again")
    assert pid_in(project.folder / "w.pid") == pid
    assert project.send("where").get(timeout=20)[0] in wait_until(lambda: descendants(pid), "children")


def descendants(pid: int) -> list[int]:
    return children_of(pid)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-A", "nosuch", "worker", "-D"], 2, "there is no module 'nosuch'"),
        (["-A", "tasks", "worker", "-ED", "--", "worker_lease_seconds=soon"], 2, "wants float, not 'soon'"),
        (
            ["-A", "tasks", "worker", "-D", "--logfile=/no/such/folder/w.log"],
            2,
            "'/no/such/folder/w.log' cannot be written",
        ),
        (["-A", "tasks", "worker", "-D", "--uid=nobody-of-that-name"], 2, "no user 'nobody-of-that-name'"),
        (["-A", "tasks", "worker", "-D", "--umask=9"], 2, "'9' is no octal number"),
        (["-A", "tasks", "worker", "-D", "--executable=/no/such/python"], 2, "no program that can be run"),
    ],
)
def test_a_start_that_fails_is_told_by_the_command(
    options: list[str], code: int, says: str, shell: CommandLines
) -> None:
    done = shell.run(*options, "--pidfile=w.pid")

    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert shell.pids() == []


def test_a_second_worker_with_the_same_pid_file_is_refused(project: Project, shell: CommandLines) -> None:
    shell.run("-A", "tasks", "worker", "-D", "-c", "1", "--pidfile=w.pid")
    pid = pid_in(project.folder / "w.pid")

    done = shell.run("-A", "tasks", "worker", "-D", "-c", "1", "--pidfile=w.pid")

    assert done.returncode == 73
    assert "runs already" in done.stderr
    assert pid_in(project.folder / "w.pid") == pid


@pytest.mark.skipif(os.getuid() != 0, reason="only root may take another group")
def test_a_worker_takes_the_group_that_is_named(project: Project, shell: CommandLines) -> None:
    done = shell.run("-A", "tasks", "worker", "-D", "-c", "1", "--pidfile=w.pid", "--gid=12345")

    assert done.returncode == 0, done.stderr
    assert os.stat(f"/proc/{pid_in(project.folder / 'w.pid')}").st_gid == 12345
    assert project.send("where").get(timeout=20)[3] == 12345


def test_multi_starts_restarts_and_stops_two_workers(project: Project, shell: CommandLines) -> None:
    options = ["-A", "tasks", "--pidfile=run/%n.pid", "--logfile=log/%n.log", "-c", "1", "-c:2", "2", "-Q:2", "mail"]
    names = ["one", "two", "--hostname=box"]

    started = shell.run("multi", "start", *names, *options)

    assert started.returncode == 0, started.stderr + started.stdout
    assert started.stdout.count(": OK") == 2
    first = {name: pid_in(project.folder / "run" / f"{name}.pid") for name in ("one", "two")}
    assert project.send("where").get(timeout=20)[0] in children_of(first["one"])
    assert project.send("where", queue="mail").get(timeout=20)[0] in children_of(first["two"])

    restarted = shell.run("multi", "restart", *names, *options)

    assert restarted.returncode == 0, restarted.stderr
    second = {name: pid_in(project.folder / "run" / f"{name}.pid") for name in ("one", "two")}
    assert not any(lives(pid) for pid in first.values())
    assert all(lives(pid) for pid in second.values())

    stopped = shell.run("multi", "stopwait", *names, "--pidfile=run/%n.pid", "--logfile=log/%n.log")

    assert stopped.returncode == 0
    assert stopped.stdout.count(": OK") == 2
    assert not any(lives(pid) for pid in second.values())
    assert list((project.folder / "run").iterdir()) == []


def test_multi_kills_at_once_and_tells_of_nodes_that_do_not_start(project: Project, shell: CommandLines) -> None:
    options = ["--hostname=box", "--pidfile=%n.pid", "--logfile=%n.log"]
    shell.run("multi", "start", "one", "-A", "tasks", *options)
    pid = pid_in(project.folder / "one.pid")
    family = [pid, *children_of(pid)]
    assert len(family) > 1

    killed = shell.run("multi", "kill", "one", *options)
    failed = shell.run("multi", "start", "one", "-A", "nosuch", *options)

    assert killed.returncode == 0
    wait_until(lambda: not any(lives(one) for one in family), "all of its processes ended")
    assert not (project.folder / "one.pid").exists()
    assert failed.returncode == 1
    assert "FAILED (exit code 2)" in failed.stdout
    assert "no module 'nosuch'" in failed.stderr


def test_another_python_runs_the_worker(project: Project, shell: CommandLines) -> None:
    wrapper = project.folder / "python-of-ours"
    wrapper.write_text(f'#!/bin/sh\necho "$@" > wrapped\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)

    done = shell.run("-A", "tasks", "worker", "-D", "-c", "1", "--pidfile=w.pid", f"--executable={wrapper}")

    assert done.returncode == 0, done.stderr
    assert (project.folder / "wrapped").read_text().startswith("-m celeriac -A tasks worker -c 1")
    assert f"process {pid_in(project.folder / 'w.pid')};" in done.stdout
    failed = shell.run("-A", "nosuch", "worker", "-D", f"--executable={wrapper}", "--logfile=other.log")
    assert failed.returncode == 2
    assert "no module 'nosuch'" in failed.stderr


def test_files_are_below_the_working_directory_that_is_named(project: Project, shell: CommandLines) -> None:
    above = CommandLines(project.folder.parent)

    done = above.run(
        "-A",
        "tasks",
        "worker",
        "-D",
        "-c",
        "1",
        "--workdir",
        str(project.folder),
        "--pidfile=w.pid",
        "--logfile=%n.log",
    )

    assert done.returncode == 0, done.stderr
    assert lives(pid_in(project.folder / "w.pid"))
    assert (project.folder / "celery.log").exists()


def test_beat_runs_in_the_background(project: Project, shell: CommandLines) -> None:
    project.write(TASKS, beat_schedule={"often": {"task": "where", "schedule": 0.2}})

    done = shell.run("-A", "tasks", "beat", "--detach", "--pidfile=beat.pid", "-l", "INFO")

    assert done.returncode == 0, done.stderr
    pid = pid_in(project.folder / "beat.pid")
    assert f"The beat runs in the background as process {pid}; its log is" in done.stdout
    wait_until(lambda: project.queue().get("ready"), "a message sent")
    second = shell.run("-A", "tasks", "beat", "--detach", "--pidfile=beat.pid")
    assert second.returncode == 73
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not lives(pid), "beat ended")
    assert not (project.folder / "beat.pid").exists()


def test_a_camera_runs_in_the_background(project: Project, shell: CommandLines) -> None:
    project.write(
        """
        from celeriac.events.snapshot import Polaroid

        class Camera(Polaroid):
            def on_shutter(self, state):
                mark("pictures")
        """
    )

    done = shell.run("-A", "tasks", "events", "-c", "tasks:Camera", "-F", "0.1", "--detach", "--pidfile=camera.pid")

    assert done.returncode == 0, done.stderr
    assert lives(pid_in(project.folder / "camera.pid"))
    project.wait_for_mark("pictures")
    failed = shell.run("-A", "tasks", "events", "-c", "tasks:Nothing", "--detach")
    assert failed.returncode == 2
    assert "there is no camera 'tasks:Nothing'" in failed.stderr
    assert "--detach goes with --camera" in shell.run("-A", "tasks", "events", "--dump", "--detach").stderr
