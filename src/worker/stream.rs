//! What happens to tasks, for whoever reads the stream (`task_stream`): an entry with the commit that it is about, so that
//! where broker and results are one store no end is missing, and none is told twice. Elsewhere an entry is published
//! before its message is acknowledged: a crash in between tells an end that comes again. A task that is run again is
//! told of again.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::commit::{Entry, What, nothing};
use super::consumer::ConsumerLoop;
use super::pool::{Mode, Outcome, OutcomeKind};
use super::request::Request;
use crate::broker::{Commit, Delivery, Settle, without_traceback};
use crate::protocol::{Message, Properties, Publication, Queue, ResultRecord, TASK_STREAM, state};

/// Texts of tasks are cut to this.
const MAX_TEXT: usize = 4 << 10;

/// What one entry says. The names are those of Celery's events where there are some.
#[derive(Default, Serialize)]
struct Told<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    task: &'a str,
    worker: &'a str,
    queue: &'a str,
    /// Unix time in seconds.
    time: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Box<RawValue>>,
}

/// Of a stored record what a task has said itself (`update_state(meta=...)`).
#[derive(serde::Deserialize)]
struct Stored {
    result: Box<RawValue>,
}

/// What stands for the stream, if it is wanted. Made once.
pub(super) fn stream(kept: Option<u64>) -> Option<Arc<Queue>> {
    kept.map(|kept| Arc::new(Queue::of_stream(kept)))
}

impl ConsumerLoop {
    /// A child has answered; what is published with the commit.
    pub(super) fn stream_ended(
        &self,
        request: &Request,
        outcome: &Outcome,
        settle: &Settle,
    ) -> Vec<Publication> {
        if self.stream.is_none() {
            return Vec::new();
        }
        // As Celery's event has it: the child says that it was rejected.
        let unknown = (request.mode == Mode::Unknown).then(|| format!("NotRegistered('{}')", request.name));
        let summary = cut(unknown.as_ref().unwrap_or(&outcome.summary));
        let told = Told {
            runtime: outcome.runtime.map(|runtime| runtime.as_secs_f64()),
            exception: Some(summary),
            ..self.told_of("failed", request)
        };
        let told = match outcome.kind {
            _ if unknown.is_some() => Some(told),
            OutcomeKind::Success => {
                Some(Told { kind: "succeeded", result: Some(summary), exception: None, ..told })
            }
            OutcomeKind::Failure
            | OutcomeKind::Malformed
            | OutcomeKind::Disallowed
            | OutcomeKind::DeadLettered => Some(told),
            OutcomeKind::Retry => Some(Told { kind: "retried", ..told }),
            OutcomeKind::Rejected => Some(Told { kind: "rejected", ..told }),
            OutcomeKind::Ignored => Some(Told { kind: "ignored", exception: None, ..told }),
            OutcomeKind::Revoked => {
                let reason = match &request.mode {
                    Mode::Revoked(why) => Some(&**why),
                    _ => None,
                };
                Some(Told { kind: "revoked", reason, exception: None, ..told })
            }
            OutcomeKind::Requeued => None,
        };
        let dead = match settle {
            Settle::Dead(reason, account) => Some((reason.as_str(), without_traceback(account))),
            // Only the last crash that is allowed is concluded so.
            Settle::Crashed => Some(("crashed", summary)),
            _ => None,
        };
        let dead = dead.map(|(reason, detail)| self.told_dead(request, reason, detail));
        told.iter().chain(&dead).filter_map(|told| self.entry(told)).collect()
    }

    /// The task has told of itself: what is published with its record.
    pub(super) fn stream_updated(&self, request: &Request, record: &ResultRecord) -> Vec<Publication> {
        if self.stream.is_none() {
            return Vec::new();
        }
        let kind = if record.state == state::STARTED { "started" } else { "progress" };
        let meta = serde_json::from_slice::<Stored>(&record.record).ok().map(|stored| stored.result);
        let told = Told { state: Some(&record.state), meta, ..self.told_of(kind, request) };
        self.entry(&told).into_iter().collect()
    }

    /// The process that ran it is gone, and perhaps its whole worker.
    pub(super) fn stream_stalled(&mut self, request: &Request, how: &str) {
        let told = Told { reason: Some(cut(how)), ..self.told_of("stalled", request) };
        if let Some(entry) = self.alone(request, &told) {
            self.commits.push(entry);
        }
    }

    /// Its message will not be tried again; nothing else is told of it.
    pub(super) fn stream_dead(&mut self, request: &Request, settle: &Settle) {
        let Settle::Dead(reason, detail) = settle else { return };
        let told = self.told_dead(request, reason.as_str(), detail);
        if let Some(entry) = self.alone(request, &told) {
            self.commits.push(entry);
        }
    }

    /// A message that is put aside, and of which not even the id can be read: what is published with that.
    pub(super) fn stream_refused(&self, delivery: &Delivery, settle: &Settle) -> Vec<Publication> {
        let Settle::Dead(reason, detail) = settle else { return Vec::new() };
        let blank = Told { kind: "dead-lettered", queue: &delivery.queue, ..Told::default() };
        let worker = &self.options.node;
        let time = self.timestamp(Duration::ZERO);
        let (reason, exception) = (Some(reason.as_str()), Some(cut(detail)));
        self.entry(&Told { worker, time, exception, reason, ..blank }).into_iter().collect()
    }

    fn told_of<'a>(&'a self, kind: &'a str, request: &'a Request) -> Told<'a> {
        let queue = if request.routing_key.is_empty() { &request.exchange } else { &request.routing_key };
        let (id, task, worker) = (&request.id, &request.name, &self.options.node);
        Told { kind, id, task, worker, queue, time: self.timestamp(Duration::ZERO), ..Told::default() }
    }

    fn told_dead<'a>(&'a self, request: &'a Request, reason: &'a str, detail: &'a str) -> Told<'a> {
        Told { reason: Some(reason), exception: Some(cut(detail)), ..self.told_of("dead-lettered", request) }
    }

    /// What is published; none when the stream is not wanted.
    fn entry(&self, told: &Told<'_>) -> Option<Publication> {
        let queue = self.stream.clone()?;
        let body = serde_json::to_vec(told).ok()?.into();
        let properties = Properties {
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            delivery_mode: 1,
            ..Properties::default()
        };
        Some(Publication {
            exchange: TASK_STREAM.to_owned(),
            routing_key: told.kind.to_owned(),
            due_ms: None,
            declare: Some(queue),
            message: Message { headers: "{}".into(), properties, body },
        })
    }

    /// Tells of something that no commit is about.
    fn alone(&self, request: &Request, told: &Told<'_>) -> Option<Entry> {
        let publications = vec![self.entry(told)?];
        let commit = Commit { publications, ..nothing() };
        Some(Entry { consumer: request.consumer, commit, what: What::End, suspect: false, chord: None })
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
