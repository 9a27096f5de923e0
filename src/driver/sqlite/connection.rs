//! Opening the file, following its name, and waiting for its lock.

use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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

/// A connection to the file that has this name.
///
/// Someone may delete the file or put another in its place (a clean-up, a restored backup). What would be written to
/// the old one then nobody would ever see, so each user of a connection calls [`Linked::follow`] first. The
/// name is looked up by `stat` alone: closing a descriptor of the file would drop SQLite's locks.
pub(super) struct Linked {
    connection: Connection,
    path: PathBuf,
    /// Device and inode of the file that is open.
    file: Option<(u64, u64)>,
    timeout: Duration,
    max_size: Option<u64>,
}

impl Linked {
    pub(super) fn open(path: &Path, timeout: Duration, max_size: Option<u64>) -> Result<Self, Fault> {
        let connection = open(path, timeout)?;
        if let Some(bytes) = max_size {
            limit(&connection, bytes)?;
        }
        // Links are followed, and the working directory is left behind, only now that the file exists.
        let path = path.canonicalize().map_err(|error| Fault::Passing(error.to_string()))?;
        Ok(Self { connection, file: identity(&path), path, timeout, max_size })
    }

    /// Where the file is, with no link in it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file anew when the name means another one now, or none; says whether it did.
    pub(super) fn follow(&mut self) -> Result<bool, Fault> {
        if self.file.is_some() && identity(&self.path) == self.file {
            return Ok(false);
        }
        // SQLite sees that the name is not the old file's any more, and leaves the log of the new one alone.
        *self = Self::open(&self.path, self.timeout, self.max_size)?;
        tracing::warn!(
            path = %self.path.display(),
            "the file was deleted or replaced while it was in use; going on with the one that is there now"
        );
        Ok(true)
    }
}

impl Deref for Linked {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Opens the file, makes it when it is missing, and checks that it can be written.
fn open(path: &Path, timeout: Duration) -> Result<Connection, Fault> {
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
fn limit(connection: &Connection, bytes: u64) -> Result<(), Fault> {
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
