//! The result backend contract over the state in memory.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{MemoryStore, Shared};
use crate::backend::{
    BackendError, ChordClaim, Counted, GroupRecord, Keeper, Kept, KeptValue, Left, ResultBackend, Stalled,
    Watch,
};
use crate::keys::Keys;
use crate::limits::LimitStore;
use crate::protocol::{ChordPart, ResultRecord};

#[async_trait]
impl ResultBackend for MemoryStore {
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError> {
        let now = self.0.clock.now();
        {
            let mut state = self.0.state.lock();
            for record in batch {
                state.store(record, now);
            }
        }
        self.0.results.notify_waiters();
        Ok(())
    }

    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        let now = self.0.clock.now();
        let state = self.0.state.lock();
        Ok(task_ids.iter().map(|id| state.read(id, now).map(|(_, record)| record.clone())).collect())
    }

    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError> {
        let mut state = self.0.state.lock();
        for id in task_ids {
            state.forget(id);
        }
        Ok(())
    }

    fn keeps_begun(&self) -> bool {
        true
    }

    async fn keep_begun(&self, keeper: &Keeper, begun: &[Kept]) -> Result<(), BackendError> {
        let now = self.0.clock.now();
        self.0.state.lock().keepers.keep(keeper, begun.to_vec(), now);
        Ok(())
    }

    async fn forget_begun(&self, keeper: &Keeper, ids: &[String]) -> Result<(), BackendError> {
        self.0.state.lock().keepers.forget(keeper, ids);
        Ok(())
    }

    async fn renew_begun(&self, keeper: &Keeper) -> Result<Left, BackendError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().keepers.renew(keeper, now))
    }

    async fn save_group(&self, group: GroupRecord) -> Result<(), BackendError> {
        self.store(vec![group.into_result()]).await
    }

    async fn read_group(&self, group_id: &str) -> Result<Option<GroupRecord>, BackendError> {
        let read = self.read(&[GroupRecord::key(group_id)]).await?;
        let found = read.into_iter().next().flatten();
        Ok(found.map(|result| GroupRecord::from_result(group_id, result)))
    }

    async fn forget_group(&self, group_id: &str) -> Result<(), BackendError> {
        self.forget(&[GroupRecord::key(group_id)]).await
    }

    async fn put_value(&self, kept: KeptValue) -> Result<(), BackendError> {
        self.store(vec![kept.into_result()]).await
    }

    async fn read_value(&self, key: &str) -> Result<Option<Bytes>, BackendError> {
        let read = self.read(&[KeptValue::result_key(key)]).await?;
        Ok(read.into_iter().next().flatten().map(|result| result.record))
    }

    async fn delete_values(&self, keys: &[String]) -> Result<(), BackendError> {
        let keys: Vec<_> = keys.iter().map(|key| KeptValue::result_key(key)).collect();
        self.forget(&keys).await
    }

    async fn guard_chord(&self, group_id: &str, message: Bytes) -> Result<(), BackendError> {
        let now = self.0.clock.now();
        self.0.state.lock().chords.guard(group_id, message, now);
        Ok(())
    }

    async fn guarded_chord(&self, group_id: &str) -> Result<Option<Bytes>, BackendError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().chords.guarded(group_id, now))
    }

    async fn stalled_chords(&self, after: Duration, again: Duration) -> Result<Vec<Stalled>, BackendError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().chords.stalled(after, again, now))
    }

    async fn spare_chords(&self, group_ids: &[String], after: Duration) -> Result<(), BackendError> {
        let now = self.0.clock.now();
        self.0.state.lock().chords.spare(group_ids, after, now);
        Ok(())
    }

    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        Ok(Box::new(MemoryWatch { store: self.0.clone(), task_ids, seen: 0 }))
    }

    fn limits(&self) -> Option<Arc<dyn LimitStore>> {
        Some(self.limit_store())
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
        self.0.state.lock().chords.start(group_id, size, expires_ms, self.0.clock.now());
        Ok(())
    }

    async fn grow_chord(&self, group_id: &str, by: u64) -> Result<(), BackendError> {
        self.0.state.lock().chords.grow(group_id, by, self.0.clock.now());
        Ok(())
    }

    async fn count_parts(&self, parts: &[ChordPart]) -> Result<Vec<Counted>, BackendError> {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        Ok(parts.iter().map(|part| state.chords.count(part, now)).collect())
    }

    async fn gather(&self, group_id: &str) -> Result<Vec<Bytes>, BackendError> {
        Ok(self.0.state.lock().chords.gather(group_id, self.0.clock.now()))
    }

    async fn hold_chord(&self, claim: &ChordClaim, long: Duration) -> Result<bool, BackendError> {
        let now = self.0.clock.now();
        Ok(self.0.state.lock().chords.hold(claim, now, now.after(long)))
    }

    async fn finish_chord(&self, claim: &ChordClaim) -> Result<bool, BackendError> {
        Ok(self.0.state.lock().chords.finish(claim, self.0.clock.now()))
    }

    fn keys(&self) -> Option<&dyn Keys> {
        Some(self)
    }

    fn store_id(&self) -> Option<String> {
        Some(self.id())
    }

    fn display_url(&self) -> String {
        self.url()
    }
}

struct MemoryWatch {
    store: Arc<Shared>,
    task_ids: Vec<String>,
    /// The highest version that was given out.
    seen: u64,
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Vec<ResultRecord>, BackendError> {
        loop {
            let mut changed = Box::pin(self.store.results.notified());
            changed.as_mut().enable();
            let now = self.store.clock.now();
            let (seen, records) = {
                let state = self.store.state.lock();
                let newer = |id: &String| state.read(id, now).filter(|(version, _)| *version > self.seen);
                let found: Vec<_> = self.task_ids.iter().filter_map(newer).collect();
                let seen = found.iter().map(|(version, _)| *version).max().unwrap_or(self.seen);
                (seen, found.into_iter().map(|(_, record)| record.clone()).collect::<Vec<_>>())
            };
            self.seen = seen;
            if !records.is_empty() {
                return Ok(records);
            }
            changed.await;
        }
    }
}
