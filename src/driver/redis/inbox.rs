//! Inboxes: a list of their own, bound to a direct exchange as kombu binds the reply queue of whoever asks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{cmd, pipe};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::broker::Shared;
use super::link::Link;
use super::scripts::BIND_EXPIRING;
use crate::broker::{BrokerError, Listener, REPLY_KEPT};
use crate::protocol::{Envelope, Message};

/// How long the server holds a call that waits for a reply.
const BLOCKED: Duration = Duration::from_secs(1);
/// Rests before it asks again after it failed.
const REST: Duration = Duration::from_millis(500);
/// How long the removal of an inbox may take. Without it, kombu and our sweep forget the binding when it is due.
const CLEANUP: Duration = Duration::from_secs(2);
/// kombu keeps the binding of a queue that expires for this long.
const BINDING_MS: u64 = 3_600_000;
/// Replies that nobody took yet; more wait in the list.
const WAITING: usize = 64;

/// A list that one process reads.
pub(super) struct RedisInbox {
    /// None when closed; its end is what tells the reading task to clean up.
    replies: Option<mpsc::Receiver<Message>>,
    /// Reads until nobody wants it any more, then removes the list and its binding.
    reading: Option<JoinHandle<()>>,
}

/// What an inbox is in the store.
struct Place {
    exchange: String,
    member: String,
    lists: Vec<String>,
}

impl RedisInbox {
    pub(super) async fn open(store: &Arc<Shared>, exchange: &str, key: &str) -> Result<Self, BrokerError> {
        let queue = format!("{key}.{exchange}");
        let place = Place {
            exchange: exchange.to_owned(),
            member: store.layout.binding_member(key, "", &queue),
            lists: store.layout.lists(&queue),
        };
        place.bind(store).await?;
        let (sender, replies) = mpsc::channel(WAITING);
        let store = store.clone();
        let reading = tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = place.read(&store, &sender) => {}
            }
            let _done_or_not = timeout(CLEANUP, place.remove(&store)).await;
        });
        Ok(Self { replies: Some(replies), reading: Some(reading) })
    }
}

impl Place {
    async fn bind(&self, store: &Shared) -> Result<(), BrokerError> {
        let keys = [store.layout.binding(&self.exchange), store.layout.binding_deadlines()];
        let holds = BINDING_MS.to_string();
        let bound = store.link.script(&BIND_EXPIRING, &keys, &[&self.member, &self.exchange, &holds]).await;
        bound.map(drop).map_err(|error| store.failed(error))
    }

    /// Takes replies on a connection of its own, which a waiting call holds. Ends with the receiver.
    async fn read(&self, store: &Shared, replies: &mpsc::Sender<Message>) {
        let address = store.address.clone();
        let (connect, answer) = (address.connect_timeout(), address.answer_timeout() + BLOCKED);
        let link = Link::new(address, connect, answer);
        let mut command = cmd("BRPOP");
        command.arg(&self.lists).arg(BLOCKED.as_secs());
        loop {
            match link.query::<Option<(Vec<u8>, Vec<u8>)>>(&command).await {
                Ok(None) => {}
                Ok(Some((_, element))) => match Envelope::decode(&element) {
                    Ok(envelope) => {
                        if replies.send(envelope.message).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!("a reply is dropped: {error}"),
                },
                Err(error) => {
                    tracing::debug!(%error, "cannot read replies");
                    tokio::time::sleep(REST).await;
                    // A server that restarted may have lost the binding.
                    let _bound_or_next_time = self.bind(store).await;
                }
            }
        }
    }

    async fn remove(&self, store: &Shared) {
        let mut pipeline = pipe();
        pipeline.cmd("SREM").arg(store.layout.binding(&self.exchange)).arg(&self.member).ignore();
        pipeline.cmd("SREM").arg(store.layout.permanent_binding(&self.exchange)).arg(&self.member).ignore();
        pipeline.cmd("DEL").arg(&self.lists).ignore();
        if let Err(error) = store.link.pipeline::<()>(&pipeline).await {
            tracing::debug!(%error, "an inbox stays until it expires");
        }
    }
}

impl Shared {
    /// Puts a message into the inboxes that are bound with that key.
    pub(super) async fn reply(
        &self,
        exchange: &str,
        key: &str,
        message: &Message,
    ) -> Result<(), BrokerError> {
        let mut pipeline = pipe();
        pipeline.atomic();
        for list in self.lists_of(exchange, key, 0).await? {
            let tag = uuid::Uuid::new_v4().to_string();
            pipeline.cmd("LPUSH").arg(&list).arg(Envelope::encode(message, exchange, key, &tag)).ignore();
            // Whoever asked may be gone without a word.
            pipeline.cmd("PEXPIRE").arg(&list).arg(REPLY_KEPT.as_millis() as u64).ignore();
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        self.link.pipeline::<()>(&pipeline).await.map_err(|error| self.failed(error))
    }
}

#[async_trait]
impl Listener for RedisInbox {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        match &mut self.replies {
            None => Err(BrokerError::Closed),
            Some(replies) => replies.recv().await.ok_or(BrokerError::Closed),
        }
    }

    async fn close(&mut self) {
        self.replies = None;
        if let Some(reading) = self.reading.take() {
            let _ended_or_late = timeout(2 * CLEANUP, reading).await;
        }
    }
}
