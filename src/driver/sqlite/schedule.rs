//! The SQL of periodic tasks: who holds a schedule, and which moments were sent.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::queue;
use super::step::Step;
use crate::broker::{Fired, Firing, LastDue, ScheduleLease, ScheduleState};
use crate::clock::UnixMillis;

/// Made when first needed, so that a file without periodic tasks is as it was, and older versions can open it.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS schedule_lease (
    schedule TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schedule_entry (
    schedule TEXT NOT NULL,
    entry TEXT NOT NULL,
    due_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (schedule, entry)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS schedule_change (
    schedule TEXT NOT NULL,
    entry TEXT NOT NULL,
    change TEXT NOT NULL,
    PRIMARY KEY (schedule, entry)
) WITHOUT ROWID;
";

fn prepare(connection: &Connection) -> Result<()> {
    if exist(connection)? { Ok(()) } else { connection.execute_batch(TABLES) }
}

fn exist(connection: &Connection) -> Result<bool> {
    connection
        .prepare_cached("SELECT count(*) FROM sqlite_schema WHERE name = 'schedule_change'")?
        .query_row([], |row| Ok(row.get::<_, i64>(0)? > 0))
}

fn holder(connection: &Connection, schedule: &str, now: UnixMillis) -> Result<Option<String>> {
    connection
        .prepare_cached("SELECT holder FROM schedule_lease WHERE schedule = ?1 AND expires_ms > ?2")?
        .query_row(params![schedule, now.0], |row| row.get(0))
        .optional()
}

pub(super) fn lease(step: &Step<'_>, schedule: &str, wanted: &str, ttl: Duration) -> Result<ScheduleLease> {
    prepare(step.connection)?;
    match holder(step.connection, schedule, step.now)? {
        Some(other) if other != wanted => Ok(ScheduleLease::Other(Some(other))),
        _ => {
            hold(step, schedule, wanted, ttl)?;
            Ok(ScheduleLease::Held)
        }
    }
}

fn hold(step: &Step<'_>, schedule: &str, holder: &str, ttl: Duration) -> Result<()> {
    let until = step.now.after(ttl).0;
    step.run("INSERT OR REPLACE INTO schedule_lease VALUES (?1, ?2, ?3)", &[&schedule, &holder, &until])?;
    Ok(())
}

pub(super) fn release(step: &Step<'_>, schedule: &str, holder: &str) -> Result<()> {
    prepare(step.connection)?;
    step.run("DELETE FROM schedule_lease WHERE schedule = ?1 AND holder = ?2", &[&schedule, &holder])?;
    Ok(())
}

pub(super) fn fire(step: &mut Step<'_>, firing: &Firing) -> Result<Fired> {
    prepare(step.connection)?;
    let Firing { schedule, entry, due_ms, state, .. } = firing;
    if holder(step.connection, schedule, step.now)?.as_deref() != Some(&*firing.holder) {
        return Ok(Fired::NotHolder);
    }
    hold(step, schedule, &firing.holder, firing.lease)?;
    let last: Option<i64> = step
        .sql("SELECT due_ms FROM schedule_entry WHERE schedule = ?1 AND entry = ?2")?
        .query_row(params![schedule, entry], |row| row.get(0))
        .optional()?;
    if last.is_some_and(|last| last >= *due_ms) {
        return Ok(Fired::Already);
    }
    step.run(
        "INSERT OR REPLACE INTO schedule_entry VALUES (?1, ?2, ?3, ?4)",
        &[schedule, entry, due_ms, state],
    )?;
    queue::publish(step, &firing.publications)?;
    Ok(Fired::Sent)
}

pub(super) fn state(connection: &Connection, schedule: &str, now: UnixMillis) -> Result<ScheduleState> {
    if !exist(connection)? {
        return Ok(ScheduleState::default());
    }
    let entries = connection
        .prepare_cached("SELECT entry, due_ms, state FROM schedule_entry WHERE schedule = ?1")?
        .query_map([schedule], |row| Ok((row.get(0)?, LastDue { due_ms: row.get(1)?, state: row.get(2)? })))?
        .collect::<Result<_>>()?;
    let changes = connection
        .prepare_cached("SELECT entry, change FROM schedule_change WHERE schedule = ?1")?
        .query_map([schedule], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_>>()?;
    Ok(ScheduleState { entries, changes, holder: holder(connection, schedule, now)? })
}

pub(super) fn change(step: &Step<'_>, schedule: &str, entry: &str, change: Option<&str>) -> Result<()> {
    prepare(step.connection)?;
    match change {
        Some(change) => step
            .run("INSERT OR REPLACE INTO schedule_change VALUES (?1, ?2, ?3)", &[&schedule, &entry, &change]),
        None => {
            step.run("DELETE FROM schedule_change WHERE schedule = ?1 AND entry = ?2", &[&schedule, &entry])
        }
    }
    .map(drop)
}
