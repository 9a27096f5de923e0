//! The SQL of results.

use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::doorbell::Kind;
use super::step::Step;
use crate::clock::UnixMillis;
use crate::protocol::{ResultRecord, Retain};

/// Expired results that one transaction removes, so that it does not hold the lock for long.
const SWEEP: i64 = 1000;

/// Stores records; a `SUCCESS` that has not expired stays. So does `ABORTED` when it turns out that the task had begun.
pub(super) fn store<'r>(
    step: &mut Step<'_>,
    records: impl ExactSizeIterator<Item = &'r ResultRecord>,
) -> Result<()> {
    if records.len() == 0 {
        return Ok(());
    }
    let first = step.numbers(records.len())?;
    let mut statement = step.sql(
        "INSERT INTO result (id, task_id, state, content_type, expires_ms, ttl_ms, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (task_id) DO UPDATE SET id = excluded.id, state = excluded.state,
            content_type = excluded.content_type, expires_ms = excluded.expires_ms,
            ttl_ms = excluded.ttl_ms, record = excluded.record
         WHERE (state <> 'SUCCESS' AND (state <> 'ABORTED' OR excluded.state <> 'STARTED')) OR expires_ms <= ?8",
    )?;
    for (version, record) in (first..).zip(records) {
        let ttl = record.expires_ms.map(|ms| ms.min(i64::MAX as u64) as i64);
        let expires = ttl.map(|ttl| step.now.0.saturating_add(ttl));
        let stored = statement.execute(params![
            version,
            record.task_id,
            record.state,
            record.content_type,
            expires,
            ttl,
            &record.record[..],
            step.now.0
        ])?;
        if let Some(kind) = record.retain.as_deref().filter(|_| stored > 0) {
            retain(step, version, &record.task_id, kind)?;
        }
    }
    drop(statement);
    step.rings.add(Kind::Results);
    Ok(())
}

/// Counts a result among those of its kind, and removes the oldest beyond their number. A result is counted once: what
/// had failed and was run again counts as what it is now.
fn retain(step: &Step<'_>, version: i64, task_id: &str, kind: &Retain) -> Result<()> {
    let Some(most) = kind.most else {
        step.run("DELETE FROM retained WHERE task_id = ?1", &[&task_id])?;
        return Ok(());
    };
    step.run("INSERT OR REPLACE INTO retained VALUES (?1, ?2, ?3)", &[&task_id, &kind.list, &version])?;
    let beyond: Vec<String> = step
        .sql("SELECT task_id FROM retained WHERE list = ?1 ORDER BY version DESC LIMIT ?2 OFFSET ?3")?
        .query_map(params![kind.list, SWEEP, most], |row| row.get(0))?
        .collect::<Result<_>>()?;
    for id in &beyond {
        step.run("DELETE FROM retained WHERE task_id = ?1", &[id])?;
    }
    forget(step, &beyond)
}

/// Reads one record.
pub(super) fn read(connection: &Connection, task_id: &str, now: UnixMillis) -> Result<Option<ResultRecord>> {
    connection
        .prepare_cached(
            "SELECT task_id, state, content_type, expires_ms, ttl_ms, record FROM result
             WHERE task_id = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)",
        )?
        .query_row(params![task_id, now.0], |row| record(row, 0))
        .optional()
}

/// Gives every record with a version above `after` whose id is `wanted` to `found`; returns the highest version.
pub(super) fn changed(
    connection: &Connection,
    after: i64,
    wanted: impl Fn(&str) -> bool,
    mut found: impl FnMut(i64, ResultRecord),
) -> Result<i64> {
    let mut statement = connection.prepare_cached(
        "SELECT id, task_id, state, content_type, expires_ms, ttl_ms, record FROM result WHERE id > ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([after])?;
    let mut last = after;
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        if row.get_ref(1)?.as_str().is_ok_and(&wanted) {
            found(last, record(row, 1)?);
        }
    }
    Ok(last)
}

pub(super) fn forget(step: &Step<'_>, task_ids: &[String]) -> Result<()> {
    let mut statement = step.sql("DELETE FROM result WHERE task_id = ?1")?;
    for id in task_ids {
        statement.execute([id])?;
    }
    Ok(())
}

/// Removes expired results; says whether there may be more.
pub(super) fn sweep(step: &Step<'_>) -> Result<bool> {
    let removed = step.run(
        "DELETE FROM result WHERE id IN (SELECT id FROM result WHERE expires_ms <= ?1 LIMIT ?2)",
        &[&step.now.0, &SWEEP],
    )?;
    if removed > 0 {
        step.run("DELETE FROM retained WHERE task_id NOT IN (SELECT task_id FROM result)", &[])?;
    }
    Ok(removed as i64 == SWEEP)
}

fn record(row: &Row<'_>, first: usize) -> Result<ResultRecord> {
    Ok(ResultRecord {
        task_id: row.get(first)?,
        state: row.get(first + 1)?,
        content_type: row.get(first + 2)?,
        expires_ms: row.get::<_, Option<i64>>(first + 4)?.map(|ms| ms as u64),
        reply_to: None,
        retain: None,
        record: bytes::Bytes::copy_from_slice(row.get_ref(first + 5)?.as_bytes()?),
    })
}
