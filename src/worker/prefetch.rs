//! How many deliveries may be held, and how long tasks usually take.

use std::time::Duration;

use crate::broker::Credit;

/// Tasks below this are short: many of them are claimed at once, and several wait in one child.
pub(crate) const SHORT: Duration = Duration::from_millis(1);
/// Held at the most when tasks are short, or when there is no limit.
const MOST: usize = 500;
const UNLIMITED: usize = 5_000;
/// Held work is to last about this long, to cover the way to the broker.
const COVER: Duration = Duration::from_millis(20);

/// A running average of run times; weighs the new one with an eighth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Average(Option<f64>);

impl Average {
    /// Takes one more.
    pub(crate) fn add(&mut self, runtime: Duration) {
        let new = runtime.as_secs_f64();
        self.0 = Some(self.0.map_or(new, |old| old + (new - old) / 8.0));
    }

    /// A run that is not over has taken this long already.
    pub(crate) fn at_least(&mut self, runtime: Duration) {
        if self.0.is_none_or(|old| old < runtime.as_secs_f64()) {
            self.0 = Some(runtime.as_secs_f64());
        }
    }

    /// The average, in seconds.
    pub(crate) fn seconds(self) -> Option<f64> {
        self.0
    }

    /// Whether it is known to be short.
    pub(crate) fn is_short(self) -> bool {
        self.0.is_some_and(|average| average < SHORT.as_secs_f64())
    }
}

/// What is held, against what may be held.
#[derive(Debug)]
pub(crate) struct Prefetch {
    multiplier: Option<u32>,
    max_bytes: usize,
    /// Deliveries that wait for a slot or have one.
    pub(crate) count: usize,
    /// Their bytes, and those of requests that wait for their time.
    pub(crate) bytes: usize,
    /// Run time over all tasks.
    pub(crate) average: Average,
}

impl Prefetch {
    pub(crate) fn new(multiplier: Option<u32>, max_bytes: usize) -> Self {
        Self { multiplier, max_bytes, count: 0, bytes: 0, average: Average::default() }
    }

    /// How many may be held.
    pub(crate) fn target(&self, slots: usize) -> usize {
        match self.multiplier {
            Some(0) => UNLIMITED,
            Some(multiplier) => slots * multiplier as usize,
            None => match self.average.0 {
                None => slots,
                Some(average) if average < SHORT.as_secs_f64() => MOST.max(slots),
                Some(average) => {
                    let each = (COVER.as_secs_f64() / average) as usize;
                    (slots * each.max(1)).min(MOST.max(slots))
                }
            },
        }
    }

    /// What may be claimed now, `beyond` the target; none when it is not worth a claim: a large target is filled in
    /// large steps, but no slot stays empty for that while tasks take their time, and no batch that `gathers` waits.
    pub(crate) fn credit(&self, slots: usize, beyond: usize, gathers: bool) -> Option<Credit> {
        let target = self.target(slots) + beyond;
        let count = target.saturating_sub(self.count);
        let bytes = self.max_bytes.saturating_sub(self.bytes);
        let idle = self.count < slots && !self.average.is_short();
        let worth = if idle || gathers { 1 } else { (target / 4).clamp(1, 125) };
        (count >= worth && bytes > 0).then_some(Credit { count, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(multiplier: Option<u32>, runtime: Duration) -> Prefetch {
        let mut prefetch = Prefetch::new(multiplier, 1000);
        prefetch.average.add(runtime);
        prefetch
    }

    #[test]
    fn short_tasks_are_claimed_by_the_hundred_and_long_ones_by_the_slot() {
        assert_eq!(Prefetch::new(None, 1000).target(4), 4);
        assert_eq!(after(None, Duration::from_micros(20)).target(4), 500);
        assert_eq!(after(None, Duration::from_millis(5)).target(4), 16);
        assert_eq!(after(None, Duration::from_secs(5)).target(4), 4);
    }

    #[test]
    fn one_long_run_ends_large_claims() {
        let mut prefetch = after(None, Duration::from_micros(20));

        prefetch.average.at_least(Duration::from_secs(1));

        assert_eq!(prefetch.target(4), 4);
    }

    #[test]
    fn the_last_free_slot_is_worth_a_claim_when_tasks_are_not_short() {
        for (prefetch, worth) in
            [(after(None, Duration::from_secs(5)), true), (after(None, Duration::from_micros(20)), false)]
        {
            let held = prefetch.target(600) - 1;
            let prefetch = Prefetch { count: held, ..prefetch };
            assert_eq!(prefetch.credit(600, 0, false).is_some(), worth);
        }
    }

    #[test]
    fn a_multiplier_is_kept_to_exactly() {
        let mut prefetch = after(Some(4), Duration::from_micros(20));
        assert_eq!(prefetch.credit(2, 0, false).map(|credit| credit.count), Some(8));

        prefetch.count = 8;

        assert!(prefetch.credit(2, 0, false).is_none());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut prefetch = after(None, Duration::from_secs(5));
        prefetch.bytes = 1000;

        assert!(prefetch.credit(4, 0, false).is_none());
    }
}
