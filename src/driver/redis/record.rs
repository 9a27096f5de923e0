//! Result records in Redis: their keys, the state in their bytes, and the script that stores them.

use std::fmt;

use bytes::Bytes;

use crate::protocol::{ResultDocument, ResultRecord, decompress, state};

/// What is in front of a task's id, after the prefix.
const KEY: &str = "celery-task-meta-";
/// In front of a record that Celery's `result_compression` packed: this, the media type of the method, and a zero.
const COMPRESSED: &[u8] = b"\0celery-compressed\0";
/// How far a packed record is unpacked to find its state.
const UNPACKED: usize = 64 << 20;
/// How far into a pickled or msgpack record its first member is looked for.
const HEAD: usize = 64;

/// Defines the Lua function `store_results(keys, ttls, bodies)`: what [`super::backend`] and the broker's commits
/// store with. Each argument is a list; a `ttl` of `'0'` is for ever. A record whose stored state is SUCCESS is kept.
/// SET and PUBLISH for each (Celery's clients wait for the message, which is the record), and before that one MGET for
/// those that are not SUCCESS: only they have to give way.
///
/// SUCCESS is found without parsing, in the forms that Celery's serializers give a record: JSON, msgpack and pickle
/// have `status` as their first member, YAML a line of its own. Packed records are not looked into.
///
/// That a task has begun is stored a moment later. Whoever has seen it run may have aborted it by then, which STARTED
/// must not cover (in JSON: both are ours).
pub(super) const STORE_RESULTS: &str = r#"
local function is_success(stored)
  if not stored then return false end
  -- As Celery and we write it.
  if string.find(stored, '^{"status": "SUCCESS"') then return true end
  local first = string.byte(stored, 1)
  if not first then return false end
  if string.find(stored, '^%s*{%s*"status"%s*:%s*"SUCCESS"') then return true end
  if first == 123 then return false end
  if first >= 128 then
    local head = string.sub(stored, 1, 64)
    return (string.find(head, '\166status\167SUCCESS', 1, true)
      or string.find(head, '\140\6status\148?\140\7SUCCESS')
      or string.find(head, 'X\6%z%z%zstatusq.X\7%z%z%zSUCCESS')) ~= nil
  end
  return string.find('\n' .. stored .. '\n', '\nstatus: SUCCESS\r?\n') ~= nil
end

local function store_results(keys, ttls, bodies)
  local final, aborted, successes, asked = {}, {}, {}, {}
  for i = 1, #keys do
    successes[i] = is_success(bodies[i])
    if not successes[i] then asked[#asked + 1] = keys[i] end
  end
  for from = 1, #asked, 1000 do
    local to = math.min(from + 999, #asked)
    local stored = redis.call('MGET', unpack(asked, from, to))
    for i = from, to do
      local before = stored[i - from + 1]
      if is_success(before) then final[asked[i]] = true end
      if before and string.find(before, '^{"status": "ABORTED"') then aborted[asked[i]] = true end
    end
  end
  local call = redis.call
  for i = 1, #keys do
    local key, body = keys[i], bodies[i]
    local covers = aborted[key] and string.find(body, '^{"status": "STARTED"')
    if successes[i] or not (final[key] or covers) then
      if ttls[i] == '0' then
        call('SET', key, body)
      else
        call('SET', key, body, 'PX', ttls[i])
      end
      call('PUBLISH', key, body)
      if successes[i] and #asked > 0 then final[key] = true end
    end
  end
end

-- Counts a result that was stored among those of its kind, and removes the oldest beyond their number. ARGV from `at`
-- on: the sorted set of its kind, the one where it may have been before, how many are kept or nothing, the record's key,
-- whether it is SUCCESS, and a counter.
local function retain_result(at)
  local list, other, most, key = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  if ARGV[at + 4] ~= '1' and is_success(redis.call('GET', key)) then return end
  redis.call('ZREM', other, key)
  if not most then
    redis.call('ZREM', list, key)
    return
  end
  redis.call('ZADD', list, redis.call('INCR', ARGV[at + 5]), key)
  local over = math.min(redis.call('ZCARD', list) - most, 1000)
  if over > 0 then
    local beyond = redis.call('ZRANGE', list, 0, over - 1)
    redis.call('DEL', unpack(beyond))
    redis.call('ZREM', list, unpack(beyond))
  end
end
"#;

/// Where results are kept within a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPlace {
    /// The number of the database.
    pub database: i64,
    /// What all keys begin with.
    pub prefix: String,
}

impl ResultPlace {
    /// The place of a backend whose transport options have this `global_keyprefix`.
    pub fn new(database: i64, global_keyprefix: &str) -> Self {
        let mut prefix = global_keyprefix.to_owned();
        if !prefix.is_empty() && !prefix.ends_with([':', '_', '-', '.']) {
            prefix.push('_');
        }
        Self { database, prefix }
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (database, prefix) = text.split_once(':')?;
        Some(Self { database: database.parse().ok()?, prefix: prefix.to_owned() })
    }

    /// The key of a task's record; also the channel that it is published on.
    pub fn key(&self, task_id: &str) -> String {
        [&self.prefix, KEY, task_id].concat()
    }
}

impl fmt::Display for ResultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.database, self.prefix)
    }
}

/// What the Lua function `retain_result` takes for a record, if its kind is limited in number.
///
/// The keys are written with the record, by whoever stores it, in one step; nobody else reads them. What has expired
/// stays in them until newer ones push it out.
pub(super) fn retention(place: &ResultPlace, record: &ResultRecord) -> Option<[String; RETENTION]> {
    let retain = record.retain.as_deref()?;
    let list = |name: &str| format!("{}celeriac:retained:{name}", place.prefix);
    Some([
        list(&retain.list),
        list(&retain.other),
        retain.most.map(|most| most.to_string()).unwrap_or_default(),
        place.key(&record.task_id),
        u8::from(record.state == state::SUCCESS).to_string(),
        format!("{}celeriac:retained", place.prefix),
    ])
}

/// How many that are.
pub(super) const RETENTION: usize = 6;

/// The time to live as [`STORE_RESULTS`] takes it.
pub(super) fn ttl(record: &ResultRecord) -> String {
    record.expires_ms.unwrap_or(0).to_string()
}

/// What is stored, with its state beside it.
///
/// A record that cannot be read counts as `FAILURE`: whoever waits for it is woken, and reading it raises, as in
/// Celery. It must not keep them waiting for ever, nor disturb those who wait for others.
pub(super) fn found(task_id: &str, stored: Vec<u8>, content_type: &str) -> ResultRecord {
    ResultRecord {
        task_id: task_id.to_owned(),
        state: stored_state(&stored).unwrap_or_else(|| state::FAILURE.to_owned()),
        record: Bytes::from(stored),
        content_type: content_type.to_owned(),
        expires_ms: None,
        reply_to: None,
        retain: None,
    }
}

/// The state in a record's bytes, whichever of Celery's serializers wrote it.
pub fn stored_state(stored: &[u8]) -> Option<String> {
    match stored.first()? {
        b'{' | b'\n' | b'\r' | b'\t' | b' ' => json_state(stored),
        0 => {
            let (method, packed) = split(stored.strip_prefix(COMPRESSED)?, 0)?;
            let record = decompress(packed, std::str::from_utf8(method).ok()?, UNPACKED).ok()?;
            // One layer: what is packed twice is nobody's record.
            (record.first() != Some(&0)).then(|| stored_state(&record))?
        }
        0x80.. => binary_state(&stored[..stored.len().min(HEAD)]),
        _ => yaml_state(stored),
    }
}

fn json_state(stored: &[u8]) -> Option<String> {
    // Nearly always: written by Celery or by us, a state without escapes.
    if let Some(rest) = stored.strip_prefix(b"{\"status\": \"")
        && let Some((name, _)) = split(rest, b'"')
        && !name.contains(&b'\\')
    {
        return text(name);
    }
    ResultDocument::parse(stored).ok().map(|document| document.status)
}

/// Pickle (any protocol from 2) and msgpack: the text after the first `status`.
fn binary_state(head: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"status";
    let at = head.windows(NAME.len()).position(|window| window == NAME)?;
    let rest = &head[at + NAME.len()..];
    // Pickle remembers each text: MEMOIZE, or BINPUT with a number.
    let rest = match rest {
        [0x94, after @ ..] | [b'q', _, after @ ..] => after,
        _ => rest,
    };
    let (length, rest) = match rest {
        [0x8c | 0xd9, length, rest @ ..] | [b'X', length, 0, 0, 0, rest @ ..] => (usize::from(*length), rest),
        [short @ 0xa0..=0xbf, rest @ ..] => (usize::from(short & 0x1f), rest),
        _ => return None,
    };
    text(rest.get(..length)?)
}

/// YAML: members are lines, in the order of the alphabet.
fn yaml_state(stored: &[u8]) -> Option<String> {
    let line = stored.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"status: "))?;
    let plain = line.strip_suffix(b"\r").unwrap_or(line);
    let quoted = |quote: u8| plain.strip_prefix(&[quote])?.strip_suffix(&[quote]);
    text(quoted(b'\'').or_else(|| quoted(b'"')).unwrap_or(plain))
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        for prefix in ["", "acme_", "a:b:", "{tag}:"] {
            let place = ResultPlace::new(3, prefix);
            assert_eq!(ResultPlace::parse(&place.to_string()), Some(place));
        }
        assert_eq!(ResultPlace::parse("x"), None);
        assert_eq!(ResultPlace::parse("x:y"), None);
    }

    #[test]
    fn a_prefix_is_set_off_by_one_of_four_characters() {
        let key = |prefix| ResultPlace::new(0, prefix).key("id");
        assert_eq!(key(""), "celery-task-meta-id");
        assert_eq!(key("acme"), "acme_celery-task-meta-id");
        for prefix in ["acme:", "acme_", "acme-", "acme."] {
            assert_eq!(key(prefix), format!("{prefix}celery-task-meta-id"));
        }
    }

    #[test]
    fn a_state_is_found_in_every_form() {
        let forms: [&[u8]; 9] = [
            br#"{"status": "MY_STATE", "result": null}"#,
            br#"{"result":"status: NO","status":"MY_STATE"}"#,
            br#" {"status": "\u004dY_STATE", "result": NaN}"#,
            b"\x86\xa6status\xa8MY_STATE\xa6result\x05",
            b"\x80\x04\x95\x9d\0\0\0\0\0\0\0}\x94(\x8c\x06status\x94\x8c\x08MY_STATE\x94\x8c\x06result",
            b"\x80\x02}q\0(X\x06\0\0\0statusq\x01X\x08\0\0\0MY_STATEq\x02X\x06\0\0\0result",
            b"children: []\nresult: 'status: NO'\nstatus: MY_STATE\ntask_id: x\n",
            b"children: []\nstatus: 'MY_STATE'\ntask_id: x\n",
            b"\x86\xa6status\xd9\x08MY_STATE\xa6result\x05",
        ];
        for form in forms {
            assert_eq!(stored_state(form).as_deref(), Some("MY_STATE"), "{}", form.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_record_has_no_state_and_counts_as_failed() {
        let forms: [&[u8]; 8] = [
            b"",
            b"{}",
            b"null",
            b"\0celery-compressed\0application/x-gzip\0xx",
            b"\x80\x04status",
            b"{\"status\": 1}",
            b"\xff\xff",
            b"status: ",
        ];
        for form in forms {
            assert_eq!(stored_state(form), None, "{}", form.escape_ascii());
            assert_eq!(found("id", form.to_vec(), "application/json").state, state::FAILURE);
        }
    }
}
