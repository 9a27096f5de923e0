//! The SQL of chords that are looked after: what tells that nothing of one is counted any more.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::chord;
use super::step::Step;
use crate::backend::{Stalled, missing};

/// Chords in one look.
const MOST: i64 = 200;

pub(super) fn guard(step: &Step<'_>, group_id: &str, message: &[u8]) -> Result<()> {
    // The first look is soon: it notes how many parts were counted by then.
    step.sql("INSERT OR REPLACE INTO chord_guard VALUES (?1, ?2, NULL, 0, ?3)")?
        .execute(params![group_id, step.now.0, message])?;
    Ok(())
}

pub(super) fn guarded(connection: &Connection, group_id: &str) -> Result<Option<Bytes>> {
    connection
        .prepare_cached("SELECT message FROM chord_guard WHERE group_id = ?1")?
        .query_row([group_id], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_bytes()?)))
        .optional()
}

pub(super) fn forget(step: &Step<'_>, group_id: &str) -> Result<()> {
    step.run("DELETE FROM chord_guard WHERE group_id = ?1", &[&group_id])?;
    Ok(())
}

/// One that is to be looked at.
struct Due {
    group_id: String,
    counted: Option<i64>,
    times: u32,
}

pub(super) fn stalled(step: &Step<'_>, after: Duration, again: Duration) -> Result<Vec<Stalled>> {
    let due: Vec<Due> = step
        .sql(
            "SELECT group_id, counted, times FROM chord_guard WHERE look_ms <= ?1 ORDER BY look_ms LIMIT ?2",
        )?
        .query_map([step.now.0, MOST], |row| {
            Ok(Due { group_id: row.get(0)?, counted: row.get(1)?, times: row.get(2)? })
        })?
        .collect::<Result<_>>()?;
    let mut found = Vec::new();
    for Due { group_id, counted, times } in due {
        let chord = chord::read(step, &group_id)?;
        let Some(size) = chord.size.filter(|_| !chord.over) else {
            forget(step, &group_id)?;
            continue;
        };
        let now_counted = chord.counted as i64;
        let stalls = counted == Some(now_counted) && !chord.is_held(step.now);
        let (times, look) = if stalls { (times + 1, again) } else { (0, after) };
        step.run(
            "UPDATE chord_guard SET look_ms = ?2, counted = ?3, times = ?4 WHERE group_id = ?1",
            &[&group_id, &step.now.after(look).0, &now_counted, &times],
        )?;
        if stalls {
            let size = size + chord.grown;
            let members = chord::members(step, &group_id)?;
            let missing = missing(size, members.iter().map(String::as_str));
            let message = guarded(step.connection, &group_id)?.unwrap_or_default();
            found.push(Stalled { group_id, message, size, counted: chord.counted, missing, times });
        }
    }
    Ok(found)
}

pub(super) fn spare(step: &Step<'_>, group_ids: &[String], after: Duration) -> Result<()> {
    for group_id in group_ids {
        step.run(
            "UPDATE chord_guard SET look_ms = ?2, times = 0 WHERE group_id = ?1",
            &[group_id, &step.now.after(after).0],
        )?;
    }
    Ok(())
}
