//! Chords that are looked after: what tells that nothing of one is counted any more.
//!
//! `celeriac:chords` is a sorted set of them by the moment of the next look; `celeriac:chord:<group>` a hash with a message
//! of the chord, how many parts were counted at the last look, and how often nothing was. Both go with the end of the chord,
//! or at a look when a Celery worker has ended it.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, Value};

use super::errors::LinkError;
use super::groups;
use super::link::Link;
use super::record::ResultPlace;
use super::script::Script;
use crate::backend::{Stalled, missing};
use crate::clock::Clock;

/// A chord that nobody ends is forgotten after this.
const LEFT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Chords in one look.
const MOST: usize = 200;

/// KEYS: chords that are looked after. ARGV: 1 now in ms, 2 the next look in ms when something was counted, 3 when nothing
/// was, 4 how many at most, 5 what keys of counted parts begin with, 6 what keys of this file begin with.
/// Answer: for each that has stalled its id, size, how many were counted, how often it had stalled, the message.
static STALLED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local call, answer = redis.call, {}
for _, group in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[4])) do
  local front, own = ARGV[5] .. group, ARGV[6] .. group
  local size, holder = call('GET', front .. '.s'), call('GET', front .. '.c')
  local message = call('HGET', own, 'message')
  if not size or holder == 'done' or not message then
    call('ZREM', KEYS[1], group)
    call('DEL', own)
  else
    size = tonumber(size) + tonumber(call('GET', front .. '.t') or 0)
    local counted = call('SCARD', front .. '.d')
    local before, times = call('HGET', own, 'counted'), 0
    if before and tonumber(before) == counted and not holder then
      times = call('HINCRBY', own, 'times', 1)
    else
      call('HSET', own, 'counted', counted, 'times', 0)
    end
    call('ZADD', KEYS[1], times > 0 and ARGV[3] or ARGV[2], group)
    if times > 0 then
      for _, field in ipairs({ group, tostring(size), tostring(counted), tostring(times), message }) do
        answer[#answer + 1] = field
      end
    end
  end
end
return answer",
    )
});

/// The chords that are looked after.
pub(super) fn guarded(place: &ResultPlace) -> String {
    format!("{}celeriac:chords", place.prefix)
}

/// What is kept to look after one.
pub(super) fn key(place: &ResultPlace, group_id: &str) -> String {
    format!("{}celeriac:chord:{group_id}", place.prefix)
}

pub(super) async fn guard(
    link: &Link,
    place: &ResultPlace,
    group_id: &str,
    message: &[u8],
) -> Result<(), LinkError> {
    let key = key(place, group_id);
    let mut both = redis::pipe();
    both.atomic().cmd("HSET").arg(&key).arg("message").arg(message).ignore();
    both.cmd("PEXPIRE").arg(&key).arg(LEFT_MS).ignore();
    // The first look is soon: it notes how many parts were counted by then.
    both.cmd("ZADD").arg(guarded(place)).arg(Clock::system().now().0).arg(group_id).ignore();
    link.pipeline::<()>(&both).await
}

pub(super) async fn message(
    link: &Link,
    place: &ResultPlace,
    group_id: &str,
) -> Result<Option<Bytes>, LinkError> {
    let mut command = redis::cmd("HGET");
    command.arg(key(place, group_id)).arg("message");
    Ok(link.query::<Option<Vec<u8>>>(&command).await?.map(Bytes::from))
}

pub(super) async fn stalled(
    link: &Link,
    place: &ResultPlace,
    after: Duration,
    again: Duration,
) -> Result<Vec<Stalled>, LinkError> {
    let now = Clock::system().now();
    let args = [
        now.0.to_string(),
        now.after(after).0.to_string(),
        now.after(again).0.to_string(),
        MOST.to_string(),
        groups::key(place, ""),
        key(place, ""),
    ];
    let answer = link.script(&STALLED, &[guarded(place)], &args).await?;
    let fields = Vec::<Vec<u8>>::from_redis_value(answer).unwrap_or_default();
    let mut found = Vec::new();
    for fields in fields.chunks_exact(5) {
        let text = |at: usize| String::from_utf8_lossy(&fields[at]).into_owned();
        let (group_id, size) = (text(0), text(1).parse().unwrap_or(0));
        let mut command = redis::cmd("SMEMBERS");
        command.arg(groups::key(place, &group_id) + ".d");
        let members: Vec<String> = link.query(&command).await?;
        found.push(Stalled {
            missing: missing(size, members.iter().map(String::as_str)),
            group_id,
            size,
            counted: text(2).parse().unwrap_or(0),
            times: text(3).parse().unwrap_or(0),
            message: fields[4].clone().into(),
        });
    }
    Ok(found)
}

pub(super) async fn spare(
    link: &Link,
    place: &ResultPlace,
    group_ids: &[String],
    after: Duration,
) -> Result<(), LinkError> {
    let look = Clock::system().now().after(after).0;
    let mut all = redis::pipe();
    for group_id in group_ids {
        all.cmd("HDEL").arg(key(place, group_id)).arg("times").ignore();
        all.cmd("ZADD").arg(guarded(place)).arg("XX").arg(look).arg(group_id).ignore();
    }
    link.pipeline::<Value>(&all).await.map(drop)
}
