"""`celery` for a process whose parent has the alias: installs it here, and makes way for it."""

from celeriac.compat import install

install()
