//! How a worker works, given at construction.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::autoscale::AutoscaleOptions;
use super::batch::BatchOptions;
use super::limits::LimitOptions;
use super::policy::{Policy, QueueDefaults};
use super::rate_limit::RateLimit;
use crate::broker::DeadLimits;
use crate::protocol::{TopicBinding, Topology};

/// How a worker works.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct WorkerOptions {
    /// Node name: `celery@host`.
    pub node: String,
    /// Queues to take from.
    pub queues: Vec<String>,
    /// Deliveries held for each slot; 0 means no limit, none means that the worker finds out what is good.
    pub prefetch_multiplier: Option<u32>,
    /// The tasks that are registered, by name.
    pub tasks: HashMap<String, TaskOptions>,
    /// Limits of queues, over all workers.
    pub queue_limits: HashMap<String, LimitOptions>,
    /// Content types that may reach Python.
    pub accept_content: HashSet<String>,
    /// A message larger than this is refused.
    pub max_message_bytes: usize,
    /// Bytes of messages that are held at the most (one larger message is still taken).
    pub prefetch_bytes: usize,
    /// Hard limit of tasks that have none.
    pub time_limit: Option<Duration>,
    /// Soft limit of tasks that have none.
    pub soft_time_limit: Option<Duration>,
    /// How long claims are held without a renewal.
    pub lease: Duration,
    /// Ends of the process that ran it after which a message is dead.
    pub max_crashes: u32,
    /// How long a warm stop lets tasks run; none is without limit.
    pub drain: Option<Duration>,
    /// Tasks that were acknowledged, and would be lost, run on when that time is over.
    pub drain_spares_acknowledged: bool,
    /// How long a soft stop lets tasks run before it kills them.
    pub soft_stop: Duration,
    /// What the program wants to be told of requests from the start.
    pub tell: Vec<super::told::TaskEvent>,
    /// Who started the worker and wants to hear how it is.
    pub service_manager: Option<super::service::ServiceManager>,
    /// How long the few records last that the engine makes itself; none keeps them.
    pub result_expires_ms: Option<u64>,
    /// Rate limits are not looked at.
    pub disable_rate_limits: bool,
    /// A queue with a backlog from which nothing comes for this long is consumed anew.
    pub watchdog: Duration,
    /// A chord of which no part ends for so long, and whose parts are in no queue, is lost (`result_chord_lost_after`);
    /// none looks for no such.
    pub chord_lost_after: Option<Duration>,
    /// How often a worker that starts tries to reach its broker; none: until it can, or is stopped.
    pub connect_attempts: Option<u32>,
    /// The pool grows and shrinks between these bounds; none: it keeps its size.
    pub autoscale: Option<AutoscaleOptions>,
    /// Log lines below this (Python's numbers) are not made.
    pub log_level: u8,
    /// Remote control.
    pub control: ControlOptions,
    /// Events are sent of what happens to tasks (`-E`); control commands change it while the worker runs.
    pub task_events: bool,
    /// How often the worker tells monitors that it lives; none never does, nor that it comes and goes.
    pub heartbeat: Option<Duration>,
    /// HTTP tasks and webhooks are taken too; none takes none.
    pub http: Option<super::http::HttpOptions>,
    /// Where `/live`, `/ready` and `/metrics` are answered ([`super::health_address`]); none answers nowhere.
    pub health_address: Option<String>,
    /// What holds for tasks by the queue they come from.
    pub queue_defaults: HashMap<String, QueueDefaults>,
    /// Tasks that fail for good become dead letters, unless they or their queue say otherwise (`task_dead_letter`).
    pub dead_letter: bool,
    /// How long dead letters are kept, and how many.
    pub dead_limits: DeadLimits,
    /// What the worker's service wants of a topic: its queue is bound before it is consumed.
    pub topics: Option<TopicBinding>,
    /// What happens to tasks is written to the stream, which keeps so many entries; none writes nothing.
    pub task_stream: Option<u64>,
}

/// How a worker is controlled from outside, and what it tells of itself.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// Listen for commands (`worker_enable_remote_control`).
    pub enabled: bool,
    /// The fanout exchange of commands: `celery.pidbox`. Replies go to `reply.` and its name.
    pub exchange: String,
    /// Ask other workers for their revoked tasks at the start.
    pub mingle: bool,
    /// Where revoked tasks are kept beyond the worker's life (`worker_state_db`).
    pub state_file: Option<PathBuf>,
    /// `pool_restart` is allowed (`worker_pool_restarts`).
    pub pool_restarts: bool,
    /// Commands of the app's own, which the program around the worker carries out.
    pub commands: HashSet<String>,
    /// Queues as the app has configured them; shared with the broker.
    pub topology: Arc<Topology>,
    /// What only the program around the worker knows.
    pub about: About,
}

/// What a worker tells of itself, made once when it starts.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Settings that differ from their defaults, as a JSON object without secrets.
    pub conf: String,
    /// All settings, likewise.
    pub conf_with_defaults: String,
    /// The report for bug reports.
    pub report: String,
    /// Attributes of tasks as texts: a JSON object of objects.
    pub tasks: String,
    /// The broker's connection, as a JSON object without its password.
    pub broker: String,
    /// The name of the pool's kind.
    pub pool: String,
    /// `worker_max_tasks_per_child`.
    pub max_tasks_per_child: Option<u64>,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            exchange: "celery.pidbox".to_owned(),
            mingle: false,
            state_file: None,
            pool_restarts: false,
            commands: HashSet::new(),
            topology: Arc::default(),
            about: About::default(),
        }
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            node: "celery@localhost".to_owned(),
            queues: vec!["celery".to_owned()],
            prefetch_multiplier: None,
            tasks: HashMap::new(),
            queue_limits: HashMap::new(),
            accept_content: HashSet::from(["application/json".to_owned()]),
            max_message_bytes: 64 << 20,
            prefetch_bytes: 128 << 20,
            time_limit: None,
            soft_time_limit: None,
            lease: Duration::from_secs(30),
            max_crashes: 3,
            drain: None,
            drain_spares_acknowledged: false,
            soft_stop: Duration::ZERO,
            tell: Vec::new(),
            service_manager: None,
            result_expires_ms: None,
            disable_rate_limits: false,
            watchdog: Duration::from_secs(20),
            chord_lost_after: None,
            connect_attempts: None,
            autoscale: None,
            log_level: super::notice::Level::Warning as u8,
            control: ControlOptions::default(),
            task_events: false,
            heartbeat: None,
            http: None,
            health_address: None,
            queue_defaults: HashMap::new(),
            dead_letter: false,
            dead_limits: DeadLimits::default(),
            topics: None,
            task_stream: None,
        }
    }
}

/// What the engine must know of a task. What only the child needs (`track_started`, serializers) is not here.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "Celery's options, each by itself")]
pub struct TaskOptions {
    /// Acknowledge after the task has run, not before.
    pub acks_late: bool,
    /// With late acknowledgement: a failed task is acknowledged; otherwise it becomes a dead letter.
    pub acks_on_failure: bool,
    /// With late acknowledgement: a task that ran over its hard limit is acknowledged; otherwise it is requeued.
    pub acks_on_timeout: bool,
    /// With late acknowledgement: when its process dies it is delivered again, up to `max_crashes`.
    pub reject_on_worker_lost: bool,
    /// Events are sent of it, when the worker sends any.
    pub send_events: bool,
    /// How often it may start.
    pub rate_limit: Option<RateLimit>,
    /// What holds for it over all workers.
    pub limit: LimitOptions,
    /// Its hard limit.
    pub time_limit: Option<Duration>,
    /// Its soft limit.
    pub soft_time_limit: Option<Duration>,
    /// What it asks for beyond Celery's options.
    pub policy: Policy,
    /// It is given several requests at once.
    pub batch: Option<BatchOptions>,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            acks_late: false,
            acks_on_failure: true,
            acks_on_timeout: true,
            reject_on_worker_lost: false,
            send_events: true,
            rate_limit: None,
            limit: LimitOptions::default(),
            time_limit: None,
            soft_time_limit: None,
            policy: Policy::default(),
            batch: None,
        }
    }
}
