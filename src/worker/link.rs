//! Whether a store answers: delays between tries, and one log line for each change.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::log::Log;
use super::notice::Level;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// One way to a store, such as claiming.
pub(crate) struct Link {
    what: &'static str,
    failures: u32,
    log: Arc<Log>,
}

impl Link {
    /// A way that works. `what` is what is done on it: `claim from the broker`.
    pub(crate) fn new(what: &'static str, log: Arc<Log>) -> Self {
        Self { what, failures: 0, log }
    }

    /// It failed: how long to wait before the next try.
    pub(crate) fn failed(&mut self, error: &dyn Display) -> Duration {
        if self.failures == 0 {
            self.log.line(Level::Error, "celery.worker.consumer", || {
                format!("cannot {}: {error}; trying again until it works", self.what)
            });
        }
        self.failures = self.failures.saturating_add(1);
        let longest = LONGEST_DELAY.min(FIRST_DELAY * 2u32.saturating_pow(self.failures.min(10) - 1));
        // Workers that lost the same broker must not all come back in the same moment.
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// It worked.
    pub(crate) fn worked(&mut self) {
        if self.failures > 0 {
            self.failures = 0;
            self.log.line(Level::Warning, "celery.worker.consumer", || format!("can {} again", self.what));
        }
    }

    /// It works as far as is known.
    pub(crate) fn is_up(&self) -> bool {
        self.failures == 0
    }
}
