//! The SQL of broadcasts, and of the bells to ring.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::doorbell::Kind;
use super::step::{self, Step};
use crate::clock::UnixMillis;
use crate::driver::process::Process;
use crate::protocol::Message;

/// A bell of another host cannot be seen to be gone; after this time it is forgotten (and comes back by itself
/// when it lives).
const FOREIGN_BELL_MS: i64 = 24 * 60 * 60 * 1000;

pub(super) fn send(
    step: &mut Step<'_>,
    exchange: &str,
    message: &Message,
    expires: UnixMillis,
) -> Result<()> {
    let properties = &message.properties;
    step.sql("INSERT INTO broadcast VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)")?
        .execute(params![
            step.numbers(1)?,
            exchange,
            expires.0,
            properties.priority,
            properties.content_type,
            properties.content_encoding,
            properties.correlation_id,
            properties.reply_to,
            properties.delivery_mode,
            properties.expiration_ms.map(|ms| ms as i64),
            step::other(properties),
            &message.headers[..],
            &message.body[..],
        ])?;
    step.rings.add(Kind::Broadcasts);
    Ok(())
}

/// The first broadcast after number `heard`.
pub(super) fn hear(
    connection: &Connection,
    exchange: &str,
    heard: i64,
    now: UnixMillis,
) -> Result<Option<(i64, Message)>> {
    connection
        .prepare_cached(
            "SELECT id, priority, content_type, content_encoding, correlation_id, reply_to, delivery_mode,
                expiration_ms, other, headers, body
             FROM broadcast WHERE id > ?1 AND exchange = ?2 AND expires_ms > ?3 ORDER BY id LIMIT 1",
        )?
        .query_row(params![heard, exchange, now.0], |row| Ok((row.get(0)?, step::message(row, 1)?)))
        .optional()
}

/// Removes broadcasts that are over, and bells whose process is gone.
pub(super) fn sweep(step: &Step<'_>) -> Result<()> {
    step.run("DELETE FROM broadcast WHERE expires_ms <= ?1", &[&step.now.0])?;
    let bells: Vec<(i64, String, Process, i64)> = step
        .sql("SELECT id, path, host, pid, started, made_ms FROM listener")?
        .query_map([], |row| {
            let process = Process { host: row.get(2)?, pid: row.get(3)?, started: row.get(4)? };
            Ok((row.get(0)?, row.get(1)?, process, row.get(5)?))
        })?
        .collect::<Result<_>>()?;
    let own = Process::own();
    for (id, path, process, made) in bells {
        let gone = process.is_gone();
        if gone || (process.host != own.host && made + FOREIGN_BELL_MS <= step.now.0) {
            step.run("DELETE FROM listener WHERE id = ?1", &[&id])?;
        }
        if gone {
            drop(std::fs::remove_file(path));
        }
    }
    Ok(())
}

/// Names bells in the table, those that are not there yet.
pub(super) fn register(step: &mut Step<'_>, bells: &[(Kind, String)], process: &Process) -> Result<()> {
    for (kind, path) in bells {
        if !is_registered(step.connection, path)? {
            step.sql("INSERT INTO listener VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
                step.numbers(1)?,
                *kind as i64,
                path,
                process.host,
                process.pid,
                process.started,
                step.now.0,
            ])?;
        }
    }
    Ok(())
}

pub(super) fn are_registered(connection: &Connection, bells: &[(Kind, String)]) -> Result<bool> {
    bells.iter().try_fold(true, |all, (_, path)| Ok(all && is_registered(connection, path)?))
}

fn is_registered(connection: &Connection, path: &str) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM listener WHERE path = ?1")?.exists([path])
}

pub(super) fn unregister(step: &Step<'_>, bells: &[(Kind, String)]) -> Result<()> {
    bells.iter().try_for_each(|(_, path)| step.run("DELETE FROM listener WHERE path = ?1", &[path]).map(drop))
}
