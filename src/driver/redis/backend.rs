//! The result backend: Celery's keys and records.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::address::Address;
use super::groups;
use super::guard;
use super::inspect;
use super::keep;
use super::limits::RedisLimits;
use super::link::Link;
use super::record::{self, RETENTION, ResultPlace, STORE_RESULTS};
use super::script::Script;
use super::values;
use super::watch::Watches;
use crate::backend::{
    BackendError, ChordClaim, Counted, GroupRecord, Keeper, Kept, KeptValue, Left, ResultBackend, Stalled,
    Watch,
};
use crate::broker::BrokerError;
use crate::clock::Clock;
use crate::driver::ConnectOptions;
use crate::keys::Keys;
use crate::limits::LimitStore;
use crate::protocol::{ChordPart, ResultRecord};
use crate::report::StoreReport;
use crate::url::StoreUrl;

/// Records in one command: the server does nothing else meanwhile.
pub(super) const CHUNK: usize = 1000;
/// Bytes in one command.
pub(super) const CHUNK_BYTES: usize = 8 << 20;

/// `KEYS` are those of the records; `ARGV` is, for each, its time to live and its bytes; then, for those whose kind is
/// limited in number, what `retain_result` takes.
static STORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        "{STORE_RESULTS}
local ttls, bodies = {{}}, {{}}
for i = 1, #KEYS do ttls[i], bodies[i] = ARGV[2 * i - 1], ARGV[2 * i] end
store_results(KEYS, ttls, bodies)
for at = 2 * #KEYS + 1, #ARGV, {RETENTION} do retain_result(at) end
return 0"
    ))
});

/// Results in one database of a server.
pub(super) struct RedisBackend {
    pub(super) link: Arc<Link>,
    watches: Watches,
    pub(super) place: ResultPlace,
    content_type: String,
    server_id: String,
    /// Parts of chords are kept in the order of the header, otherwise as they come (`result_chord_ordered`).
    pub(super) ordered: bool,
    clock: Clock,
}

impl RedisBackend {
    pub(super) fn new(url: &StoreUrl, options: &ConnectOptions) -> Result<Self, BrokerError> {
        let address = Address::parse(url, options)?;
        let prefix = options.transport.get("global_keyprefix").and_then(Value::as_str).unwrap_or_default();
        let place = ResultPlace::new(address.database(), prefix);
        let content_type = options.result_content_type.clone();
        let server_id = address.server_id();
        let (connecting, answering) = (address.connect_timeout(), address.answer_timeout());
        let link = Arc::new(Link::new(address, connecting, answering));
        let watches = Watches::new(link.clone(), place.clone(), content_type.clone(), connecting);
        let ordered = options.transport.get("result_chord_ordered").is_none_or(truth);
        let clock = options.clock.clone();
        Ok(Self { link, watches, place, content_type, server_id, ordered, clock })
    }

    async fn store_chunk(&self, records: &[ResultRecord]) -> Result<(), BackendError> {
        let keys: Vec<String> = records.iter().map(|record| self.place.key(&record.task_id)).collect();
        let ttls: Vec<String> = records.iter().map(record::ttl).collect();
        let mut args: Vec<&[u8]> =
            ttls.iter().zip(records).flat_map(|(ttl, record)| [ttl.as_bytes(), &record.record]).collect();
        let retained: Vec<_> =
            records.iter().filter_map(|record| record::retention(&self.place, record)).collect();
        args.extend(retained.iter().flatten().map(String::as_bytes));
        self.link.script(&STORE, &keys, &args).await?;
        Ok(())
    }
}

#[async_trait]
impl ResultBackend for RedisBackend {
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError> {
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(chunk(rest));
            self.store_chunk(chunk).await?;
            rest = after;
        }
        Ok(())
    }

    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        let mut read = Vec::with_capacity(task_ids.len());
        for ids in task_ids.chunks(CHUNK) {
            let mut command = redis::cmd("MGET");
            for id in ids {
                command.arg(self.place.key(id));
            }
            let stored: Vec<Option<Vec<u8>>> = self.link.query(&command).await?;
            let found = |(id, stored): (&String, Option<Vec<u8>>)| {
                stored.map(|stored| record::found(id, stored, &self.content_type))
            };
            read.extend(ids.iter().zip(stored).map(found));
        }
        Ok(read)
    }

    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError> {
        for ids in task_ids.chunks(CHUNK) {
            let mut command = redis::cmd("DEL");
            for id in ids {
                command.arg(self.place.key(id));
            }
            self.link.query::<u64>(&command).await?;
        }
        Ok(())
    }

    fn keeps_begun(&self) -> bool {
        true
    }

    async fn keep_begun(&self, keeper: &Keeper, begun: &[Kept]) -> Result<(), BackendError> {
        Ok(keep::keep(&self.link, &self.place, keeper, begun).await?)
    }

    async fn forget_begun(&self, keeper: &Keeper, ids: &[String]) -> Result<(), BackendError> {
        Ok(keep::forget(&self.link, &self.place, keeper, ids).await?)
    }

    async fn renew_begun(&self, keeper: &Keeper) -> Result<Left, BackendError> {
        Ok(keep::renew(&self.link, &self.place, keeper).await?)
    }

    async fn save_group(&self, group: GroupRecord) -> Result<(), BackendError> {
        Ok(groups::save(&self.link, &self.place, &group).await?)
    }

    async fn read_group(&self, group_id: &str) -> Result<Option<GroupRecord>, BackendError> {
        let stored = groups::read(&self.link, &self.place, group_id).await?;
        let found = |record| GroupRecord {
            group_id: group_id.to_owned(),
            record,
            content_type: self.content_type.clone(),
            expires_ms: None,
        };
        Ok(stored.map(found))
    }

    async fn forget_group(&self, group_id: &str) -> Result<(), BackendError> {
        Ok(groups::forget(&self.link, &self.place, group_id).await?)
    }

    async fn put_value(&self, kept: KeptValue) -> Result<(), BackendError> {
        Ok(values::put(&self.link, &self.place, &kept).await?)
    }

    async fn read_value(&self, key: &str) -> Result<Option<Bytes>, BackendError> {
        Ok(values::read(&self.link, &self.place, key).await?)
    }

    async fn delete_values(&self, keys: &[String]) -> Result<(), BackendError> {
        for keys in keys.chunks(CHUNK) {
            values::delete(&self.link, &self.place, keys).await?;
        }
        Ok(())
    }

    async fn guard_chord(&self, group_id: &str, message: Bytes) -> Result<(), BackendError> {
        Ok(guard::guard(&self.link, &self.place, group_id, &message).await?)
    }

    async fn guarded_chord(&self, group_id: &str) -> Result<Option<Bytes>, BackendError> {
        Ok(guard::message(&self.link, &self.place, group_id).await?)
    }

    async fn stalled_chords(&self, after: Duration, again: Duration) -> Result<Vec<Stalled>, BackendError> {
        Ok(guard::stalled(&self.link, &self.place, after, again).await?)
    }

    async fn spare_chords(&self, group_ids: &[String], after: Duration) -> Result<(), BackendError> {
        Ok(guard::spare(&self.link, &self.place, group_ids, after).await?)
    }

    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        Ok(Box::new(self.watches.enter(task_ids)))
    }

    async fn examine(&self) -> Result<StoreReport, BackendError> {
        let clock = Clock::system();
        Ok(inspect::examine(&self.link, || clock.now()).await?)
    }

    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        Some(RedisLimits::store(self.link.clone(), &self.place.prefix, &self.clock))
    }

    fn counts_chords(&self) -> bool {
        true
    }

    async fn start_chord(
        &self,
        group_id: &str,
        size: u64,
        expires_ms: Option<u64>,
    ) -> Result<(), BackendError> {
        self.start_chord_here(group_id, size, expires_ms).await
    }

    async fn grow_chord(&self, group_id: &str, by: u64) -> Result<(), BackendError> {
        self.grow_chord_here(group_id, by).await
    }

    async fn count_parts(&self, parts: &[ChordPart]) -> Result<Vec<Counted>, BackendError> {
        self.count_chunks(parts).await
    }

    async fn gather(&self, group_id: &str) -> Result<Vec<Bytes>, BackendError> {
        self.gather_here(group_id).await
    }

    async fn hold_chord(&self, claim: &ChordClaim, long: Duration) -> Result<bool, BackendError> {
        self.hold_chord_here(claim, long).await
    }

    async fn finish_chord(&self, claim: &ChordClaim) -> Result<bool, BackendError> {
        self.finish_chord_here(claim).await
    }

    fn keys(&self) -> Option<&dyn Keys> {
        Some(self)
    }

    fn location(&self) -> String {
        self.place.to_string()
    }

    fn store_id(&self) -> Option<String> {
        Some(self.server_id.clone())
    }

    fn display_url(&self) -> String {
        self.link.url().to_owned()
    }
}

/// As Python sees it.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// How many of these go into one command: at least one.
fn chunk(records: &[ResultRecord]) -> usize {
    let mut bytes = 0;
    let fits = |record: &&ResultRecord| {
        bytes += record.record.len();
        bytes <= CHUNK_BYTES
    };
    records.iter().take(CHUNK).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_where_a_command_would_be_too_large() {
        let sized = |size: usize| ResultRecord { record: vec![0; size].into(), ..ResultRecord::default() };
        assert_eq!(chunk(&[sized(CHUNK_BYTES + 1), sized(1)]), 1);
        assert_eq!(chunk(&[sized(CHUNK_BYTES / 2), sized(CHUNK_BYTES / 2), sized(1)]), 2);
        assert_eq!(chunk(&vec![sized(1); CHUNK + 5]), CHUNK);
    }
}
