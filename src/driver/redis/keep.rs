//! Requests that have begun, kept beside the results for workers whose broker cannot tell that a whole worker died.
//!
//! Two keys for each broker that such requests come from: a sorted set of keepers by the end of their leases, and for each
//! keeper a hash of what it keeps.

use std::sync::LazyLock;

use redis::{FromRedisValue, Value};

use super::errors::LinkError;
use super::link::Link;
use super::record::ResultPlace;
use super::script::Script;
use crate::backend::{Keeper, Kept, Left};
use crate::clock::Clock;

/// What nobody has come for in this time is forgotten.
const LEFT_MS: u64 = 7 * 24 * 3600 * 1000;
/// Requests in one call.
const CHUNK: usize = 500;

/// KEYS: keepers, what this one keeps. ARGV: 1 the keeper, 2 the end of its lease in ms, 3 how long all is kept in ms;
/// then ids and messages.
static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1",
    )
});

/// KEYS and the first ARGV: as above; 4 now in ms, 5 what is in front of a keeper in the names of the hashes.
/// Answer: 0 or 1 whether the keeper has a lease; then ids and messages of others whose leases have ended, this one's now.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local answer = { '0' }
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  answer[1] = '1'
  redis.call('ZADD', KEYS[1], 'XX', ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4], 'LIMIT', 0, 10)) do
  local left = redis.call('HGETALL', ARGV[5] .. other)
  for at = 1, #left, 1000 do
    redis.call('HSET', KEYS[2], unpack(left, at, math.min(at + 999, #left)))
  end
  for at = 1, #left do
    answer[#answer + 1] = left[at]
  end
  redis.call('DEL', ARGV[5] .. other)
  redis.call('ZREM', KEYS[1], other)
end
if #answer > 1 then
  redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return answer",
    )
});

/// Names of the keys of a place.
struct Keys {
    keepers: String,
    /// In front of the names of keepers.
    front: String,
    own: String,
}

impl Keys {
    fn new(place: &ResultPlace, keeper: &Keeper) -> Self {
        let keepers = format!("{}celeriac:begun:{}", place.prefix, keeper.place);
        let front = format!("{keepers}:");
        Self { own: format!("{front}{}", keeper.name), keepers, front }
    }
}

fn lease_end(keeper: &Keeper) -> (i64, i64) {
    let now = Clock::system().now();
    (now.0, now.after(keeper.lease).0)
}

pub(super) async fn keep(
    link: &Link,
    place: &ResultPlace,
    keeper: &Keeper,
    begun: &[Kept],
) -> Result<(), LinkError> {
    let keys = Keys::new(place, keeper);
    for chunk in begun.chunks(CHUNK) {
        let front = [keeper.name.clone(), lease_end(keeper).1.to_string(), LEFT_MS.to_string()];
        let mut args: Vec<&[u8]> = front.iter().map(String::as_bytes).collect();
        args.extend(chunk.iter().flat_map(|kept| [kept.id.as_bytes(), &kept.message]));
        link.script(&KEEP, &[&keys.keepers, &keys.own], &args).await?;
    }
    Ok(())
}

pub(super) async fn forget(
    link: &Link,
    place: &ResultPlace,
    keeper: &Keeper,
    ids: &[String],
) -> Result<(), LinkError> {
    let keys = Keys::new(place, keeper);
    for chunk in ids.chunks(CHUNK) {
        let mut command = redis::cmd("HDEL");
        command.arg(&keys.own).arg(chunk);
        link.query::<u64>(&command).await?;
    }
    Ok(())
}

pub(super) async fn renew(link: &Link, place: &ResultPlace, keeper: &Keeper) -> Result<Left, LinkError> {
    let keys = Keys::new(place, keeper);
    let (now, end) = lease_end(keeper);
    let args = [keeper.name.clone(), end.to_string(), LEFT_MS.to_string(), now.to_string(), keys.front];
    let answer = link.script(&RENEW, &[&keys.keepers, &keys.own], &args).await?;
    let Value::Array(parts) = answer else { return Ok(Left::default()) };
    let mut parts = parts.into_iter().filter_map(|part| Vec::<u8>::from_redis_value(part).ok());
    let lost = parts.next().is_some_and(|has| has == b"0");
    let mut begun = Vec::new();
    while let (Some(id), Some(message)) = (parts.next(), parts.next()) {
        begun.push(Kept { id: String::from_utf8_lossy(&id).into_owned(), message: message.into() });
    }
    Ok(Left { lost, begun })
}
