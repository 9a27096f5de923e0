//! Dead letters: a durable queue of ours that keeps each message with why it is there.

use lapin::options::BasicGetOptions;
use serde_json::{Map, Value};

use super::link::{Link, none};
use super::publish::{Letter, Publisher};
use super::{declare, failure, table, wire};
use crate::broker::{BrokerError, DeadLetter, DeadReason};
use crate::clock::UnixMillis;
use crate::protocol::Message;

/// Where they are.
pub(super) const QUEUE: &str = "celeriac.dead";
/// Written with each, read when they are listed.
const REASON: &str = "celeriac_reason";
const DETAIL: &str = "celeriac_detail";
const FROM: &str = "celeriac_queue";
const DIED: &str = "celeriac_died";
/// Headers travel in one frame.
const LONGEST_DETAIL: usize = 2_000;
/// Looked through at the most, to find those of one queue.
const LOOK_THROUGH: usize = 10_000;

/// Declares the queue, once for each connection.
pub(super) async fn declare(link: &Link) -> Result<(), BrokerError> {
    let (live, channel) = link.channel().await?;
    if !live.noted.lock().contains(QUEUE) {
        declare::plain(link, &channel, QUEUE, none()).await?;
        live.noted.lock().insert(QUEUE.to_owned());
    }
    Ok(())
}

/// A message on its way there.
pub(super) fn letter(
    publisher: &Publisher,
    queue: &str,
    message: &Message,
    reason: DeadReason,
    detail: &str,
    crashes: u32,
) -> Result<Letter, BrokerError> {
    let detail: String = detail.chars().take(LONGEST_DETAIL).collect();
    let mut more = vec![
        (REASON, reason.as_str().into()),
        (DETAIL, detail.into()),
        (FROM, queue.into()),
        (DIED, publisher.clock.now().0.into()),
    ];
    if crashes > 0 {
        more.push((wire::CRASHES, crashes.into()));
    }
    let mut message = wire::with(message, &more);
    // It is kept until someone looks at it.
    message.properties.expiration_ms = None;
    publisher.to_queue(QUEUE, &message, None)
}

/// Looks at them without taking any. They come back in their order when the channel is closed.
pub(super) async fn list(
    link: &Link,
    queue: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>, BrokerError> {
    declare(link).await?;
    let (_, channel) = link.channel().await?;
    let mut letters = Vec::new();
    for _ in 0..LOOK_THROUGH {
        if letters.len() >= limit {
            break;
        }
        let got = channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|error| link.error(&error))? else { break };
        let received = wire::read(&got.delivery.properties, got.delivery.data, false);
        let letter = read(got.delivery.delivery_tag, received);
        if queue.is_none_or(|queue| letter.queue == queue) {
            letters.push(letter);
        }
    }
    let closed = channel.close(200, "looked at".into()).await;
    closed.map_err(|error| failure::classify(&link.url, &error))?;
    Ok(letters)
}

fn read(id: u64, received: wire::Received) -> DeadLetter {
    let mut message = received.message;
    let mut headers: Map<String, Value> =
        table::from_text(&message.headers).map(|table| table::json_object(&table)).unwrap_or_default();
    let mut text = |name: &str| match headers.remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (reason, detail, queue, died) = (text(REASON), text(DETAIL), text(FROM), text(DIED));
    headers.remove(wire::CRASHES);
    message.headers = table::to_text(&table::table(&headers)).into();
    DeadLetter {
        id,
        queue,
        reason,
        detail,
        crashes: received.crashes,
        died: UnixMillis(died.parse().unwrap_or_default()),
        message,
    }
}
