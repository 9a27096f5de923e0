//! Broadcasts: control commands and events, as Celery's pidbox and event exchanges carry them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::ShortString;
use lapin::{Channel, Consumer as Stream};
use serde_json::json;

use super::link::{Link, Live};
use super::{declare, table, wire};
use crate::backoff::Backoff;
use crate::broker::{BrokerError, Listener};
use crate::protocol::{Arguments, Exchange, Message};

const EVENTS: &str = "celeryev";
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(2), jitter: 0.5 };

/// Celery's events have a topic exchange that survives; everything else is a fanout that need not.
fn exchange(name: &str) -> Exchange {
    let events = name == EVENTS;
    Exchange {
        name: name.to_owned(),
        kind: if events { "topic" } else { "fanout" }.to_owned(),
        durable: events,
        ..Exchange::default()
    }
}

/// How long a queue lasts that nobody listens to, and a message that nobody takes from it.
fn arguments(name: &str) -> Arguments {
    let (expires, ttl) = if name == EVENTS { (60_000, 5_000) } else { (10_000, 300_000) };
    let mut arguments = Arguments::new();
    arguments.insert("x-expires".to_owned(), json!(expires));
    arguments.insert("x-message-ttl".to_owned(), json!(ttl));
    arguments
}

/// Declares the exchange, once for each connection.
pub(super) async fn declare(link: &Link, name: &str) -> Result<(), BrokerError> {
    let live = link.live().await?;
    let note = format!("exchange {name}");
    if live.noted.lock().contains(&note) {
        return Ok(());
    }
    let (_, channel) = link.channel().await?;
    declare::exchange(link, &channel, &exchange(name)).await?;
    live.noted.lock().insert(note);
    Ok(())
}

/// Receives broadcasts; after a loss it listens again, and what was sent meanwhile is not heard.
pub(super) struct AmqpListener {
    link: Arc<Link>,
    exchange: String,
    /// None after a loss.
    ear: Option<Ear>,
    attempt: u32,
}

struct Ear {
    stream: Stream,
    _channel: Channel,
    _live: Arc<Live>,
}

impl AmqpListener {
    pub(super) async fn begin(link: Arc<Link>, exchange: &str) -> Result<Self, BrokerError> {
        let ear = Some(open(&link, exchange).await?);
        Ok(Self { link, exchange: exchange.to_owned(), ear, attempt: 0 })
    }
}

async fn open(link: &Link, name: &str) -> Result<Ear, BrokerError> {
    let (live, channel) = link.channel().await?;
    declare::exchange(link, &channel, &exchange(name)).await?;
    let id = uuid::Uuid::new_v4();
    let queue = if name == EVENTS { format!("{name}.{id}") } else { format!("{id}.{name}") };
    let queue = declare::name(&link.url, &queue)?;
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.clone(), options, table::table(&arguments(name))).await;
    declared.map_err(|error| link.error(&error))?;
    let key = if name == EVENTS { "#" } else { "" };
    declare::bind(link, &channel, queue.as_str(), name, key, &Arguments::new()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let stream = channel.basic_consume(queue, ShortString::default(), options, super::link::none()).await;
    Ok(Ear { stream: stream.map_err(|error| link.error(&error))?, _channel: channel, _live: live })
}

#[async_trait]
impl Listener for AmqpListener {
    async fn next(&mut self) -> Result<Message, BrokerError> {
        loop {
            if let Some(ear) = &mut self.ear {
                if let Some(Ok(delivery)) = ear.stream.next().await {
                    self.attempt = 0;
                    return Ok(wire::read(&delivery.properties, delivery.data, false).message);
                }
                self.ear = None;
            }
            tokio::time::sleep(BACKOFF.delay(self.attempt, &mut fastrand::Rng::new())).await;
            self.attempt = self.attempt.saturating_add(1);
            match open(&self.link, &self.exchange).await {
                Ok(ear) => self.ear = Some(ear),
                Err(error) => tracing::debug!(%error, "cannot listen to {}", self.exchange),
            }
        }
    }
}
