"""What pytest loads by itself where celeriac is installed (entry point `pytest11`).

The fixtures come from `celeriac.contrib.pytest`, unless another plugin has them: that of an installed Celery, or the same one,
named with `-p` or in a conftest. With `CELERIAC_COMPAT=1` tests that import celery get celeriac.
"""

from __future__ import annotations

import pytest

from celeriac.compat import install_if_wanted

install_if_wanted()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Offers the fixtures, once it is known who else has them."""
    manager = config.pluginmanager
    if not any(hasattr(plugin, "celery_app") for plugin in manager.get_plugins()):
        from celeriac.contrib import pytest as fixtures

        manager.register(fixtures, fixtures.__name__)
