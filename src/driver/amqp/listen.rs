//! Broadcasts: control commands and events, as Celery's pidbox and event exchanges carry them.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::ShortString;
use lapin::{Channel, Consumer as Stream};
use serde_json::json;

use super::link::{BACKOFF, Link, Live};
use super::{declare, table, wire};
use crate::backoff::Attempts;
use crate::broker::{BrokerError, Listener};
use crate::protocol::{Arguments, Exchange, Message};

const EVENTS: &str = "celeryev";

/// Where a listener hears: an exchange, and what its own queue on it is like.
struct Place {
    exchange: Exchange,
    /// None is a new name for each connection.
    queue: Option<String>,
    keys: Vec<String>,
    arguments: Arguments,
}

impl Place {
    /// Broadcasts.
    fn all(name: &str) -> Self {
        let events = name == EVENTS;
        let (expires, ttl) = if events { (60_000, 5_000) } else { (10_000, 300_000) };
        let key = if events { "#" } else { "" };
        Self {
            exchange: broadcasts(name),
            queue: None,
            keys: vec![key.to_owned()],
            arguments: arguments(expires, ttl),
        }
    }

    /// Replies, in a queue that kombu would declare alike.
    fn private(exchange: &str, key: &str) -> Self {
        Self {
            exchange: replies(exchange),
            queue: Some(format!("{key}.{exchange}")),
            keys: vec![key.to_owned()],
            arguments: arguments(10_000, 300_000),
        }
    }

    /// What goes to a topic.
    fn topic(exchange: &str, patterns: &[String]) -> Self {
        Self {
            exchange: Exchange::topic(exchange),
            queue: None,
            keys: patterns.to_vec(),
            arguments: arguments(10_000, 300_000),
        }
    }
}

/// Celery's events have a topic exchange that survives; everything else is a fanout that need not.
pub(super) fn broadcasts(name: &str) -> Exchange {
    let events = name == EVENTS;
    Exchange {
        name: name.to_owned(),
        kind: if events { "topic" } else { "fanout" }.to_owned(),
        durable: events,
        ..Exchange::default()
    }
}

/// The exchange of inboxes.
pub(super) fn replies(name: &str) -> Exchange {
    Exchange { name: name.to_owned(), durable: false, ..Exchange::default() }
}

/// How long a queue lasts that nobody listens to, and a message that nobody takes from it, in milliseconds.
fn arguments(expires: u64, ttl: u64) -> Arguments {
    let mut arguments = Arguments::new();
    arguments.insert("x-expires".to_owned(), json!(expires));
    arguments.insert("x-message-ttl".to_owned(), json!(ttl));
    arguments
}

/// Declares an exchange, once for each connection.
pub(super) async fn declare(link: &Link, exchange: &Exchange) -> Result<(), BrokerError> {
    let live = link.live().await?;
    let note = format!("exchange {}", exchange.name);
    if live.noted.lock().contains(&note) {
        return Ok(());
    }
    let (_, channel) = link.channel().await?;
    declare::exchange(link, &channel, exchange).await?;
    live.noted.lock().insert(note);
    Ok(())
}

/// Receives broadcasts or replies; after a loss it listens again, and what was sent meanwhile is not heard.
pub(super) struct AmqpListener {
    link: Arc<Link>,
    place: Place,
    /// None after a loss.
    ear: Option<Ear>,
    attempts: Attempts,
}

struct Ear {
    stream: Stream,
    channel: Channel,
    _live: Arc<Live>,
}

impl AmqpListener {
    /// Hears what is broadcast.
    pub(super) async fn begin(link: Arc<Link>, exchange: &str) -> Result<Self, BrokerError> {
        Self::at(link, Place::all(exchange)).await
    }

    /// Hears what is sent to it alone.
    pub(super) async fn inbox(link: Arc<Link>, exchange: &str, key: &str) -> Result<Self, BrokerError> {
        Self::at(link, Place::private(exchange, key)).await
    }

    /// Hears what is sent to a topic with a fitting key.
    pub(super) async fn topic(
        link: Arc<Link>,
        exchange: &str,
        patterns: &[String],
    ) -> Result<Self, BrokerError> {
        Self::at(link, Place::topic(exchange, patterns)).await
    }

    async fn at(link: Arc<Link>, place: Place) -> Result<Self, BrokerError> {
        let ear = Some(open(&link, &place).await?);
        Ok(Self { link, place, ear, attempts: Attempts::begun(BACKOFF) })
    }
}

async fn open(link: &Link, place: &Place) -> Result<Ear, BrokerError> {
    let name = &place.exchange.name;
    let (live, channel) = link.channel().await?;
    declare::exchange(link, &channel, &place.exchange).await?;
    let id = uuid::Uuid::new_v4();
    let queue = match &place.queue {
        Some(queue) => queue.clone(),
        None if name == EVENTS => format!("{name}.{id}"),
        None => format!("{id}.{name}"),
    };
    let queue = declare::name(&link.url, &queue)?;
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.clone(), options, table::table(&place.arguments)).await;
    declared.map_err(|error| link.error(&error))?;
    for key in &place.keys {
        declare::bind(link, &channel, queue.as_str(), name, key, &Arguments::new()).await?;
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let stream = channel.basic_consume(queue, ShortString::default(), options, super::link::none()).await;
    Ok(Ear { stream: stream.map_err(|error| link.error(&error))?, channel, _live: live })
}

#[async_trait]
impl Listener for AmqpListener {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            if let Some(ear) = &mut self.ear {
                if let Some(Ok(delivery)) = ear.stream.next().await {
                    return Ok(wire::read(&delivery.properties, delivery.data, false).message);
                }
                self.ear = None;
            }
            tokio::time::sleep(self.attempts.ended()).await;
            match open(&self.link, &self.place).await {
                Ok(ear) => {
                    self.attempts.began();
                    self.ear = Some(ear);
                }
                Err(error) => tracing::debug!(%error, "cannot listen to {}", self.place.exchange.name),
            }
        }
    }

    /// The queue goes with its only consumer, and that with its channel.
    async fn close(&mut self) {
        if let Some(ear) = self.ear.take() {
            let _closed_or_late =
                tokio::time::timeout(BACKOFF.max, ear.channel.close(200, "heard".into())).await;
        }
    }
}
