//! What tasks and queues ask for beyond Celery's options: dead letters, and how long and how many results are kept.
//!
//! A task's own option wins over that of the queue it came from, and that over the setting for all. Where nobody asks for
//! anything, [`Policies::any`] is all that is looked at.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::options::{TaskOptions, WorkerOptions};
use super::pool::OutcomeKind;
use crate::broker::{DeadReason, Settle, account};
use crate::protocol::{ResultRecord, Retain, state};

/// What a task, or a queue, asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// A task that has failed for good becomes a dead letter.
    pub dead_letter: Option<bool>,
    /// So many results of tasks that have succeeded are kept.
    pub keep_successes: Option<u32>,
    /// The same of those that have failed.
    pub keep_failures: Option<u32>,
    /// How long results are kept, in ms; 0 is for ever.
    pub result_expires_ms: Option<u64>,
}

/// What holds for tasks that come from a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDefaults {
    /// What the task does not say itself.
    pub policy: Policy,
    /// The hard limit of tasks that have none.
    pub time_limit: Option<Duration>,
    /// The soft limit of tasks that have none.
    pub soft_time_limit: Option<Duration>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Policies {
    /// Anybody asks for anything.
    pub(crate) any: bool,
    /// What holds for all (`task_dead_letter`).
    dead_letter: bool,
    queues: HashMap<String, QueueDefaults>,
}

impl Policies {
    pub(crate) fn new(options: &WorkerOptions) -> Self {
        let of_tasks = options.tasks.values().any(|task| task.policy != Policy::default());
        Self {
            any: of_tasks || options.dead_letter || !options.queue_defaults.is_empty(),
            dead_letter: options.dead_letter,
            queues: options.queue_defaults.clone(),
        }
    }

    /// The defaults of a queue.
    pub(crate) fn of_queue(&self, queue: &str) -> Option<&QueueDefaults> {
        if self.queues.is_empty() { None } else { self.queues.get(queue) }
    }

    /// Whether a task that fails for good becomes a dead letter.
    pub(crate) fn buries(&self, task: &TaskOptions, queue: &str) -> bool {
        let of_queue = || self.of_queue(queue).and_then(|queue| queue.policy.dead_letter);
        task.policy.dead_letter.or_else(of_queue).unwrap_or(self.dead_letter)
    }

    /// Says of the results of a request that has ended how long and how many of them are kept.
    pub(crate) fn keep(&self, who: &Kept<'_>, results: &mut [ResultRecord]) {
        let none = Policy::default();
        let own = &who.task.policy;
        let of_queue = self.of_queue(who.queue).map_or(&none, |queue| &queue.policy);
        let expires = own.result_expires_ms.or(of_queue.result_expires_ms);
        let list = |kind: &str, own: Option<u32>, of_queue: Option<u32>| match (own, of_queue) {
            (None, Some(_)) => format!("{kind}:queue:{}", who.queue),
            _ => format!("{kind}:task:{}", who.name),
        };
        let counts = [own, of_queue]
            .iter()
            .any(|policy| policy.keep_successes.is_some() || policy.keep_failures.is_some());
        for record in results.iter_mut().filter(|record| record.task_id == who.id) {
            if let Some(ms) = expires {
                record.expires_ms = (ms > 0).then_some(ms);
            }
            let succeeded = record.state == state::SUCCESS;
            if !counts || !(succeeded || record.state == state::FAILURE) {
                continue;
            }
            let successes = list("successes", own.keep_successes, of_queue.keep_successes);
            let failures = list("failures", own.keep_failures, of_queue.keep_failures);
            let retain = if succeeded {
                let most = own.keep_successes.or(of_queue.keep_successes);
                Retain { list: successes, other: failures, most }
            } else {
                let most = own.keep_failures.or(of_queue.keep_failures);
                Retain { list: failures, other: successes, most }
            };
            record.retain = Some(Arc::new(retain));
        }
    }
}

/// Whose results they are.
pub(crate) struct Kept<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) task: &'a TaskOptions,
    pub(crate) queue: &'a str,
}

/// What becomes of the message of a task that is to be kept when it fails, and has failed: it is acknowledged no more
/// than that of one that was rejected. What is to be tried again is left alone.
pub(crate) fn buried(settle: Settle, kind: OutcomeKind, summary: &str, traceback: &str) -> Settle {
    let reason = match kind {
        OutcomeKind::Failure => DeadReason::Failed,
        OutcomeKind::Rejected => DeadReason::Rejected,
        _ => return settle,
    };
    match settle {
        Settle::Ack | Settle::Keep | Settle::Dead(DeadReason::Rejected, _) => {
            Settle::Dead(reason, account(summary, traceback))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(task: Policy, queue: Policy, all: bool) -> (Policies, TaskOptions) {
        let task = TaskOptions { policy: task, ..TaskOptions::default() };
        let defaults = QueueDefaults { policy: queue, ..QueueDefaults::default() };
        let options = WorkerOptions {
            queue_defaults: HashMap::from([("q".to_owned(), defaults)]),
            dead_letter: all,
            ..WorkerOptions::default()
        };
        (Policies::new(&options), task)
    }

    #[test]
    fn a_task_wins_over_its_queue_and_that_over_the_setting() {
        let dead = |dead_letter| Policy { dead_letter, ..Policy::default() };
        for (task, queue, all, buries) in [
            (None, None, false, false),
            (None, None, true, true),
            (None, Some(false), true, false),
            (Some(true), Some(false), false, true),
            (Some(false), Some(true), true, false),
        ] {
            let (policies, options) = policies(dead(task), dead(queue), all);
            assert_eq!(policies.buries(&options, "q"), buries, "{task:?} {queue:?} {all}");
        }
    }

    #[test]
    fn results_are_counted_by_whoever_limits_them() {
        let own = Policy { keep_successes: Some(2), result_expires_ms: Some(0), ..Policy::default() };
        let of_queue = Policy { keep_failures: Some(5), result_expires_ms: Some(9), ..Policy::default() };
        let (policies, task) = policies(own, of_queue, false);
        let record = |id: &str, state: &str| ResultRecord {
            task_id: id.to_owned(),
            state: state.to_owned(),
            expires_ms: Some(1),
            ..ResultRecord::default()
        };
        let mut results = [
            record("id", "SUCCESS"),
            record("id", "FAILURE"),
            record("other", "FAILURE"),
            record("id", "RETRY"),
        ];

        policies.keep(&Kept { id: "id", name: "t", task: &task, queue: "q" }, &mut results);

        let [success, failure, other, retry] = results;
        let (successes, failures) = ("successes:task:t".to_owned(), "failures:queue:q".to_owned());
        let kept = success.retain.expect("is counted");
        assert_eq!((&kept.list, &kept.other, kept.most), (&successes, &failures, Some(2)));
        let kept = failure.retain.expect("is counted");
        assert_eq!((&kept.list, &kept.other, kept.most), (&failures, &successes, Some(5)));
        assert_eq!((success.expires_ms, other.expires_ms), (None, Some(1)));
        assert_eq!((other.retain, retry.retain), (None, None));
    }

    #[test]
    fn only_what_has_failed_for_good_is_buried() {
        let bury = |settle, kind| buried(settle, kind, "ValueError('x')", "Traceback");
        let account = account("ValueError('x')", "Traceback");
        let failed = Settle::Dead(DeadReason::Failed, account.clone());
        assert_eq!(bury(Settle::Ack, OutcomeKind::Failure), failed);
        assert_eq!(bury(Settle::Keep, OutcomeKind::Failure), failed);
        assert_eq!(bury(Settle::Ack, OutcomeKind::Rejected), Settle::Dead(DeadReason::Rejected, account));
        assert_eq!(bury(Settle::Requeue, OutcomeKind::Failure), Settle::Requeue);
        for kind in [OutcomeKind::Success, OutcomeKind::Retry, OutcomeKind::Ignored, OutcomeKind::Revoked] {
            assert_eq!(bury(Settle::Ack, kind), Settle::Ack);
        }
    }
}
