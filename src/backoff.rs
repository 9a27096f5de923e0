//! How long to wait before trying again: exponential, with jitter. Pure.

use std::time::Duration;

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

    #[test]
    fn senseless_options_do_not_panic() {
        let mut rng = fastrand::Rng::with_seed(1);
        for jitter in [f64::NAN, f64::INFINITY, -1.0, 7.0] {
            let backoff = Backoff { base: Duration::MAX, max: Duration::MAX, jitter };
            assert!(backoff.delay(40, &mut rng) <= Duration::MAX);
        }
    }
}
