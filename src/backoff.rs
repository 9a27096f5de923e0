//! How long to wait before trying again: exponential, with jitter.

use std::time::{Duration, Instant};

/// Doubles from `base` up to `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The delay before the first repetition.
    pub base: Duration,
    /// No delay is longer.
    pub max: Duration,
    /// The share of the delay that is left to chance, 0 (none of it) to 1 (all of it).
    pub jitter: f64,
}

impl Backoff {
    /// The delay before repetition number `attempt`, from 0.
    pub fn delay(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        let factor = 1_u32.checked_shl(attempt.min(32)).unwrap_or(u32::MAX);
        let full = self.base.saturating_mul(factor).min(self.max);
        // Also catches NaN.
        let jitter = if self.jitter > 0.0 { self.jitter.min(1.0) } else { return full };
        let seconds = full.as_secs_f64() * (1.0 - jitter * rng.f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(full).min(full)
    }
}

/// Attempts to keep something going: the delay grows while it fails, or ends at once each time, and is short again
/// after it has lasted.
#[cfg(feature = "amqp")]
#[derive(Debug)]
pub(crate) struct Attempts {
    backoff: Backoff,
    failures: u32,
    /// When it began, while it lasts.
    since: Option<Instant>,
}

#[cfg(feature = "amqp")]
impl Attempts {
    /// Something that works now.
    pub(crate) fn begun(backoff: Backoff) -> Self {
        Self { backoff, failures: 0, since: Some(Instant::now()) }
    }

    /// It works again.
    pub(crate) fn began(&mut self) {
        self.since = Some(Instant::now());
    }

    /// It ended, or did not begin: how long to wait before the next attempt.
    pub(crate) fn ended(&mut self) -> Duration {
        self.ended_at(Instant::now())
    }

    fn ended_at(&mut self, now: Instant) -> Duration {
        if self.since.take().is_some_and(|since| now.duration_since(since) > self.backoff.max) {
            self.failures = 0;
        }
        let delay = self.backoff.delay(self.failures, &mut fastrand::Rng::new());
        self.failures = self.failures.saturating_add(1);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(jitter: f64) -> Backoff {
        Backoff { base: Duration::from_millis(100), max: Duration::from_secs(5), jitter }
    }

    #[test]
    fn without_jitter_it_doubles_up_to_the_maximum() {
        let mut rng = fastrand::Rng::with_seed(1);
        let delays: Vec<u128> = (0..7).map(|n| backoff(0.0).delay(n, &mut rng).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(backoff(0.0).delay(u32::MAX, &mut rng), Duration::from_secs(5));
    }

    #[test]
    fn jitter_takes_no_more_than_its_share() {
        let mut rng = fastrand::Rng::with_seed(1);
        let delays: Vec<Duration> = (0..200).map(|_| backoff(0.5).delay(0, &mut rng)).collect();
        assert!(delays.iter().all(|delay| (50..=100).contains(&delay.as_millis())));
        assert!(delays.iter().any(|delay| delay.as_millis() < 60));
        assert!(delays.iter().any(|delay| delay.as_millis() > 90));
    }

    #[cfg(feature = "amqp")]
    #[test]
    fn what_has_lasted_is_tried_again_soon_and_what_ends_at_once_is_not() {
        let mut attempts = Attempts::begun(backoff(0.0));
        let mut lasts = |time: Option<Duration>| {
            let begun = Instant::now();
            attempts.since = time.map(|_| begun);
            attempts.ended_at(begun + time.unwrap_or_default()).as_millis()
        };
        let (short, long) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(6)));

        assert_eq!([short, None, None, short].map(&mut lasts), [100, 200, 400, 800]);
        assert_eq!([long, None, long].map(lasts), [100, 200, 100]);
    }

    #[test]
    fn senseless_options_do_not_panic() {
        let mut rng = fastrand::Rng::with_seed(1);
        for jitter in [f64::NAN, f64::INFINITY, -1.0, 7.0] {
            let backoff = Backoff { base: Duration::MAX, max: Duration::MAX, jitter };
            assert!(backoff.delay(40, &mut rng) <= Duration::MAX);
        }
    }
}
