//! How long, and how often, a call is tried again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Client, ClientError};
use crate::backend::BackendError;
use crate::backoff::Backoff;
use crate::broker::BrokerError;

/// With jitter, so that clients of one broker do not come back together.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(20), max: Duration::from_secs(1), jitter: 0.5 };
/// After an attempt that has itself waited for the store.
const SHORT: Backoff = Backoff { max: Duration::from_millis(1), ..BACKOFF };

/// What is left of a call's time, and how often it has failed without waiting.
pub(super) struct Patience {
    deadline: Instant,
    failures: u32,
}

impl Patience {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, failures: 0 }
    }

    /// Waits before the next attempt; false when there is no time left for one.
    pub(super) async fn pause(&mut self, after: &ClientError) -> bool {
        let mut rng = fastrand::Rng::new();
        let delay = if after.is_timeout() {
            SHORT.delay(0, &mut rng)
        } else {
            self.failures += 1;
            BACKOFF.delay(self.failures - 1, &mut rng)
        };
        if Instant::now() + delay >= self.deadline {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}

impl Client {
    /// Repeats a call until it succeeds, fails for good, or `timeout` (by default the client's own) is over.
    /// An attempt may block its thread, but only for moments: see `driver/connect.rs`.
    pub(super) async fn patiently<T, F>(
        &self,
        timeout: Option<Duration>,
        attempt: impl Fn() -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let timeout = timeout.unwrap_or(self.options.publish_timeout);
        let start = Instant::now();
        let deadline = start.checked_add(timeout).unwrap_or(start + super::FOREVER);
        let mut patience = Patience::until(deadline);
        loop {
            let error = match timeout_at(deadline, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.no_answer(timeout)),
            };
            if !error.is_transient() || !patience.pause(&error).await {
                return Err(error.lasting(timeout));
            }
        }
    }

    fn no_answer(&self, after: Duration) -> ClientError {
        let url = self.broker.get().map_or_else(|| "(connecting)".to_owned(), |broker| broker.display_url());
        BrokerError::Timeout { url, after, reason: "no answer".to_owned() }.into()
    }
}

impl ClientError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Broker(error) => error.is_transient(),
            Self::Backend(error) => error.is_transient(),
            Self::NoBackend | Self::WaitedTooLong(_) => false,
        }
    }

    fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Broker(BrokerError::Timeout { .. }) | Self::Backend(BackendError::Timeout { .. })
        )
    }

    /// The same error after all attempts, which together took this long.
    fn lasting(mut self, total: Duration) -> Self {
        if let Self::Broker(BrokerError::Timeout { after, .. })
        | Self::Backend(BackendError::Timeout { after, .. }) = &mut self
        {
            *after = total;
        }
        self
    }
}
