"""The signals, and what each one passes. All but the sender comes by name."""

from __future__ import annotations

from celeriac._dispatch import Signal

__all__ = [
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "heartbeat_sent",
    "import_modules",
    "setup_logging",
    "task_dead_lettered",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_sent",
    "task_success",
    "task_unknown",
    "user_preload_options",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
]

# In the client. Sender: the task's name.
before_task_publish = Signal(
    {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"}, "before_task_publish"
)
after_task_publish = Signal({"body", "exchange", "routing_key", "headers"}, "after_task_publish")
task_sent = Signal({"task_id", "task", "args", "kwargs", "eta", "taskset"}, "task_sent")

# In a child, but for the last five: those are sent in the worker's own process. Sender: the task, or for
# `task_received`, `task_rejected` and `task_unknown` the consumer.
task_prerun = Signal({"task_id", "task", "args", "kwargs"}, "task_prerun")
task_postrun = Signal({"task_id", "task", "args", "kwargs", "retval", "state"}, "task_postrun")
task_success = Signal({"result", "runtime"}, "task_success")
task_retry = Signal({"request", "reason", "einfo"}, "task_retry")
task_failure = Signal({"task_id", "exception", "args", "kwargs", "traceback", "einfo"}, "task_failure")
task_internal_error = Signal(
    {"task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"}, "task_internal_error"
)
task_received = Signal({"request"}, "task_received")
task_revoked = Signal({"request", "terminated", "signum", "expired"}, "task_revoked")
task_rejected = Signal({"message", "exc"}, "task_rejected")
task_unknown = Signal({"message", "exc", "name", "id"}, "task_unknown")
# Ours. In the worker's own process: a message becomes a dead letter. Sender: the task, or None where the worker has none
# of its name. `error`: the repr of the exception, or what happened in words.
task_dead_lettered = Signal(
    {"task_id", "name", "reason", "error", "traceback", "queue", "message"}, "task_dead_lettered"
)

# In the worker's own process, but for the two of the pool's processes, and for `worker_before_create_process`: that
# one is sent in the fork server, before each fork. Sender: worker, consumer, fork server or node name.
celeryd_init = Signal({"instance", "conf", "options"}, "celeryd_init")
celeryd_after_setup = Signal({"instance", "conf"}, "celeryd_after_setup")
import_modules = Signal(set(), "import_modules")
worker_init = Signal(set(), "worker_init")
worker_before_create_process = Signal(set(), "worker_before_create_process")
worker_process_init = Signal(set(), "worker_process_init")
worker_process_shutdown = Signal({"pid", "exitcode"}, "worker_process_shutdown")
worker_ready = Signal(set(), "worker_ready")
worker_shutting_down = Signal({"sig", "how", "exitcode"}, "worker_shutting_down")
worker_shutdown = Signal(set(), "worker_shutdown")

# Logging set-up. A receiver of the first one replaces it.
setup_logging = Signal({"loglevel", "logfile", "format", "colorize"}, "setup_logging")
after_setup_logger = Signal({"logger", "loglevel", "logfile", "format", "colorize"}, "after_setup_logger")
after_setup_task_logger = Signal({"logger", "loglevel", "logfile", "format", "colorize"}, "after_setup_task_logger")

# The scheduler and the command line.
beat_init = Signal(set(), "beat_init")
beat_embedded_init = Signal(set(), "beat_embedded_init")
user_preload_options = Signal({"app", "options"}, "user_preload_options")

# They exist so that modules which connect to them can be imported. The heartbeat is the engine's, which calls no
# Python; there is no pool of eventlet.
heartbeat_sent = Signal(set(), "heartbeat_sent")
eventlet_pool_started = Signal(set(), "eventlet_pool_started")
eventlet_pool_preshutdown = Signal(set(), "eventlet_pool_preshutdown")
eventlet_pool_postshutdown = Signal(set(), "eventlet_pool_postshutdown")
eventlet_pool_apply = Signal({"target", "args", "kwargs"}, "eventlet_pool_apply")
