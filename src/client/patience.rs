//! How long, and how often, a call is tried again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Client, ClientError};
use crate::backend::BackendError;
use crate::broker::BrokerError;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// After an attempt that has itself waited for the store.
const SHORT_DELAY: Duration = Duration::from_millis(1);

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
    pub(super) async fn pause(&mut self, after: &ClientError) -> bool {
        let delay = if after.is_timeout() {
            SHORT_DELAY
        } else {
            let delay = self.delay;
            self.delay = (delay * 2).min(LONGEST_DELAY);
            delay
        };
        let jittered = delay.mul_f64(0.5 + fastrand::f64() / 2.0);
        if Instant::now() + jittered >= self.deadline {
            return false;
        }
        tokio::time::sleep(jittered).await;
        true
    }
}

impl Client {
    /// Repeats a call until it succeeds, fails for good, or `timeout` (by default the client's own) is over.
    /// An attempt may block its thread, but only for moments: see [`Client::new`].
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
