//! Dead letters: a durable queue of ours that keeps each message with why it is there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use serde_json::{Map, Value};

use super::link::{Link, none};
use super::publish::{Letter, Publisher};
use super::{declare, failure, table, wire};
use crate::broker::{
    BrokerError, DeadFilter, DeadLetter, DeadLimits, DeadReason, DeadStats, Resolution, apart,
};
use crate::clock::UnixMillis;
use crate::protocol::Message;

/// Where they are.
pub(super) const QUEUE: &str = "celeriac.dead";
/// Written with each, read when they are listed.
const REASON: &str = "celeriac_reason";
const DETAIL: &str = "celeriac_detail";
const FROM: &str = "celeriac_queue";
const DIED: &str = "celeriac_died";
const TRACEBACK: &str = "celeriac_traceback";
/// By which a letter is known: tags of deliveries are another channel's.
const NUMBER: &str = "celeriac_letter";
/// Numbers of letters stay below, where any JSON reader keeps them exact.
const LARGEST: u64 = 1 << 53;
/// Headers travel in one frame.
const LONGEST_DETAIL: usize = 2_000;
/// Looked through at the most, to find those of one queue.
const LOOK_THROUGH: usize = 10_000;
/// Letters that are removed in one go.
const TRIMMED: u64 = 1_000;

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
    let (detail, traceback) = apart(detail);
    let detail: String = detail.chars().take(LONGEST_DETAIL).collect();
    let mut more = vec![
        (NUMBER, fastrand::u64(..LARGEST).into()),
        (REASON, reason.as_str().into()),
        (DETAIL, detail.into()),
        (FROM, queue.into()),
        (DIED, publisher.clock.now().0.into()),
    ];
    if !traceback.is_empty() {
        more.push((TRACEBACK, traceback.into()));
    }
    if crashes > 0 {
        more.push((wire::CRASHES, crashes.into()));
    }
    let mut message = wire::with(message, &more);
    // It is kept until someone looks at it.
    message.properties.expiration_ms = None;
    publisher.to_queue(QUEUE, &message, None)
}

/// Looks at them without taking any. They come back in their order when the channel is closed.
pub(super) async fn find(
    link: &Link,
    filter: &DeadFilter,
    limit: usize,
) -> Result<Vec<DeadLetter>, BrokerError> {
    let look = Look::begin(link).await?;
    let mut letters = Vec::new();
    let found = async {
        for _ in 0..LOOK_THROUGH {
            if letters.len() >= limit {
                break;
            }
            let Some((_, letter)) = look.next().await? else { break };
            if filter.fits(&letter) {
                letters.push(letter);
            }
        }
        Ok(())
    };
    let found = found.await;
    look.end(found).await?;
    Ok(letters)
}

/// What the server counts, without those that somebody looks at just now; and when the first of them died.
pub(super) async fn stats(link: &Link) -> Result<DeadStats, BrokerError> {
    let look = Look::begin(link).await?;
    let counted = async {
        let count = look.count().await?;
        let oldest = look.next().await?.map(|(_, letter)| letter.died);
        Ok(DeadStats { count, oldest })
    };
    let counted = counted.await;
    look.end(counted).await
}

/// Takes letters out. What is to be in the place of one is published, and confirmed, before it is acknowledged: a crash
/// in between leaves both.
pub(super) async fn resolve(
    publisher: &Publisher,
    resolutions: Vec<Resolution>,
) -> Result<Vec<u64>, BrokerError> {
    let mut wanted: HashMap<u64, _> = resolutions.into_iter().map(|one| (one.id, one.publication)).collect();
    let look = Look::begin(&publisher.link).await?;
    let mut resolved = Vec::with_capacity(wanted.len());
    let done = async {
        for _ in 0..LOOK_THROUGH {
            if wanted.is_empty() {
                break;
            }
            let Some((tag, letter)) = look.next().await? else { break };
            let Some(publication) = wanted.remove(&letter.id) else { continue };
            publisher.publish(publication.as_slice()).await?;
            look.take(tag).await?;
            resolved.push(letter.id);
        }
        Ok(())
    };
    let done = done.await;
    look.end(done).await?;
    Ok(resolved)
}

/// Removes the oldest beyond the limits; returns how many.
pub(super) async fn trim(publisher: &Publisher, limits: &DeadLimits) -> Result<u64, BrokerError> {
    let look = Look::begin(&publisher.link).await?;
    let mut removed = 0;
    let done = async {
        let mut over = match limits.max_count {
            Some(most) => look.count().await?.saturating_sub(most),
            None => 0,
        };
        let too_old = limits.too_old(publisher.clock.now());
        while removed < TRIMMED {
            let Some((tag, letter)) = look.next().await? else { break };
            if over == 0 && too_old.is_none_or(|too_old| letter.died >= too_old) {
                break;
            }
            look.take(tag).await?;
            over = over.saturating_sub(1);
            removed += 1;
        }
        Ok(())
    };
    let done = done.await;
    look.end(done).await?;
    Ok(removed)
}

/// A channel on which letters are looked at: each is nobody else's until it is closed.
struct Look<'a> {
    link: &'a Link,
    channel: Channel,
}

impl<'a> Look<'a> {
    async fn begin(link: &'a Link) -> Result<Self, BrokerError> {
        declare(link).await?;
        let (_, channel) = link.channel().await?;
        Ok(Self { link, channel })
    }

    async fn count(&self) -> Result<u64, BrokerError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.channel.queue_declare(QUEUE.into(), options, none()).await;
        Ok(found.map_err(|error| self.link.error(&error))?.message_count().into())
    }

    async fn next(&self) -> Result<Option<(u64, DeadLetter)>, BrokerError> {
        let got = self.channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await;
        let Some(got) = got.map_err(|error| self.link.error(&error))? else { return Ok(None) };
        let received = wire::read(&got.delivery.properties, got.delivery.data, false);
        Ok(Some((got.delivery.delivery_tag, read(received))))
    }

    async fn take(&self, tag: u64) -> Result<(), BrokerError> {
        let taken = self.channel.basic_ack(tag, BasicAckOptions::default()).await;
        taken.map_err(|error| self.link.error(&error))
    }

    /// Gives back what was only looked at, whatever came of it.
    async fn end<T>(self, done: Result<T, BrokerError>) -> Result<T, BrokerError> {
        let closed = self.channel.close(200, "looked at".into()).await;
        let done = done?;
        closed.map_err(|error| failure::classify(&self.link.url, &error))?;
        Ok(done)
    }
}

/// A number for a letter that was put there without one.
fn number(message: &Message, died: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&message.headers, &message.body, died).hash(&mut hasher);
    hasher.finish() % LARGEST
}

fn read(received: wire::Received) -> DeadLetter {
    let mut message = received.message;
    let mut headers: Map<String, Value> =
        table::from_text(&message.headers).map(|table| table::json_object(&table)).unwrap_or_default();
    let mut text = |name: &str| match headers.remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (reason, detail, queue, died) = (text(REASON), text(DETAIL), text(FROM), text(DIED));
    let (traceback, id) = (text(TRACEBACK), text(NUMBER));
    headers.remove(wire::CRASHES);
    let id = id.parse().unwrap_or_else(|_| number(&message, &died));
    message.headers = table::to_text(&table::table(&headers)).into();
    DeadLetter {
        id,
        queue,
        reason,
        detail,
        traceback,
        crashes: received.crashes,
        died: UnixMillis(died.parse().unwrap_or_default()),
        message,
    }
}
