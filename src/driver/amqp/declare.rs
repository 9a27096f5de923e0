//! Declarations, exactly as Celery makes them.

use std::sync::Arc;

use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::failure;
use super::link::{Link, Live, none};
use super::table;
use crate::broker::BrokerError;
use crate::protocol::{Arguments, Exchange, Queue};

/// Names that one connection remembers; past it, it forgets them all and declares again.
const REMEMBERED: usize = 10_000;

/// A name as AMQP takes it.
pub(super) fn name(url: &str, text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text)
        .map_err(|_| failure::refused(url, format!("the name {text:.40}... has over 255 bytes")))
}

/// Declares a queue with its exchange and bindings, if this connection has not done so yet. Celery never declares
/// the queue of a broadcast for those who send to it, and leaves out what says `no_declare`.
pub(super) async fn for_publishing(link: &Link, live: &Live, queue: &Arc<Queue>) -> Result<(), BrokerError> {
    if queue.is_exchange() {
        return super::listen::declare(link, &queue.exchange).await;
    }
    let broadcast = queue.exchange.kind == "fanout" && queue.auto_delete;
    if broadcast {
        return Ok(());
    }
    let known = live.declared.lock().get(&queue.name).cloned();
    if known.is_some_and(|known| Arc::ptr_eq(&known, queue) || known == *queue) {
        return Ok(());
    }
    // On a channel of its own, which a refusal ends.
    let (live, channel) = link.channel().await?;
    self::queue(link, &channel, queue).await?;
    remember(&live, queue);
    Ok(())
}

/// A queue that was declared on this connection.
pub(super) fn remember(live: &Live, queue: &Arc<Queue>) {
    let mut declared = live.declared.lock();
    if declared.len() >= REMEMBERED {
        declared.clear();
    }
    declared.insert(queue.name.clone(), queue.clone());
}

/// Declares exchange, queue, and bindings.
pub(super) async fn queue(link: &Link, channel: &Channel, queue: &Queue) -> Result<(), BrokerError> {
    exchange(link, channel, &queue.exchange).await?;
    if !queue.no_declare {
        let options = QueueDeclareOptions {
            passive: false,
            durable: queue.durable,
            exclusive: queue.exclusive,
            auto_delete: queue.auto_delete,
            nowait: false,
        };
        let declared = channel
            .queue_declare(name(&link.url, &queue.name)?, options, table::table(&queue.arguments))
            .await;
        declared.map_err(|error| link.error(&error))?;
    }
    for (place, binding) in queue.all_bindings().enumerate() {
        if place > 0 || queue.exchange.name != binding.exchange.name {
            exchange(link, channel, &binding.exchange).await?;
        }
        bind(link, channel, &queue.name, &binding.exchange.name, &binding.routing_key, &binding.arguments)
            .await?;
    }
    Ok(())
}

/// Declares an exchange, but for the default one.
pub(super) async fn exchange(link: &Link, channel: &Channel, exchange: &Exchange) -> Result<(), BrokerError> {
    if exchange.name.is_empty() || exchange.no_declare {
        return Ok(());
    }
    let options = ExchangeDeclareOptions {
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    let declared = channel
        .exchange_declare(
            name(&link.url, &exchange.name)?,
            kind(&exchange.kind),
            options,
            table::table(&exchange.arguments),
        )
        .await;
    declared.map_err(|error| link.error(&error))
}

fn kind(name: &str) -> ExchangeKind {
    match name {
        "direct" | "" => ExchangeKind::Direct,
        "topic" => ExchangeKind::Topic,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        other => ExchangeKind::Custom(other.to_owned()),
    }
}

/// Binds a queue.
pub(super) async fn bind(
    link: &Link,
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
    arguments: &Arguments,
) -> Result<(), BrokerError> {
    let (queue, exchange) = (name(&link.url, queue)?, name(&link.url, exchange)?);
    let (key, arguments) = (name(&link.url, key)?, table::table(arguments));
    let bound = channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), arguments).await;
    bound.map_err(|error| link.error(&error))
}

/// Takes a binding away; one that is not there is none.
pub(super) async fn unbind(
    link: &Link,
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
) -> Result<(), BrokerError> {
    let (queue, exchange) = (name(&link.url, queue)?, name(&link.url, exchange)?);
    let unbound = channel.queue_unbind(queue, exchange, name(&link.url, key)?, FieldTable::default()).await;
    unbound.map_err(|error| link.error(&error))
}

/// Binds an exchange behind another.
pub(super) async fn bind_exchange(
    link: &Link,
    channel: &Channel,
    to: &str,
    from: &str,
    key: &str,
) -> Result<(), BrokerError> {
    let (to, from, key) = (name(&link.url, to)?, name(&link.url, from)?, name(&link.url, key)?);
    let bound = channel.exchange_bind(to, from, key, ExchangeBindOptions::default(), none()).await;
    bound.map_err(|error| link.error(&error))
}

/// A durable queue on the default exchange.
pub(super) async fn plain(
    link: &Link,
    channel: &Channel,
    queue: &str,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name(&link.url, queue)?, options, arguments).await;
    declared.map(|_| ()).map_err(|error| link.error(&error))
}
