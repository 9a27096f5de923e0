//! Tells the program around the worker of single requests, for signals that are sent in the worker's own process
//! (`task_received` and its like). Nothing is made of a request unless the program asked for its kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::consumer::ConsumerLoop;
use super::pool::{Execution, Mode, RequestTag};
use super::request::Request;
use crate::broker::Delivery;

/// Notices about requests that may wait; when there are more, no more is claimed.
pub(super) const MOST_TOLD: usize = 1_000;

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskEvent {
    /// It was accepted.
    Received = 1,
    /// It is revoked or expired, or was terminated, and will not run (any more).
    Revoked = 2,
    /// No task of its name is registered.
    Unknown = 4,
    /// It cannot be read, or may not be.
    Rejected = 8,
    /// Its message became a dead letter.
    Dead = 16,
}

/// A request, and what happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskNotice {
    /// What happened.
    pub event: TaskEvent,
    /// The request, as a child would see it.
    pub execution: Execution,
    /// Why: `revoked`, `expired` or `terminated`; or why the message is refused; of a dead letter its reason, what
    /// happened and the traceback, with a unit separator between them.
    pub detail: String,
    /// The signal that terminates it.
    pub signal: Option<i32>,
}

/// The kinds of events that the program wants.
#[derive(Debug, Default)]
pub(super) struct Wanted(AtomicU8);

impl Wanted {
    /// Replaces them.
    pub(super) fn set(&self, events: &[TaskEvent]) {
        let kinds = events.iter().fold(0, |kinds, event| kinds | *event as u8);
        self.0.store(kinds, Ordering::Relaxed);
    }

    /// Whether this kind is wanted.
    pub(super) fn has(&self, event: TaskEvent) -> bool {
        self.0.load(Ordering::Relaxed) & event as u8 != 0
    }
}

impl ConsumerLoop {
    /// Tells of a request that was accepted, as what it was accepted.
    pub(super) fn tell_accepted(&self, tag: RequestTag, request: &Request) {
        match &request.mode {
            Mode::Unknown => self.tell(TaskEvent::Unknown, tag, request),
            Mode::Revoked(_) => self.tell(TaskEvent::Revoked, tag, request),
            _ => self.tell(TaskEvent::Received, tag, request),
        }
    }

    /// Tells of a request, if that is wanted.
    pub(super) fn tell(&self, event: TaskEvent, tag: RequestTag, request: &Request) {
        if self.notices.wants_tasks(event) {
            let detail = match &request.mode {
                Mode::Revoked(why) => why.clone(),
                _ => String::new(),
            };
            let execution = request.execution(tag, false);
            let signal = request.terminate;
            self.notices.push_task(TaskNotice { event, execution, detail, signal });
        }
    }

    /// Tells of a delivery that was refused, if that is wanted.
    pub(super) fn tell_refused(&self, delivery: &Delivery, why: &str) {
        if self.notices.wants_tasks(TaskEvent::Rejected) {
            let execution = unread(delivery);
            let detail = why.to_owned();
            self.notices.push_task(TaskNotice {
                event: TaskEvent::Rejected,
                execution,
                detail,
                signal: None,
            });
        }
    }
}

/// A delivery that nobody has looked into.
pub(super) fn unread(delivery: &Delivery) -> Execution {
    Execution {
        tag: 0,
        mode: Mode::Run,
        message: Arc::new(delivery.message.clone()),
        exchange: delivery.exchange.clone(),
        routing_key: delivery.routing_key.clone(),
        queue: Some(delivery.queue.clone()),
        redelivered: delivery.redelivered,
        soft_limit: None,
        hard_limit: None,
        short: false,
    }
}
