//! Who waits for which results in this process: one scan of what changed serves all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;

use super::fault::Fault;
use super::results;
use super::step::last_number;
use crate::clock::UnixMillis;
use crate::protocol::ResultRecord;

/// Every watch of this process.
#[derive(Default)]
pub(super) struct Watches(Mutex<Registry>);

#[derive(Default)]
struct Registry {
    /// Everything up to this version was given out. Moves with each scan.
    cursor: i64,
    by_id: HashMap<String, Vec<Arc<Inbox>>>,
}

/// What came for one watch and was not taken yet: at most one record for each of its ids.
#[derive(Default)]
pub(super) struct Inbox {
    /// Written by the thread of the bells, emptied by the watch.
    news: Mutex<News>,
    pub(super) changed: Notify,
}

#[derive(Default)]
struct News {
    records: HashMap<String, (i64, ResultRecord)>,
    fault: Option<Fault>,
}

impl Watches {
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().by_id.is_empty()
    }

    /// Enters a watch. Everything that is committed from now on will come to its inbox.
    pub(super) fn enter(
        &self,
        task_ids: &[String],
        inbox: &Arc<Inbox>,
        last_number: impl FnOnce() -> Result<i64, Fault>,
    ) -> Result<(), Fault> {
        // Before the lock: a scan holds the reading connection when it asks for the lock.
        let last = last_number()?;
        let mut registry = self.0.lock();
        if registry.by_id.is_empty() {
            registry.cursor = last;
        }
        for id in task_ids {
            registry.by_id.entry(id.clone()).or_default().push(inbox.clone());
        }
        Ok(())
    }

    pub(super) fn leave(&self, task_ids: &[String], inbox: &Arc<Inbox>) {
        let mut registry = self.0.lock();
        for id in task_ids {
            if let Some(inboxes) = registry.by_id.get_mut(id) {
                inboxes.retain(|other| !Arc::ptr_eq(other, inbox));
                if inboxes.is_empty() {
                    registry.by_id.remove(id);
                }
            }
        }
    }

    /// Gives what changed since the last scan to those who watch it.
    pub(super) fn scan(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut registry = self.0.lock();
        let Registry { cursor, by_id } = &mut *registry;
        if by_id.is_empty() {
            return Ok(());
        }
        *cursor = results::changed(
            connection,
            *cursor,
            |id| by_id.contains_key(id),
            |version, record| {
                for inbox in by_id.get(&record.task_id).into_iter().flatten() {
                    inbox.news.lock().records.insert(record.task_id.clone(), (version, record.clone()));
                    inbox.changed.notify_one();
                }
            },
        )?;
        Ok(())
    }

    /// Tells everyone that the store cannot be read.
    pub(super) fn fail(&self, fault: &Fault) {
        for inbox in self.0.lock().by_id.values().flatten() {
            inbox.news.lock().fault = Some(fault.clone());
            inbox.changed.notify_one();
        }
    }
}

impl Inbox {
    /// Takes what came with a version above `seen`.
    pub(super) fn take(&self, seen: i64) -> Result<Vec<ResultRecord>, Fault> {
        let mut news = self.news.lock();
        if let Some(fault) = news.fault.take() {
            return Err(fault);
        }
        let mut records: Vec<_> = news.records.drain().map(|(_, news)| news).collect();
        drop(news);
        records.retain(|(version, _)| *version > seen);
        records.sort_unstable_by_key(|(version, _)| *version);
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }
}

/// Reads what is stored, and the number up to which that is complete.
pub(super) fn snapshot(
    connection: &Connection,
    task_ids: &[String],
    now: UnixMillis,
) -> rusqlite::Result<(i64, Vec<ResultRecord>)> {
    let transaction = connection.unchecked_transaction()?;
    let seen = last_number(&transaction)?;
    let mut records = Vec::new();
    for id in task_ids {
        records.extend(results::read(&transaction, id, now)?);
    }
    Ok((seen, records))
}
