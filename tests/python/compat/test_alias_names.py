"""Every name that known libraries import from Celery is there under the alias."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

#: What flower, django-celery-beat and -results, celery-redbeat, celery-batches, sentry-sdk, opentelemetry's
#: instrumentation, celery-once, celery-singleton, django-celery-email, celery-progress and pytest-celery import.
BY_LIBRARIES = {
    "celery": "Celery Task VERSION __version__ current_app maybe_signature registry schedules shared_task signals states",
    "celery._state": "_task_stack",
    "celery.app": "Celery app_or_default",
    "celery.app.base": "PendingConfiguration",
    "celery.app.task": "Context Task",
    "celery.app.trace": "build_tracer task_has_custom",
    "celery.beat": "DEFAULT_MAX_INTERVAL ScheduleEntry Scheduler",
    "celery.bin.base": "CeleryCommand",
    "celery.bin.celery": "celery main",
    "celery.concurrency.base": "BasePool",
    "celery.contrib.abortable": "AbortableAsyncResult",
    "celery.contrib.pytest": "celery_app celery_worker",
    "celery.events": "EventReceiver",
    "celery.events.state": "State",
    "celery.exceptions": "BackendError ChordError Ignore Reject Retry SoftTimeLimitExceeded TimeoutError",
    "celery.registry": "tasks",
    "celery.result": "AsyncResult EagerResult GroupResult ResultSet allow_join_result result_from_tuple",
    "celery.schedules": "BaseSchedule crontab schedstate schedule",
    "celery.signals": "beat_init task_failure task_postrun task_retry task_revoked task_success",
    "celery.utils": "cached_property get_full_cls_name noop",
    "celery.utils.imports": "instantiate symbol_by_name",
    "celery.utils.log": "get_logger get_task_logger",
    "celery.utils.nodenames": "gethostname",
    "celery.utils.serialization": "b64decode b64encode",
    "celery.utils.time": "humanize_seconds maybe_make_aware maybe_timedelta timezone",
    "celery.worker.consumer": "Consumer",
    "celery.worker.request": "Request create_request_cls",
    "celery.worker.strategy": "hybrid_to_proto2 proto1_to_proto2",
}

#: What projects and their tests import beside that.
BY_PROJECTS = {
    "celery": "Signature bugreport chain chord chunks current_task group signature subtask uuid xmap xstarmap",
    "celery._state": "current_app current_task get_current_app get_current_task set_default_app",
    "celery.app": "default_app shared_task",
    "celery.app.annotations": "MapAnnotation",
    "celery.app.control": "Control Inspect",
    "celery.app.defaults": "DEFAULT_PROCESS_LOG_FMT DEFAULT_TASK_LOG_FMT DEFAULTS",
    "celery.app.log": "TaskFormatter",
    "celery.app.registry": "TaskRegistry",
    "celery.app.trace": "trace_task setup_worker_optimizations reset_worker_optimizations",
    "celery.app.utils": "Settings bugreport",
    "celery.apps.beat": "Beat",
    "celery.apps.worker": "Worker",
    "celery.beat": "PersistentScheduler Service",
    "celery.bin.base": "CeleryOption COMMA_SEPARATED_LIST LOG_LEVEL",
    "celery.bootsteps": "ConsumerStep StartStopStep Step",
    "celery.canvas": "Signature StampingVisitor chain chord chunks group maybe_signature signature subtask xmap xstarmap",
    "celery.concurrency": "get_implementation",
    "celery.contrib.abortable": "ABORTED AbortableTask",
    "celery.contrib.django.task": "DjangoTask",
    "celery.contrib.rdb": "set_trace",
    "celery.contrib.testing.app": "TestApp setup_default_app",
    "celery.contrib.testing.mocks": "TaskMessage task_message_from_sig",
    "celery.contrib.testing.tasks": "ping",
    "celery.contrib.testing.worker": "start_worker",
    "celery.events.snapshot": "Polaroid",
    "celery.exceptions": "CeleryError ImproperlyConfigured MaxRetriesExceededError NotRegistered OperationalError "
    "TaskRevokedError TimeLimitExceeded WorkerLostError CeleryCommandException",
    "celery.fixups.django": "DjangoFixup fixup",
    "celery.loaders.app": "AppLoader",
    "celery.loaders.base": "BaseLoader autodiscover_tasks find_related_module",
    "celery.local": "PromiseProxy Proxy try_import",
    "celery.platforms": "Pidfile signals",
    "celery.schedules": "crontab_parser solar",
    "celery.signals": "after_setup_logger celeryd_init setup_logging task_prerun worker_process_init worker_ready",
    "celery.states": "FAILURE PENDING READY_STATES REVOKED SUCCESS",
    "celery.utils": "gen_unique_id uuid worker_direct nodesplit memoize",
    "celery.utils.abstract": "CallableTask",
    "celery.utils.collections": "AttributeDict LimitedSet",
    "celery.utils.deprecated": "Callable Property warn",
    "celery.utils.dispatch": "Signal",
    "celery.utils.graph": "DependencyGraph",
    "celery.utils.functional": "first maybe_list regen memoize head_from_fun",
    "celery.utils.iso8601": "parse_iso8601",
    "celery.utils.log": "ColorFormatter LoggingProxy base_logger mlevel task_logger",
    "celery.utils.objects": "Bunch mro_lookup",
    "celery.utils.saferepr": "saferepr",
    "celery.utils.serialization": "get_pickleable_exception jsonify strtobool",
    "celery.utils.sysinfo": "load_average",
    "celery.utils.term": "colored",
    "celery.utils.text": "abbr pluralize truncate",
    "celery.utils.threads": "LocalStack bgThread",
    "celery.utils.time": "get_exponential_backoff_interval is_naive localize make_aware parse_iso8601 rate to_utc",
    "celery.worker": "WorkController",
    "celery.worker.components": "Pool Timer",
    "celery.worker.control": "Panel control_command inspect_command",
    "celery.worker.worker": "WorkController",
}

LOOK = """
import importlib, json, sys
missing = []
for wanted in json.load(sys.stdin):
    for module, names in wanted.items():
        try:
            found = importlib.import_module(module)
        except ImportError as exc:
            missing.append(f"{module}: {exc}")
            continue
        if found is not sys.modules[module]:
            missing.append(f"{module} is not what sys.modules has")
        for name in names.split():
            # As `from module import name` does it: an attribute, or else a submodule.
            try:
                exec(f"from {module} import {name}")
            except ImportError as exc:
                missing.append(str(exc))
print(json.dumps(missing))
"""


def test_every_name_that_libraries_and_projects_import_is_there(
    environment: dict[str, str], python: Callable[..., Any]
) -> None:
    program = "import celeriac.compat; celeriac.compat.install()\n" + LOOK.replace(
        "json.load(sys.stdin)", repr([BY_LIBRARIES, BY_PROJECTS])
    )

    done = python("-W", "error", "-c", program)

    assert json.loads(done.stdout) == []
