//! Broadcasts: kombu's fanout exchanges, which are channels here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::broker::Shared;
use super::link::Pushes;
use crate::broker::{BrokerError, Listener};
use crate::protocol::{Envelope, Message};

/// Rests before it connects again after it failed.
const REST: Duration = Duration::from_millis(500);

/// Listens on a connection of its own. What is published while it has none is not heard.
pub(super) struct RedisListener {
    store: Arc<Shared>,
    exchange: String,
    /// None after the connection was lost.
    pushes: Option<Pushes>,
    /// The last try to connect failed: the next one waits.
    failed: bool,
}

impl RedisListener {
    pub(super) async fn start(store: &Arc<Shared>, exchange: &str) -> Result<Self, BrokerError> {
        let mut listener =
            Self { store: store.clone(), exchange: exchange.to_owned(), pushes: None, failed: false };
        listener.connect().await?;
        Ok(listener)
    }

    async fn connect(&mut self) -> Result<(), BrokerError> {
        let layout = &self.store.layout;
        let pushes = self.store.link.pushes().await?;
        pushes.connection.subscribe(layout.channel(&self.exchange, "")).await?;
        if let Some(pattern) = layout.channel_pattern(&self.exchange) {
            pushes.connection.psubscribe(pattern).await?;
        }
        self.pushes = Some(pushes);
        Ok(())
    }
}

#[async_trait]
impl Listener for RedisListener {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            let Some(pushes) = &mut self.pushes else {
                if self.failed {
                    tokio::time::sleep(REST).await;
                }
                self.failed = true;
                self.connect().await?;
                self.failed = false;
                continue;
            };
            let Some(push) = pushes.receiver.recv().await else {
                self.pushes = None;
                continue;
            };
            let Some(redis::Value::BulkString(payload)) = push.data.last() else { continue };
            match Envelope::decode(payload) {
                Ok(envelope) => return Ok(envelope.message),
                Err(error) => tracing::warn!(exchange = self.exchange, "a broadcast is dropped: {error}"),
            }
        }
    }
}
