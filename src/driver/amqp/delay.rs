//! Messages for later: Celery's 28 delay levels, which any celeriac or Celery worker may have declared.
//!
//! A message waits in the queues of the levels whose bits its delay in seconds has. Queues on topic exchanges get
//! it as Celery gives it to them: behind `celery_delayed_delivery`, through the queue's exchange. Any other queue
//! is bound to `celery_delayed_delivery` itself, by its own name behind exactly 28 digits, so that no queue whose
//! name ends in the same words gets a copy.

use std::fmt::Write as _;

use lapin::Channel;
use serde_json::json;

use super::declare;
use super::failure;
use super::link::{Link, Live};
use super::table;
use crate::broker::BrokerError;
use crate::clock::UnixMillis;
use crate::protocol::{Arguments, Exchange, Queue};

const LEVELS: u32 = 28;
/// What every message leaves the levels by.
const DELIVERY: &str = "celery_delayed_delivery";
/// No delay is longer; whoever gets the message then parks it again.
const LONGEST: u64 = (1 << LEVELS) - 1;
/// Digits and dots before the routing key.
const PREFIX: usize = 2 * LEVELS as usize;

/// Where a delayed message is sent: to its first level that delays it. Celery begins at the last one; all that
/// is skipped would hand it on at once, each after a search among patterns that takes the server a tenth of a
/// millisecond.
pub(super) fn entrance(seconds: u64) -> String {
    level(seconds.checked_ilog2().unwrap_or(0))
}

fn level(number: u32) -> String {
    format!("celery_delayed_{number}")
}

/// Whole seconds from now until then, as Celery cuts them; none when nothing is left.
pub(super) fn seconds(now: UnixMillis, due_ms: i64) -> Option<u64> {
    let left = u64::try_from(due_ms.saturating_sub(now.0)).ok()? / 1000;
    (left > 0).then_some(left.min(LONGEST))
}

/// The routing key of a delayed message: the digits of its delay, then the key it is meant for.
pub(super) fn key(seconds: u64, key: &str) -> String {
    let mut out = String::with_capacity(PREFIX + key.len());
    for level in (0..LEVELS).rev() {
        let digit = seconds >> level & 1;
        let _infallible = write!(out, "{digit}.");
    }
    out.push_str(original(key).unwrap_or(key));
    out
}

/// The key that a delayed message was meant for; none if it was never delayed.
pub(super) fn original(key: &str) -> Option<&str> {
    let (digits, rest) = (key.as_bytes().get(..PREFIX)?, key.get(PREFIX..)?);
    let is_digit = |pair: &[u8]| matches!(pair, [b'0' | b'1', b'.']);
    digits.chunks(2).all(is_digit).then_some(rest)
}

/// Whether an exchange is one of the levels, or what lies behind them.
pub(super) fn is_level(exchange: &str) -> bool {
    exchange.starts_with("celery_delayed_")
}

/// How a queue gets its delayed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through its exchange, as Celery does it; the key is the message's own.
    Exchange,
    /// By its name.
    Queue,
}

/// The exchange that a message was meant for that came to `queue` through the levels with this key.
pub(super) fn meant_for<'a>(queue: &'a Queue, key: &str) -> &'a str {
    let direct = matches!(&*queue.exchange.kind, "direct" | "headers" | "");
    let by_name = key == queue.name && key != queue.routing_key;
    if direct || by_name { "" } else { &queue.exchange.name }
}

/// Declares the levels, once for each connection, and what a queue needs to get messages from them.
pub(super) async fn prepare(
    link: &Link,
    live: &Live,
    queue_type: &str,
    queue: &Queue,
    way: Way,
) -> Result<(), BrokerError> {
    {
        let mut declared = live.delays.lock().await;
        if !*declared {
            levels(link, queue_type).await?;
            *declared = true;
        }
    }
    let note = format!("{way:?} {}", queue.name);
    if live.noted.lock().contains(&note) {
        return Ok(());
    }
    let (_, channel) = link.channel().await?;
    bind(link, &channel, queue, way).await?;
    live.noted.lock().insert(note);
    Ok(())
}

async fn bind(link: &Link, channel: &Channel, queue: &Queue, way: Way) -> Result<(), BrokerError> {
    let none = Arguments::new();
    match way {
        Way::Exchange => {
            let (exchange, key) = (&queue.exchange.name, format!("#.{}", queue.routing_key));
            declare::bind_exchange(link, channel, exchange, DELIVERY, &key).await?;
            declare::bind(link, channel, &queue.name, exchange, &key, &none).await
        }
        Way::Queue => {
            let key = format!("{}{}", "*.".repeat(LEVELS as usize), queue.name);
            declare::bind(link, channel, &queue.name, DELIVERY, &key, &none).await
        }
    }
}

/// The levels in the type asked for; in the other one, when they are there as that, or when the server knows no
/// quorum queues.
async fn levels(link: &Link, queue_type: &str) -> Result<(), BrokerError> {
    let other = if queue_type == "quorum" { "classic" } else { "quorum" };
    match all(link, queue_type).await {
        Err(error) if failure::is_declared_otherwise(&error) => {
            tracing::warn!(%error, "the delay queues are not of type {queue_type}");
            all(link, other).await.map_err(|_| error)
        }
        done => done,
    }
}

async fn all(link: &Link, queue_type: &str) -> Result<(), BrokerError> {
    let (_, channel) = link.channel().await?;
    let topic = |name: String| Exchange { name, kind: "topic".to_owned(), ..Exchange::default() };
    declare::exchange(link, &channel, &topic(DELIVERY.to_owned())).await?;
    for number in 0..LEVELS {
        let name = level(number);
        declare::exchange(link, &channel, &topic(name.clone())).await?;
        let next = if number == 0 { DELIVERY.to_owned() } else { level(number - 1) };
        declare::plain(link, &channel, &name, table::table(&arguments(number, queue_type, &next))).await?;
        let stars = "*.".repeat((LEVELS - 1 - number) as usize);
        let none = Arguments::new();
        declare::bind(link, &channel, &name, &name, &format!("{stars}1.#"), &none).await?;
        declare::bind_exchange(link, &channel, &next, &name, &format!("{stars}0.#")).await?;
    }
    Ok(())
}

fn arguments(number: u32, queue_type: &str, next: &str) -> Arguments {
    let mut arguments = Arguments::new();
    arguments.insert("x-queue-type".to_owned(), queue_type.into());
    arguments.insert("x-overflow".to_owned(), "reject-publish".into());
    arguments.insert("x-message-ttl".to_owned(), json!(1000_u64 << number));
    arguments.insert("x-dead-letter-exchange".to_owned(), next.into());
    if queue_type == "quorum" {
        arguments.insert("x-dead-letter-strategy".to_owned(), "at-least-once".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_one_that_celery_writes() {
        let written = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.1.1.0.1.0.celery";
        assert_eq!(key(90, "celery"), written);
        assert_eq!(original(written), Some("celery"));
        // One that was delayed before does not carry two prefixes.
        assert_eq!(key(90, &key(5, "celery")), written);
        for other in ["celery", "", "0.1.celery", &written[2..], &"1.".repeat(27)] {
            assert_eq!(original(other), None, "{other}");
        }
        assert_eq!(original(&"1.".repeat(28)), Some(""));
    }

    #[test]
    fn a_message_enters_at_the_first_level_that_delays_it() {
        for (seconds, level) in [(1, 0), (3, 1), (3_600, 11), (4_096, 12), (LONGEST, 27)] {
            assert_eq!(entrance(seconds), format!("celery_delayed_{level}"));
        }
    }

    #[test]
    fn a_delay_is_cut_to_whole_seconds_and_less_than_one_is_none() {
        let now = UnixMillis(1_000_000);
        for (due, expected) in [
            (1_090_999, Some(90)),
            (1_001_000, Some(1)),
            (1_000_999, None),
            (999_999, None),
            (i64::MIN, None),
            (i64::MAX, Some(LONGEST)),
        ] {
            assert_eq!(seconds(now, due), expected, "{due}");
        }
    }
}
