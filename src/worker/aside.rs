//! The second loop of a worker: it takes HTTP tasks and webhooks, with a consumer and a credit of its own.
//!
//! 1. It is a loop like the first, with [`super::http`] as its pool: leases, retries, revokes, events and shutdown are the
//!    same. Tasks of the other loop are neither claimed less for it, nor wait for it.
//! 2. What a worker does once (heartbeats, remote control, health, saving, sweeping) the first loop does. It passes on
//!    the commands that concern calls.
//! 3. Both end together: a stop of the worker stops both, and the worker is over when both are.
//! 4. A broker that does not let it consume ends this loop alone, with a warning.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::consumer::ConsumerLoop;
use super::control::{Heard, WAITING};
use super::http::{HttpOptions, HttpPool, TASK};
use super::lifecycle::Stop;
use super::log::Log;
use super::notice::{Level, NoticeQueue};
use super::options::{ControlOptions, TaskOptions, WorkerOptions};
use super::service::Service;
use super::{Worker, WorkerError};
use crate::protocol::ControlRequest;

/// Files that a worker opens for other things than calls.
const OTHER_FILES: u64 = 256;
/// How long a worker that has failed waits for its calls.
const GOODBYE: Duration = Duration::from_secs(10);
/// Commands that concern calls as well; `revoke` goes its own way.
const PASSED_ON: [&str; 8] = [
    "revoke_by_stamped_headers",
    "rate_limit",
    "limit",
    "time_limit",
    "enable_events",
    "disable_events",
    "pause_queue",
    "resume_queue",
];

/// The way to the loop that makes calls.
pub(super) struct Aside {
    /// Written by the first loop and by handles, read by the second.
    orders: Arc<watch::Sender<Option<Stop>>>,
    heard: mpsc::Sender<Heard>,
    task: JoinHandle<()>,
}

/// Without the first loop there is no second.
impl Drop for Aside {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Worker {
    /// The worker that makes the calls of this one; none if it makes none.
    pub(super) fn aside(&mut self) -> Option<Self> {
        let http = self.options.http.take()?;
        let stores = self.stores.clone();
        let http = HttpOptions { concurrency: within_files(http.concurrency, &stores.log), ..http };
        let registered = self.options.tasks.get(TASK).cloned().unwrap_or_default();
        let task = TaskOptions {
            acks_late: true,
            acks_on_failure: true,
            acks_on_timeout: true,
            reject_on_worker_lost: true,
            ..registered
        };
        let options = WorkerOptions {
            queues: http.queues.clone(),
            prefetch_multiplier: Some(1),
            tasks: HashMap::from([(TASK.to_owned(), task)]),
            accept_content: ["application/json".to_owned()].into(),
            time_limit: None,
            soft_time_limit: None,
            tell: Vec::new(),
            service_manager: None,
            autoscale: None,
            chord_lost_after: None,
            heartbeat: None,
            health_address: None,
            topics: None,
            control: ControlOptions { enabled: false, ..ControlOptions::default() },
            ..self.options.clone()
        };
        let pool = HttpPool::new(http, self.clock.clone(), stores.log.clone());
        Some(Self {
            // Its milestones are nobody's concern; its log lines go where all go.
            notices: Arc::new(NoticeQueue::new(self.options.log_level)),
            options,
            stores,
            pool: Box::new(pool),
            clock: self.clock.clone(),
            stats: self.stats.clone(),
            orders: self.orders.clone(),
            heard: mpsc::channel(WAITING),
            lamport: self.lamport.clone(),
        })
    }
}

impl ConsumerLoop {
    /// Starts the second loop, if there is to be one. It knows what is revoked, and counts where this one does.
    pub(super) fn start_aside(&mut self, worker: Option<Worker>) {
        let Some(worker) = worker.filter(|_| self.takes_work()) else { return };
        let (orders, heard) = (worker.orders.clone(), worker.heard.0.clone());
        let mut second = worker.into_loop(Service::default());
        second.is_aside = true;
        second.keeping = None;
        second.monitor.health.clone_from(&self.monitor.health);
        let now = self.clock.now();
        for (id, added) in self.revoked.list(now) {
            second.revoked.add(id, added);
        }
        let kept = orders.clone();
        let task = tokio::spawn(async move {
            let log = second.log.clone();
            if let Err(error) = run(&mut second).await {
                log.line(Level::Warning, "celery.worker", || {
                    format!("this worker takes no HTTP tasks and no webhooks: {error}")
                });
            }
            drop(kept);
        });
        self.aside = Some(Aside { orders, heard, task });
    }

    /// Passes a command on that concerns calls too. Its answer is this loop's.
    pub(super) fn tell_aside(&self, request: &ControlRequest) {
        if self.aside.is_none() || !PASSED_ON.contains(&request.method.as_str()) {
            return;
        }
        let request = ControlRequest { reply_to: None, ticket: None, ..request.clone() };
        if !self.pass_on(request) {
            self.log.line(Level::Warning, "celery.worker.control", || {
                "HTTP tasks did not hear of a command: there were too many at once".to_owned()
            });
        }
    }

    /// Revokes ids in the second loop, which then stores the state of those that wait; false: nobody does.
    pub(super) fn revoke_aside(&self, ids: &[String], signal: Option<i32>) -> bool {
        let terminate = signal.map(|signal| json!({"terminate": true, "signal": signal}));
        let mut arguments = match terminate {
            Some(Value::Object(arguments)) => arguments,
            _ => Map::new(),
        };
        arguments.insert("task_id".to_owned(), json!(ids));
        let request = ControlRequest { method: "revoke".to_owned(), arguments, ..ControlRequest::default() };
        self.aside.is_some() && self.pass_on(request)
    }

    fn pass_on(&self, request: ControlRequest) -> bool {
        let heard = |aside: &Aside| aside.heard.try_send(Heard::Request(request)).is_ok();
        self.aside.as_ref().is_some_and(heard)
    }

    /// Stops the second loop.
    pub(super) fn stop_aside(&self, how: Stop) {
        let Some(aside) = &self.aside else { return };
        aside.orders.send_if_modified(|order| {
            let stronger = order.is_none_or(|order| order < how);
            if stronger {
                *order = Some(how);
            }
            stronger
        });
    }

    /// Waits until the second loop is over; not for long when the first one has `failed`.
    pub(super) async fn end_aside(&mut self, failed: bool) {
        self.stop_aside(if failed { Stop::Cold } else { Stop::Warm });
        let Some(mut aside) = self.aside.take() else { return };
        if failed {
            let _too_late = tokio::time::timeout(GOODBYE, &mut aside.task).await;
        } else {
            let _panicked = (&mut aside.task).await;
        }
    }
}

async fn run(second: &mut ConsumerLoop) -> Result<(), WorkerError> {
    second.open_limits()?;
    second.open_limits()?;
    second.connect().await?;
    second.turn().await;
    second.finish().await.map(drop)
}

/// How many calls there can be at the same time: each needs a file of its own. Raises the soft limit to the hard one.
fn within_files(wanted: usize, log: &Log) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let needed = wanted as u64 + OTHER_FILES;
    let Some(soft) = limit.current else { return wanted };
    if soft >= needed {
        return wanted;
    }
    let raised = Rlimit { current: limit.maximum.map(|hard| hard.max(soft)), maximum: limit.maximum };
    let most = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => Some(soft),
    };
    let Some(most) = most.filter(|most| *most < needed) else { return wanted };
    let possible = most.saturating_sub(OTHER_FILES).max(16) as usize;
    log.line(Level::Warning, "celery.worker", || {
        format!(
            "worker_http_concurrency is {wanted}, and this process may open {most} files: {possible} calls are made at the \
             same time. Raise the limit (ulimit -n, LimitNOFILE=) to {needed}"
        )
    });
    possible.min(wanted)
}
