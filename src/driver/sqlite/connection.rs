//! Opening the file, and waiting for its lock.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::fault::Fault;
use super::schema;

/// Waiting for a lock starts with this sleep and doubles it up to the longest.
const FIRST_SLEEP: Duration = Duration::from_micros(50);
const LONGEST_SLEEP: Duration = Duration::from_millis(5);
/// More statements than the driver has.
const STATEMENTS: usize = 64;
/// What is left of the write-ahead log's file after it has been copied back.
const LOG_BYTES: i64 = 8 << 20;

/// Opens the file, makes it when it is missing, and checks that it can be written.
pub(super) fn open(path: &Path, timeout: Duration) -> Result<Connection, Fault> {
    if let Some(directory) = path.parent()
        && !directory.is_dir()
    {
        return Err(Fault::Broken(format!(
            "its directory {} does not exist: make it, or name another one",
            directory.display()
        )));
    }
    retry(timeout, || open_once(path))
}

fn open_once(path: &Path) -> Result<Connection, Fault> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Waiting is ours (`retry`), so that it starts short and has the deadline of the call.
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    if connection.is_readonly("main")? {
        return Err(Fault::Broken("the file is read-only: give this user the right to write it".to_owned()));
    }
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            return Err(Fault::Broken(
                "the file system cannot share a write-ahead log: use a local disk".to_owned(),
            ));
        }
    }
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    schema::prepare(&connection)?;
    Ok(connection)
}

/// Lets the file grow to that many bytes at the most.
pub(super) fn limit(connection: &Connection, bytes: u64) -> Result<(), Fault> {
    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = (bytes / page as u64).max(1) as i64;
    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    Ok(())
}

/// Tries until the file's lock is free or the time is up.
pub(super) fn retry<T>(timeout: Duration, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let mut since = None;
    let mut sleep = FIRST_SLEEP;
    loop {
        match attempt() {
            Err(Fault::Locked(_)) => {
                let waited = since.get_or_insert_with(Instant::now).elapsed();
                if waited >= timeout {
                    return Err(Fault::Locked(timeout));
                }
                std::thread::sleep(sleep.min(timeout.saturating_sub(waited)));
                sleep = (sleep * 2).min(LONGEST_SLEEP);
            }
            answer => return answer,
        }
    }
}
