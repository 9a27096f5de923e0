"""Result backends written in Python: children store in them, clients look into them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from celeriac import chain, chord, group
from celeriac.app.base import Celery
from celeriac.exceptions import ChordError, ImproperlyConfigured, TaskRevokedError, WorkerLostError
from celeriac.result import GroupResult

from .conftest import wait_until

STORE = '''
    """Records in files of a folder."""
    import fcntl, json, os, sys
    from pathlib import Path
    from celeriac.backends.base import KeyValueStoreBackend

    FOLDER = Path(__file__).parent / "records"
    FOLDER.mkdir(exist_ok=True)

    class Folder(KeyValueStoreBackend):
        """Looks are all that it can do for chords."""

        @staticmethod
        def key_t(key):
            return key if isinstance(key, str) else key.decode()

        def get(self, key):
            path = FOLDER / key
            return path.read_bytes() if path.exists() else None

        def set(self, key, value):
            loops = sys.modules.get("asyncio.events")
            assert loops is None or loops._get_running_loop() is None, "a loop would be blocked"
            part = FOLDER / f"{key}.{os.getpid()}.part"
            part.write_bytes(value if isinstance(value, bytes) else value.encode())
            part.rename(FOLDER / key)

        def delete(self, key):
            (FOLDER / key).unlink(missing_ok=True)

    class Counting(Folder):
        """Counts the parts of chords itself, as django-celery-results does."""

        def apply_chord(self, header_result_args, body, **kwargs):
            group_id, results = header_result_args
            ids = [result.id for result in results]
            (FOLDER / f"chord-{group_id}").write_text(json.dumps([body["chord_size"], ids]))

        def on_chord_part_return(self, request, state, result, **kwargs):
            from celeriac.result import allow_join_result

            path = FOLDER / f"chord-{request.group}"
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                left, ids = json.load(file)
                file.seek(0)
                file.truncate()
                json.dump([left - 1, ids], file)
            if left > 1:
                return
            body = self.app.signature(request.chord)
            try:
                with allow_join_result():
                    values = [self.app.AsyncResult(one).get(timeout=10) for one in ids]
            except Exception as exc:
                self.chord_error_from_stack(body, self.app.ChordError(f"a part raised {exc!r}"))
            else:
                body.delay(values)
    '''
TASKS = """
    from celeriac.exceptions import ChordError
    type(app).ChordError = ChordError

    @app.task(name="add")
    def add(x, y=0):
        return x + y

    @app.task(name="total")
    def total(values):
        return sum(values)

    @app.task(name="boom")
    def boom(*args):
        raise ValueError("bad value", 42)

    @app.task(name="die")
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="steps", bind=True)
    def steps(self):
        self.update_state(state="HALF", meta={"done": 1})
        while not (here / "go_on").exists():
            time.sleep(0.01)
        return "all"

    @app.task(name="later")
    async def later(x):
        await asyncio.sleep(0)
        return x

    @app.task(name="goes_on", bind=True, max_retries=1)
    async def goes_on(self):
        done = self.last_checkpoint([])
        self.checkpoint([*done, self.request.retries])
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return self.last_checkpoint()

    @app.task(name="told")
    def told(request, exc, traceback):
        mark("told", type(exc).__name__)
    """


@pytest.fixture
def client(project: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the project and a client, both with a backend of the module."""
    made: list[Celery] = []
    (project.folder / "own_store.py").write_text(dedent(STORE))
    monkeypatch.syspath_prepend(project.folder)

    def make(name: str) -> Celery:
        project.backend = f"own_store:{name}"
        project.write(TASKS)
        made.append(Celery("client", broker=project.url, backend=project.backend, set_as_current=False))
        return made[-1]

    yield make
    for app in made:
        app.close()
    sys.modules.pop("own_store", None)


def records(folder: Path) -> list[str]:
    return [path.name for path in (folder / "records").iterdir() if path.name.startswith("celery-task-meta-")]


def test_whatever_becomes_of_a_task_is_stored(project: Any, client: Any) -> None:
    app = client("Folder")
    worker = project.start("-c", "2")
    assert "results:      own_store:Folder" in worker.log

    assert app.send_task("add", (2, 3)).get(timeout=30) == 5
    failed = app.send_task("boom")
    with pytest.raises(ValueError, match="bad value"):
        failed.get(timeout=30)
    assert (failed.state, "ValueError" in failed.traceback) == ("FAILURE", True)
    with pytest.raises(WorkerLostError):
        app.send_task("die").get(timeout=30)
    steps = app.send_task("steps")
    wait_until(lambda: steps.state == "HALF", "its own state")
    assert steps.info == {"done": 1}
    (project.folder / "go_on").write_text("")
    assert steps.get(timeout=30) == "all"
    late = app.send_task("add", (1, 1), expires=0.001, countdown=0.2)
    with pytest.raises(TaskRevokedError):
        late.get(timeout=30)
    unknown = app.send_task("nobody.knows")
    wait_until(lambda: unknown.state == "FAILURE", "an unknown task's end")

    assert failed.id in "".join(records(project.folder))
    failed.forget()
    assert (failed.state, failed.exists()) == ("PENDING", False)


def test_workflows_end_by_looks_at_the_backend(project: Any, client: Any) -> None:
    app = client("Folder")
    app.conf.result_chord_retry_interval = 0.1
    project.start("-c", "2")
    add, total, boom = (app.signature(name) for name in ("add", "total", "boom"))

    last = chain(add.clone((1, 2)), add.clone((10,))).apply_async()
    assert (last.get(timeout=30), last.parent.get(timeout=30)) == (13, 3)
    broken = chain(boom.clone(), add.clone((1,))).apply_async()
    assert isinstance(broken.get(timeout=30, propagate=False), ValueError)
    members = group([add.clone((n, n)) for n in range(5)], app=app).apply_async()
    assert members.get(timeout=30) == [0, 2, 4, 6, 8]
    members.save()
    restored = GroupResult.restore(members.id, app=app)
    assert (restored.id, restored.completed_count()) == (members.id, 5)
    members.delete()
    assert GroupResult.restore(members.id, app=app) is None
    assert chord([add.clone((n, n)) for n in range(4)], app=app)(total).get(timeout=30) == 12
    failed = chord([add.clone((1, 1)), boom.clone()], app=app)(total)
    assert isinstance(failed.get(timeout=30, propagate=False), ChordError)


def test_a_backend_that_counts_is_told_of_parts_and_ends_its_chords(project: Any, client: Any) -> None:
    app = client("Counting")
    project.start("-c", "2")
    add, total, boom = (app.signature(name) for name in ("add", "total", "boom"))

    assert chord([add.clone((n, n)) for n in range(4)], app=app)(total).get(timeout=30) == 12
    watched = total.clone()
    watched.link_error(app.signature("told"))
    failed = chord([add.clone((1, 1)), boom.clone()], app=app)(watched)

    assert isinstance(failed.get(timeout=30, propagate=False), ChordError)
    assert project.wait_for_mark("told", "ChordError") == "ChordError"


def test_coroutines_wait_for_results_and_none_is_stored_in_their_loop(project: Any, client: Any) -> None:
    app = client("Folder")
    worker = project.start("-P", "asyncio", "-c", "5")

    async def ask() -> list[Any]:
        results = [app.send_task("later", (n,)) for n in range(5)]
        return await asyncio.gather(*results)

    assert asyncio.run(asyncio.wait_for(ask(), 30)) == list(range(5))
    assert "would be blocked" not in worker.log


def test_a_backend_that_cannot_be_imported_is_named_at_once(project: Any, client: Any) -> None:
    app = client("Missing")
    with pytest.raises(ImproperlyConfigured, match="own_store:Missing"):
        app.AsyncResult("some id").state

    worker = project.start(ready=False)
    assert worker.wait() != 0
    assert "own_store:Missing" in worker.log


def test_checkpoints_are_kept_in_it(project: Any, client: Any) -> None:
    app = client("Folder")
    project.start("-P", "asyncio", "-c", "2")

    result = app.send_task("goes_on")

    assert result.get(timeout=30) == [0, 1]
    wait_until(
        lambda: not list((project.folder / "records").glob("celeriac:checkpoint:*")), "the checkpoint is removed"
    )
