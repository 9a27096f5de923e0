//! Limits of all workers: one script (`lua/turns.lua`), and a channel that tells of turns that came back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::{FromRedisValue as _, Value};
use serde_json::json;

use super::broker::Shared;
use super::errors::LinkError;
use super::link::{Link, Pushes};
use super::scripts::TURNS;
use crate::clock::Clock;
use crate::driver::limits::{CLOSER, ENTRIES, LATE_MS, millis};
use crate::limits::{
    Answers, Given, LimitBell, LimitError, LimitStore, LimitUse, Place, Told, Turns, Uses, Wait,
};

/// What nobody uses is kept so long, above the longest window: lines, and the logs of limits none of whose turns is out.
const KEPT_MS: u64 = 24 * 3600 * 1000;
/// Turns that are out are kept so long after the last call that has to do with their limit.
const LONGEST_MS: u64 = 60 * 24 * 3600 * 1000;
/// Rests before it connects again after it failed.
const REST: Duration = Duration::from_millis(500);

/// Whatever has a connection.
pub(super) type Linked = Arc<dyn AsRef<Link> + Send + Sync>;

impl AsRef<Link> for Link {
    fn as_ref(&self) -> &Link {
        self
    }
}

impl AsRef<Link> for Shared {
    fn as_ref(&self) -> &Link {
        &self.link
    }
}

/// Limits in one database of a server.
#[derive(Clone)]
pub(super) struct RedisLimits {
    linked: Linked,
    /// In front of all its keys, and the channel.
    prefix: String,
    /// A test's; otherwise time is the server's.
    clock: Clock,
}

impl RedisLimits {
    pub(super) fn store(linked: Linked, prefix: &str, clock: &Clock) -> Arc<dyn LimitStore> {
        Arc::new(Self { linked, prefix: format!("{prefix}celeriac:limit"), clock: clock.clone() })
    }

    fn channel(&self) -> String {
        format!("{}:bell", self.prefix)
    }
}

/// The places that a call has to do with, each by a number from 1.
#[derive(Default)]
struct Places(Vec<String>, HashMap<String, usize>);

impl Places {
    fn number(&mut self, place: &str) -> usize {
        if let Some(number) = self.1.get(place) {
            return *number;
        }
        self.0.push(place.to_owned());
        self.1.insert(place.to_owned(), self.0.len());
        self.0.len()
    }

    fn uses(&mut self, uses: &Uses) -> serde_json::Value {
        let one = |limit: &LimitUse| {
            let (count, window) = limit.rate.map_or((0, 0), |rate| (rate.count, millis(rate.window)));
            json!([self.number(&limit.place), count, window, limit.most.unwrap_or(0)])
        };
        uses.iter().map(one).collect()
    }
}

#[async_trait]
impl LimitStore for RedisLimits {
    async fn turns(&self, turns: &Turns) -> Result<Answers, LimitError> {
        let mut places = Places::default();
        let told = |told: &Told| {
            json!({
                "uses": places.uses(&told.uses),
                "token": told.token.to_string(),
                "began": told.began.map_or(-1, millis),
                "ended": told.ended,
            })
        };
        let told: Vec<_> = turns.told.iter().map(told).collect();
        let cleared: Vec<_> = turns.cleared.iter().map(|place| places.number(place)).collect();
        let lines: Vec<_> =
            turns.lines.iter().map(|line| json!([places.number(&line.place), line.id])).collect();
        let mut asks = Vec::with_capacity(turns.asks.len());
        for ask in &turns.asks {
            let requests: Vec<_> =
                ask.requests.iter().map(|(token, id)| json!([token.to_string(), id])).collect();
            asks.push(json!({ "uses": places.uses(&ask.uses), "requests": requests }));
        }
        let asked = json!({
            "now": if self.clock.is_system() { -1 } else { self.clock.now().0 },
            "holder": turns.holder, "lease": millis(turns.lease), "leaves": turns.leaves,
            "told": told, "cleared": cleared, "lines": lines, "asks": asks, "most": turns.most,
            "entries": ENTRIES, "closer": CLOSER, "late": [LATE_MS.0, LATE_MS.1],
            "kept": KEPT_MS, "longest": LONGEST_MS,
            "channel": self.channel(), "places": places.0,
        });
        let mut keys = vec![format!("{}:holders", self.prefix)];
        for place in &places.0 {
            keys.extend(["state", "log", "line"].map(|what| format!("{}:{what}:{place}", self.prefix)));
        }
        let link: &Link = (*self.linked).as_ref();
        let answer = link.script(&TURNS, &keys, &[asked.to_string()]).await;
        let answer = answer.map_err(|error| LimitError(format!("cannot ask {}: {error}", link.url())))?;
        read(answer, turns).ok_or_else(|| LimitError(format!("{} gives an unexpected answer", link.url())))
    }

    fn bell(&self) -> Box<dyn LimitBell> {
        Box::new(RedisBell { limits: self.clone(), pushes: None, failed: false })
    }
}

fn read(answer: Value, turns: &Turns) -> Option<Answers> {
    let numbers = Vec::<u64>::from_redis_value(answer).ok()?;
    let (lines, given) = numbers.split_at_checked(2 * turns.lines.len())?;
    let given = given.chunks_exact(4).map(|given| Given {
        turns: usize::try_from(given[0]).unwrap_or_default(),
        wait: match given[1] {
            0 => Wait::Free,
            1 => Wait::Enough,
            2 => Wait::For(Duration::from_millis(given[2])),
            _ => Wait::Full,
        },
        in_line: given[3],
    });
    let given: Vec<_> = given.collect();
    let lines = lines.chunks_exact(2).map(|line| Place { before: line[0], again: line[1] == 1 }).collect();
    (given.len() == turns.asks.len()).then_some(Answers { lines, given })
}

/// Hears on a connection of its own.
struct RedisBell {
    limits: RedisLimits,
    /// None before the first, and after one was lost.
    pushes: Option<Pushes>,
    /// The last try to connect failed: the next one waits.
    failed: bool,
}

#[async_trait]
impl LimitBell for RedisBell {
    async fn rung(&mut self) -> Result<Option<Vec<String>>, LimitError> {
        loop {
            let Some(pushes) = &mut self.pushes else {
                if self.failed {
                    tokio::time::sleep(REST).await;
                }
                self.failed = true;
                let error =
                    |error: LinkError| LimitError(format!("cannot listen for turns that come back: {error}"));
                let link: &Link = (*self.limits.linked).as_ref();
                let pushes = link.pushes().await.map_err(error)?;
                pushes.connection.subscribe(self.limits.channel()).await.map_err(error)?;
                self.pushes = Some(pushes);
                self.failed = false;
                // What was said before is not known.
                return Ok(None);
            };
            let Some(push) = pushes.receiver.recv().await else {
                self.pushes = None;
                continue;
            };
            let mut places = Vec::new();
            let mut next = Some(push);
            while let Some(push) = next {
                if let Some(Value::BulkString(place)) = push.data.last() {
                    places.push(String::from_utf8_lossy(place).into_owned());
                }
                next = pushes.receiver.try_recv().ok();
            }
            return Ok(Some(places));
        }
    }
}
