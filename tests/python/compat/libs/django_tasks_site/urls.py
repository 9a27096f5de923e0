"""Tasks over HTTP."""

from django.urls import include, path

from celeriac.django import tasks_urls


def may(action, task_id, request):
    """Whoever says so in a header."""
    return request.headers.get("X-Who") == "owner"


urlpatterns = [path("tasks/", include(tasks_urls(auth=may, heartbeat=0.2)))]
