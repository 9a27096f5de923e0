//! Queues that are paused on all workers.
//!
//! The broker keeps which they are ([`crate::broker::Broker::paused`]); a command tells the workers that run. A worker
//! reads what is kept before it consumes, after it has begun to listen for commands, and, where that costs next to nothing,
//! every minute: it obeys a command that it has not heard.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::commit::nothing;
use super::commit::{Entry, What};
use super::consumer::ConsumerLoop;
use super::notice::Level;
use super::pool::{Mode, RequestTag};
use super::request::Request;
use super::upkeep::Chore;
use crate::broker::{ClaimId, Commit, Settle};

/// A store that does not answer for this long is asked with the next look.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const LOGGER: &str = "celery.worker.control";

/// Which are paused. Belongs to the loop.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    queues: BTreeSet<String>,
    /// Commands so far: what was read before one of them is out of date.
    commands: u64,
}

impl Pauses {
    /// What was kept when the worker started.
    pub(super) fn begin(&mut self, paused: Vec<String>) {
        self.queues = paused.into_iter().collect();
    }

    /// Whether nothing is to be taken from this queue.
    pub(super) fn holds(&self, queue: &str) -> bool {
        !self.queues.is_empty() && self.queues.contains(queue)
    }
}

impl ConsumerLoop {
    /// The queues to consume from.
    pub(super) fn taken_queues(&self) -> Vec<String> {
        self.options.queues.iter().filter(|queue| !self.pauses.holds(queue)).cloned().collect()
    }

    /// Reads what the broker keeps, from time to time. Not on `RabbitMQ`: there each look is a lock.
    pub(super) fn look_again_at_pauses(&self) {
        if self.stores.broker.store_id().is_some() {
            self.look_at_pauses();
        }
    }

    /// Reads what the broker keeps.
    pub(super) fn look_at_pauses(&self) {
        let (broker, queues) = (self.stores.broker.clone(), self.options.queues.clone());
        let commands = self.pauses.commands;
        self.chores.push(Box::pin(async move {
            match timeout(ANSWER_WITHIN, broker.paused(&queues)).await {
                Ok(Ok(paused)) => Chore::Paused(commands, paused),
                // It is looked again.
                _ => Chore::Answered,
            }
        }));
    }

    /// What was read.
    pub(super) fn pauses_read(&mut self, commands: u64, paused: Vec<String>) {
        let paused: BTreeSet<String> = paused.into_iter().collect();
        if commands == self.pauses.commands && paused != self.pauses.queues {
            self.set_pauses(paused);
        }
    }

    /// `pause_queue` and `resume_queue`. Whoever gives the command has told the broker.
    pub(super) fn pause(&mut self, queue: &str, pause: bool) {
        self.pauses.commands += 1;
        let mut paused = self.pauses.queues.clone();
        let changed = if pause { paused.insert(queue.to_owned()) } else { paused.remove(queue) };
        if changed {
            self.set_pauses(paused);
        }
    }

    /// Those of this worker that are paused.
    pub(super) fn paused_here(&self) -> Value {
        let ours = self.options.queues.iter().filter(|queue| self.pauses.holds(queue));
        json!(ours.collect::<BTreeSet<_>>())
    }

    fn set_pauses(&mut self, paused: BTreeSet<String>) {
        for (queue, now) in
            paused.symmetric_difference(&self.pauses.queues).map(|queue| (queue, paused.contains(queue)))
        {
            let what = if now { "paused" } else { "resumed" };
            self.log.line(Level::Info, LOGGER, || format!("Queue {queue} is {what}"));
        }
        self.pauses.queues = paused;
        self.change_queues();
        // What runs goes on; what waits here goes back, to be taken when the queue goes on.
        let waits = |request: &Request| {
            self.pauses.holds(&request.queue)
                && request.waits()
                && request.mode == Mode::Run
                && request.claim.is_some()
                && !request.once
        };
        let mut waiting: Vec<RequestTag> =
            self.requests.iter().filter(|(_, request)| waits(request)).map(|(tag, _)| *tag).collect();
        waiting.sort_unstable();
        for tag in waiting {
            self.hand_back(tag);
        }
    }

    /// What was claimed while the queue was being paused.
    pub(super) fn give_back(&mut self, consumer: u32, claim: ClaimId) {
        self.stats.released.add(1);
        let commit = Commit { claim: Some(claim), settle: Settle::Release, ..nothing() };
        self.commits.push(Entry { consumer, commit, what: What::End, suspect: false, chord: None });
    }
}
