//! Giving back what dead consumers held: ours by their leases and processes, kombu's by its visibility timeout.

use std::collections::HashSet;
use std::sync::LazyLock;

use parking_lot::Mutex;
use redis::{FromRedisValue, Value, cmd};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::broker::Shared;
use super::inspect::queue_of;
use super::keys::LOST;
use super::scripts::{RECOVER, RESTORE};
use crate::broker::BrokerError;
use crate::driver::process::Process;
use crate::protocol::Envelope;

/// Overdue claims of kombu that are put back by one call.
const OVERDUE: usize = 200;

/// Consumers of this process that were dropped without a goodbye. Written by their drop, read by whoever looks for
/// dead consumers; a token leaves when it was recovered.
static ABANDONED: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Says that a consumer of this process is dead, although the process lives.
pub(super) fn abandon(token: &str) {
    ABANDONED.lock().insert(token.to_owned());
}

/// Who holds a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    #[serde(default)]
    pub(super) node: String,
    #[serde(flatten)]
    pub(super) process: Process,
}

/// A token and who holds it.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    pub(super) token: String,
    pub(super) holder: Holder,
}

impl Registered {
    /// Whether it is seen to be dead. Of a process of another host only the lease tells.
    pub(super) fn is_dead(&self) -> bool {
        ABANDONED.lock().contains(&self.token) || self.holder.process.is_gone()
    }

    /// Reads what `HGETALL` gave within a script: tokens and processes in turns.
    pub(super) fn read(pairs: Value) -> Vec<Self> {
        let Ok(texts) = Vec::<String>::from_redis_value(pairs) else { return Vec::new() };
        let mut found = Vec::new();
        for pair in texts.chunks_exact(2) {
            let holder = pair[1].split_once(' ').map(|(_, holder)| serde_json::from_str(holder));
            if let Some(Ok(holder)) = holder {
                found.push(Self { token: pair[0].clone(), holder });
            }
        }
        found
    }
}

/// How a consumer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its lease ended; the script looks again.
    Expired,
    /// Its process is gone.
    Gone,
    /// It said goodbye.
    Closed,
}

impl Shared {
    /// Gives back what a consumer held, in order; how many messages that were. None: someone else was quicker.
    pub(super) async fn recover(
        &self,
        token: &str,
        end: End,
        max_crashes: u32,
    ) -> Result<Option<usize>, BrokerError> {
        let how = match end {
            End::Expired => "expired",
            End::Gone => "gone",
            End::Closed => "close",
        };
        let args = [
            token.to_owned(),
            how.to_owned(),
            self.now().0.to_string(),
            max_crashes.to_string(),
            self.layout.prefix.clone(),
            self.layout.separator.clone(),
        ];
        let answer = self.link.script(&RECOVER, &self.layout.shared, &args).await;
        let answer = answer.map_err(|error| self.failed(error))?;
        ABANDONED.lock().remove(token);
        Ok(i64::from_redis_value(answer).ok().and_then(|count| usize::try_from(count).ok()))
    }

    /// Gives back what consumers held whose leases have ended.
    pub(super) async fn recover_expired(&self, max_crashes: u32) -> Result<usize, BrokerError> {
        let mut command = cmd("ZRANGEBYSCORE");
        command.arg(self.layout.consumers()).arg("-inf").arg(self.now().0).arg("LIMIT").arg(0).arg(100);
        let tokens: Vec<String> = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        let mut recovered = 0;
        for token in tokens {
            recovered += self.recover(&token, End::Expired, max_crashes).await?.unwrap_or(0);
        }
        Ok(recovered)
    }

    /// Puts back claims that are older than the visibility timeout, as any consumer of kombu does. None of ours is
    /// among them while its consumer lives, since that refreshes them.
    pub(super) async fn restore_foreign(&self) -> Result<usize, BrokerError> {
        let overdue = self.now().0 as f64 / 1000.0 - self.layout.visibility_timeout.as_secs_f64();
        let overdue = format!("{overdue:.3}");
        let mut command = cmd("ZRANGEBYSCORE");
        command.arg(self.layout.unacked_index()).arg("-inf").arg(&overdue).arg("LIMIT").arg(0).arg(OVERDUE);
        let mut tags: Vec<String> = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        if tags.is_empty() {
            return Ok(0);
        }
        let mut command = cmd("ZRANGE");
        command.arg(self.layout.consumers()).arg(0).arg(-1);
        let alive: HashSet<String> = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        tags.retain(|tag| {
            queue_of(tag).is_none() || tag.split(':').next().is_none_or(|token| !alive.contains(token))
        });
        let mut restored = 0;
        // The newest first, so that the oldest is next to be taken.
        for tag in tags.iter().rev() {
            restored += usize::from(self.restore(tag, &overdue).await?);
        }
        Ok(restored)
    }

    async fn restore(&self, tag: &str, overdue: &str) -> Result<bool, BrokerError> {
        let mut command = cmd("HGET");
        command.arg(self.layout.unacked()).arg(tag);
        let value: Option<Vec<u8>> = self.link.query(&command).await.map_err(|error| self.failed(error))?;
        let claim = value.as_deref().and_then(ForeignClaim::read);
        let mut keys = vec![self.layout.unacked().to_owned(), self.layout.unacked_index().to_owned()];
        if let Some(claim) = &claim {
            let priority = Envelope::decode(claim.element.as_bytes());
            let priority = priority.ok().and_then(|envelope| envelope.message.properties.priority);
            let only_to_be_ended = claim.routing_key.starts_with(LOST);
            let priority = priority.filter(|_| !only_to_be_ended).unwrap_or(0);
            let lists = self.lists_of(&claim.exchange, &claim.routing_key, priority).await?;
            if lists.is_empty() {
                // Its queue is bound no more: kombu would lose the message now, so it stays where it is.
                return Ok(false);
            }
            keys.extend(lists);
        }
        // A tag without a message is removed.
        let element = claim.map(|claim| marked(&claim.element)).unwrap_or_default();
        let args = [tag, overdue, &element];
        let answer = self.link.script(&RESTORE, &keys, &args).await;
        Ok(i64::from_redis_value(answer.map_err(|error| self.failed(error))?).is_ok_and(|done| done == 1))
    }
}

/// What kombu keeps of a claim: `[envelope, exchange, routing key]`.
#[derive(Debug)]
pub(super) struct ForeignClaim {
    pub(super) element: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

impl ForeignClaim {
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let (element, exchange, routing_key): (&RawValue, Option<String>, Option<String>) =
            serde_json::from_slice(value).ok()?;
        Some(Self {
            element: element.get().to_owned(),
            exchange: exchange.unwrap_or_default(),
            routing_key: routing_key.unwrap_or_default(),
        })
    }
}

/// The element with kombu's marks of a message that was put back; as it is where they have no place.
fn marked(element: &str) -> String {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        headers: Option<&'a RawValue>,
        #[serde(borrow)]
        properties: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Properties<'a> {
        #[serde(borrow)]
        delivery_info: Option<&'a RawValue>,
    }
    let Ok(outer) = serde_json::from_str::<Outer<'_>>(element) else { return element.to_owned() };
    let info = outer
        .properties
        .and_then(|properties| serde_json::from_str::<Properties<'_>>(properties.get()).ok())
        .and_then(|properties| properties.delivery_info);
    let place = |part: Option<&RawValue>| {
        let part = part?.get();
        (part.starts_with('{') && !part.contains("\"redelivered\"")).then(|| {
            let start = part.as_ptr() as usize - element.as_ptr() as usize;
            (start + 1, part[1..].trim_start().starts_with('}'))
        })
    };
    let mut places: Vec<(usize, bool)> = [place(outer.headers), place(info)].into_iter().flatten().collect();
    places.sort_unstable();
    let mut out = element.to_owned();
    for (at, empty) in places.into_iter().rev() {
        out.insert_str(at, if empty { "\"redelivered\": true" } else { "\"redelivered\": true, " });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_where_kombu_puts_them() {
        let element = r#"{"body": "", "properties": {"delivery_info": {"exchange": ""}}, "headers": {}}"#;
        let expected = r#"{"body": "", "properties": {"delivery_info": {"redelivered": true, "exchange": ""}}, "headers": {"redelivered": true}}"#;
        assert_eq!(marked(element), expected);
        assert_eq!(marked(expected), expected);
        assert_eq!(marked(r#"{"headers": null}"#), r#"{"headers": null}"#);
    }

    #[test]
    fn a_claim_of_kombu_is_read_and_one_of_ours_too() {
        let claim = ForeignClaim::read(br#"[{"body": "x"}, "feed", "feed.a"]"#).unwrap();
        assert_eq!(
            (&*claim.element, &*claim.exchange, &*claim.routing_key),
            (r#"{"body": "x"}"#, "feed", "feed.a")
        );
        assert!(ForeignClaim::read(b"[1]").is_none());
        assert_eq!(queue_of("abc:12:0:a:b"), Some("a:b"));
        assert_eq!(queue_of("29e1bd34-b038-4275-afb0-95259cdb2787"), None);
    }
}
