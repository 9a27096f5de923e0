"""What web applications show of tasks: status, cancel, live progress, dead letters. Knows no framework.

`celeriac.flask`, `celeriac.asgi` and `celeriac.django` turn their requests into calls of this, and its answers into
responses.
"""

from celeriac.web.access import allow_all, check_auth
from celeriac.web.answers import Answer
from celeriac.web.events import EventStream
from celeriac.web.views import TaskViews

__all__ = ["Answer", "EventStream", "TaskViews", "allow_all", "check_auth"]
