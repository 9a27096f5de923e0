//! When a task name may run next.
//!
//! One number for each name says when the next one may start (a token bucket of capacity 1). One whose
//! turn is near waits in memory; one whose turn is far is parked in the broker until then. `tail` is the
//! turn of the next one to come, so that ten thousand come back one by one and in order. Which ones were
//! given a turn is remembered by a hash of their id, so that nobody is charged twice; when there are too
//! many to remember, the rest is parked behind all of them, and gets its turns then.

use std::collections::HashMap;
use std::time::Duration;

/// A turn this near is waited for in memory.
const NEAR: u64 = 1_000_000;
/// Turns remembered at the most, over all names.
const MAX_TURNS: usize = 50_000;

/// How often a task may start: so many seconds lie between two starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    interval_us: u64,
}

/// Why a rate limit cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// The part before the slash is no number that makes sense.
    #[error("rate limit {0:?} does not start with a number")]
    Number(String),
    /// The part behind the slash is none of `s`, `m`, `h`.
    #[error("rate limit {0:?} has an unknown unit: use s, m or h")]
    Unit(String),
}

impl RateLimit {
    /// Reads Celery's grammar: `N`, `N/s`, `N/m`, `N/h`; an empty text and zero are no limit.
    pub fn parse(text: &str) -> Result<Option<Self>, RateLimitError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let number: f64 = number.trim().parse().map_err(|_| RateLimitError::Number(text.to_owned()))?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(RateLimitError::Unit(text.to_owned())),
        };
        if !number.is_finite() || number < 0.0 {
            return Err(RateLimitError::Number(text.to_owned()));
        }
        Ok(Self::per_second(number / seconds))
    }

    /// So many a second; zero is no limit.
    pub fn per_second(rate: f64) -> Option<Self> {
        // Longer than a century is as good as never, and keeps the arithmetic from overflowing.
        (rate > 0.0).then(|| Self { interval_us: (1e6 / rate).ceil().min(3e15) as u64 })
    }

    /// The time between two starts.
    pub fn interval(self) -> Duration {
        Duration::from_micros(self.interval_us)
    }
}

/// What a request has to do for its rate limit. Moments are microseconds since the worker started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Run.
    Now,
    /// Wait in memory until then, and run without asking again.
    Wait(u64),
    /// Be parked until then, and ask again.
    Park(u64),
}

/// The state of every limited name.
#[derive(Debug, Default)]
pub(crate) struct RateLimits {
    names: HashMap<u32, Name>,
    /// The turn of each request that was parked, by task and hash of its id.
    turns: HashMap<(u32, u64), u64>,
}

#[derive(Debug, Default)]
struct Name {
    /// When the next one may start.
    next: u64,
    /// The turn of the next one that comes.
    tail: u64,
    /// The turn of the next one that came back too late for its turn.
    late: u64,
}

impl RateLimits {
    /// Asks for a turn. `may_wait` is false when no more fit into memory.
    pub(crate) fn admit(
        &mut self,
        task: u32,
        id_hash: u64,
        limit: RateLimit,
        now: u64,
        may_wait: bool,
    ) -> Turn {
        let full = self.turns.len() >= MAX_TURNS;
        let name = self.names.entry(task).or_default();
        let interval = limit.interval_us;
        let known = self.turns.get(&(task, id_hash)).copied();
        let start = match known {
            // Came back before its turn (released by a stop, or the broker's clock is ahead).
            Some(turn) => turn.max(name.next).max(now),
            None => name.tail.max(name.next).max(now),
        };
        if start == now || (may_wait && start - now <= NEAR) {
            self.turns.remove(&(task, id_hash));
            name.next = start + interval;
            name.tail = name.tail.max(name.next);
            return if start == now { Turn::Now } else { Turn::Wait(start) };
        }
        match known {
            Some(turn) if turn > now => Turn::Park(turn),
            // Several that came back late must not all wait for the same turn.
            Some(_) => {
                let turn = start.max(name.late);
                name.late = turn + interval;
                name.tail = name.tail.max(name.late);
                self.turns.insert((task, id_hash), turn);
                Turn::Park(turn)
            }
            None if full => Turn::Park(start),
            None => {
                name.tail = start + interval;
                self.turns.insert((task, id_hash), start);
                Turn::Park(start)
            }
        }
    }

    /// Whether requests of a task were parked until their turn.
    pub(crate) fn has_parked(&self, task: u32) -> bool {
        self.turns.keys().any(|(of, _)| *of == task)
    }

    /// Another limit holds from now on. Turns that were given and have not come are taken back: whoever waits asks again.
    pub(crate) fn change(&mut self, task: u32, old: Option<RateLimit>, new: Option<RateLimit>, now: u64) {
        self.turns.retain(|(of, _), _| *of != task);
        let Some(name) = self.names.remove(&task) else { return };
        let (Some(old), Some(new)) = (old, new) else { return };
        let Some(given) = name.next.checked_sub(old.interval_us) else { return };
        // The last start that has happened lies whole intervals before the last one that was given.
        let ahead = given.saturating_sub(now).div_ceil(old.interval_us);
        let Some(last) = given.checked_sub(ahead.saturating_mul(old.interval_us)) else { return };
        self.names.insert(task, Name { next: last.saturating_add(new.interval_us), ..Name::default() });
    }

    /// Forgets turns that passed long ago: the request went to another worker, or was purged.
    pub(crate) fn forget(&mut self, now: u64) {
        self.turns.retain(|_, turn| *turn + 60 * NEAR > now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_grammar_is_celerys() {
        let interval = |text| RateLimit::parse(text).unwrap().map(|limit| limit.interval().as_secs_f64());
        assert_eq!(interval("2"), Some(0.5));
        assert_eq!(interval("0.5/s"), Some(2.0));
        assert_eq!(interval("10/m"), Some(6.0));
        assert_eq!(interval("1800/h"), Some(2.0));
        assert_eq!(interval(""), None);
        assert_eq!(interval("0"), None);
        assert_eq!(interval("0/m"), None);
        assert_eq!(RateLimit::parse("1/d"), Err(RateLimitError::Unit("1/d".into())));
        assert_eq!(RateLimit::parse("x/s"), Err(RateLimitError::Number("x/s".into())));
        assert_eq!(RateLimit::parse("nan"), Err(RateLimitError::Number("nan".into())));
    }

    #[test]
    fn ten_thousand_come_back_one_by_one_and_in_order() {
        let limit = RateLimit::per_second(1.0).unwrap();
        let mut limits = RateLimits::default();
        let mut turns = Vec::new();
        for id in 0..10_000 {
            match limits.admit(0, id, limit, 0, true) {
                Turn::Now => turns.push(0),
                Turn::Wait(at) | Turn::Park(at) => turns.push(at),
            }
        }

        assert!(turns.iter().zip(0..).all(|(turn, place)| *turn == place * 1_000_000));
        for id in 2..10_000 {
            assert_eq!(limits.admit(0, id, limit, turns[id as usize], true), Turn::Now);
        }
        assert!(limits.turns.is_empty());
    }

    #[test]
    fn another_limit_counts_from_the_last_start() {
        let (slow, fast) = (RateLimit::per_second(1.0).unwrap(), RateLimit::per_second(10.0).unwrap());
        let mut limits = RateLimits::default();
        assert_eq!(limits.admit(0, 1, slow, 0, true), Turn::Now);
        assert_eq!(limits.admit(0, 2, slow, 0, true), Turn::Wait(1_000_000));
        assert_eq!(limits.admit(0, 3, slow, 0, true), Turn::Park(2_000_000));

        limits.change(0, Some(slow), Some(fast), 20_000);

        assert_eq!(limits.admit(0, 2, fast, 20_000, true), Turn::Wait(100_000));
        assert_eq!(limits.admit(0, 3, fast, 20_000, true), Turn::Wait(200_000));
        limits.change(0, Some(fast), Some(slow), 150_000);
        assert_eq!(limits.admit(0, 3, slow, 150_000, true), Turn::Wait(1_100_000));
        limits.change(0, Some(slow), None, 160_000);
        assert_eq!(limits.admit(0, 4, slow, 160_000, true), Turn::Now);
    }

    proptest! {
        /// However requests come and however late the parked ones come back: two starts are never nearer
        /// than the interval, and all of them start.
        #[test]
        fn no_two_starts_are_nearer_than_the_rate_allows_and_none_is_lost(
            rate in 0.2f64..50.0,
            arrivals in proptest::collection::vec(0u64..20_000_000, 1..60),
            late in proptest::collection::vec(0u64..3_000_000, 60),
        ) {
            let limit = RateLimit::per_second(rate).unwrap();
            let mut limits = RateLimits::default();
            let mut events: std::collections::BTreeSet<(u64, usize)> =
                arrivals.iter().copied().zip(0..).collect();
            let mut starts = Vec::new();
            let mut steps = 0;

            while let Some((now, id)) = events.pop_first() {
                steps += 1;
                match limits.admit(0, id as u64, limit, now, true) {
                    Turn::Now => starts.push(now),
                    Turn::Wait(at) => starts.push(at),
                    Turn::Park(at) => {
                        prop_assert!(at > now);
                        events.insert((at + late[(id + steps) % late.len()], id));
                    }
                }
                prop_assert!(steps < 100_000);
            }

            prop_assert_eq!(starts.len(), arrivals.len());
            starts.sort_unstable();
            for pair in starts.windows(2) {
                prop_assert!(pair[1] - pair[0] >= limit.interval_us);
            }
        }
    }
}
