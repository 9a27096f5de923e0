//! What monitors are told: that the worker lives, and, when they want it, what happens to tasks.
//!
//! 1. Task events are kept for a moment and sent in batches, beside the main way: work never waits for them. When
//!    the broker does not take them, they wait, and the oldest are dropped beyond a bound.
//! 2. Heartbeats say how it goes now, so they do not wait: one that cannot be sent is not sent later.
//! 3. The logical clock moves on with each event, and past that of every control request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::commit::broker_timeout;
use super::consumer::ConsumerLoop;
use super::health::Health;
use super::link::Link;
use super::log::Log;
use super::notice::Level;
use super::options::WorkerOptions;
use super::pool::{Mode, Outcome, OutcomeKind, RequestTag};
use super::request::{Phase, Request};
use super::upkeep::{Chore, link};
use crate::broker::{Broker, BrokerError, DeadReason, Settle};
use crate::clock::Lamport;
use crate::protocol::{EVENT_EXCHANGE, EventWriter, Message, ShownTask, event_message, event_routing_key};

/// Events that wait to be sent at the most, and their bytes.
const MAX_WAITING: usize = 10_000;
const MAX_BYTES: usize = 8 << 20;
/// Events in one batch at the most.
const MAX_BATCH: usize = 500;
/// A batch is sent so long after its first event, or at once when there are so many.
const FLUSH_AFTER: Duration = Duration::from_millis(2);
const FULL: usize = 100;
/// Texts of tasks (tracebacks) are cut to this in events.
const MAX_TEXT: usize = 64 << 10;
/// How long the broker may take for one message.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the last words may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);
/// A store that keeps events keeps them this long (`event_queue_ttl`).
const TTL: Duration = Duration::from_secs(5);
/// The interval that a heartbeat names which was asked for, as Celery's do.
const ASKED_FREQ: f64 = 5.0;

/// What the loop knows of monitors. Belongs to the loop; only the clock is shared.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is wanted, what is under way, what was told: each by itself"
)]
pub(super) struct Events {
    /// Moved by every event here, and by the task that listens to control requests.
    pub(super) lamport: Arc<Lamport>,
    /// Events of tasks are wanted.
    tasks: bool,
    interval: Option<Duration>,
    pid: u32,
    /// Hours west of UTC; looked at again with every heartbeat.
    utcoffset: f64,
    /// Events that wait, and their bytes.
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    flush_at: Option<Instant>,
    /// A batch is under way.
    sending: bool,
    link: Link,
    beat_at: Option<Instant>,
    /// A heartbeat is under way.
    beating: bool,
    /// Monitors know that the worker is there.
    online: bool,
    /// What the health address tells, if there is one.
    pub(super) health: Option<Arc<Health>>,
}

/// What came of telling monitors something.
pub(super) enum Told {
    /// A batch of events; they are given back when it failed.
    Batch(Vec<Vec<u8>>, Result<(), BrokerError>),
    /// The heartbeat whose time had come.
    Beat(Result<(), BrokerError>),
    /// One that was asked for.
    Heartbeat,
}

impl Events {
    pub(super) fn new(options: &WorkerOptions, lamport: Arc<Lamport>, log: &Arc<Log>) -> Self {
        Self {
            lamport,
            tasks: options.task_events,
            interval: options.heartbeat,
            pid: std::process::id(),
            utcoffset: hours_west(),
            waiting: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            flush_at: None,
            sending: false,
            link: link("send events", log),
            beat_at: None,
            beating: false,
            online: false,
            health: None,
        }
    }

    /// The worker consumes: from now on it tells that it lives.
    pub(super) fn start(&mut self, now: Instant) {
        self.beat_at = self.interval.map(|_| now);
    }

    /// When something is to be sent next.
    pub(super) fn next(&self) -> Option<Instant> {
        let beat = self.beat_at.filter(|_| !self.beating);
        let flush = self.flush_at.filter(|_| !self.sending);
        [beat, flush].into_iter().flatten().min()
    }

    /// The beginning of an event.
    fn begin(&self, node: &str) -> EventWriter {
        EventWriter::new(node, self.utcoffset, self.pid, self.lamport.forward())
    }

    fn push(&mut self, event: Vec<u8>) {
        self.bytes += event.len();
        self.waiting.push_back(event);
        self.shed();
        if self.flush_at.is_none() {
            self.flush_at = Some(Instant::now() + FLUSH_AFTER);
        }
    }

    /// Drops the oldest beyond the bounds.
    fn shed(&mut self) {
        while self.waiting.len() > MAX_WAITING || self.bytes > MAX_BYTES {
            let Some(oldest) = self.waiting.pop_front() else { return };
            self.bytes -= oldest.len();
            self.dropped += 1;
        }
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        let count = self.waiting.len().min(MAX_BATCH);
        let batch: Vec<_> = self.waiting.drain(..count).collect();
        self.bytes -= batch.iter().map(Vec::len).sum::<usize>();
        batch
    }

    fn give_back(&mut self, batch: Vec<Vec<u8>>) {
        for event in batch.into_iter().rev() {
            self.bytes += event.len();
            self.waiting.push_front(event);
        }
        self.shed();
    }
}

impl ConsumerLoop {
    /// Starts or stops to send events of tasks (`enable_events`, `disable_events`); tells whether that is new.
    pub(super) fn set_task_events(&mut self, on: bool) -> bool {
        let new = self.monitor.tasks != on;
        self.monitor.tasks = on;
        if new {
            self.log.line(Level::Info, "celery.worker.control", || {
                format!("Events of group task {} by remote.", if on { "enabled" } else { "disabled" })
            });
        }
        new
    }

    /// Tells monitors now that the worker lives (`heartbeat`).
    pub(super) fn send_heartbeat(&mut self) {
        let (key, message) = self.vitals("worker-heartbeat", ASKED_FREQ);
        self.announce(key, message, |_| Told::Heartbeat);
    }

    /// It was accepted, and may run.
    pub(super) fn event_received(&mut self, request: &Request) {
        if let Some(health) = &self.monitor.health {
            health.tasks.lock().received(&request.name);
        }
        if !self.is_told_of(request) || request.mode != Mode::Run {
            return;
        }
        let Some(shown) = ShownTask::read(&request.message.headers) else { return };
        let event = shown.fields(&request.id, self.monitor.begin(&self.options.node));
        self.monitor.push(event.end(self.timestamp(Duration::ZERO), "task-received"));
    }

    /// A child has begun it.
    pub(super) fn event_started(&mut self, tag: RequestTag) {
        if !self.monitor.tasks && self.monitor.health.is_none() {
            return;
        }
        let Some(request) = self.requests.get(&tag) else { return };
        if let Some(health) = &self.monitor.health {
            health.tasks.lock().started(&request.name);
        }
        if self.is_told_of(request) {
            let event = self.monitor.begin(&self.options.node).field("uuid", &request.id);
            self.monitor.push(event.end(self.timestamp(Duration::ZERO), "task-started"));
        }
    }

    /// A child has answered.
    pub(super) fn event_ended(&mut self, request: &Request, outcome: &Outcome, settle: &Settle) {
        // The pool tells that a request has begun only when it runs for a while.
        let short = request.mode == Mode::Run && !matches!(request.phase, Phase::Running(_));
        if let Some(health) = &self.monitor.health {
            let mut tasks = health.tasks.lock();
            if short {
                tasks.started(&request.name);
            }
            tasks.ended(&request.name, outcome);
        }
        if !self.is_told_of(request) {
            return;
        }
        if short {
            let began = self.timestamp(outcome.runtime.unwrap_or_default());
            let event = self.monitor.begin(&self.options.node).field("uuid", &request.id);
            self.monitor.push(event.end(began, "task-started"));
        }
        let event = self.monitor.begin(&self.options.node).field("uuid", &request.id);
        let (event, kind) = match outcome.kind {
            OutcomeKind::Success => {
                let runtime = outcome.runtime.map(|runtime| runtime.as_secs_f64());
                (event.field("result", cut(&outcome.summary)).field("runtime", &runtime), "task-succeeded")
            }
            OutcomeKind::Retry => (raised(event, outcome), "task-retried"),
            OutcomeKind::Revoked => (revoked(event, request), "task-revoked"),
            _ if request.mode == Mode::Unknown => {
                let name = request.name.replace('\\', "\\\\").replace('\'', "\\'");
                (event.field("exception", &format!("NotRegistered('{name}')")), "task-failed")
            }
            OutcomeKind::Failure
            | OutcomeKind::Rejected
            | OutcomeKind::DeadLettered
            | OutcomeKind::Malformed
            | OutcomeKind::Disallowed => (raised(event, outcome), "task-failed"),
            OutcomeKind::Ignored | OutcomeKind::Requeued => return self.event_rejected(request, settle),
        };
        self.monitor.push(event.end(self.timestamp(Duration::ZERO), kind));
        if request.mode != Mode::Unknown {
            self.event_rejected(request, settle);
        }
    }

    /// Its message was not acknowledged, but given back or given up.
    pub(super) fn event_rejected(&mut self, request: &Request, settle: &Settle) {
        let requeue = match settle {
            Settle::Requeue | Settle::Crashed => true,
            // Monitors have heard that it failed, and that is what it is to them.
            Settle::Dead(DeadReason::Failed, _) => return,
            Settle::Dead(..) => false,
            _ => return,
        };
        if let Some(health) = &self.monitor.health {
            health.tasks.lock().rejected(&request.name);
        }
        if self.is_told_of(request) {
            let event = self.monitor.begin(&self.options.node);
            let event = event.field("uuid", &request.id).field("requeue", &requeue);
            self.monitor.push(event.end(self.timestamp(Duration::ZERO), "task-rejected"));
        }
    }

    fn is_told_of(&self, request: &Request) -> bool {
        self.monitor.tasks && self.tasks.options(request.task).send_events
    }

    /// Unix time in seconds, some time ago.
    pub(super) fn timestamp(&self, ago: Duration) -> f64 {
        self.clock.now().0 as f64 / 1000.0 - ago.as_secs_f64()
    }

    /// Sends what is due.
    pub(super) fn tell_monitors(&mut self, now: Instant) {
        self.report_health(now);
        if self.monitor.beat_at.is_some_and(|at| at <= now) && !self.monitor.beating {
            self.beat(now);
        }
        let full = self.monitor.waiting.len() >= FULL && self.monitor.link.is_up();
        let due = self.monitor.flush_at.is_some_and(|at| full || at <= now);
        if due && !self.monitor.sending {
            self.send_batch();
        }
    }

    fn beat(&mut self, now: Instant) {
        let Some(interval) = self.monitor.interval else { return };
        self.monitor.beat_at = Some(now + interval);
        self.monitor.beating = true;
        self.monitor.utcoffset = hours_west();
        let kind = if self.monitor.online { "worker-heartbeat" } else { "worker-online" };
        let (key, message) = self.vitals(kind, interval.as_secs_f64());
        self.announce(key, message, Told::Beat);
    }

    fn send_batch(&mut self) {
        let batch = self.monitor.take();
        self.monitor.flush_at = None;
        if batch.is_empty() {
            return;
        }
        self.monitor.sending = true;
        let message = event_message(&self.options.node, joined(&batch));
        self.announce("task.multi".to_owned(), message, |result| Told::Batch(batch, result));
    }

    fn announce(
        &self,
        routing_key: String,
        message: Message,
        told: impl FnOnce(Result<(), BrokerError>) -> Told + Send + 'static,
    ) {
        let broker = self.listened_to().clone();
        self.chores.push(Box::pin(async move {
            let telling = broker.broadcast(EVENT_EXCHANGE, &routing_key, message, TTL);
            let result = timeout(ANSWER_WITHIN, telling).await;
            Chore::Told(told(result.unwrap_or_else(|_| Err(broker_timeout()))))
        }));
    }

    /// Where monitors listen: where messages are sent to, if that is another broker than they are taken from.
    fn listened_to(&self) -> &Arc<dyn Broker> {
        self.stores.writer.as_ref().unwrap_or(&self.stores.broker)
    }

    /// The broker has taken it, or has not.
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Heartbeat => {}
            Told::Beat(result) => {
                self.monitor.beating = false;
                self.monitor.online |= result.is_ok();
            }
            Told::Batch(batch, Ok(())) => {
                self.monitor.sending = false;
                self.monitor.link.worked();
                self.stats.events_sent.add(batch.len() as u64);
                self.log_dropped();
                if !self.monitor.waiting.is_empty() {
                    self.monitor.flush_at = Some(Instant::now());
                }
            }
            Told::Batch(batch, Err(error)) => {
                self.monitor.sending = false;
                self.monitor.give_back(batch);
                self.monitor.flush_at = Some(Instant::now() + self.monitor.link.failed(&error));
            }
        }
    }

    fn log_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.monitor.dropped);
        if dropped > 0 {
            self.stats.events_dropped.add(dropped);
            self.log.line(Level::Warning, "celery.worker.consumer", || {
                format!("{dropped} events were dropped: they came faster than the broker took them")
            });
        }
    }

    /// Sends what is left, and that the worker goes. A broker that does not take it is not waited for.
    pub(super) async fn say_goodbye(&mut self) {
        let deadline = Instant::now() + GOODBYE_WITHIN;
        while self.monitor.sending || self.monitor.beating {
            match tokio::time::timeout_at(deadline, self.chores.next()).await {
                Ok(Some(Chore::Told(told))) => self.told(told),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        let mut last = Vec::new();
        while !self.monitor.waiting.is_empty() {
            let message = event_message(&self.options.node, joined(&self.monitor.take()));
            last.push(("task.multi".to_owned(), message));
        }
        if self.monitor.online {
            let freq = self.monitor.interval.unwrap_or_default().as_secs_f64();
            last.push(self.vitals("worker-offline", freq));
        }
        let broker = self.listened_to().clone();
        for (routing_key, message) in last {
            let telling = broker.broadcast(EVENT_EXCHANGE, &routing_key, message, TTL);
            if !matches!(tokio::time::timeout_at(deadline, telling).await, Ok(Ok(()))) {
                break;
            }
        }
        self.log_dropped();
    }

    /// An event of the worker itself.
    fn vitals(&self, kind: &'static str, freq: f64) -> (String, Message) {
        let active = self.requests.values().filter(|request| request.phase.has_slot()).count();
        let event = self
            .monitor
            .begin(&self.options.node)
            .field("freq", &freq)
            .field("active", &active)
            .field("processed", &(self.stats.finished.value() + active as u64))
            .field("loadavg", &load_average())
            .field("sw_ident", "py-celeriac")
            .field("sw_ver", env!("CARGO_PKG_VERSION"))
            .field("sw_sys", system());
        let body = event.end(self.timestamp(Duration::ZERO), kind);
        (event_routing_key(kind), event_message(&self.options.node, body))
    }
}

/// The logical time that a message tells, if it does.
pub(super) fn adjust(lamport: &Lamport, headers: &[u8]) {
    #[derive(Deserialize)]
    struct Told {
        clock: u64,
    }
    if let Ok(told) = serde_json::from_slice::<Told>(headers) {
        lamport.adjust(told.clock);
    }
}

fn raised(event: EventWriter, outcome: &Outcome) -> EventWriter {
    let event = event.field("exception", cut(&outcome.summary));
    if outcome.traceback.is_empty() { event } else { event.field("traceback", cut(&outcome.traceback)) }
}

fn revoked(event: EventWriter, request: &Request) -> EventWriter {
    let why = if let Mode::Revoked(why) = &request.mode { why.as_str() } else { "revoked" };
    let terminated = why == "terminated";
    event
        .field("terminated", &terminated)
        .field("signum", &request.terminate.filter(|_| terminated))
        .field("expired", &(why == "expired"))
}

/// The end of a long text, where a traceback says what was raised.
fn cut(text: &str) -> &str {
    let mut start = text.len().saturating_sub(MAX_TEXT);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

fn joined(batch: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.iter().map(|event| event.len() + 2).sum::<usize>() + 2);
    out.push(b'[');
    for (place, event) in batch.iter().enumerate() {
        if place > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(event);
    }
    out.push(b']');
    out
}

fn hours_west() -> f64 {
    let seconds = jiff::Zoned::now().offset().seconds();
    0.0 - f64::from(seconds) / 3600.0
}

fn system() -> &'static str {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "Darwin",
        "windows" => "Windows",
        other => other,
    }
}

#[cfg(target_os = "linux")]
fn load_average() -> [f64; 3] {
    let fixed = rustix::system::sysinfo().loads;
    fixed.map(|load| (load as f64 / 65_536.0 * 100.0).round() / 100.0)
}

#[cfg(not(target_os = "linux"))]
fn load_average() -> [f64; 3] {
    [0.0; 3]
}
