"""`celery` is celeriac: one object under both names, nothing of an installed Celery, in children too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Aliased = Callable[..., str]


def test_a_module_of_celery_is_the_module_of_celeriac(aliased: Aliased) -> None:
    aliased("""
        import sys
        import celeriac.app.task
        import celery.app.task, celery.beat, celery.utils.log
        import celeriac.beat, celeriac.utils.log

        assert celery.app.task is celeriac.app.task and sys.modules["celery.app.task"] is celeriac.app.task
        assert celery.beat is celeriac.beat and celery.utils.log is celeriac.utils.log
        # Its own name and spec are not touched, so that reloading and pickling go on.
        assert celeriac.app.task.__name__ == celeriac.app.task.__spec__.name == "celeriac.app.task"
        assert celery.beat.__spec__.name == "celeriac.beat"
        from celery import Celery, Task, signals, states
        assert Celery is celeriac.Celery and Task is celeriac.app.task.Task
        assert signals is celeriac.signals
    """)


def test_what_a_library_patches_is_what_celeriac_calls(aliased: Aliased) -> None:
    out = aliased("""
        import celery.app.base
        from celery import Celery
        from celeriac.app.base import Celery as Ours

        celery.app.base.Celery.send_task = lambda self, name, *args, **kwargs: print("patched", name)
        Ours("a").send_task("x")
    """)

    assert out == "patched x\n"


def test_nothing_of_a_celery_that_is_installed_is_used(
    python: Callable[..., Any], tmp_path: Path, environment: dict[str, str]
) -> None:
    real = tmp_path / "site" / "celery"
    real.mkdir(parents=True)
    (real / "__init__.py").write_text("__version__ = '1.0'")
    (real / "only_there.py").write_text("")
    (tmp_path / "site" / "celery-1.0.dist-info").mkdir()
    (tmp_path / "site" / "celery-1.0.dist-info" / "METADATA").write_text("Name: celery\nVersion: 1.0\n")
    (tmp_path / "program.py").write_text(
        "import importlib.metadata as metadata\n"
        "import celery\n"
        "assert celery.__version__ == '5.7.0' == metadata.version('celery')\n"
        "assert [d.version for d in metadata.distributions() if d.name == 'celery'][0] == '5.7.0'\n"
        "try:\n"
        "    import celery.only_there\n"
        "except ModuleNotFoundError as exc:\n"
        "    assert exc.name == 'celery.only_there' and 'celery is celeriac here' in str(exc), exc\n"
        "else:\n"
        "    raise AssertionError('found')\n"
    )
    path = f"{tmp_path / 'site'}:{environment['PYTHONPATH']}"

    python("-c", "import celery; assert celery.__version__ == '1.0'", PYTHONPATH=path)
    python("-m", "celeriac.compat", "program.py", PYTHONPATH=path)


def test_an_earlier_import_of_another_celery_is_an_error(python: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text("")
    program = "import celery, celeriac.compat\ntry:\n    celeriac.compat.install()\nexcept RuntimeError as exc:\n    print(exc)"

    done = python("-c", program)

    assert "celery was imported already" in done.stdout
    assert str(tmp_path) in done.stdout


def test_installing_twice_changes_nothing(aliased: Aliased) -> None:
    aliased("""
        import sys, celery
        from celeriac import compat
        before = list(sys.meta_path)
        compat.install()
        assert sys.meta_path == before and sys.modules["celery"] is celery and compat.installed()
    """)


def test_the_version_looks_like_celerys(aliased: Aliased) -> None:
    aliased("""
        import celery, celeriac
        assert celery.__version__ == "5.7.0" and celery.VERSION >= (5, 1) and celery.VERSION.micro == 0
        assert celery.VERSION_BANNER.startswith("5.7.0 (") and celery.SERIES
        assert isinstance(celery.VERSION, celery.version_info_t)
        assert celeriac.__version__ != celery.__version__
    """)


def test_no_broker_named_means_celerys_default(aliased: Aliased, python: Callable[..., Any]) -> None:
    program = """
from {0} import Celery, current_app
for app in (Celery("a"), current_app):
    print(app.broker_url_effective, app.result_backend_effective)
app = Celery("b", broker="memory://")
print(app.broker_url_effective, app.result_backend_effective)
"""

    assert aliased(program.format("celery")).splitlines() == [
        "amqp://guest@localhost// None",
        "amqp://guest@localhost// None",
        "memory:// None",
    ]
    done = python("-c", program.format("celeriac"))
    assert done.stdout.startswith("sqlite:///celeriac.db sqlite:///celeriac.db\n")


def test_processes_that_are_started_have_the_alias_too(aliased: Aliased) -> None:
    out = aliased("""
        import subprocess, sys
        program = (
            "import sys; assert 'celeriac' not in sys.modules\\n"
            "import importlib.metadata as metadata; print(metadata.version('celery'))\\n"
            "import celery.app.task, celeriac; print(celery.Task is celeriac.Task, celery.__version__)\\n"
            "print(celery.Celery('x').broker_url_effective)"
        )
        print(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout, end="")
        print(subprocess.run([sys.executable, "-m", "celery", "--help"], check=True, capture_output=True, text=True).stdout)
    """)

    lines = out.splitlines()
    assert lines[:3] == ["5.7.0", "True 5.7.0", "amqp://guest@localhost//"]
    assert "Start a worker." in out


def test_a_script_runs_as_python_would_run_it(python: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "beside.py").write_text("import celery; WHICH = celery.VERSION_BANNER")
    (folder / "script.py").write_text(
        "import sys, beside\nprint(__name__, sys.argv, beside.WHICH)\nif sys.argv[-1] == '--fail': sys.exit(7)\n"
    )

    done = python("-m", "celeriac.compat", "folder/script.py", "-m", "x")
    failed = python("-m", "celeriac.compat", "folder/script.py", "--fail", code=7)
    module = python("-m", "celeriac.compat", "-m", "folder.script", "a", code=1)

    assert done.stdout == "__main__ ['folder/script.py', '-m', 'x'] 5.7.0 (celeriac)\n"
    assert failed.stdout.startswith("__main__")
    assert "No module named 'beside'" in module.stderr


def test_a_module_runs_as_python_would_run_it(python: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys, celery; print(__name__, sys.argv[1:], celery.__version__)")

    done = python("-m", "celeriac.compat", "-m", "program", "a", "-b")

    assert done.stdout == "__main__ ['a', '-b'] 5.7.0\n"


@pytest.mark.parametrize(("arguments", "says"), [([], "usage:"), (["-c"], "usage:"), (["no.py"], "no such file")])
def test_wrong_use_says_what_to_do(python: Callable[..., Any], arguments: list[str], says: str) -> None:
    done = python("-m", "celeriac.compat", *arguments, code=1)

    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_celeriac_alone_knows_nothing_of_it(python: Callable[..., Any]) -> None:
    python(
        "-c",
        "import sys, celeriac; celeriac.Celery('x').conf.broker_url\n"
        "assert not [name for name in sys.modules if name.startswith(('celery', 'celeriac.compat'))]",
    )


def test_a_folder_on_the_path_is_enough_for_any_program(
    python: Callable[..., Any], environment: dict[str, str]
) -> None:
    folder = python("-m", "celeriac.compat", "--path").stdout.strip()

    done = python(
        "-c",
        "import celery.app.base, celeriac.app.base; print(celery.app.base is celeriac.app.base, celery.VERSION_BANNER)",
        PYTHONPATH=f"{folder}:{environment['PYTHONPATH']}",
    )

    assert done.stdout == "True 5.7.0 (celeriac)\n"
