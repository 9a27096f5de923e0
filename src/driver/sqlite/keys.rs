//! The SQL of keys that calls take, and of locks.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::SqliteStore;
use super::queue;
use super::step::Step;
use super::writer::Durability;
use crate::driver::keys::{self, Change, Entry};
use crate::keys::{Admission, Admitted, Arrival, Held, KeyError, Keys, Turn};
use crate::protocol::Publication;

/// Made when first needed, so that a file without keys is as it was, and older versions can open it. `record` is an
/// [`Entry`] as JSON; whoever changes it changes the other columns with it, in the same transaction.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS own_key (
    key TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    record TEXT NOT NULL
) WITHOUT ROWID;
";

fn exists(connection: &Connection) -> Result<bool> {
    connection
        .prepare_cached("SELECT count(*) FROM sqlite_schema WHERE name = 'own_key'")?
        .query_row([], |row| Ok(row.get::<_, i64>(0)? > 0))
}

fn find(step: &Step<'_>, key: &str) -> Result<Option<Entry>> {
    if !exists(step.connection)? {
        step.connection.execute_batch(TABLE)?;
        return Ok(None);
    }
    let found: Option<(String, i64)> = step
        .sql("SELECT record, until_ms FROM own_key WHERE key = ?1 AND until_ms > ?2")?
        .query_row(params![key, step.now.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let read = |(record, until_ms): (String, i64)| {
        let mut entry: Entry = serde_json::from_str(&record).ok()?;
        // A renewal changes the column alone.
        entry.until_ms = until_ms;
        Some(entry)
    };
    Ok(found.and_then(read))
}

fn write(step: &Step<'_>, key: &str, entry: &Entry) -> Result<()> {
    let record = serde_json::to_string(entry).unwrap_or_default();
    step.run(
        "INSERT OR REPLACE INTO own_key VALUES (?1, ?2, ?3, ?4)",
        &[&key, &entry.token, &entry.until_ms, &record],
    )?;
    Ok(())
}

fn change<T>(step: &Step<'_>, key: &str, (change, answer): (Change, T)) -> Result<T> {
    if let Change::Write(entry) = change {
        write(step, key, &entry)?;
    }
    Ok(answer)
}

/// Publishes if the call gets its key.
pub(super) fn publish(
    step: &mut Step<'_>,
    publication: &Publication,
    wanted: &Admission,
) -> Result<Admitted> {
    let found = find(step, &wanted.key)?;
    let admitted = change(step, &wanted.key, keys::admit(found, wanted, true, step.now))?;
    if admitted == Admitted::New {
        queue::publish(step, std::slice::from_ref(publication))?;
    }
    Ok(admitted)
}

fn arrive(step: &Step<'_>, arrival: &Arrival) -> Result<Turn> {
    let key = &arrival.held.key;
    let turn = change(step, key, keys::arrive(find(step, key)?, arrival, step.now))?;
    match (turn, &arrival.turn) {
        (Turn::Run, Some(key)) => {
            let wanted = Held { key: key.clone(), ..arrival.held.clone() };
            Ok(if take(step, &wanted, &arrival.task_id)? { Turn::Run } else { Turn::Wait })
        }
        (turn, _) => Ok(turn),
    }
}

fn take(step: &Step<'_>, held: &Held, id: &str) -> Result<bool> {
    let Some(entry) = keys::take(find(step, &held.key)?.as_ref(), held, id, step.now) else {
        return Ok(false);
    };
    write(step, &held.key, &entry)?;
    Ok(true)
}

pub(super) fn free(step: &Step<'_>, held: &Held) -> Result<bool> {
    if !exists(step.connection)? {
        return Ok(false);
    }
    let freed = step.run(
        "DELETE FROM own_key WHERE key = ?1 AND token = ?2 AND until_ms > ?3",
        &[&held.key, &held.token, &step.now.0],
    )?;
    Ok(freed > 0)
}

fn renew(step: &Step<'_>, held: &Held) -> Result<bool> {
    if !exists(step.connection)? {
        return Ok(false);
    }
    let until = step.now.0.saturating_add_unsigned(held.ttl_ms);
    let renewed = step.run(
        "UPDATE own_key SET until_ms = ?3 WHERE key = ?1 AND token = ?2 AND until_ms > ?4",
        &[&held.key, &held.token, &until, &step.now.0],
    )?;
    Ok(renewed > 0)
}

/// Forgets keys that have run out.
pub(super) fn sweep(step: &Step<'_>) -> Result<()> {
    if exists(step.connection)? {
        step.run("DELETE FROM own_key WHERE until_ms <= ?1", &[&step.now.0])?;
    }
    Ok(())
}

impl SqliteStore {
    async fn with_keys<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl Fn(&Step<'_>) -> Result<T> + Send + 'static,
    ) -> std::result::Result<T, KeyError> {
        let done = self.0.writer.submit(durability, move |step| work(step)).await;
        done.map_err(|fault| fault.broker(self.0.url()).into())
    }
}

#[async_trait]
impl Keys for SqliteStore {
    async fn reserve(&self, admission: &Admission) -> std::result::Result<Admitted, KeyError> {
        let wanted = admission.clone();
        self.with_keys(Durability::Durable, move |step| {
            change(step, &wanted.key, keys::admit(find(step, &wanted.key)?, &wanted, false, step.now))
        })
        .await
    }

    async fn confirm(&self, admission: &Admission) -> std::result::Result<Admitted, KeyError> {
        let wanted = admission.clone();
        self.with_keys(Durability::Durable, move |step| {
            change(step, &wanted.key, keys::confirm(find(step, &wanted.key)?, &wanted, step.now))
        })
        .await
    }

    async fn arrive(&self, arrival: &Arrival) -> std::result::Result<Turn, KeyError> {
        let arrival = arrival.clone();
        self.with_keys(Durability::Relaxed, move |step| self::arrive(step, &arrival)).await
    }

    async fn free(&self, held: &[Held]) -> std::result::Result<Vec<bool>, KeyError> {
        let held = held.to_vec();
        let free_all = move |step: &Step<'_>| held.iter().map(|held| free(step, held)).collect();
        self.with_keys(Durability::Relaxed, free_all).await
    }

    async fn renew(&self, held: &[Held]) -> std::result::Result<Vec<bool>, KeyError> {
        let held = held.to_vec();
        let renew_all = move |step: &Step<'_>| held.iter().map(|held| renew(step, held)).collect();
        self.with_keys(Durability::Relaxed, renew_all).await
    }

    async fn lock(&self, lock: &Held) -> std::result::Result<Option<u64>, KeyError> {
        let lock = lock.clone();
        let take_it = move |step: &Step<'_>| {
            Ok(if take(step, &lock, "")? { Some(step.numbers(1)? as u64) } else { None })
        };
        self.with_keys(Durability::Relaxed, take_it).await
    }
}
