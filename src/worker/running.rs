//! Giving requests to the pool, and taking what it reports.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::commit::nothing;
use super::consumer::ConsumerLoop;
use super::lifecycle::Phase as LifePhase;
use super::notice::Level;
use super::options::TaskOptions;
use super::policy::{Kept, buried};
use super::pool::{Mode, Outcome, OutcomeKind, PoolEvent, RequestTag};
use super::request::{Fate, Loss, Phase, Request, fate_of_loss, settle_outcome};
use super::strategy;
use super::told::TaskEvent;
use crate::broker::{Commit, Settle};
use crate::protocol::ResultRecord;

/// An early acknowledgement waits this long for the outcome. The pool tells that a request has begun
/// when it has run for a millisecond, so that both together are two.
const ACK_AFTER: Duration = Duration::from_millis(1);
/// A request with late acknowledgement that runs longer is marked as begun in the store.
const MARK_AFTER: Duration = Duration::from_millis(50);

impl ConsumerLoop {
    /// Fills free slots.
    pub(super) fn dispatch(&mut self) {
        let mut room: Option<(bool, usize)> = None;
        let mut spares = self.limits.as_ref().is_some_and(|limits| limits.spares_slot());
        while let Some(tag) = self.ready.front().copied() {
            let Some(request) = self.requests.get(&tag) else {
                // A batch, or one that is gone.
                if !self.submit_batch(tag) {
                    return;
                }
                self.ready.pop_front();
                room = None;
                continue;
            };
            let short = request.mode == Mode::Run
                && request.task.is_some_and(|task| self.tasks.task(task).average.is_short());
            let free = match room {
                Some((kind, free)) if kind == short => free,
                _ => self.pool.free(short),
            };
            let spared = usize::from(spares && request.limit.is_none());
            if free <= spared {
                return;
            }
            room = Some((short, free - 1));
            self.ready.pop_front();
            if !self.submit(tag, short) {
                self.ready.push_front(tag);
                return;
            }
            if let Some(limits) = self.limits.as_mut().filter(|limits| limits.served) {
                let limited = self.requests.get(&tag).is_some_and(|request| request.limit.is_some());
                limits.served &= limited;
                spares = limits.spares_slot();
            }
        }
    }

    /// Gives one to the pool. False when the pool has no room after all.
    fn submit(&mut self, tag: RequestTag, mut short: bool) -> bool {
        if self.discard(tag) {
            // It may be slow by its hooks; it is not what the average knows.
            short = false;
        }
        let Some(request) = self.requests.get_mut(&tag) else { return true };
        if request.first && request.mode == Mode::Run {
            self.mark_first(tag);
            return true;
        }
        let mut execution = request.execution(tag, short);
        if execution.hard_limit.is_some() && request.joining.is_some() && !self.pool.keeps_hard_limits() {
            // That of a join is ours, and nobody's promise.
            execution.hard_limit = None;
        }
        request.phase = Phase::Submitted;
        let taken = self.pool.submit(execution).is_ok();
        if !taken {
            request.phase = Phase::Ready;
        }
        taken
    }

    /// Looks once more whether it may run; true when it may not.
    pub(super) fn discard(&mut self, tag: RequestTag) -> bool {
        let now = self.clock.now();
        let Some(request) = self.requests.get_mut(&tag).filter(|request| request.mode == Mode::Run) else {
            return false;
        };
        let revoked =
            self.revoked.contains(&request.id, now) || self.revoked.stamps.any(&request.message.headers);
        let Some(mode) = strategy::discard(revoked, request.expires_ms, now) else { return false };
        request.mode = mode;
        let request = &self.requests[&tag];
        self.log.discarded(request);
        self.tell(TaskEvent::Revoked, tag, request);
        true
    }

    /// The pool reported.
    pub(super) fn pool_reported(&mut self) {
        let now = Instant::now();
        let mut events = std::mem::take(&mut self.events);
        let mut returned = Vec::new();
        for event in events.drain(..) {
            match event {
                PoolEvent::Began { tag, pid } => self.began(tag, pid, now),
                PoolEvent::Finished(tag, outcome) => self.finished(tag, outcome, now),
                PoolEvent::Update(tag, record) => self.updated(tag, record),
                PoolEvent::Lost { tag, hard_limit, terminated, how } => {
                    self.lost(tag, Loss { hard_limit, terminated, how });
                }
                PoolEvent::Evicted(tag) => self.evicted(tag),
                PoolEvent::Returned(tag) => returned.push(tag),
                PoolEvent::SlotFree => *self.stats.pids.lock() = self.pool.pids(),
                PoolEvent::ChildReplaced { number, pid, why, died } => {
                    self.replaced(number, pid, &why, died);
                }
                PoolEvent::ReloadFailed(why) => self.log.line(Level::Error, "celery.worker.pool", || {
                    format!("The app cannot be reloaded ({why}); processes of the app as it was go on")
                }),
                PoolEvent::Broken(why) => self.pool_broken(why),
            }
        }
        self.events = events;
        // Tags grow in the order of claiming, which is kept.
        returned.sort_unstable();
        for tag in returned.into_iter().rev() {
            self.returned(tag);
        }
    }

    pub(super) fn began(&mut self, tag: RequestTag, pid: u32, now: Instant) {
        let Some(request) = self.requests.get_mut(&tag) else { return self.batch_began(tag, pid, now) };
        (request.phase, request.pid) = (Phase::Running(now), Some(pid));
        if request.mode != Mode::Run {
            return;
        }
        let limited = request.limit.is_some();
        if let Some(signal) = request.terminate {
            self.end_process_of(tag, signal);
        }
        if limited {
            self.limit_begins(tag, now);
        }
        self.event_started(tag);
        let Some(request) = self.requests.get(&tag) else { return };
        let (late, keyed) = (self.tasks.options(request.task).acks_late, request.key.is_some());
        if keyed {
            self.free_early(tag, true);
        }
        if late {
            self.marks.push_back((now + MARK_AFTER, tag));
        } else {
            self.young.push_back((now + ACK_AFTER, tag));
        }
    }

    /// Early acknowledgements and marks whose moment has come.
    pub(super) fn acknowledge_begun(&mut self, now: Instant) {
        while let Some(tag) = pop_due(&mut self.young, now) {
            let Some(request) = self.requests.get_mut(&tag).filter(|request| !request.stale) else {
                continue;
            };
            // The pool may have given it back in the meantime.
            let runs = matches!(request.phase, Phase::Running(_)) && request.mode == Mode::Run;
            if runs && !request.once {
                self.acknowledge_early(tag);
            }
        }
        while let Some(tag) = pop_due(&mut self.marks, now) {
            let Some(request) = self.requests.get(&tag).filter(|request| !request.stale) else { continue };
            if matches!(request.phase, Phase::Running(_)) && request.claim.is_some() {
                let mark = Commit { claim: request.claim, begun: true, ..nothing() };
                self.commit_meanwhile(tag, mark);
            }
        }
    }

    /// Queues the early acknowledgement of a request: for a member of a workflow it is a mark.
    pub(super) fn acknowledge_early(&mut self, tag: RequestTag) {
        let Some(request) = self.requests.get_mut(&tag) else { return };
        let Some(claim) = request.claim else { return };
        let settle = if request.member && self.keeps_members {
            request.once = true;
            Settle::Once
        } else if request.member && self.keeping.is_some() {
            request.once = true;
            return self.keep_begun(tag);
        } else {
            request.claim = None;
            Settle::Ack
        };
        self.commit_meanwhile(tag, Commit { claim: Some(claim), settle, begun: true, ..nothing() });
    }

    fn finished(&mut self, tag: RequestTag, outcome: Outcome, now: Instant) {
        let Some(mut request) = self.remove(tag) else { return self.batch_ended(tag) };
        self.last_finish = now;
        if request.joining.is_some() {
            return self.joined(request, outcome);
        }
        self.learn(&request, &outcome);
        self.log.ended(&request, &outcome);
        self.count(&outcome);
        if request.stale {
            self.stats.stale.add(1);
            if let Some(kept) = request.kept {
                self.forget_begun(kept);
            }
            return;
        }
        let settle = self.settlement(&mut request, &outcome);
        let told = self.stream_ended(&request, &outcome, &settle);
        let (settle, buries) = self.bury(&mut request, settle, &outcome.summary);
        self.event_ended(&request, &outcome, &settle);
        request.blind = matches!(request.mode, Mode::Refused(_))
            || matches!(outcome.kind, OutcomeKind::Malformed | OutcomeKind::Disallowed);
        let Outcome { mut results, mut publications, parts, kind, .. } = outcome;
        publications.extend(told);
        self.address(&request, &mut results);
        if self.policies.any {
            let task = self.tasks.options(request.task);
            let (id, name, queue) = (&*request.id, &*request.name, &*request.queue);
            self.policies.keep(&Kept { id, name, task, queue }, &mut results);
        }
        if !parts.is_empty() {
            let commit =
                Commit { claim: request.claim, settle, results, publications, begun: true, ..nothing() };
            return self.commit_part(request, commit, parts);
        }
        let free_keys = request.keys_with(kind, &settle);
        let commit = Commit { claim: request.claim, settle, results, publications, begun: true, free_keys };
        // A payload goes after the acknowledgement that may still be on its way.
        if buries || commit.does_something() || request.large.is_some() {
            self.commit_end(&request, commit);
        } else if let Some(kept) = request.kept {
            self.forget_begun(kept);
        }
    }

    /// What happens to the message of a request that has ended. Of one that was acknowledged early nothing is left to
    /// settle; what is to be kept of it becomes a dead letter all the same.
    fn settlement(&self, request: &mut Request, outcome: &Outcome) -> Settle {
        let options = self.tasks.options(request.task);
        let settle = match (request.claim, request.last.take()) {
            (Some(_), Some(settle)) => return settle,
            (Some(_), None) => settle_outcome(outcome.kind, &request.mode, options, &outcome.summary),
            (None, _) => match outcome.kind {
                OutcomeKind::Malformed | OutcomeKind::Disallowed | OutcomeKind::DeadLettered => {
                    settle_outcome(outcome.kind, &request.mode, options, &outcome.summary)
                }
                _ => Settle::Keep,
            },
        };
        if request.buries && !matches!(request.mode, Mode::Refused(_) | Mode::Revoked(_)) {
            return buried(settle, outcome.kind, &outcome.summary, &outcome.traceback);
        }
        settle
    }

    /// Says where results go that are sent to whoever asked (`rpc://`). Nothing to do where broker and backend
    /// are one store: such a backend keeps them.
    pub(super) fn address(&self, request: &Request, results: &mut [ResultRecord]) {
        if !self.stores.one_store {
            for record in results {
                record.reply_to.clone_from(&request.message.properties.reply_to);
            }
        }
    }

    fn learn(&mut self, request: &Request, outcome: &Outcome) {
        // A run of a whole batch says nothing of how long one request takes a slot.
        if request.batch.is_some() {
            return;
        }
        if let (Some(runtime), Some(task), Mode::Run) = (outcome.runtime, request.task, &request.mode) {
            self.prefetch.average.add(runtime);
            self.tasks.average_mut(task).add(runtime);
        }
    }

    fn count(&self, outcome: &Outcome) {
        self.stats.finished.add(1);
        let counter = match outcome.kind {
            OutcomeKind::Success => &self.stats.succeeded,
            OutcomeKind::Retry => &self.stats.retried,
            OutcomeKind::Revoked => &self.stats.revoked,
            OutcomeKind::Failure | OutcomeKind::Rejected | OutcomeKind::DeadLettered => &self.stats.failed,
            OutcomeKind::Malformed | OutcomeKind::Disallowed => &self.stats.refused,
            OutcomeKind::Ignored | OutcomeKind::Requeued => return,
        };
        counter.add(1);
    }

    fn updated(&mut self, tag: RequestTag, record: ResultRecord) {
        let Some(request) = self.requests.get(&tag).filter(|request| !request.stale) else { return };
        let publications = self.stream_updated(request, &record);
        let mut results = vec![record];
        self.address(request, &mut results);
        let commit = Commit { claim: request.claim, results, publications, begun: true, ..nothing() };
        self.commit_meanwhile(tag, commit);
    }

    pub(super) fn lost(&mut self, tag: RequestTag, loss: Loss) {
        if self.limits.is_some() {
            self.limit_began(tag);
        }
        let Some(mut request) = self.requests.remove(&tag) else { return self.batch_lost(tag, &loss) };
        self.stats.lost.add(1);
        if request.stale {
            self.requests.insert(tag, request);
            self.remove(tag);
            self.stats.stale.add(1);
            return;
        }
        if request.joining.is_some() {
            self.requests.insert(tag, request);
            if let Some(request) = self.remove(tag) {
                self.join_again(request, &loss.how);
            }
            return;
        }
        let mut fate = self.fate(&request, loss.clone());
        if fate == Fate::Settle(Settle::Crashed) && request.crashes + 1 >= self.options.max_crashes {
            // The last time: whoever waits for it learns of it before the message is put aside.
            request.last = Some(Settle::Crashed);
            fate = Fate::Conclude(Mode::Lost(loss.how));
        }
        if let Fate::Conclude(Mode::Lost(how)) = &fate {
            // One that comes again is told of then, by whoever gets it.
            self.stream_stalled(&request, how);
        }
        match fate {
            Fate::Conclude(mode) => {
                request.mode = mode;
                request.phase = Phase::Ready;
                self.log.lost(&request);
                if matches!(request.mode, Mode::Revoked(_)) {
                    self.tell(TaskEvent::Revoked, tag, &request);
                }
                self.requests.insert(tag, request);
                self.ready.push_front(tag);
            }
            Fate::Settle(settle) => {
                self.log.task(Level::Error, "celery.worker.request", &request, || {
                    format!("Task {}[{}] lost its process", request.name, request.id)
                });
                self.event_rejected(&request, &settle);
                if matches!(settle, Settle::Dead(..)) {
                    self.tell_buried(&request, &settle);
                }
                self.stream_dead(&request, &settle);
                self.settle(&request, settle);
                self.requests.insert(tag, request);
                self.remove(tag);
            }
            Fate::Drop => {
                self.log.task(Level::Error, "celery.worker.request", &request, || {
                    format!(
                        "Task {}[{}] lost its process while it was being concluded",
                        request.name, request.id
                    )
                });
                let free_keys = request.keys_at_end();
                if !free_keys.is_empty() {
                    self.commit_end(&request, Commit { free_keys, ..nothing() });
                }
                self.requests.insert(tag, request);
                self.remove(tag);
            }
        }
    }

    /// Its process was ended because of another request. What can be run again is, with no crash counted.
    pub(super) fn evicted(&mut self, tag: RequestTag) {
        let Some(request) = self.requests.get(&tag) else { return self.batch_evicted(tag) };
        if request.joining.is_some() {
            // Nothing is lost by doing it once more.
            return self.returned(tag);
        }
        let late = self.tasks.options(request.task).acks_late;
        if request.mode == Mode::Run && late && request.claim.is_some() {
            self.log.task(Level::Warning, "celery.worker.request", request, || {
                format!(
                    "Task {}[{}] is handed back: its process was ended because of another task in it",
                    request.name, request.id
                )
            });
            self.hand_back(tag);
        } else {
            let how = "its process was ended because of another task in it".to_owned();
            self.lost(tag, Loss { hard_limit: None, terminated: false, how });
        }
    }

    fn fate(&self, request: &Request, loss: Loss) -> Fate {
        let options = self.tasks.options(request.task);
        // The worker itself killed it, to end in time: it is handed back, or told as lost when it cannot be.
        let stops = matches!(self.life, LifePhase::Draining | LifePhase::Killing);
        if stops && loss.terminated && request.terminate.is_none() && request.mode == Mode::Run {
            return if is_acknowledged(request, options) {
                Fate::Conclude(Mode::Lost("the worker was stopped".to_owned()))
            } else {
                Fate::Settle(Settle::Release)
            };
        }
        fate_of_loss(loss, &request.mode, options, request.claim.is_some())
    }

    fn returned(&mut self, tag: RequestTag) {
        let takes_work = self.takes_work();
        let Some(request) = self.requests.get_mut(&tag) else { return self.batch_returned(tag) };
        (request.phase, request.pid) = (Phase::Ready, None);
        if request.stale {
            self.remove(tag);
        } else if takes_work || request.mode != Mode::Run || request.claim.is_none() {
            self.ready.push_front(tag);
        } else {
            self.hand_back(tag);
        }
    }

    fn replaced(&mut self, number: u64, pid: u32, why: &str, died: bool) {
        self.stats.replaced.add(1);
        *self.stats.pids.lock() = self.pool.pids();
        let process = format!("Process 'ForkPoolWorker-{number}' pid:{pid}");
        if died {
            self.log.line(Level::Error, "celery.worker.pool", || format!("{process} exited with '{why}'"));
        } else {
            self.log.line(Level::Info, "celery.worker.pool", || format!("{process} is replaced: {why}"));
        }
    }

    /// Whether new work is taken up.
    pub(super) fn takes_work(&self) -> bool {
        self.life == LifePhase::Running
    }

    /// Gives a request back to the broker unrun.
    pub(super) fn hand_back(&mut self, tag: RequestTag) {
        if let Some(request) = self.remove(tag) {
            self.stats.released.add(1);
            self.settle(&request, Settle::Release);
        }
    }
}

/// It was acknowledged, or will be in a moment, and cannot be handed back.
pub(super) fn is_acknowledged(request: &Request, options: &TaskOptions) -> bool {
    request.claim.is_none() || (!options.acks_late && matches!(request.phase, Phase::Running(_)))
}

/// The next one whose moment has come, of a queue in which moments only grow.
fn pop_due(queue: &mut VecDeque<(Instant, RequestTag)>, now: Instant) -> Option<RequestTag> {
    queue.front().filter(|(at, _)| *at <= now)?;
    queue.pop_front().map(|(_, tag)| tag)
}
