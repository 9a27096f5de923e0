//! How long, and how often, a call is tried again.

use std::fmt::Write as _;
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

/// How often publishing is tried again, and when (`task_publish_retry_policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first; none: until the time for the call is over.
    pub max_retries: Option<u32>,
    /// Wait before the first of these.
    pub start: Duration,
    /// How much longer the wait is before each one after it.
    pub step: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl RetryPolicy {
    /// One attempt.
    pub const NEVER: Self =
        Self { max_retries: Some(0), start: Duration::ZERO, step: Duration::ZERO, longest: Duration::ZERO };

    /// The wait after so many failures; none when that was the last attempt.
    fn delay(&self, failures: u32) -> Option<Duration> {
        if self.max_retries.is_some_and(|limit| failures > limit) {
            return None;
        }
        let wait = self.start.saturating_add(self.step.saturating_mul(failures.saturating_sub(1)));
        Some(wait.min(self.longest))
    }
}

/// What is left of a call's time, and how often it has failed without waiting.
pub(super) struct Patience {
    deadline: Instant,
    failures: u32,
    /// None: until the deadline.
    policy: Option<RetryPolicy>,
}

impl Patience {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, failures: 0, policy: None }
    }

    /// Waits before the next attempt; false when there is none, or no time left for one.
    pub(super) async fn pause(&mut self, after: &ClientError) -> bool {
        let mut rng = fastrand::Rng::new();
        let delay = if let Some(policy) = self.policy {
            self.failures += 1;
            let Some(delay) = policy.delay(self.failures) else { return false };
            delay
        } else if after.is_timeout() {
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
        self.persistently(timeout, None, attempt).await
    }

    /// The same, as often as the policy says if there is one.
    pub(super) async fn persistently<T, F>(
        &self,
        timeout: Option<Duration>,
        policy: Option<RetryPolicy>,
        attempt: impl Fn() -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let timeout = timeout.unwrap_or(self.options.publish_timeout);
        let start = Instant::now();
        let deadline = start.checked_add(timeout).unwrap_or(start + super::FOREVER);
        let mut patience = Patience { policy, ..Patience::until(deadline) };
        loop {
            let error = match timeout_at(deadline, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.no_answer(timeout)),
            };
            if !error.is_transient() || !patience.pause(&error).await {
                let error = error.lasting(timeout);
                return Err(if policy.is_some() {
                    error.tried(patience.failures, start.elapsed())
                } else {
                    error
                });
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
            Self::Keys(error) => error.transient,
            Self::NoBackend | Self::NoKeys(_) | Self::WaitedTooLong(_) => false,
        }
    }

    /// The same error, with what was done about it.
    fn tried(mut self, attempts: u32, total: Duration) -> Self {
        if attempts > 1
            && let Self::Broker(BrokerError::Unavailable { reason, .. } | BrokerError::Timeout { reason, .. })
            | Self::Backend(
                BackendError::Unavailable { reason, .. } | BackendError::Timeout { reason, .. },
            ) = &mut self
        {
            let _infallible = write!(reason, " (tried {attempts} times in {:.1}s)", total.as_secs_f32());
        }
        self
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
