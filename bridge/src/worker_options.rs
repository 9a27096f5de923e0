//! The options dict of a worker becomes the engine's options and a pool.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use celeriac::backoff::Backoff;
use celeriac::broker::DeadLimits;
use celeriac::driver::Threading;
use celeriac::protocol::TopicBinding;
use celeriac::worker::http::{Guard, HttpOptions, Secrets};
use celeriac::worker::pool::process::{ProcessPool, ProcessPoolOptions, Spawner};
use celeriac::worker::{
    About, AutoscaleOptions, BatchOptions, ControlOptions, LimitOptions, Policy, QueueDefaults, RateLimit,
    ServiceManager, TaskEvent, TaskOptions, WorkerOptions, health_address, parse_window_rate,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::connections::Connections;
use crate::convert::adopt;
use crate::errors::Class;
use crate::options::Options;

/// Slots that are not needed go after this time, unless told otherwise.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// All that is needed to start a worker.
pub(crate) struct Plan {
    pub(crate) broker_url: String,
    /// Where follow-ups go, if not there.
    pub(crate) write_url: Option<String>,
    pub(crate) result_backend: Option<String>,
    pub(crate) connections: Connections,
    pub(crate) options: WorkerOptions,
    pub(crate) pool: ProcessPool,
}

/// Reads and checks every option.
pub(crate) fn read(dict: &Bound<'_, PyDict>) -> PyResult<Plan> {
    let given = Options::new("Worker", dict)?;
    let broker_url = store_url(&given, "broker_url", given.need("broker_url")?)?;
    let result_backend = match given.take("result_backend")? {
        Some(url) => Some(store_url(&given, "result_backend", url)?),
        None => None,
    };
    let write_url = match given.take("broker_write_url")? {
        Some(url) => Some(store_url(&given, "broker_write_url", url)?).filter(|url| *url != broker_url),
        None => None,
    };
    let connections = Connections::read(&given, Threading::Dedicated)?;
    let mut options =
        WorkerOptions { result_expires_ms: connections.broker.reply.expires_ms, ..worker_options(&given)? };
    if let Some(http) = &mut options.http {
        http.result_expires_ms = options.result_expires_ms;
    }
    options.control.topology = connections.broker.topology.clone();
    let pool = pool(&given, &options)?;
    given.finish()?;
    Ok(Plan { broker_url, write_url, result_backend, connections, options, pool })
}

/// Checks an URL without connecting.
fn store_url(given: &Options<'_>, name: &str, url: String) -> PyResult<String> {
    match celeriac::url::StoreUrl::parse(&url) {
        Ok(_) => Ok(url),
        Err(error) => Err(given.wrong(name, &error.to_string())),
    }
}

fn worker_options(given: &Options<'_>) -> PyResult<WorkerOptions> {
    let default = WorkerOptions::default();
    Ok(WorkerOptions {
        node: given.need("node")?,
        queues: given.need("queues")?,
        prefetch_multiplier: given.take("prefetch_multiplier")?,
        tasks: tasks(given)?,
        queue_limits: queue_limits(given)?,
        accept_content: given
            .take::<Vec<String>>("accept_content")?
            .map_or(default.accept_content, HashSet::from_iter),
        max_message_bytes: given.take("max_message_bytes")?.unwrap_or(default.max_message_bytes),
        time_limit: given.duration("time_limit")?,
        soft_time_limit: given.duration("soft_time_limit")?,
        lease: given.duration("lease_seconds")?.unwrap_or(default.lease),
        chord_lost_after: given.duration("chord_lost_after_seconds")?,
        max_crashes: given.take("max_crashes")?.unwrap_or(default.max_crashes),
        drain: given.duration("drain_seconds")?,
        drain_spares_acknowledged: given.take("drain_spares_acknowledged")?.unwrap_or_default(),
        soft_stop: given.duration("soft_shutdown_seconds")?.unwrap_or_default(),
        tell: tell(given)?,
        service_manager: service_manager(given)?,
        result_expires_ms: None,
        connect_attempts: given.take("connect_attempts")?,
        disable_rate_limits: given.take("disable_rate_limits")?.unwrap_or(default.disable_rate_limits),
        log_level: given.take::<u32>("log_level")?.map_or(default.log_level, |level| level.min(255) as u8),
        task_events: given.take("task_events")?.unwrap_or(default.task_events),
        heartbeat: given.duration("heartbeat_seconds")?.filter(|interval| !interval.is_zero()),
        http: http(given)?,
        health_address: match given.take::<String>("health_address")? {
            Some(text) => Some(health_address(&text).map_err(|error| given.wrong("health_address", &error))?),
            None => None,
        },
        autoscale: autoscale(given)?,
        queue_defaults: queue_defaults(given)?,
        dead_letter: given.take("dead_letter")?.unwrap_or_default(),
        dead_limits: DeadLimits {
            max_age: given.duration("dead_letter_max_age")?,
            max_count: given.take("dead_letter_max_count")?,
        },
        topics: topics(given)?,
        task_stream: given.take("task_stream")?,
        prefetch_bytes: default.prefetch_bytes,
        watchdog: default.watchdog,
        control: control(given)?,
    })
}

fn topics(given: &Options<'_>) -> PyResult<Option<TopicBinding>> {
    let topics = given.take::<(String, String, Vec<String>)>("topics")?;
    Ok(topics.map(|(exchange, queue, patterns)| TopicBinding { exchange, queue, patterns }))
}

fn tell(given: &Options<'_>) -> PyResult<Vec<TaskEvent>> {
    let names = given.take::<Vec<String>>("tell")?.unwrap_or_default();
    names.iter().map(|name| crate::worker::event(name)).collect()
}

fn service_manager(given: &Options<'_>) -> PyResult<Option<ServiceManager>> {
    let watchdog = given.duration("watchdog_seconds")?;
    let socket = given.take::<OsString>("notify_socket")?;
    Ok(socket.map(|socket| ServiceManager { socket, watchdog }))
}

fn control(given: &Options<'_>) -> PyResult<ControlOptions> {
    let default = ControlOptions::default();
    let Some(dict) = given.take::<Bound<'_, PyDict>>("control")? else { return Ok(default) };
    let given = Options::new("control", &dict)?;
    let text = |name| given.take::<String>(name).map(Option::unwrap_or_default);
    let control = ControlOptions {
        enabled: given.take("enabled")?.unwrap_or(default.enabled),
        exchange: given.take("exchange")?.unwrap_or(default.exchange),
        mingle: given.take("mingle")?.unwrap_or(default.mingle),
        state_file: given.take("state_file")?,
        pool_restarts: given.take("pool_restarts")?.unwrap_or(default.pool_restarts),
        commands: given.take::<Vec<String>>("commands")?.unwrap_or_default().into_iter().collect(),
        topology: default.topology,
        about: About {
            conf: text("conf")?,
            conf_with_defaults: text("conf_with_defaults")?,
            report: text("report")?,
            tasks: text("tasks")?,
            broker: text("broker")?,
            pool: text("pool")?,
            max_tasks_per_child: given.take("max_tasks_per_child")?,
        },
    };
    given.finish()?;
    Ok(control)
}

fn http(given: &Options<'_>) -> PyResult<Option<HttpOptions>> {
    let Some(dict) = given.take::<Bound<'_, PyDict>>("http")? else { return Ok(None) };
    let given = Options::new("http", &dict)?;
    let default = HttpOptions::default();
    let guard = Guard::new(&given.take::<Vec<String>>("allow")?.unwrap_or_default());
    let mut secrets = given.take::<BTreeMap<String, Vec<String>>>("webhook_secrets")?.unwrap_or_default();
    let schedule = given.take::<Vec<f64>>("webhook_schedule")?;
    let http = HttpOptions {
        queues: given.take("queues")?.unwrap_or(default.queues),
        concurrency: given.take("concurrency")?.unwrap_or(default.concurrency),
        guard: Arc::new(guard.map_err(|error| given.wrong("http_allow", &error))?),
        timeout: given.duration("timeout_seconds")?.unwrap_or(default.timeout),
        connect_timeout: given.duration("connect_timeout_seconds")?.unwrap_or(default.connect_timeout),
        max_response: given.take("max_response_bytes")?.unwrap_or(default.max_response),
        retries: given.take("retries")?.unwrap_or(default.retries),
        backoff: Backoff {
            base: given.duration("backoff_seconds")?.unwrap_or(default.backoff.base),
            max: given.duration("backoff_max_seconds")?.unwrap_or(default.backoff.max),
            ..default.backoff
        },
        retry_after_max: given.duration("retry_after_max_seconds")?.unwrap_or(default.retry_after_max),
        webhook_schedule: schedule.map_or(default.webhook_schedule, |delays| {
            delays.into_iter().filter_map(|delay| Duration::try_from_secs_f64(delay).ok()).collect()
        }),
        // Those without a name are called so.
        secrets: Secrets::new(&secrets.remove("").unwrap_or_default(), &secrets),
        done_queue: given.take("done_queue")?.unwrap_or(default.done_queue),
        concludes_in_child: given.take("concludes_in_child")?.unwrap_or_default(),
        result_expires_ms: None,
        resolver: default.resolver,
    };
    given.finish()?;
    Ok(Some(http))
}

fn autoscale(given: &Options<'_>) -> PyResult<Option<AutoscaleOptions>> {
    let keepalive = given.duration("autoscale_keepalive")?.unwrap_or(KEEPALIVE);
    match given.take::<(usize, usize)>("autoscale")? {
        None => Ok(None),
        Some((max, min)) if min >= 1 && max >= min => Ok(Some(AutoscaleOptions { max, min, keepalive })),
        Some(_) => Err(given.wrong("autoscale", "it is (max, min), with 1 <= min <= max")),
    }
}

fn tasks(given: &Options<'_>) -> PyResult<HashMap<String, TaskOptions>> {
    let Some(tasks) = given.take::<Bound<'_, PyDict>>("tasks")? else { return Ok(HashMap::new()) };
    let read = |(name, options): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name: String = name.extract()?;
        let given = Options::new(format!("task {name}"), options.cast::<PyDict>()?)?;
        Ok((name, task(given)?))
    };
    tasks.iter().map(read).collect()
}

fn queue_limits(given: &Options<'_>) -> PyResult<HashMap<String, LimitOptions>> {
    let Some(queues) = given.take::<Bound<'_, PyDict>>("queue_limits")? else { return Ok(HashMap::new()) };
    let read = |(name, options): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name: String = name.extract()?;
        let given = Options::new(format!("queue {name}"), options.cast::<PyDict>()?)?;
        let limit = limit(&given)?;
        given.finish()?;
        Ok((name, limit))
    };
    queues.iter().map(read).collect()
}

/// What holds for all workers together.
fn limit(given: &Options<'_>) -> PyResult<LimitOptions> {
    let rate = match given.take::<String>("global_rate_limit")? {
        Some(text) => {
            parse_window_rate(&text).map_err(|error| given.wrong("global_rate_limit", &error.to_string()))?
        }
        None => None,
    };
    Ok(LimitOptions { rate, most: given.take("max_concurrency")? })
}

fn task(given: Options<'_>) -> PyResult<TaskOptions> {
    let default = TaskOptions::default();
    let rate_limit = match given.take::<String>("rate_limit")? {
        Some(text) => {
            RateLimit::parse(&text).map_err(|error| given.wrong("rate_limit", &error.to_string()))?
        }
        None => None,
    };
    let options = TaskOptions {
        acks_late: given.take("acks_late")?.unwrap_or(default.acks_late),
        acks_on_failure: given.take("acks_on_failure")?.unwrap_or(default.acks_on_failure),
        acks_on_timeout: given.take("acks_on_timeout")?.unwrap_or(default.acks_on_timeout),
        reject_on_worker_lost: given.take("reject_on_worker_lost")?.unwrap_or(default.reject_on_worker_lost),
        send_events: given.take("send_events")?.unwrap_or(default.send_events),
        rate_limit,
        limit: limit(&given)?,
        time_limit: given.duration("time_limit")?,
        soft_time_limit: given.duration("soft_time_limit")?,
        policy: policy(&given)?,
        batch: batch(&given)?,
    };
    // What only the child looks at.
    given.take::<bool>("track_started")?;
    given.take::<bool>("ignore_result")?;
    given.finish()?;
    Ok(options)
}

/// What a task or a queue asks for beyond Celery's options.
fn policy(given: &Options<'_>) -> PyResult<Policy> {
    Ok(Policy {
        dead_letter: given.take("dead_letter")?,
        keep_successes: given.take("keep_successes")?,
        keep_failures: given.take("keep_failures")?,
        result_expires_ms: given.take("result_expires_ms")?,
    })
}

fn queue_defaults(given: &Options<'_>) -> PyResult<HashMap<String, QueueDefaults>> {
    let Some(queues) = given.take::<Bound<'_, PyDict>>("queue_defaults")? else { return Ok(HashMap::new()) };
    let read = |(name, options): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name: String = name.extract()?;
        let given = Options::new(format!("queue {name}"), options.cast::<PyDict>()?)?;
        let defaults = QueueDefaults {
            policy: policy(&given)?,
            time_limit: given.duration("time_limit")?,
            soft_time_limit: given.duration("soft_time_limit")?,
        };
        given.finish()?;
        Ok((name, defaults))
    };
    queues.iter().map(read).collect()
}

fn batch(given: &Options<'_>) -> PyResult<Option<BatchOptions>> {
    let Some((max_size, max_wait)) = given.take::<(usize, f64)>("batch")? else { return Ok(None) };
    match Duration::try_from_secs_f64(max_wait) {
        Ok(max_wait) if max_size >= 1 => Ok(Some(BatchOptions { max_size, max_wait })),
        _ => Err(given.wrong("batch", "it is (max_size, max_wait), at least 1 and 0.0 seconds")),
    }
}

fn pool(given: &Options<'_>, options: &WorkerOptions) -> PyResult<ProcessPool> {
    let concurrency = given.take("concurrency")?.unwrap_or(1);
    // Where it is given, each process has as many slots as `concurrency` says; elsewhere each has one.
    let (processes, slots) = match given.take("processes")? {
        Some(processes) => (processes, Some(concurrency)),
        None => (concurrency, None),
    };
    let argv = given.take::<Vec<OsString>>("fork_server_argv")?;
    let server = given.take::<RawFd>("fork_server_fd")?;
    let child = given.take::<RawFd>("child_fd")?;
    let max_tasks_per_child = given.take("max_tasks_per_child")?;
    let max_memory_per_child = given.take("max_memory_per_child")?;
    let spawner = match (child, server, argv) {
        (Some(_), Some(_), _) => return Err(given.wrong("child_fd", "there is a fork server as well")),
        (Some(fd), None, _) => Spawner::fixed(UnixStream::from(adopt(fd)?)),
        (None, None, None) => return Err(given.wrong("fork_server_fd", "nothing is there to run tasks")),
        (None, fd, argv) => {
            let stream = fd.map(adopt).transpose()?.map(UnixStream::from);
            Spawner::fork_server(stream, argv)
        }
    };
    let hard_limits = options.time_limit.is_some()
        || options.tasks.values().any(|task| task.time_limit.is_some())
        || options.queue_defaults.values().any(|queue| queue.time_limit.is_some());
    let pool = ProcessPoolOptions {
        processes,
        slots,
        spawner,
        max_tasks_per_child,
        max_memory_per_child,
        hard_limits,
    };
    ProcessPool::new(pool).map_err(|error| Class::Improper.error(given.py(), error.to_string()))
}
