//! What time brings: leases, the watchdog, sweeping, requests whose moment has come.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::commit::{broker_timeout, within};
use super::consumer::{ConsumerLoop, Source};
use super::control::mingle::Met;
use super::events::Told;
use super::lifecycle::consume;
use super::link::Link;
use super::notice::Level;
use super::pool::RequestTag;
use super::request::Phase;
use crate::backend::{BackendError, Left, Stalled};
use crate::broker::{BrokerError, Consumer, ConsumerOptions, DeadStats, Rebind, Renewal};
use crate::keys::Turn;

/// Between two looks at everything that need not be exact.
const TICK: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// A store that does not answer a question of upkeep for this long is asked later.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Requests that wait this long behind slots that do not become free are given back to other workers.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// What one renewal found.
pub(super) struct Renewed {
    source: u32,
    /// Requests with tags below this were claimed before the renewal.
    before: u64,
    result: Result<Renewal, BrokerError>,
}

/// Work beside the main way; what came of it.
pub(super) enum Chore {
    Advised,
    Swept,
    /// Whether a queue of ours has a backlog.
    Backlog(bool),
    Consumed(Result<Box<dyn Consumer>, BrokerError>),
    Closed,
    /// Revoked tasks that wait are stored as such.
    Marked,
    /// A request was answered, or it was logged why not.
    Answered,
    /// A step of asking the other workers.
    Met(Met),
    /// Dead letters were counted.
    DeadCounted(Option<DeadStats>),
    /// Which queues are paused, as of so many commands.
    Paused(u64, Vec<String>),
    /// The queue of events is bound again.
    Bound,
    /// Requests that have begun are kept.
    Kept(Vec<RequestTag>),
    /// Requests that have ended are not kept any more.
    Forgotten,
    /// Chords that are lost.
    Stalled(Vec<Stalled>),
    /// What workers have left that are gone.
    Left(Result<Left, BackendError>),
    Nap,
    /// Monitors were told.
    Told(Told),
    /// Whether it is a request's turn.
    Asked(RequestTag, Turn),
}

impl ConsumerLoop {
    /// How the broker is to be consumed.
    pub(super) fn consumer_options(&self) -> ConsumerOptions {
        ConsumerOptions {
            queues: self.taken_queues(),
            node: self.options.node.clone(),
            lease: self.options.lease,
            max_crashes: self.options.max_crashes,
            results: self.stores.location(),
        }
    }

    /// A third of the lease, and never rare: every second when the lease is short.
    pub(super) fn renew_every(&self) -> Duration {
        let third = self.options.lease / 3;
        let most = if self.options.lease < Duration::from_secs(10) { 1 } else { 10 };
        third.min(Duration::from_secs(most)).max(Duration::from_millis(10))
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        self.service.on_time(now);
        self.release_held(now);
        self.limits_on_time(now);
        self.end_gathering(now);
        self.acknowledge_begun(now);
        if self.claim_after.is_some_and(|at| at <= now) {
            self.claim_after = None;
        }
        if self.renew_at <= now && self.renewing.is_none() {
            self.renew();
        }
        if self.tick_at <= now {
            self.tick_at = now + TICK;
            self.tick(now);
        }
        self.tell_monitors(now);
        self.scale(now);
        self.life_on_time(now);
    }

    /// When something is due next.
    pub(super) fn next_moment(&self) -> Instant {
        let young = self.young.front().map(|(at, _)| *at);
        let mark = self.marks.front().map(|(at, _)| *at);
        let renew = self.renewing.is_none().then_some(self.renew_at);
        let (monitor, watchdog) = (self.monitor.next(), self.service.next());
        let (life, batch) = (self.life_deadline(), self.batches.next());
        let limits = self.limits.as_ref().and_then(|limits| limits.next_moment());
        let moments =
            [self.held.next(), limits, young, mark, self.claim_after, renew, life, monitor, watchdog, batch];
        moments.into_iter().flatten().min().map_or(self.tick_at, |next| next.min(self.tick_at))
    }

    fn renew(&mut self) {
        let before = self.next_tag;
        let sources: Vec<_> =
            self.sources.iter().map(|source| (source.number, source.consumer.clone())).collect();
        let patience = self.options.lease / 3;
        self.renewing = Some(Box::pin(async move {
            let mut renewed = Vec::new();
            for (source, consumer) in sources {
                let result =
                    timeout(patience, consumer.renew()).await.unwrap_or_else(|_| Err(broker_timeout()));
                renewed.push(Renewed { source, before, result });
            }
            renewed
        }));
    }

    pub(super) fn renewed(&mut self, renewed: Vec<Renewed>) {
        let mut next = self.renew_every();
        for Renewed { source, before, result } in renewed {
            match result {
                Ok(renewal) => {
                    self.renew_link.worked();
                    if renewal.lost {
                        self.lease_lost(source, before, renewal.why.as_deref());
                    }
                    if renewal.recovered > 0 {
                        self.log.line(Level::Warning, "celery.worker.consumer", || {
                            format!("{} messages of workers that are gone were given back", renewal.recovered)
                        });
                    }
                }
                Err(BrokerError::Closed) => self.source_closed(source),
                Err(error) => next = next.min(self.renew_link.failed(&error)),
            }
        }
        self.renew_at = Instant::now() + next;
    }

    /// Every claim made before the renewal is lost, as far as can be known here: one made between the end
    /// of the lease and its renewal is not. So what waits is given back (which does nothing to a lost
    /// claim), and what runs goes on, and the store is asked before anything of it is published.
    fn lease_lost(&mut self, source: u32, before: u64, why: Option<&str>) {
        self.bind_again();
        self.log.line(Level::Error, "celery.worker.consumer", || {
            let why = why.unwrap_or("the lease ran out before it was renewed");
            format!("{why}: what was claimed goes to other workers, or comes again")
        });
        let of_source = |(tag, request): (&u64, &mut super::request::Request)| {
            if request.consumer != source || *tag >= before || request.claim.is_none() {
                return None;
            }
            request.suspect = true;
            // One that has begun and is only to be concluded must not run again, should the claim be ours after all.
            let waits = (request.phase == Phase::Ready || request.phase.is_held()) && !request.once;
            if !waits {
                self.orphans.insert(request.id.clone(), *tag);
            }
            waits.then_some(*tag)
        };
        let waiting: Vec<_> = self.requests.iter_mut().filter_map(of_source).collect();
        for tag in waiting {
            self.hand_back(tag);
        }
    }

    /// A store that has lost our lease may have lost its bindings too.
    fn bind_again(&mut self) {
        let Some(binding) = self.options.topics.clone() else { return };
        let (broker, log) = (self.stores.broker.clone(), self.log.clone());
        self.chores.push(Box::pin(async move {
            let mut link = link("bind the queue of events", &log);
            while let Err(error) = within(broker.bind_topics(&binding, Rebind::Restore), broker_timeout).await
            {
                tokio::time::sleep(link.failed(&error)).await;
            }
            link.worked();
            Chore::Bound
        }));
    }

    /// The driver says that this consumer is closed: its claims are gone, and another one is made.
    pub(super) fn source_closed(&mut self, number: u32) {
        let Some(place) = self.sources.iter().position(|source| source.number == number) else { return };
        self.sources.remove(place);
        let mut waiting = Vec::new();
        for (tag, request) in &mut self.requests {
            if request.consumer == number && request.claim.is_some() {
                request.stale = true;
                if request.phase == Phase::Ready || request.phase.is_held() {
                    waiting.push(*tag);
                } else {
                    self.orphans.insert(request.id.clone(), *tag);
                }
            }
        }
        for tag in waiting {
            self.remove(tag);
        }
        if self.sources.is_empty() {
            self.consume_anew();
        }
    }

    /// Makes another consumer. The old ones stay until what they claimed is settled.
    pub(super) fn consume_anew(&mut self) {
        if self.consuming || !self.takes_work() {
            return;
        }
        self.consuming = true;
        let (broker, options) = (self.stores.broker.clone(), self.consumer_options());
        let topics = self.options.topics.clone();
        self.chores.push(Box::pin(async move {
            let consuming = consume(broker, topics, Rebind::Restore, options);
            let consumed = timeout(ANSWER_WITHIN, consuming).await;
            Chore::Consumed(consumed.unwrap_or_else(|_| Err(broker_timeout())))
        }));
    }

    pub(super) fn chore_done(&mut self, chore: Chore) {
        match chore {
            Chore::Advised
            | Chore::Swept
            | Chore::Closed
            | Chore::Marked
            | Chore::Bound
            | Chore::Answered => {}
            Chore::DeadCounted(stats) => self.dead_counted(stats),
            Chore::Paused(commands, queues) => self.pauses_read(commands, queues),
            Chore::Kept(tags) => self.begun_kept(tags),
            Chore::Forgotten => self.begun_forgotten(),
            Chore::Left(left) => self.begun_left(left),
            Chore::Stalled(lost) => self.stalled_found(lost),
            Chore::Met(met) => self.met(met),
            Chore::Backlog(backlog) => self.watched(backlog),
            Chore::Told(told) => self.told(told),
            Chore::Asked(tag, turn) => self.key_asked(tag, turn),
            Chore::Consumed(Ok(consumer)) => {
                self.consuming = false;
                self.stats.reconnected.add(1);
                self.claim_link.worked();
                self.add_source(consumer.into());
            }
            Chore::Consumed(Err(error)) => {
                let delay = self.claim_link.failed(&error);
                self.chores.push(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    Chore::Nap
                }));
            }
            Chore::Nap => {
                self.consuming = false;
                self.consume_anew();
            }
        }
    }

    pub(super) fn add_source(&mut self, consumer: Arc<dyn Consumer>) {
        let number = self.sources.last().map_or(0, |source| source.number) + 1;
        self.sources.push(Source { number, consumer });
        self.claiming = None;
        self.claim_after = None;
        self.renew_at = self.renew_at.min(Instant::now() + self.renew_every());
    }

    fn tick(&mut self, now: Instant) {
        if !self.is_aside {
            self.stats.ready.set(self.ready.len() as u64);
            self.stats.held.set(self.held.len() as u64);
            self.stats.outstanding.set(self.requests.len() as u64);
            self.log_stale();
        }
        self.rates.forget(self.rate_time(now));
        self.tick_limits(now);
        self.hand_back_stuck(now);
        self.close_old_sources();
        self.save_when_due(now);
        self.renew_begun(now);
        self.renew_keys(now);
        self.look_for_stalled(now);
        self.watch(now);
        self.look_at_dead(now);
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP_EVERY;
            self.look_again_at_pauses();
            self.sweep();
        }
    }

    fn sweep(&self) {
        if self.is_aside {
            return;
        }
        let broker = self.stores.broker.clone();
        self.chores.push(Box::pin(async move {
            // Another worker sweeps too, and this one will again: an error here is nobody's loss.
            let _ = timeout(ANSWER_WITHIN, broker.sweep()).await;
            Chore::Swept
        }));
    }

    fn log_stale(&mut self) {
        let stale = self.stats.stale.value();
        let new = stale - self.stale_logged;
        if new > 0 {
            self.stale_logged = stale;
            self.log.line(Level::Warning, "celery.worker.request", || {
                format!(
                    "{new} outcomes were dropped: their messages went to other workers when a lease ran out"
                )
            });
        }
    }

    /// Many were claimed since tasks were short, and now every slot is busy with a long one: other workers
    /// may be idle.
    fn hand_back_stuck(&mut self, now: Instant) {
        let adaptive = self.options.prefetch_multiplier.is_none();
        if !adaptive || !self.takes_work() || self.ready.is_empty() || now - self.last_finish < STUCK_AFTER {
            return;
        }
        let longest = |request: &super::request::Request| match request.phase {
            Phase::Running(began) => Some(now - began),
            _ => None,
        };
        let Some(ran) = self.requests.values().filter_map(longest).max() else { return };
        if ran >= STUCK_AFTER && self.pool.free(false) == 0 {
            self.prefetch.average.at_least(ran);
            for tag in std::mem::take(&mut self.ready) {
                let concludes = self.requests.get(&tag).is_some_and(|r| r.mode != super::pool::Mode::Run);
                if concludes {
                    self.ready.push_back(tag);
                } else if !self.hand_back_batch(tag) {
                    self.hand_back(tag);
                }
            }
        }
    }

    fn close_old_sources(&mut self) {
        let Some(newest) = self.sources.last().map(|source| source.number) else { return };
        if self.sources.len() == 1 || self.committing.is_some() {
            return;
        }
        let in_use = |number| {
            let claimed =
                |request: &super::request::Request| request.consumer == number && request.claim.is_some();
            number == newest || self.commits.any_of(number) || self.requests.values().any(claimed)
        };
        let (kept, old): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sources).into_iter().partition(|source| in_use(source.number));
        self.sources = kept;
        for source in old {
            self.chores.push(Box::pin(async move {
                // It holds nothing any more; what is left of it ends with its lease.
                let _ = timeout(ANSWER_WITHIN, source.consumer.close()).await;
                Chore::Closed
            }));
        }
    }

    /// A claim that gets nothing for long: is there really nothing?
    fn watch(&mut self, now: Instant) {
        let silent = self.claiming.as_ref().is_some_and(|claim| now - claim.since >= self.options.watchdog);
        if !silent || self.consuming || !self.claim_link.is_up() {
            return;
        }
        let (broker, queues) = (self.stores.broker.clone(), self.taken_queues());
        self.chores.push(Box::pin(async move {
            let statuses = timeout(ANSWER_WITHIN, broker.queues()).await;
            let ours =
                |status: &crate::broker::QueueStatus| status.ready > 0 && queues.contains(&status.name);
            Chore::Backlog(matches!(statuses, Ok(Ok(statuses)) if statuses.iter().any(ours)))
        }));
    }

    fn watched(&mut self, backlog: bool) {
        self.strikes = if backlog { self.strikes + 1 } else { 0 };
        // Twice in a row: a message that came a moment ago is no reason.
        if self.strikes >= 2 && self.claiming.is_some() {
            self.strikes = 0;
            self.log.line(Level::Error, "celery.worker.consumer", || {
                "there is a backlog and nothing comes: consuming anew".to_owned()
            });
            self.consume_anew();
        }
    }
}

/// A way to a store that works so far.
pub(super) fn link(what: &'static str, log: &Arc<super::log::Log>) -> Link {
    Link::new(what, log.clone())
}
