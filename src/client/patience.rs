//! How long, and how often, a call is tried again.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Delays that double, with jitter so that clients of one broker do not come back together.
pub(super) struct Patience {
    deadline: Instant,
    delay: Duration,
}

impl Patience {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, delay: FIRST_DELAY }
    }

    /// Waits before the next attempt; false when there is no time left for one.
    pub(super) async fn pause(&mut self) -> bool {
        let jittered = self.delay.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        if Instant::now() + jittered >= self.deadline {
            return false;
        }
        tokio::time::sleep(jittered).await;
        true
    }
}
