//! Soft and hard time limits of the request that a child runs, and the other things that become due.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// A request that has run this long is told of as begun; shorter ones are told of by their outcome alone.
pub(super) const TELL_AFTER: Duration = Duration::from_millis(1);
/// What waits behind a request that has run this long is called back.
pub(super) const RECLAIM_AFTER: Duration = Duration::from_millis(10);

/// The moments of the request that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) began: Instant,
    /// Begun was told of.
    pub(super) told: bool,
    soft_at: Option<Instant>,
    hard_at: Option<Instant>,
}

impl Running {
    pub(super) fn new(now: Instant, soft: Option<Duration>, hard: Option<Duration>) -> Self {
        let at = |limit: Duration| now.checked_add(limit);
        Self { began: now, told: false, soft_at: soft.and_then(at), hard_at: hard.and_then(at) }
    }

    /// The soft limit has passed and was not told of; true once.
    pub(super) fn soft_passed(&mut self, now: Instant) -> bool {
        self.soft_at.take_if(|at| *at <= now).is_some()
    }

    /// The hard limit has passed; true once.
    pub(super) fn hard_passed(&mut self, now: Instant) -> bool {
        self.hard_at.take_if(|at| *at <= now).is_some()
    }

    /// When something becomes due next.
    pub(super) fn next(&self, others_wait: bool) -> Option<Instant> {
        let tell = (!self.told).then(|| self.began + TELL_AFTER);
        let reclaim = others_wait.then(|| self.began + RECLAIM_AFTER);
        [tell, reclaim, self.soft_at, self.hard_at].into_iter().flatten().min()
    }
}

/// Sends a signal; a process that is gone is no error.
pub(super) fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        let _ = kill_process(pid, signal);
    }
}
