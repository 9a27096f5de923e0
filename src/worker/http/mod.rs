//! HTTP calls: the pool that makes them in the worker itself, without Python.
//!
//! - `guard`: where a call may go; `connect`: names are resolved once, and the address that was checked is connected to;
//! - `call`: what a message asks for, and the exchange; `sign`: the headers of Standard Webhooks;
//! - `rules`: what an answer means, and when to try again;
//! - `outcome`: what is stored and sent when a call has ended.
//!
//! To the loop around it this is a pool like another (`worker::aside` makes that loop): a message runs when it is
//! submitted, and its claim is settled when its outcome is stored. A worker that is killed in between leaves the message
//! claimed, and the call is made again, with the same `webhook-id` and `idempotency-key`.

mod call;
mod connect;
mod guard;
mod outcome;
mod rules;
mod sign;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::log::Log;
use super::notice::Level;
use super::pool::{Execution, Mode, Outcome, Pool, PoolEvent, RequestTag};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::numbers::NumberMap;
use call::{Body, HttpClient, plain};
use connect::{Connector, SystemResolver};
use outcome::{Context, End};
use rules::Plan;

pub use connect::Resolve;
pub use guard::{Guard, Refusal};
pub use sign::Secrets;

/// The task.
pub(super) const TASK: &str = "celeriac.http";
/// Where HTTP tasks are sent, and where webhooks are.
pub const QUEUES: [&str; 2] = ["celeriac.http", "celeriac.webhooks"];
/// Connections that are kept for the next call to the same host.
const KEPT: usize = 32;
const KEPT_FOR: Duration = Duration::from_secs(15);

/// How calls are made.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Which of [`QUEUES`] are consumed.
    pub queues: Vec<String>,
    /// Calls at the same time.
    pub concurrency: usize,
    /// Where they may go.
    pub guard: Arc<Guard>,
    /// How long one may take, unless it says itself.
    pub timeout: Duration,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// The largest body of an answer, in bytes.
    pub max_response: usize,
    /// How often one is tried again, unless it says itself.
    pub retries: u32,
    /// How long it waits before that.
    pub backoff: Backoff,
    /// No receiver makes it wait longer than this (`Retry-After`).
    pub retry_after_max: Duration,
    /// The delays of webhooks, one after another.
    pub webhook_schedule: Vec<Duration>,
    /// What webhooks are signed with.
    pub secrets: Secrets,
    /// The queue of what a child concludes.
    pub done_queue: String,
    /// A child concludes all: results are not stored as JSON, or not by the engine.
    pub concludes_in_child: bool,
    /// How long results are kept; none keeps them.
    pub result_expires_ms: Option<u64>,
    /// What resolves names.
    pub resolver: Resolver,
}

impl Default for HttpOptions {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            queues: QUEUES.map(str::to_owned).to_vec(),
            concurrency: 1_000,
            guard: Arc::default(),
            timeout: seconds(30),
            connect_timeout: seconds(10),
            max_response: 1 << 20,
            retries: 3,
            backoff: Backoff { base: seconds(1), max: seconds(600), jitter: 0.5 },
            retry_after_max: seconds(3_600),
            webhook_schedule: [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(seconds).to_vec(),
            secrets: Secrets::default(),
            done_queue: "celery".to_owned(),
            concludes_in_child: false,
            result_expires_ms: None,
            resolver: Resolver::default(),
        }
    }
}

/// What resolves names: the system, unless a test says otherwise.
#[derive(Clone)]
pub struct Resolver(pub Arc<dyn Resolve>);

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(SystemResolver::new()))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// What every call is given.
struct Shared {
    options: HttpOptions,
    client: HttpClient,
    clock: Clock,
    log: Arc<Log>,
}

/// A call that is over.
type Ended = (RequestTag, Outcome);

/// Makes calls: each is a task on a thread of its own, which they all share.
pub(super) struct HttpPool {
    shared: Arc<Shared>,
    /// Made with the first call; none if the system has no thread for it.
    runtime: Option<Runtime>,
    running: NumberMap<AbortHandle>,
    /// What is known already.
    ready: VecDeque<PoolEvent>,
    done: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
}

impl HttpPool {
    pub(super) fn new(options: HttpOptions, clock: Clock, log: Arc<Log>) -> Self {
        let connector =
            Connector::new(options.guard.clone(), options.resolver.0.clone(), options.connect_timeout);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_FOR)
            .pool_max_idle_per_host(KEPT)
            .build(connector);
        Self {
            shared: Arc::new(Shared { options, client, clock, log }),
            runtime: None,
            running: NumberMap::default(),
            ready: VecDeque::new(),
            done: mpsc::channel(256),
        }
    }

    /// Where calls run: beside the worker's loop, so that many handshakes do not hold it up.
    fn handle(&mut self) -> Handle {
        if self.runtime.is_none() {
            let made = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("celeriac-http")
                .enable_all()
                .build();
            self.runtime = made.ok();
        }
        self.runtime.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    fn finish(&mut self, (tag, outcome): (RequestTag, Outcome)) {
        // One that was terminated has been told of.
        if self.running.remove(&tag).is_some() {
            self.ready.push_back(PoolEvent::Finished(tag, outcome));
        }
    }
}

impl Drop for HttpPool {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl Pool for HttpPool {
    fn slots(&self) -> usize {
        self.shared.options.concurrency
    }

    fn free(&self, _short: bool) -> usize {
        self.slots().saturating_sub(self.running.len())
    }

    fn submit(&mut self, execution: Execution) -> Result<(), Execution> {
        if self.free(false) == 0 {
            return Err(execution);
        }
        let tag = execution.tag;
        if let Some(end) = concluded(&execution.mode) {
            self.ready.push_back(PoolEvent::Finished(tag, self.shared.outcome(&execution, &end, false)));
            return Ok(());
        }
        self.ready.push_back(PoolEvent::Began { tag, pid: std::process::id() });
        let (shared, done) = (self.shared.clone(), self.done.0.clone());
        let task = self.handle().spawn(async move {
            let outcome = shared.run(&execution).await;
            // Nobody listens any more when the worker has ended.
            let _ = done.send((tag, outcome)).await;
        });
        self.running.insert(tag, task.abort_handle());
        Ok(())
    }

    async fn events(&mut self, into: &mut Vec<PoolEvent>) {
        if self.ready.is_empty()
            && let Some(done) = self.done.1.recv().await
        {
            self.finish(done);
        }
        while let Ok(done) = self.done.1.try_recv() {
            self.finish(done);
        }
        into.extend(self.ready.drain(..));
    }

    fn terminate(&mut self, tag: RequestTag, signal: i32) {
        if let Some(task) = self.running.remove(&tag) {
            task.abort();
            let how = format!("signal {signal}");
            self.ready.push_back(PoolEvent::Lost { tag, hard_limit: None, terminated: true, how });
        }
    }

    async fn stop(&mut self, deadline: Duration, into: &mut Vec<PoolEvent>) {
        let until = Instant::now() + deadline;
        while !self.running.is_empty() {
            match tokio::time::timeout_at(until, self.done.1.recv()).await {
                Ok(Some(done)) => self.finish(done),
                _ => break,
            }
        }
        let left: Vec<_> = self.running.keys().copied().collect();
        for tag in left {
            self.terminate(tag, 9);
        }
        into.extend(self.ready.drain(..));
    }

    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// How an execution ends that is not to run; none: it is.
fn concluded(mode: &Mode) -> Option<End> {
    Some(match mode {
        Mode::Run => return None,
        Mode::TimedOut(limit) => End::Lost("TimeLimitExceeded", limit.to_string()),
        Mode::Lost(how) => End::Lost("WorkerLostError", format!("Worker exited prematurely: {how}.")),
        Mode::Revoked(why) => End::Revoked(why.clone()),
        Mode::Refused(why) => End::Malformed(why.clone()),
        Mode::Unknown | Mode::Join(_) | Mode::Batch(_) => End::Unknown,
    })
}

impl Shared {
    fn outcome(&self, execution: &Execution, end: &End, is_webhook: bool) -> Outcome {
        let (options, now) = (&self.options, self.clock.now());
        Context { execution, options, now, is_webhook }.outcome(end)
    }

    /// Makes one call, and tells how it ended.
    async fn run(&self, execution: &Execution) -> Outcome {
        let began = Instant::now();
        let (end, is_webhook) = self.call(execution).await;
        let mut outcome = self.outcome(execution, &end, is_webhook);
        outcome.runtime = Some(began.elapsed());
        self.tell(execution, &end, &outcome, began);
        outcome
    }

    async fn call(&self, execution: &Execution) -> (End, bool) {
        let message = &*execution.message;
        let headers = match message.task_headers() {
            Ok(headers) => headers,
            Err(error) => return (End::Malformed(error.to_string()), false),
        };
        let bytes = match plain(message) {
            Ok(bytes) => bytes,
            Err(why) => return (End::Malformed(why), false),
        };
        let body = match Body::parse(&bytes) {
            Ok(body) => body,
            Err(why) => return (End::Malformed(why), false),
        };
        let (options, webhook) = (&self.options, body.call.is_webhook());
        let plan = if webhook {
            Plan::Schedule(&options.webhook_schedule)
        } else {
            Plan::Backoff(body.call.retries(options.retries), options.backoff)
        };
        let sent = match body.prepare(&headers.id, options, self.clock.now()) {
            Ok(prepared) => {
                prepared
                    .limited(execution.hard_limit)
                    .send(&self.client, options.max_response, &self.clock)
                    .await
            }
            Err(problem) => Err(problem),
        };
        let end = match sent {
            Ok(response) => End::Answered(response),
            Err(problem) => {
                let most = options.retry_after_max;
                match plan.next(problem.again, headers.retries, most, &mut fastrand::Rng::new()) {
                    Some(delay) => End::Again(problem, delay),
                    None => End::Failed(problem),
                }
            }
        };
        (end, webhook)
    }

    /// One log line, in the words of a child's.
    fn tell(&self, execution: &Execution, end: &End, outcome: &Outcome, began: Instant) {
        let id =
            || execution.message.task_headers().map(|headers| headers.id.into_owned()).unwrap_or_default();
        let (level, what) = match end {
            End::Answered(_) => (
                Level::Info,
                format!("succeeded in {:.3}s: {}", began.elapsed().as_secs_f64(), outcome.summary),
            ),
            End::Again(problem, delay) => {
                (Level::Info, format!("retry: Retry in {:.1}s: {}", delay.as_secs_f64(), problem.text))
            }
            End::Failed(problem) => (Level::Error, format!("failed: {}: {}", problem.class, problem.text)),
            _ => return,
        };
        self.log.line(level, "celery.app.trace", || format!("Task {TASK}[{}] {what}", id()));
    }
}
