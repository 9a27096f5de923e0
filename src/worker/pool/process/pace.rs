//! How many short executions a child with one slot is given.

use std::time::Duration;

use tokio::time::Instant;

/// Short executions that one child is given at the most.
pub(super) const SHORT_DEPTH: usize = 64;
/// And when it ends them so quickly that those would not last as long as the supervisor may be at work on one claim.
const SHORTEST_DEPTH: usize = 256;
/// What a child is given is to last about this long then.
const GIVEN_FOR: Duration = Duration::from_millis(8);

/// How quickly a child ends what it is given, and so how much that is to be.
#[derive(Debug)]
pub(super) struct Pace {
    /// Short executions that it is given at the most.
    pub(super) depth: usize,
    /// Those that ended since then.
    ended: usize,
    since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { depth: SHORT_DEPTH, ended: 0, since: None }
    }
}

impl Pace {
    /// One has ended. Time in which there was nothing to do counts, too.
    pub(super) fn finished(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.ended += 1;
        if self.ended < SHORT_DEPTH {
            return;
        }
        let took = now.duration_since(since).max(Duration::from_micros(1));
        let depth = self.ended as u128 * GIVEN_FOR.as_micros() / took.as_micros();
        let depth = usize::try_from(depth).unwrap_or(SHORTEST_DEPTH).clamp(SHORT_DEPTH, SHORTEST_DEPTH);
        *self = Self { depth, ended: 0, since: Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_given_more_when_it_ends_much_in_little_time() {
        let mut now = Instant::now();
        let mut depth_at = |each: u64| {
            let mut pace = Pace::default();
            for _ in 0..2 * SHORT_DEPTH {
                now += Duration::from_micros(each);
                pace.finished(now);
            }
            pace.depth
        };

        assert_eq!([10, 30, 500].map(&mut depth_at), [SHORTEST_DEPTH, SHORTEST_DEPTH, SHORT_DEPTH]);
        assert_eq!(depth_at(50), 160);
    }
}
