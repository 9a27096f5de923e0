//! Dead letters in a worker's life: burying what nobody holds a claim to, telling of it, counting and trimming them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::commit::Stores;
use super::consumer::ConsumerLoop;
use super::pool::Execution;
use super::request::Request;
use super::told::{TaskEvent, TaskNotice};
use super::upkeep::Chore;
use crate::broker::{BrokerError, DeadReason, DeadStats, Settle};
use crate::protocol::{Message, Publication};

/// How often they are counted, and trimmed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// One that was buried here is counted so soon.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// A store that does not answer for this long is asked with the next look.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Steps of trimming in one look: what is left then waits for the next one.
const STEPS: usize = 20;

/// A message that was acknowledged before its end, and is to be kept all the same.
#[derive(Clone, Debug)]
pub(crate) struct Burial {
    pub(crate) letter: Publication,
    pub(crate) reason: DeadReason,
    pub(crate) account: String,
}

impl Burial {
    /// Of a request whose claim is gone; none when it is not settled as a dead letter.
    fn of(request: &Request, settle: &Settle) -> Option<Self> {
        let Settle::Dead(reason, account) = settle else { return None };
        let letter = Publication {
            exchange: String::new(),
            routing_key: request.queue.to_string(),
            message: Message::clone(&request.message),
            due_ms: None,
            declare: None,
        };
        Some(Self { letter, reason: *reason, account: account.clone() })
    }
}

/// When they are looked at next.
#[derive(Debug)]
pub(super) struct DeadLook {
    /// None where nobody asks: counting costs the store something.
    next: Option<Instant>,
    looks: bool,
    /// As of the last look. Written by the loop alone.
    pub(super) last: Option<DeadStats>,
}

impl DeadLook {
    /// A store that only counts is always looked at. `RabbitMQ`, where looking means to take the oldest out for a
    /// moment, only if somebody wants to know.
    pub(super) fn new(stores: &Stores, wanted: bool) -> Self {
        let looks = wanted || stores.broker.store_id().is_some();
        Self { next: looks.then(Instant::now), looks: false, last: None }
    }

    /// One was buried here.
    fn soon(&mut self) {
        let soon = Instant::now() + LOOK_SOON;
        self.next = self.next.map(|next| next.min(soon));
    }
}

impl ConsumerLoop {
    /// Counts dead letters, and removes those beyond the limits.
    pub(super) fn look_at_dead(&mut self, now: Instant) {
        if self.is_aside || self.dead.looks || self.dead.next.is_none_or(|next| next > now) {
            return;
        }
        (self.dead.looks, self.dead.next) = (true, Some(now + LOOK_EVERY));
        let (broker, limits) = (self.stores.broker.clone(), self.options.dead_limits);
        self.chores.push(Box::pin(async move {
            let steps = if limits.any() { STEPS } else { 0 };
            let look = async {
                for _ in 0..steps {
                    if broker.trim_dead(&limits).await? == 0 {
                        break;
                    }
                }
                broker.dead_stats().await
            };
            let looked: Result<Result<DeadStats, BrokerError>, _> = timeout(ANSWER_WITHIN, look).await;
            // An error here is nobody's loss: it is looked again.
            Chore::DeadCounted(looked.ok().and_then(Result::ok))
        }));
    }

    pub(super) fn dead_counted(&mut self, stats: Option<DeadStats>) {
        self.dead.looks = false;
        if let Some(stats) = stats {
            self.dead.last = Some(stats);
            self.stats.dead_letters.set(stats.count);
            let oldest = stats.oldest.map_or(0, |at| u64::try_from(at.0).unwrap_or(0));
            self.stats.dead_oldest_ms.set(oldest);
        }
    }

    /// A message becomes a dead letter: it is counted, and the program is told if it wants to know.
    pub(super) fn tell_dead(&mut self, settle: &Settle, execution: impl FnOnce() -> Execution) {
        let Settle::Dead(reason, account) = settle else { return };
        self.stats.buried.add(1);
        self.dead.soon();
        if self.notices.wants_tasks(TaskEvent::Dead) {
            let (event, execution) = (TaskEvent::Dead, execution());
            let detail = format!("{}\u{1f}{account}", reason.as_str());
            self.notices.push_task(TaskNotice { event, execution, detail, signal: None });
        }
    }

    /// Tells of a request that becomes a dead letter as it ends. One that nobody holds a claim to any more is buried with the
    /// next batch. Gives what is left to be settled, and whether there is such a burial.
    pub(super) fn bury(&mut self, request: &mut Request, settle: Settle, why: &str) -> (Settle, bool) {
        match &settle {
            Settle::Dead(..) => self.tell_buried(request, &settle),
            // The last one that was allowed.
            Settle::Crashed => self.tell_buried(request, &Settle::Dead(DeadReason::Crashed, why.to_owned())),
            _ => {}
        }
        if request.claim.is_some() {
            return (settle, false);
        }
        let burial = Burial::of(request, &settle);
        let buries = burial.is_some();
        if buries {
            // A body that is kept elsewhere is the letter's from now on.
            request.large = None;
        }
        self.commits.bury(burial);
        (Settle::Keep, buries)
    }

    /// The same of a request.
    pub(super) fn tell_buried(&mut self, request: &Request, settle: &Settle) {
        self.tell_dead(settle, || Execution {
            queue: Some(Arc::clone(&request.queue)),
            ..request.execution(0, false)
        });
    }
}
