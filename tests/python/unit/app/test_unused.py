"""Settings that do nothing are told, and parts of an app can be replaced."""

from __future__ import annotations

import pytest

from celeriac import Celery
from celeriac.app.control import Control
from celeriac.app.defaults import SETTINGS
from celeriac.app.unused import _REASONS, without_effect
from celeriac.exceptions import ImproperlyConfigured


def test_a_setting_without_effect_is_told_when_it_is_set(app: Celery) -> None:
    assert dict(without_effect(app.conf)) == {}
    app.conf.broker_pool_limit = 3
    app.conf.s3_bucket = "b"

    told = dict(without_effect(app.conf))
    assert told.keys() == {"broker_pool_limit", "s3_bucket"}
    assert "one connection" in told["broker_pool_limit"]
    assert SETTINGS.keys() >= _REASONS.keys()


def test_the_control_of_an_app_can_be_a_class_of_the_project() -> None:
    class Loud(Control):
        pass

    made = Celery("own", control=Loud, broker="memory://", set_as_current=False)
    assert type(made.control) is Loud


def test_a_loader_of_the_project_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="loaders"):
        Celery("own", loader="proj.loaders:Loader", set_as_current=False)


def test_every_app_can_clean_up_its_backend(app: Celery) -> None:
    assert app.tasks["celery.backend_cleanup"]() is None
    app.conf.result_backend = "db+sqlite:///results"
    with pytest.raises(ImproperlyConfigured, match="cannot be cleaned up"):
        app.tasks["celery.backend_cleanup"]()


def test_an_eager_call_takes_no_number_of_retries_for_none(app: Celery) -> None:
    @app.task(bind=True)
    def tries(self) -> int:
        return self.request.retries

    assert tries.apply(retries=None).get() == 0
