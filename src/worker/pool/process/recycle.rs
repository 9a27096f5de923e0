//! When a child has done enough, or has grown too large, and is replaced.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

/// Memory is looked at no more often than this.
const MEMORY_EVERY: Duration = Duration::from_millis(100);

/// What a child may do before it is replaced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecycleLimits {
    pub(super) max_tasks: Option<u64>,
    pub(super) max_memory_kib: Option<u64>,
}

/// What one child has done.
#[derive(Debug, Default)]
pub(super) struct Recycle {
    finished: u64,
    looked: Option<Instant>,
    /// It has finished something since memory was last looked at.
    changed: bool,
}

impl Recycle {
    /// Counts a finished execution.
    pub(super) fn finished(&mut self) {
        self.finished += 1;
        self.changed = true;
    }

    /// It has finished something.
    pub(super) fn any_finished(&self) -> bool {
        self.finished > 0
    }

    /// How many more executions the child may be given, with `waiting` in its queue.
    pub(super) fn left(&self, limits: RecycleLimits, waiting: usize) -> usize {
        let Some(max) = limits.max_tasks else { return usize::MAX };
        usize::try_from(max.saturating_sub(self.finished)).unwrap_or(usize::MAX).saturating_sub(waiting)
    }

    /// Why the child has to go, if it has to.
    pub(super) fn due(&mut self, limits: RecycleLimits, pid: u32, now: Instant) -> Option<String> {
        if !self.changed {
            return None;
        }
        if let Some(max) = limits.max_tasks.filter(|max| self.finished >= *max) {
            return Some(format!("it has run {max} tasks"));
        }
        let max = limits.max_memory_kib?;
        if self.looked.is_some_and(|last| now.duration_since(last) < MEMORY_EVERY) {
            return None;
        }
        self.looked = Some(now);
        self.changed = false;
        let used = resident_kib(pid)?;
        (used > max).then(|| format!("it uses {used} KiB of memory, over the limit of {max} KiB"))
    }
}

/// Resident memory of a process; none where `/proc` does not tell.
fn resident_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64 / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_given_no_more_tasks_than_it_may_run() {
        let limits = RecycleLimits { max_tasks: Some(3), max_memory_kib: None };
        let mut recycle = Recycle::default();
        let now = Instant::now();
        assert_eq!(recycle.left(limits, 1), 2);

        recycle.finished();
        recycle.finished();

        assert_eq!(recycle.left(limits, 0), 1);
        assert_eq!(recycle.due(limits, 1, now), None);
        recycle.finished();
        assert!(recycle.due(limits, 1, now).is_some());
    }

    #[test]
    fn memory_over_the_limit_is_seen_but_not_looked_at_all_the_time() {
        let limits = RecycleLimits { max_tasks: None, max_memory_kib: Some(1) };
        let mut recycle = Recycle::default();
        let now = Instant::now();
        assert_eq!(recycle.due(limits, std::process::id(), now), None);
        recycle.finished();

        assert!(
            recycle.due(limits, std::process::id(), now).is_some_and(|why| why.contains("over the limit"))
        );
        recycle.finished();
        assert_eq!(recycle.due(limits, std::process::id(), now), None);
    }
}
