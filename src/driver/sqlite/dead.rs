//! The SQL of dead letters, and of queues that are paused.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::queue;
use super::step::{self, Step};
use crate::broker::{DeadFilter, DeadLetter, DeadLimits, DeadStats, Resolution, apart};
use crate::clock::UnixMillis;

/// Letters that one transaction removes, so that it does not hold the lock for long.
const TRIMMED: i64 = 1000;

pub(super) fn find(connection: &Connection, filter: &DeadFilter, limit: usize) -> Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare_cached(
        "SELECT d.id, q.name, d.reason, d.detail, d.crashes, d.died_ms, m.priority, m.content_type,
            m.content_encoding, m.correlation_id, m.reply_to, m.delivery_mode, m.expiration_ms,
            m.other, m.headers, m.body
         FROM dead d JOIN message m ON m.id = d.message JOIN queue q ON q.id = m.queue
         WHERE (?1 IS NULL OR q.name = ?1) AND (?2 IS NULL OR d.reason = ?2)
            AND (?3 IS NULL OR d.died_ms >= ?3) AND (?4 IS NULL OR d.died_ms < ?4) ORDER BY d.id",
    )?;
    let (since, until) = (filter.since.map(|at| at.0), filter.until.map(|at| at.0));
    let mut rows = statement.query(params![filter.queue, filter.reason, since, until])?;
    let mut letters = Vec::new();
    while letters.len() < limit
        && let Some(row) = rows.next()?
    {
        let id = row.get::<_, i64>(0)? as u64;
        if filter.ids.as_ref().is_some_and(|ids| !ids.contains(&id)) {
            continue;
        }
        let (detail, traceback) = apart(row.get_ref(3)?.as_str()?);
        let letter = DeadLetter {
            id,
            queue: row.get(1)?,
            reason: row.get(2)?,
            detail,
            traceback,
            crashes: row.get(4)?,
            died: UnixMillis(row.get(5)?),
            message: step::message(row, 6)?,
        };
        if filter.fits(&letter) {
            letters.push(letter);
        }
    }
    Ok(letters)
}

pub(super) fn stats(connection: &Connection) -> Result<DeadStats> {
    connection
        .prepare_cached("SELECT count(*), (SELECT died_ms FROM dead ORDER BY id LIMIT 1) FROM dead")?
        .query_row([], |row| {
            let oldest = row.get::<_, Option<i64>>(1)?.map(UnixMillis);
            Ok(DeadStats { count: row.get::<_, i64>(0)? as u64, oldest })
        })
}

/// Takes letters out, and publishes what is to be in their place.
pub(super) fn resolve(step: &mut Step<'_>, resolutions: &[Resolution]) -> Result<Vec<u64>> {
    let mut resolved = Vec::with_capacity(resolutions.len());
    let mut publications = Vec::new();
    for Resolution { id, publication } in resolutions {
        if take(step, *id as i64)? {
            resolved.push(*id);
            publications.extend(publication.clone());
        }
    }
    queue::publish(step, &publications)?;
    Ok(resolved)
}

/// Removes the oldest beyond the limits; returns how many.
pub(super) fn trim(step: &mut Step<'_>, limits: &DeadLimits) -> Result<u64> {
    let too_old = limits.too_old(step.now).map_or(i64::MIN, |moment| moment.0);
    let over = match limits.max_count {
        Some(most) => stats(step.connection)?.count.saturating_sub(most),
        None => 0,
    };
    let over = i64::try_from(over).unwrap_or(i64::MAX).min(TRIMMED);
    let gone: Vec<i64> = step
        .sql(
            "SELECT id FROM (SELECT id FROM dead ORDER BY id LIMIT ?1)
             UNION SELECT id FROM (SELECT id FROM dead WHERE died_ms < ?2 ORDER BY id LIMIT ?3)",
        )?
        .query_map(params![over, too_old, TRIMMED], |row| row.get(0))?
        .collect::<Result<_>>()?;
    for id in &gone {
        take(step, *id)?;
    }
    Ok(gone.len() as u64)
}

fn take(step: &Step<'_>, id: i64) -> Result<bool> {
    let message: Option<i64> = step
        .sql("DELETE FROM dead WHERE id = ?1 RETURNING message")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(message) = message else { return Ok(false) };
    step.run("DELETE FROM message WHERE id = ?1", &[&message])?;
    Ok(true)
}

pub(super) fn set_paused(step: &Step<'_>, queue: &str, paused: bool) -> Result<()> {
    let sql = if paused {
        "INSERT OR IGNORE INTO paused VALUES (?1)"
    } else {
        "DELETE FROM paused WHERE queue = ?1"
    };
    step.run(sql, &[&queue])?;
    Ok(())
}

pub(super) fn paused(connection: &Connection, queues: &[String]) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT queue FROM paused ORDER BY queue")?;
    let all = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>>>()?;
    Ok(all.into_iter().filter(|queue| queues.contains(queue)).collect())
}
