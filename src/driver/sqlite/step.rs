//! One open transaction, and what every step in it needs.

use std::collections::HashMap;

use rusqlite::{CachedStatement, Connection, Result, Row, ToSql};

use super::doorbell::Rings;
use crate::clock::UnixMillis;
use crate::protocol::{Message, Properties};

/// An open transaction.
pub(super) struct Step<'a> {
    pub(super) connection: &'a Connection,
    /// Ids of queues that were seen. Rows of `queue` are never removed; a rollback empties it.
    pub(super) queues: &'a mut HashMap<String, i64>,
    pub(super) now: UnixMillis,
    /// Who is to be woken once this is committed.
    pub(super) rings: Rings,
}

impl Step<'_> {
    pub(super) fn sql(&self, sql: &str) -> Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }

    /// Runs a statement that answers with no rows; says how many it changed.
    pub(super) fn run(&self, sql: &str, params: &[&dyn ToSql]) -> Result<usize> {
        self.sql(sql)?.execute(params)
    }

    /// Takes `count` numbers that nobody had before; gives the first.
    pub(super) fn numbers(&self, count: usize) -> Result<i64> {
        let count = count as i64;
        // Two statements: SQLite makes a temporary table for `RETURNING`, which costs more.
        let last = last_number(self.connection)?;
        self.run("UPDATE sequence SET last = ?1", &[&(last + count)])?;
        Ok(last + 1)
    }

    /// The id of a queue; it is made when it is new.
    pub(super) fn queue(&mut self, name: &str) -> Result<i64> {
        if let Some(id) = self.queues.get(name) {
            return Ok(*id);
        }
        self.run("INSERT OR IGNORE INTO queue (name) VALUES (?1)", &[&name])?;
        let id = self.sql("SELECT id FROM queue WHERE name = ?1")?.query_row([name], |row| row.get(0))?;
        self.queues.insert(name.to_owned(), id);
        Ok(id)
    }
}

/// The last number that was given out, as this connection sees it now.
pub(super) fn last_number(connection: &Connection) -> Result<i64> {
    connection.prepare_cached("SELECT last FROM sequence")?.query_row([], |row| row.get(0))
}

/// Properties that have no column, as JSON text.
pub(super) fn other(properties: &Properties) -> Option<String> {
    if properties.other.is_empty() { None } else { serde_json::to_string(&properties.other).ok() }
}

/// Reads the ten columns `priority` to `body` of `message` and `broadcast`, which start at `first`.
pub(super) fn message(row: &Row<'_>, first: usize) -> Result<Message> {
    let bytes = |index: usize| -> Result<bytes::Bytes> {
        Ok(bytes::Bytes::copy_from_slice(row.get_ref(first + index)?.as_bytes_or_null()?.unwrap_or_default()))
    };
    let other = row.get_ref(first + 7)?.as_bytes_or_null()?;
    Ok(Message {
        properties: Properties {
            priority: row.get(first)?,
            content_type: row.get(first + 1)?,
            content_encoding: row.get(first + 2)?,
            correlation_id: row.get(first + 3)?,
            reply_to: row.get(first + 4)?,
            delivery_mode: row.get(first + 5)?,
            expiration_ms: row.get::<_, Option<i64>>(first + 6)?.map(|ms| ms as u64),
            other: other.and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default(),
        },
        headers: bytes(8)?,
        body: bytes(9)?,
    })
}
