//! Whether a store answers: delays between tries, and one log line for each change.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::log::Log;
use super::notice::Level;
use crate::backoff::Backoff;

/// Workers that lost the same broker must not all come back in the same moment.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.5 };

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
        let delay = BACKOFF.delay(self.failures, &mut fastrand::Rng::new());
        self.failures = self.failures.saturating_add(1);
        delay
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
