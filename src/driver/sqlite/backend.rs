//! The result backend contract over the file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::doorbell::Kind;
use super::fault::Fault;
use super::step::{Step, last_number};
use super::watch::{self, Inbox};
use super::writer::Durability;
use super::{Shared, SqliteStore, chord, guard, results};
use crate::backend::{
    BackendError, ChordClaim, Counted, GroupRecord, KeptValue, ResultBackend, Stalled, Watch,
};
use crate::keys::Keys;
use crate::limits::LimitStore;
use crate::protocol::{ChordPart, ResultRecord};

impl SqliteStore {
    fn backend_error(&self) -> impl Fn(Fault) -> BackendError + '_ {
        |fault| fault.backend(self.0.url())
    }

    /// A change of what is counted; it survives what results survive.
    async fn change<T: Send + 'static>(
        &self,
        how: impl Fn(&Step<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let changed = self.0.writer.submit(Durability::Durable, move |step| how(step)).await;
        changed.map_err(self.backend_error())
    }
}

#[async_trait]
impl ResultBackend for SqliteStore {
    async fn store(&self, batch: Vec<ResultRecord>) -> Result<(), BackendError> {
        self.0
            .writer
            .submit(Durability::Durable, move |step| results::store(step, batch.iter()))
            .await
            .map_err(self.backend_error())
    }

    async fn read(&self, task_ids: &[String]) -> Result<Vec<Option<ResultRecord>>, BackendError> {
        let now = self.0.clock.now();
        self.0
            .read(|connection| task_ids.iter().map(|id| results::read(connection, id, now)).collect())
            .map_err(self.backend_error())
    }

    async fn forget(&self, task_ids: &[String]) -> Result<(), BackendError> {
        let task_ids = task_ids.to_vec();
        self.0
            .writer
            .submit(Durability::Relaxed, move |step| results::forget(step, &task_ids))
            .await
            .map_err(self.backend_error())
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

    async fn watch(&self, task_ids: Vec<String>) -> Result<Box<dyn Watch>, BackendError> {
        self.0.listen_for(Kind::Results).await.map_err(self.backend_error())?;
        let inbox = Arc::default();
        self.0
            .signals
            .watches
            .enter(&task_ids, &inbox, || self.0.read(last_number))
            .map_err(self.backend_error())?;
        self.0.signals.bells.arm(Kind::Results, None);
        Ok(Box::new(SqliteWatch { store: self.0.clone(), task_ids, inbox, seen: None }))
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
        let group_id = group_id.to_owned();
        self.change(move |step| chord::start(step, &group_id, size, expires_ms)).await
    }

    async fn grow_chord(&self, group_id: &str, by: u64) -> Result<(), BackendError> {
        let group_id = group_id.to_owned();
        self.change(move |step| chord::grow(step, &group_id, by)).await
    }

    async fn count_parts(&self, parts: &[ChordPart]) -> Result<Vec<Counted>, BackendError> {
        let parts = parts.to_vec();
        self.change(move |step| chord::count(step, &parts)).await
    }

    async fn gather(&self, group_id: &str) -> Result<Vec<Bytes>, BackendError> {
        self.0.read(|connection| chord::gather(connection, group_id)).map_err(self.backend_error())
    }

    async fn hold_chord(&self, claim: &ChordClaim, long: Duration) -> Result<bool, BackendError> {
        let claim = claim.clone();
        self.change(move |step| chord::hold(step, &claim, step.now.after(long))).await
    }

    async fn finish_chord(&self, claim: &ChordClaim) -> Result<bool, BackendError> {
        let claim = claim.clone();
        self.change(move |step| chord::finish(step, &claim)).await
    }

    async fn guard_chord(&self, group_id: &str, message: Bytes) -> Result<(), BackendError> {
        let group_id = group_id.to_owned();
        self.change(move |step| guard::guard(step, &group_id, &message)).await
    }

    async fn guarded_chord(&self, group_id: &str) -> Result<Option<Bytes>, BackendError> {
        self.0.read(|connection| guard::guarded(connection, group_id)).map_err(self.backend_error())
    }

    async fn stalled_chords(&self, after: Duration, again: Duration) -> Result<Vec<Stalled>, BackendError> {
        self.change(move |step| guard::stalled(step, after, again)).await
    }

    async fn spare_chords(&self, group_ids: &[String], after: Duration) -> Result<(), BackendError> {
        let group_ids = group_ids.to_vec();
        self.change(move |step| guard::spare(step, &group_ids, after)).await
    }

    fn keys(&self) -> Option<&dyn Keys> {
        Some(self)
    }

    fn store_id(&self) -> Option<String> {
        Some(self.id())
    }

    fn display_url(&self) -> String {
        self.0.url()
    }
}

struct SqliteWatch {
    store: Arc<Shared>,
    task_ids: Vec<String>,
    inbox: Arc<Inbox>,
    /// Up to which version everything was given out; none before the first look.
    seen: Option<i64>,
}

impl SqliteWatch {
    /// What is there now.
    fn look(&mut self) -> Result<Vec<ResultRecord>, Fault> {
        if let Some(seen) = self.seen {
            return self.inbox.take(seen);
        }
        let now = self.store.clock.now();
        let (seen, records) =
            self.store.read(|connection| watch::snapshot(connection, &self.task_ids, now))?;
        self.seen = Some(seen);
        Ok(records)
    }
}

#[async_trait]
impl Watch for SqliteWatch {
    async fn next(&mut self) -> Result<Vec<ResultRecord>, BackendError> {
        loop {
            let records = self.look().map_err(|fault| fault.backend(self.store.url()))?;
            if !records.is_empty() {
                return Ok(records);
            }
            // A change between the look and here has left its permit.
            self.inbox.changed.notified().await;
        }
    }
}

impl Drop for SqliteWatch {
    fn drop(&mut self) {
        self.store.signals.watches.leave(&self.task_ids, &self.inbox);
    }
}
