//! One accepted delivery, and what its end does to the claim.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::chords::{JOIN_LIMIT, Joining};
use super::limits::Limited;
use super::options::TaskOptions;
use super::pool::{Execution, Mode, OutcomeKind, RequestTag};
use super::unique::RequestKey;
use crate::broker::{ClaimId, DeadReason, Settle};
use crate::protocol::Message;

/// One accepted delivery.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says something of its own")]
pub(crate) struct Request {
    /// The consumer that claimed it.
    pub(crate) consumer: u32,
    /// The claim; none when it was acknowledged before its end.
    pub(crate) claim: Option<ClaimId>,
    /// The claim is lost: whatever comes of it is dropped.
    pub(crate) stale: bool,
    /// The claim may be lost: the store is asked before anything of it is published.
    pub(crate) suspect: bool,
    /// The task, when it is registered.
    pub(crate) task: Option<u32>,
    pub(crate) name: Arc<str>,
    pub(crate) id: String,
    pub(crate) message: Arc<Message>,
    /// The queue it came from.
    pub(crate) queue: Arc<str>,
    /// That queue has defaults, and the child is told which it is: it tries tasks again by them.
    pub(crate) has_defaults: bool,
    /// Its message is kept if it fails for good.
    pub(crate) buries: bool,
    pub(crate) exchange: Arc<str>,
    pub(crate) routing_key: Arc<str>,
    pub(crate) redelivered: bool,
    pub(crate) expires_ms: Option<i64>,
    pub(crate) soft_limit: Option<Duration>,
    pub(crate) hard_limit: Option<Duration>,
    pub(crate) mode: Mode,
    pub(crate) phase: Phase,
    /// Revoked with this signal before it had begun.
    pub(crate) terminate: Option<i32>,
    /// The process that has begun it.
    pub(crate) pid: Option<u32>,
    /// How often its process died before.
    pub(crate) crashes: u32,
    /// It is acknowledged early, and others wait for it: its claim is kept to the end, so that whoever gets it after a
    /// crash of this worker concludes it.
    pub(crate) member: bool,
    /// Its early acknowledgement is in the store, as a mark: it must not run again.
    pub(crate) once: bool,
    /// That is to be stored before it begins ([`crate::protocol::Own::once`]); over when it is.
    pub(crate) first: bool,
    /// It is kept beside the results under this tag, its own at first ([`super::keeping`]).
    pub(crate) kept: Option<RequestTag>,
    /// How its claim is settled when it has been concluded, if that was decided before.
    pub(crate) last: Option<Settle>,
    /// Its message cannot be read, or not by a child: what follows it is not known.
    pub(crate) blind: bool,
    /// The limits of all workers that it is under.
    pub(crate) limit: Option<Box<Limited>>,
    /// It has ended, and goes on as [`Mode::Join`].
    pub(crate) joining: Option<Box<Joining>>,
    /// Where its body is kept, if that is elsewhere ([`super::payloads`]).
    pub(crate) large: Option<Box<str>>,
    /// The batch in which the pool has it ([`super::batch`]).
    pub(crate) batch: Option<RequestTag>,
    /// The key that it was sent under.
    pub(crate) key: Option<Box<RequestKey>>,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its ETA; its rate limit is asked then.
    Eta,
    /// Waits for its turn, which it has been given.
    Turn,
    /// Waits for a slot.
    Ready,
    /// Would have a slot; its early acknowledgement is being stored.
    Marking,
    /// Was given to the pool.
    Submitted,
    /// A child has begun it.
    Running(Instant),
}

impl Phase {
    /// Waits in memory for its time; holds no credit.
    pub(crate) fn is_held(self) -> bool {
        matches!(self, Self::Eta | Self::Turn)
    }

    /// A child has it.
    pub(crate) fn has_slot(self) -> bool {
        matches!(self, Self::Submitted | Self::Running(_))
    }
}

impl Request {
    /// It waits for its time or for a slot.
    pub(crate) fn waits(&self) -> bool {
        self.phase == Phase::Ready || self.phase.is_held()
    }

    /// What to give to the pool.
    pub(crate) fn execution(&self, tag: RequestTag, short: bool) -> Execution {
        Execution {
            tag,
            mode: self.mode.clone(),
            message: self.message.clone(),
            queue: self.has_defaults.then(|| self.queue.clone()),
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            redelivered: self.redelivered,
            soft_limit: self.soft_limit.filter(|_| self.mode == Mode::Run),
            hard_limit: match self.mode {
                Mode::Run => self.hard_limit,
                Mode::Join(_) => Some(JOIN_LIMIT),
                Mode::TimedOut(_)
                | Mode::Lost(_)
                | Mode::Revoked(_)
                | Mode::Unknown
                | Mode::Refused(_)
                | Mode::Batch(_) => None,
            },
            short,
        }
    }
}

/// What happens to the claim when a child has answered. `compat` rules: an early acknowledgement stands
/// whatever happens after it.
pub(crate) fn settle_outcome(kind: OutcomeKind, mode: &Mode, task: &TaskOptions, summary: &str) -> Settle {
    let late = task.acks_late;
    match (kind, mode) {
        (_, Mode::Unknown) => {
            Settle::Dead(DeadReason::Unknown, "no task of its name is registered".to_owned())
        }
        (OutcomeKind::Malformed, _) => Settle::Dead(DeadReason::Malformed, summary.to_owned()),
        (OutcomeKind::DeadLettered, _) => Settle::Dead(DeadReason::Rejected, summary.to_owned()),
        (OutcomeKind::Disallowed, _) => Settle::Dead(DeadReason::Disallowed, summary.to_owned()),
        (_, Mode::Revoked(_)) | (OutcomeKind::Revoked, _) => Settle::Ack,
        (_, Mode::TimedOut(_)) if late && !task.acks_on_timeout => Settle::Requeue,
        (_, Mode::TimedOut(_)) => Settle::Ack,
        (OutcomeKind::Failure, _) if late && !task.acks_on_failure => {
            Settle::Dead(DeadReason::Rejected, summary.to_owned())
        }
        (OutcomeKind::Rejected, _) if late => Settle::Dead(DeadReason::Rejected, summary.to_owned()),
        (OutcomeKind::Requeued, _) if late => Settle::Requeue,
        _ => Settle::Ack,
    }
}

/// How a child was lost.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) hard_limit: Option<f64>,
    pub(crate) terminated: bool,
    pub(crate) how: String,
}

/// What to do with a request whose child is gone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    /// Settle the claim; nothing is stored.
    Settle(Settle),
    /// Another child tells the user's code about it.
    Conclude(Mode),
    /// It was being concluded, and it is acknowledged: nobody can do more.
    Drop,
}

/// What happens when the child that ran (or concluded) a request is gone.
pub(crate) fn fate_of_loss(loss: Loss, mode: &Mode, task: &TaskOptions, claimed: bool) -> Fate {
    if *mode != Mode::Run {
        // Its hooks kill processes: to run the task again would not help, to conclude it again even less.
        let detail = format!("its process died while it was being concluded: {}", loss.how);
        return if claimed { Fate::Settle(Settle::Dead(DeadReason::Crashed, detail)) } else { Fate::Drop };
    }
    if let Some(limit) = loss.hard_limit {
        return Fate::Conclude(Mode::TimedOut(limit));
    }
    if loss.terminated {
        return Fate::Conclude(Mode::Revoked("terminated".to_owned()));
    }
    if task.acks_late && task.reject_on_worker_lost && claimed {
        return Fate::Settle(Settle::Crashed);
    }
    Fate::Conclude(Mode::Lost(loss.how))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early() -> TaskOptions {
        TaskOptions::default()
    }

    fn late() -> TaskOptions {
        TaskOptions { acks_late: true, ..TaskOptions::default() }
    }

    fn dead(reason: DeadReason) -> Settle {
        Settle::Dead(reason, "why".into())
    }

    #[test]
    fn an_outcome_settles_the_claim_by_celerys_table() {
        use OutcomeKind::{
            Disallowed, Failure, Ignored, Malformed, Rejected, Requeued, Retry, Revoked, Success,
        };
        let keeps_failures = TaskOptions { acks_on_failure: false, ..late() };
        let table = [
            (Success, early(), Settle::Ack),
            (Success, late(), Settle::Ack),
            (Failure, early(), Settle::Ack),
            (Failure, late(), Settle::Ack),
            (Failure, keeps_failures.clone(), dead(DeadReason::Rejected)),
            (Failure, TaskOptions { acks_late: false, ..keeps_failures.clone() }, Settle::Ack),
            (Success, keeps_failures, Settle::Ack),
            (Retry, early(), Settle::Ack),
            (Retry, late(), Settle::Ack),
            (Ignored, early(), Settle::Ack),
            (Ignored, late(), Settle::Ack),
            (Rejected, early(), Settle::Ack),
            (Rejected, late(), dead(DeadReason::Rejected)),
            (Requeued, early(), Settle::Ack),
            (Requeued, late(), Settle::Requeue),
            (Revoked, early(), Settle::Ack),
            (Revoked, late(), Settle::Ack),
            (Malformed, early(), dead(DeadReason::Malformed)),
            (Malformed, late(), dead(DeadReason::Malformed)),
            (Disallowed, late(), dead(DeadReason::Disallowed)),
        ];
        for (kind, task, settle) in table {
            assert_eq!(settle_outcome(kind, &Mode::Run, &task, "why"), settle, "{kind:?} {task:?}");
        }
    }

    #[test]
    fn a_concluded_request_settles_by_why_it_was_concluded() {
        let requeues = TaskOptions { acks_on_timeout: false, ..late() };
        let failure = OutcomeKind::Failure;
        let settled = |mode, task: &TaskOptions| settle_outcome(failure, &mode, task, "why");

        assert_eq!(settled(Mode::TimedOut(1.0), &late()), Settle::Ack);
        assert_eq!(settled(Mode::TimedOut(1.0), &requeues), Settle::Requeue);
        assert_eq!(settled(Mode::TimedOut(1.0), &TaskOptions { acks_late: false, ..requeues }), Settle::Ack);
        assert_eq!(settled(Mode::Lost("x".into()), &late()), Settle::Ack);
        assert_eq!(settled(Mode::Lost("x".into()), &early()), Settle::Ack);
        assert_eq!(settled(Mode::Revoked("x".into()), &late()), Settle::Ack);
        assert!(matches!(settled(Mode::Unknown, &early()), Settle::Dead(DeadReason::Unknown, _)));
    }

    #[test]
    fn a_lost_process_is_concluded_or_redelivered() {
        let rejects = TaskOptions { reject_on_worker_lost: true, ..late() };
        let loss = Loss { hard_limit: None, terminated: false, how: "signal 9 (SIGKILL)".into() };
        let lost = || Fate::Conclude(Mode::Lost("signal 9 (SIGKILL)".into()));

        assert_eq!(fate_of_loss(loss.clone(), &Mode::Run, &early(), false), lost());
        assert_eq!(fate_of_loss(loss.clone(), &Mode::Run, &late(), true), lost());
        assert_eq!(fate_of_loss(loss.clone(), &Mode::Run, &rejects, true), Fate::Settle(Settle::Crashed));
        let timed_out = Loss { hard_limit: Some(2.0), ..loss.clone() };
        assert_eq!(fate_of_loss(timed_out, &Mode::Run, &rejects, true), Fate::Conclude(Mode::TimedOut(2.0)));
        let terminated = Loss { terminated: true, ..loss.clone() };
        let revoked = Fate::Conclude(Mode::Revoked("terminated".into()));
        assert_eq!(fate_of_loss(terminated, &Mode::Run, &rejects, true), revoked);
        let again = fate_of_loss(loss.clone(), &Mode::TimedOut(2.0), &late(), true);
        assert!(matches!(again, Fate::Settle(Settle::Dead(DeadReason::Crashed, _))));
        assert_eq!(fate_of_loss(loss, &Mode::Lost("x".into()), &early(), false), Fate::Drop);
    }
}
