//! The SQL of leases: one row for each consumer holds the lease of all its claims.

use rusqlite::{Connection, Result, params};

use super::queue::{self, Standing};
use super::step::Step;
use crate::broker::{Commit, ConsumerOptions, Settle};
use crate::clock::UnixMillis;
use crate::driver::process::Process;

/// What the column `begun` of a claim says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Begun {
    No,
    /// A crash is counted if its consumer dies.
    Yes,
    /// Even if its consumer says goodbye: it must not run again.
    Once,
}

impl Begun {
    pub(super) fn of(commit: &Commit) -> Self {
        match commit.settle {
            Settle::Once => Self::Once,
            _ if commit.begun => Self::Yes,
            _ => Self::No,
        }
    }

    fn read(number: i64) -> Self {
        match number {
            0 => Self::No,
            1 => Self::Yes,
            _ => Self::Once,
        }
    }
}

/// Writes a new lease; returns its number.
pub(super) fn register(step: &Step<'_>, options: &ConsumerOptions, process: &Process) -> Result<i64> {
    let id = step.numbers(1)?;
    step.sql("INSERT INTO owner VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(params![
        id,
        options.node,
        process.host,
        process.pid,
        process.started,
        options.lease.as_millis() as i64,
        step.now.after(options.lease).0,
        options.max_crashes,
    ])?;
    Ok(id)
}

/// Pids of other processes that consume under this name and hold a lease. A worker's own process has several consumers.
pub(super) fn twins(step: &Step<'_>, node: &str, own: &Process) -> Result<Vec<i64>> {
    step.sql("SELECT DISTINCT pid FROM owner WHERE node = ?1 AND NOT (host = ?2 AND pid = ?3)")?
        .query_map(params![node, own.host, own.pid], |row| row.get(0))?
        .collect()
}

pub(super) fn exists(step: &Step<'_>, id: i64) -> Result<bool> {
    step.sql("SELECT 1 FROM owner WHERE id = ?1")?.exists([id])
}

/// Extends the lease; false when it was taken.
pub(super) fn renew(step: &Step<'_>, id: i64) -> Result<bool> {
    let renewed =
        step.run("UPDATE owner SET expires_ms = ?2 + lease_ms WHERE id = ?1", &[&id, &step.now.0])?;
    Ok(renewed == 1)
}

/// Ends an owner; its claims go back uncounted.
pub(super) fn close(step: &mut Step<'_>, id: i64) -> Result<()> {
    step.run("DELETE FROM owner WHERE id = ?1", &[&id])?;
    for (standing, begun) in claims(step, id)? {
        let ran = begun == Begun::Once;
        queue::make_ready(step, if ran { standing.crashed() } else { standing.delivered() })?;
    }
    step.run("DELETE FROM claimed WHERE owner = ?1", &[&id])?;
    Ok(())
}

/// Marks an owner whose consumer was dropped without a goodbye: as if its process were gone.
pub(super) fn abandon(step: &Step<'_>, id: i64) -> Result<()> {
    step.run("UPDATE owner SET pid = 0, started = 0 WHERE id = ?1", &[&id])?;
    Ok(())
}

/// Gives back the claims of all dead owners but `but`; returns how many.
pub(super) fn recover(step: &mut Step<'_>, but: i64) -> Result<usize> {
    // After the clock stepped back a lease would last for longer than anyone asked for.
    step.run("UPDATE owner SET expires_ms = ?1 + lease_ms WHERE expires_ms > ?1 + lease_ms", &[&step.now.0])?;
    let mut count = 0;
    for id in dead(step.connection, step.now, but)? {
        step.run("DELETE FROM owner WHERE id = ?1", &[&id])?;
        for (standing, begun) in claims(step, id)? {
            count += 1;
            let ran = begun != Begun::No;
            queue::make_ready(step, if ran { standing.crashed() } else { standing.delivered() })?;
        }
        step.run("DELETE FROM claimed WHERE owner = ?1", &[&id])?;
    }
    Ok(count)
}

/// Owners whose lease ran out or whose process is seen to be gone.
pub(super) fn dead(connection: &Connection, now: UnixMillis, but: i64) -> Result<Vec<i64>> {
    let mut statement =
        connection.prepare_cached("SELECT id, expires_ms, host, pid, started FROM owner WHERE id <> ?1")?;
    let mut rows = statement.query([but])?;
    let mut dead = Vec::new();
    while let Some(row) = rows.next()? {
        let process = Process { host: row.get(2)?, pid: row.get(3)?, started: row.get(4)? };
        if row.get::<_, i64>(1)? <= now.0 || process.is_gone() {
            dead.push(row.get(0)?);
        }
    }
    Ok(dead)
}

/// There are as many rows in `claimed` as workers may hold, so it has no index by owner.
fn claims(step: &Step<'_>, owner: i64) -> Result<Vec<(Standing, Begun)>> {
    step.sql("SELECT message, place, history, begun FROM claimed WHERE owner = ?1")?
        .query_map([owner], |row| Ok((Standing::read(row)?, Begun::read(row.get(3)?))))?
        .collect()
}
