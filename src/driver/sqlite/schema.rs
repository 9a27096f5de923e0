//! The tables, and their version.
//!
//! A row of `message` is written once and never changed. Exactly one row elsewhere says where the message
//! is: in `ready`, `claimed`, `parked` or `dead`. That row carries what changes: the `place` among those of its
//! rank, and the `history` (crashes times two, plus one when it was delivered before).
//!
//! All numbers (messages, places, owners, fences, versions of results, broadcasts) come from the one row of
//! `sequence`, so that a number given later is always larger, whoever gave it.

use rusqlite::Connection;

use super::fault::Fault;

/// Written to `user_version`; raised when a table changes.
const VERSION: i64 = 3;

const TABLES: &str = "
CREATE TABLE sequence (last INTEGER NOT NULL);
INSERT INTO sequence VALUES (0);

CREATE TABLE queue (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,          -- 9 minus the priority: smaller is sooner
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    priority INTEGER,
    content_type TEXT NOT NULL,
    content_encoding TEXT NOT NULL,
    correlation_id TEXT,
    reply_to TEXT,
    delivery_mode INTEGER NOT NULL,
    expiration_ms INTEGER,
    other TEXT,                     -- further properties as JSON
    headers BLOB NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE ready (
    queue INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    place INTEGER NOT NULL,
    message INTEGER NOT NULL,
    history INTEGER NOT NULL,
    PRIMARY KEY (queue, rank, place, message)
) WITHOUT ROWID;

CREATE TABLE claimed (
    message INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    place INTEGER NOT NULL,
    history INTEGER NOT NULL,
    begun INTEGER NOT NULL          -- 1: a crash is counted if its consumer dies; 2: it must not run again
);

CREATE TABLE parked (
    due_ms INTEGER NOT NULL,
    message INTEGER NOT NULL,
    place INTEGER NOT NULL,
    history INTEGER NOT NULL,
    PRIMARY KEY (due_ms, message)
) WITHOUT ROWID;

CREATE TABLE dead (
    id INTEGER PRIMARY KEY,
    message INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    crashes INTEGER NOT NULL,
    died_ms INTEGER NOT NULL
);

CREATE TABLE owner (
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    lease_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    max_crashes INTEGER NOT NULL
);

-- The id of a row is the version of the record: a changed record moves to the end.
CREATE TABLE result (
    id INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    content_type TEXT NOT NULL,
    expires_ms INTEGER,             -- the moment
    ttl_ms INTEGER,                 -- the time to live as it was given
    record BLOB NOT NULL
);
CREATE INDEX result_expiry ON result (expires_ms) WHERE expires_ms IS NOT NULL;

CREATE TABLE broadcast (
    id INTEGER PRIMARY KEY,
    exchange TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    priority INTEGER,
    content_type TEXT NOT NULL,
    content_encoding TEXT NOT NULL,
    correlation_id TEXT,
    reply_to TEXT,
    delivery_mode INTEGER NOT NULL,
    expiration_ms INTEGER,
    other TEXT,
    headers BLOB NOT NULL,
    body BLOB NOT NULL
);

-- Doorbells: sockets to ring after a change of that kind.
CREATE TABLE listener (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    path TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    made_ms INTEGER NOT NULL
);
";

/// What layout 2 has besides: `chord` is [`crate::driver::chords::Chord`], `chord_part` its counted parts.
const CHORDS: &str = "
CREATE TABLE chord (
    group_id TEXT PRIMARY KEY,
    size INTEGER,
    grown INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    claim TEXT,
    claim_until_ms INTEGER,
    over INTEGER NOT NULL,
    expires_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX chord_expiry ON chord (expires_ms) WHERE expires_ms IS NOT NULL;

CREATE TABLE chord_part (
    group_id TEXT NOT NULL,
    member TEXT NOT NULL,
    place INTEGER NOT NULL,         -- the index in the header, or behind all
    number INTEGER NOT NULL,        -- in the order of arrival
    failed INTEGER NOT NULL,
    element BLOB NOT NULL,
    PRIMARY KEY (group_id, member)
);

-- Chords that are looked after (`guard.rs`).
CREATE TABLE chord_guard (
    group_id TEXT PRIMARY KEY,
    look_ms INTEGER NOT NULL,       -- when it is looked at next
    counted INTEGER,                -- parts that were counted at the last look
    times INTEGER NOT NULL,         -- looks without progress
    message BLOB NOT NULL
);
CREATE INDEX chord_guard_look ON chord_guard (look_ms);
";

/// What layout 3 has besides.
const QUEUES: &str = "
-- Queues that no worker takes from. Written by whoever pauses and resumes; workers read it when they start, and every
-- minute: a command that they have not heard counts all the same.
CREATE TABLE IF NOT EXISTS paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;

-- Results of which only the newest of a list are kept. Written with the result, which goes with its row.
CREATE TABLE IF NOT EXISTS retained (
    task_id TEXT PRIMARY KEY,
    list TEXT NOT NULL,
    version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS retained_list ON retained (list, version);
";

/// Makes the tables in a new file; checks the version of an old one.
pub(super) fn prepare(connection: &Connection) -> Result<(), Fault> {
    if version(connection)? == VERSION {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let made = make(connection);
    connection.execute_batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    made
}

/// Another process may have been faster: the version is looked at again under the lock.
fn make(connection: &Connection) -> Result<(), Fault> {
    let found = version(connection)?;
    match found {
        VERSION => Ok(()),
        0 => {
            let tables: i64 =
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
            if tables > 0 {
                let reason = "the file is a database of something else; name another file";
                return Err(Fault::Broken(reason.to_owned()));
            }
            connection.execute_batch(TABLES)?;
            add(connection, &[CHORDS, QUEUES])
        }
        1 => add(connection, &[CHORDS, QUEUES]),
        2 => add(connection, &[QUEUES]),
        newer if newer > VERSION => Err(Fault::Broken(format!(
            "the file was made by a newer celeriac (layout {newer}, this one knows {VERSION}); upgrade, or name another file"
        ))),
        other => Err(Fault::Broken(format!("the file has the unknown layout {other}; name another file"))),
    }
}

/// From an older layout.
fn add(connection: &Connection, tables: &[&str]) -> Result<(), Fault> {
    connection.execute_batch(&tables.concat())?;
    connection.pragma_update(None, "user_version", VERSION)?;
    Ok(())
}

fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
