//! What goes to the broker.

use std::time::Duration;

use super::{Client, ClientError};
use crate::broker::{DeadLetter, QueueStatus};
use crate::protocol::{Message, Publication};

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
        self.patiently(timeout, || async { Ok(self.broker()?.publish(batch()).await?) }).await
    }

    /// Removes what is ready or parked in a queue; returns how many.
    pub async fn purge(&self, queue: &str) -> Result<u64, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.purge(queue).await?) }).await
    }

    /// Every queue that the store knows.
    pub async fn queues(&self) -> Result<Vec<QueueStatus>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.queues().await?) }).await
    }

    /// Dead letters, oldest first.
    pub async fn dead_letters(
        &self,
        queue: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.dead_letters(queue, limit).await?) }).await
    }

    /// Sends to whoever listens to `exchange` now.
    pub async fn broadcast(
        &self,
        exchange: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), ClientError> {
        let send = || async { Ok(self.broker()?.broadcast(exchange, message.clone(), ttl).await?) };
        self.patiently(None, send).await
    }
}
