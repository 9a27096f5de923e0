//! Publishes with a deadline; tries again what may pass.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::patience::Patience;
use super::{Client, ClientError};
use crate::broker::BrokerError;
use crate::protocol::Publication;

impl Client {
    /// Sends a batch, all of it or none. Returns when the store has it, or fails when `timeout` (by default
    /// the client's own) has passed. A broker that is away is tried again meanwhile: a batch whose answer
    /// got lost may then be there twice, never half.
    ///
    /// `batch` makes the batch for each attempt, so that the usual single attempt copies nothing twice.
    pub async fn publish(
        &self,
        batch: impl Fn() -> Vec<Publication>,
        timeout: Option<Duration>,
    ) -> Result<(), ClientError> {
        let timeout = timeout.unwrap_or(self.options.publish_timeout);
        let deadline = Instant::now() + timeout;
        let mut patience = Patience::until(deadline);
        loop {
            let attempt = async { self.broker()?.publish(batch()).await };
            let error = match timeout_at(deadline, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.too_late(timeout)),
            };
            if !error.is_transient() || !patience.pause().await {
                return Err(error.into());
            }
        }
    }

    fn too_late(&self, after: Duration) -> ClientError {
        let url = self.broker.get().map_or_else(|| "(connecting)".to_owned(), |broker| broker.display_url());
        BrokerError::Timeout { url, after, reason: "publishing".to_owned() }.into()
    }
}
