//! What goes to the broker.

use std::time::Duration;

use super::patience::RetryPolicy;
use super::{Client, ClientError};
use crate::broker::{
    Consumer, ConsumerOptions, DeadFilter, DeadLetter, DeadLimits, DeadStats, Listener, QueueStatus,
    Resolution,
};
use crate::protocol::{Message, Publication};
use crate::report::StoreReport;

/// How a batch is sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// How long it may take, with all attempts; none is the client's own limit.
    pub timeout: Option<Duration>,
    /// Further attempts when the broker cannot be reached. A store in a file or in memory has no use for it: its
    /// file is locked for moments, and it is tried until the time is over.
    pub retry: RetryPolicy,
    /// Results are wanted: whatever they come back through is made first.
    pub results: bool,
}

impl Default for Sending {
    fn default() -> Self {
        Self { timeout: None, retry: RetryPolicy::NEVER, results: false }
    }
}

impl Client {
    /// Sends a batch, all of it or none. Returns when the store has it, or fails when the time for it has passed.
    /// A batch that was sent again because an answer got lost may be there twice, never half.
    ///
    /// `batch` makes the batch for each attempt, so that the usual single attempt copies nothing twice.
    pub async fn publish(
        &self,
        batch: impl Fn() -> Vec<Publication>,
        how: Sending,
    ) -> Result<(), ClientError> {
        let policy = if self.embedded { None } else { Some(how.retry) };
        let prepare = how.results && self.replies;
        let send = || async {
            if prepare {
                self.backend()?.prepare().await?;
            }
            Ok(self.broker()?.publish(batch()).await?)
        };
        self.persistently(how.timeout, policy, send).await
    }

    /// Removes what is ready or parked in a queue; returns how many.
    pub async fn purge(&self, queue: &str) -> Result<u64, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.purge(queue).await?) }).await
    }

    /// Moves what the driver has parked for a queue back into it; returns how many.
    pub async fn unpark(&self, queue: &str) -> Result<u64, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.unpark(queue).await?) }).await
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

    /// Dead letters that are meant by a filter, oldest first.
    pub async fn find_dead(&self, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.find_dead(filter, limit).await?) }).await
    }

    /// How many dead letters there are, and since when.
    pub async fn dead_stats(&self) -> Result<DeadStats, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.dead_stats().await?) }).await
    }

    /// Publishes dead letters again, or drops them; tells the numbers of those that were there. Done once: an answer that
    /// got lost may hide that it took effect, and a repeat then finds nothing left.
    pub async fn resolve_dead(&self, resolutions: &[Resolution]) -> Result<Vec<u64>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.resolve_dead(resolutions.to_vec()).await?) }).await
    }

    /// Removes dead letters beyond the limits, up to about a thousand; returns how many.
    pub async fn trim_dead(&self, limits: &DeadLimits) -> Result<u64, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.trim_dead(limits).await?) }).await
    }

    /// Which of these queues are paused.
    pub async fn paused(&self, queues: &[String]) -> Result<Vec<String>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.paused(queues).await?) }).await
    }

    /// Notes that a queue is paused, or not any more. Workers that run are told by a command.
    pub async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.set_paused(queue, paused).await?) }).await
    }

    /// What the broker says of itself, and what an operator should know of it.
    pub async fn examine_broker(&self) -> Result<(StoreReport, Vec<String>), ClientError> {
        let ask = || async {
            let broker = self.broker()?;
            Ok((broker.examine().await?, broker.advice().await?))
        };
        self.patiently(None, ask).await
    }

    /// Starts to take messages by hand.
    pub async fn consume(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.consume(options.clone()).await?) }).await
    }

    /// Opens a mailbox for replies.
    pub async fn inbox(&self, exchange: &str, key: &str) -> Result<Box<dyn Listener>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.inbox(exchange, key).await?) }).await
    }

    /// Sends to whoever listens to `exchange` now ([`crate::broker::Broker::broadcast`]).
    pub async fn broadcast(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
        ttl: Duration,
    ) -> Result<(), ClientError> {
        let send =
            || async { Ok(self.broker()?.broadcast(exchange, routing_key, message.clone(), ttl).await?) };
        self.patiently(None, send).await
    }

    /// Hears what is broadcast on `exchange` from now on.
    pub async fn listen(&self, exchange: &str) -> Result<Box<dyn Listener>, ClientError> {
        self.patiently(None, || async { Ok(self.broker()?.listen(exchange).await?) }).await
    }
}
