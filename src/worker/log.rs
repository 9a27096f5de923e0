//! Log lines of the worker, in Celery's words, made only when they are wanted.

use std::sync::Arc;

use super::notice::{Level, LogLine, Notice, NoticeQueue};
use super::pool::{Mode, Outcome, OutcomeKind};
use super::request::Request;
use crate::clock::Clock;

const TRACE: &str = "celery.app.trace";
const REQUEST: &str = "celery.worker.request";

/// Where log lines go.
pub(crate) struct Log {
    pub(crate) notices: Arc<NoticeQueue>,
    clock: Clock,
}

impl Log {
    pub(crate) fn new(notices: Arc<NoticeQueue>, clock: Clock) -> Self {
        Self { notices, clock }
    }

    /// A line about the worker.
    pub(crate) fn line(&self, level: Level, target: &'static str, text: impl FnOnce() -> String) {
        if self.notices.wants(level) {
            self.push(level, target, text(), None);
        }
    }

    /// A line about a request.
    pub(crate) fn task(
        &self,
        level: Level,
        target: &'static str,
        request: &Request,
        text: impl FnOnce() -> String,
    ) {
        if self.notices.wants(level) {
            let task = (request.id.clone(), request.name.to_string());
            self.push(level, target, text(), Some(task));
        }
    }

    /// It was accepted.
    pub(crate) fn received(&self, request: &Request) {
        if request.mode != Mode::Unknown {
            self.task(Level::Info, "celery.worker.strategy", request, || {
                format!("Task {}[{}] received", request.name, request.id)
            });
        }
        match &request.mode {
            Mode::Unknown => self.task(Level::Error, "celery.worker.consumer.consumer", request, || {
                format!("Received unregistered task of type '{}'. It is kept as a dead letter.", request.name)
            }),
            Mode::Revoked(_) => self.discarded(request),
            Mode::Lost(_) => self.lost(request),
            _ => {}
        }
    }

    /// It will not run.
    pub(crate) fn discarded(&self, request: &Request) {
        self.task(Level::Info, REQUEST, request, || {
            format!("Discarding revoked task: {}[{}]", request.name, request.id)
        });
    }

    /// A child has answered. How a task ended is in the child's own log, with its traceback; here is what no
    /// task has seen.
    pub(crate) fn ended(&self, request: &Request, outcome: &Outcome) {
        if matches!(outcome.kind, OutcomeKind::Malformed | OutcomeKind::Disallowed) {
            self.task(Level::Error, TRACE, request, || {
                format!("Task {}[{}] refused: {}", request.name, request.id, outcome.summary)
            });
        }
    }

    /// Its child is gone, and it is concluded for that reason.
    pub(crate) fn lost(&self, request: &Request) {
        match &request.mode {
            Mode::TimedOut(limit) => self.task(Level::Error, REQUEST, request, || {
                format!("Hard time limit ({limit}s) exceeded for {}[{}]", request.name, request.id)
            }),
            Mode::Lost(how) => self.task(Level::Error, REQUEST, request, || {
                format!(
                    "Task handler raised error: WorkerLostError('Worker exited prematurely: {how}.') for {}[{}]",
                    request.name, request.id
                )
            }),
            Mode::Revoked(_) => self.discarded(request),
            Mode::Run | Mode::Unknown | Mode::Refused(_) | Mode::Join(_) | Mode::Batch(_) => {}
        }
    }

    fn push(&self, level: Level, target: &'static str, text: String, task: Option<(String, String)>) {
        let created = self.clock.now();
        self.notices.push(Notice::Log(LogLine { level, target, text, created, task }));
    }
}
